//! Port I/O, event 0x7b (facts: ioio rows of ghcb_nae). One port leads back to the guest; the others read as ones and
//! swallow what is written. Writes are logged.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::At;
use super::ghcb::{self, Malformed, Reply, Request};
use super::policy::Policy;
use crate::Machine;

/// A port that returns the bytes written to it, first in first out; empty it reads as ones like all others.
pub const LOOPBACK_PORT: u16 = 0x5f0;

/// Bytes that the loopback holds, and writes that the log keeps; what comes after is lost.
const ROOM: usize = 1 << 16;

/// Bits of SW_EXITINFO1.
pub(super) mod ioio {
    numbers! {
        pub(super) u64:
        IN = 1 << 0;
        STRING = 1 << 2;
        REP = 1 << 3;
        SIZE_8 = 1 << 4;
        SIZE_16 = 1 << 5;
        SIZE_32 = 1 << 6;
        ADDRESS_16 = 1 << 7;
        ADDRESS_32 = 1 << 8;
        ADDRESS_64 = 1 << 9;
        SEGMENT = 7 << 10;
        PORT = 0xffff << 16;
    }
}

/// One value that the guest wrote to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortWrite {
    /// Number of the port.
    pub port: u16,
    /// Bytes of the value.
    pub size: u8,
    /// The value.
    pub value: u32,
}

/// Ports as the host emulates them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    loopback: VecDeque<u8>,
    pub(super) log: Vec<PortWrite>,
}

/// A request as its fields say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access {
    is_in: bool,
    is_string: bool,
    port: u16,
    /// Bytes of one value.
    size: usize,
    /// Bytes of all values.
    bytes: usize,
}

impl Access {
    fn decode(info1: u64, info2: u64) -> Result<Self, Malformed> {
        use ioio::{ADDRESS_16, ADDRESS_32, ADDRESS_64, IN, PORT, REP, SEGMENT, SIZE_8, SIZE_16, SIZE_32, STRING};
        const SIZES: u64 = SIZE_8 | SIZE_16 | SIZE_32;
        const ADDRESSES: u64 = ADDRESS_16 | ADDRESS_32 | ADDRESS_64;
        let size = match info1 & SIZES {
            SIZE_8 => 1,
            SIZE_16 => 2,
            SIZE_32 => 4,
            _ => return Err(Malformed::InvalidInput),
        };
        let known = SIZES | ADDRESSES | IN | STRING | REP | SEGMENT | PORT;
        let (is_string, is_rep) = (info1 & STRING != 0, info1 & REP != 0);
        let count = if is_string { info2 } else { 1 };
        let sound = info1 & !known == 0
            && (info1 & ADDRESSES).count_ones() == 1
            && (is_string || !is_rep)
            && (is_rep || count == 1)
            && count != 0;
        if !sound {
            return Err(Malformed::InvalidInput);
        }
        // A count beyond all memory is beyond the scratch area too.
        let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(size)).ok_or(Malformed::Scratch)?;
        // 16 bits.
        let port = ((info1 & PORT) >> 16) as u16;
        Ok(Self { is_in: info1 & IN != 0, is_string, port, size, bytes })
    }
}

impl Ports {
    fn read(&mut self, port: u16) -> u8 {
        if port == LOOPBACK_PORT { self.loopback.pop_front().unwrap_or(u8::MAX) } else { u8::MAX }
    }

    fn write(&mut self, port: u16, value: &[u8]) {
        if port == LOOPBACK_PORT && self.loopback.len() + value.len() <= ROOM {
            self.loopback.extend(value);
        }
        if self.log.len() < ROOM {
            let mut bytes = [0; 4];
            bytes.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
            // At most 4.
            self.log.push(PortWrite { port, size: value.len() as u8, value: u32::from_le_bytes(bytes) });
        }
    }
}

impl Machine {
    /// Serves one access. A string lies in the scratch area, and SW_EXITINFO2 says how many values it has.
    pub(super) fn port_event(
        &mut self,
        at: At,
        gpa: u64,
        request: &Request,
        info1: u64,
        info2: u64,
    ) -> Result<Reply, Malformed> {
        let access = Access::decode(info1, info2)?;
        let ports = &mut self.host.ports;
        if !access.is_string {
            if access.is_in {
                let mut value = [0; 8];
                value.iter_mut().take(access.size).for_each(|byte| *byte = ports.read(access.port));
                return Ok(Reply { rax: Some(u64::from_le_bytes(value)), ..Reply::default() });
            }
            let value = request.input(ghcb::RAX)?.to_le_bytes();
            ports.write(access.port, &value[..access.size]);
            return Ok(Reply::default());
        }
        let offset = request.scratch(access.bytes)?;
        if access.is_in {
            let mut data: Vec<u8> = (0..access.bytes).map(|_| ports.read(access.port)).collect();
            let mut reply = Reply::default();
            if let Policy::StringCount(count) = self.host.policy(at.vcpu) {
                data.resize(ghcb::SHARED_BUFFER_END - offset, u8::MAX);
                reply.info2 = count;
            }
            // Inside the page of the request.
            return if self.host_write(gpa + offset as u64, &data) { Ok(reply) } else { Err(Malformed::Scratch) };
        }
        let data = request.buffer(offset);
        for value in data[..access.bytes].chunks(access.size) {
            ports.write(access.port, value);
        }
        Ok(Reply::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT_8: u64 = ioio::SIZE_8 | ioio::ADDRESS_64;

    #[test]
    fn decodes_both_forms() {
        let one = Access { is_in: false, is_string: false, port: 0x3f8, size: 1, bytes: 1 };
        assert_eq!(Access::decode(0x03f8_0000 | OUT_8, 0), Ok(one));
        let rep = ioio::IN | ioio::STRING | ioio::REP | ioio::SIZE_16 | ioio::ADDRESS_16;
        let many = Access { is_in: true, is_string: true, port: 0x1f0, size: 2, bytes: 2032 };
        assert_eq!(Access::decode(0x01f0_0000 | rep, 1016), Ok(many));
    }

    #[test]
    fn refuses_what_no_instruction_says() {
        let string = OUT_8 | ioio::STRING;
        let bad = [
            (ioio::ADDRESS_64, 0),         // no size
            (OUT_8 | ioio::SIZE_16, 0),    // two sizes
            (ioio::SIZE_8, 0),             // no address size
            (OUT_8 | ioio::ADDRESS_32, 0), // two address sizes
            (OUT_8 | ioio::REP, 1),        // REP without a string
            (string, 0),                   // no values
            (string, 2),                   // two values without REP
            (string | ioio::REP, 0),       // no values
            (OUT_8 | 1 << 1, 0),           // reserved bits
            (OUT_8 | 1 << 13, 0),
            (OUT_8 | 1 << 32, 0),
        ];
        for (info1, info2) in bad {
            assert_eq!(Access::decode(info1, info2), Err(Malformed::InvalidInput), "{info1:#x} {info2:#x}");
        }
        let dwords = ioio::STRING | ioio::REP | ioio::SIZE_32 | ioio::ADDRESS_64;
        assert_eq!(Access::decode(dwords, u64::MAX), Err(Malformed::Scratch));
    }
}
