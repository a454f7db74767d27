//! The GHCB page, version 2: its layout, the host's copy of a request and the answer it writes
//! (facts: ghcb_page, the status and rule rows of ghcb_nae).

use alloc::boxed::Box;

use super::At;
use super::policy::Policy;
use crate::Machine;

numbers! {
    pub(super) usize:
    /// Offset of CPL in the page, 1 byte.
    CPL = 0x0cb;
    /// Offset of XSS.
    XSS = 0x140;
    /// Offset of RAX.
    RAX = 0x1f8;
    /// Offset of RCX.
    RCX = 0x308;
    /// Offset of RDX.
    RDX = 0x310;
    /// Offset of RBX.
    RBX = 0x318;
    /// Offset of SW_EXITCODE.
    SW_EXIT_CODE = 0x390;
    /// Offset of SW_EXITINFO1.
    SW_EXIT_INFO_1 = 0x398;
    /// Offset of SW_EXITINFO2.
    SW_EXIT_INFO_2 = 0x3a0;
    /// Offset of SW_SCRATCH.
    SW_SCRATCH = 0x3a8;
    /// Offset of XCR0.
    XCR0 = 0x3e8;
    /// Offset of the valid bitmap, 16 bytes: bit n is for the quadword at 8 * n.
    VALID_BITMAP = 0x3f0;
    /// Offset of the shared buffer.
    SHARED_BUFFER = 0x800;
    /// Offset of the protocol version, 2 bytes.
    VERSION = 0xffa;
    /// Offset of the usage, 4 bytes; 0 is the layout above.
    USAGE = 0xffc;
}

/// First byte behind the shared buffer.
pub(super) const SHARED_BUFFER_END: usize = 0xff0;

/// SW_EXITINFO1 of a request that the host could not read; SW_EXITINFO2 has a [`Malformed`].
pub(super) const STATUS_MALFORMED: u64 = 2;
/// SW_EXITINFO1: the guest shall raise the exception in SW_EXITINFO2.
pub(super) const STATUS_EXCEPTION: u64 = 1;
/// SW_EXITINFO2 of #GP(0): vector 13, type exception, error code 0, valid.
pub(super) const GENERAL_PROTECTION: u64 = 0x8000_0b0d;

/// Why a request is malformed, with its number in SW_EXITINFO2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Malformed {
    NotRegistered = 1,
    Usage = 2,
    Scratch = 3,
    MissingInput = 4,
    InvalidInput = 5,
    InvalidEvent = 6,
}

/// The host's copy of a GHCB page as the guest left it.
pub(super) struct Request {
    gpa: u64,
    bytes: Box<[u8; 4096]>,
}

impl Request {
    /// Copies the page at `gpa`.
    pub(super) fn read(machine: &Machine, gpa: u64) -> Self {
        let mut bytes = Box::new([0; 4096]);
        machine.host_read(gpa, &mut bytes[..]);
        Self { gpa, bytes }
    }

    /// The quadword at a fixed offset of this file.
    fn quadword(&self, offset: usize) -> u64 {
        self.bytes[offset..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Whether the guest says that it filled the field at `offset`.
    pub(super) fn is_valid(&self, offset: usize) -> bool {
        let bit = offset / 8;
        self.bytes[VALID_BITMAP + bit / 8] >> (bit % 8) & 1 == 1
    }

    /// A field that the event needs.
    pub(super) fn input(&self, offset: usize) -> Result<u64, Malformed> {
        if !self.is_valid(offset) {
            return Err(Malformed::MissingInput);
        }
        Ok(self.quadword(offset))
    }

    /// Fields that the event needs, though it is answered without a look at them.
    pub(super) fn inputs(&self, offsets: &[usize]) -> Result<Reply, Malformed> {
        offsets.iter().try_for_each(|offset| self.input(*offset).map(drop))?;
        Ok(Reply::default())
    }

    /// The privilege level of the guest.
    pub(super) fn cpl(&self) -> Result<u8, Malformed> {
        if self.is_valid(CPL) { Ok(self.bytes[CPL]) } else { Err(Malformed::MissingInput) }
    }

    /// Checks what every request must have and returns SW_EXITCODE, SW_EXITINFO1 and SW_EXITINFO2.
    pub(super) fn header(&self) -> Result<(u64, u64, u64), Malformed> {
        if self.bytes[USAGE..] != [0; 4] {
            return Err(Malformed::Usage);
        }
        let event = (self.input(SW_EXIT_CODE)?, self.input(SW_EXIT_INFO_1)?, self.input(SW_EXIT_INFO_2)?);
        // An SNP guest has to speak version 2, and to say so.
        if self.bytes[VERSION..USAGE] != [2, 0] {
            return Err(Malformed::InvalidInput);
        }
        Ok(event)
    }

    /// Offset in the page of a scratch area of at least `len` bytes. Version 2 wants it inside the shared buffer.
    pub(super) fn scratch(&self, len: usize) -> Result<usize, Malformed> {
        let offset = self.input(SW_SCRATCH)?.wrapping_sub(self.gpa);
        let last = (SHARED_BUFFER_END - len.min(SHARED_BUFFER_END)) as u64;
        if offset < SHARED_BUFFER as u64 || offset > last {
            return Err(Malformed::Scratch);
        }
        Ok(offset as usize)
    }

    /// Bytes of the page from `offset` to the end of the shared buffer.
    pub(super) fn buffer(&self, offset: usize) -> &[u8] {
        self.bytes.get(offset..SHARED_BUFFER_END).unwrap_or(&[])
    }
}

/// What the host writes into the page. A register it leaves out keeps its bytes and has no valid bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) info1: u64,
    pub(super) info2: u64,
    pub(super) rax: Option<u64>,
    pub(super) rbx: Option<u64>,
    pub(super) rcx: Option<u64>,
    pub(super) rdx: Option<u64>,
}

impl Reply {
    /// Success with a detail in SW_EXITINFO2.
    pub(super) fn detail(info2: u64) -> Self {
        Self { info2, ..Self::default() }
    }

    /// #GP(0) to be raised by the guest.
    pub(super) fn general_protection() -> Self {
        Self { info1: STATUS_EXCEPTION, info2: GENERAL_PROTECTION, ..Self::default() }
    }
}

impl From<Malformed> for Reply {
    fn from(why: Malformed) -> Self {
        Self { info1: STATUS_MALFORMED, info2: why as u64, ..Self::default() }
    }
}

impl Machine {
    /// Writes an answer, with the lies that go for every answer; false if the page is no shared memory.
    pub(super) fn write_reply(&mut self, at: At, gpa: u64, mut reply: Reply) -> bool {
        let policy = self.host.policy(at.vcpu);
        match policy {
            Policy::BogusException(info2) => (reply.info1, reply.info2) = (STATUS_EXCEPTION, info2),
            Policy::WrongStatus(info1) => reply.info1 = info1,
            _ => {}
        }
        let fields = [
            (SW_EXIT_INFO_1, Some(reply.info1)),
            (SW_EXIT_INFO_2, Some(reply.info2)),
            (RAX, reply.rax),
            (RBX, reply.rbx),
            (RCX, reply.rcx),
            (RDX, reply.rdx),
        ];
        let mut valid = [0_u8; 16];
        for (offset, value) in fields {
            let Some(value) = value else { continue };
            valid[offset / 64] |= 1 << (offset / 8 % 8);
            if !self.host_write(gpa + offset as u64, &value.to_le_bytes()) {
                return false;
            }
        }
        match policy {
            Policy::ClearValidBits => valid = [0; 16],
            Policy::ClearValidBit(bit) => clear(&mut valid, bit),
            _ => {}
        }
        self.host_write(gpa + VALID_BITMAP as u64, &valid)
    }
}

/// Clears a bit of the bitmap, if there is such a one.
fn clear(valid: &mut [u8; 16], bit: u8) {
    if let Some(byte) = valid.get_mut(usize::from(bit / 8)) {
        *byte &= !(1 << (bit % 8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let mut bytes = Box::new([0; 4096]);
        bytes[VERSION] = 2;
        for offset in [SW_EXIT_CODE, SW_EXIT_INFO_1, SW_EXIT_INFO_2] {
            bytes[offset] = offset as u8;
            bytes[VALID_BITMAP + offset / 64] |= 1 << (offset / 8 % 8);
        }
        Request { gpa: 0x7000, bytes }
    }

    #[test]
    fn valid_bits_stand_where_the_facts_say() {
        // ghcb_page: RAX 63, RBX 99, SW_EXITCODE 114, SW_SCRATCH 117, XCR0 125.
        for (offset, bit) in
            [(CPL, 25), (XSS, 40), (RAX, 63), (RBX, 99), (SW_EXIT_CODE, 114), (SW_SCRATCH, 117), (XCR0, 125)]
        {
            let mut one = request();
            one.bytes[VALID_BITMAP..VALID_BITMAP + 16].fill(0);
            one.bytes[VALID_BITMAP + bit / 8] = 1 << (bit % 8);
            assert!(one.is_valid(offset));
            one.bytes[VALID_BITMAP + bit / 8] = !(1 << (bit % 8));
            assert!(!one.is_valid(offset));
        }
    }

    #[test]
    fn takes_the_three_fields_of_every_event() {
        assert_eq!(request().header(), Ok((0x90, 0x98, 0xa0)));
    }

    #[test]
    fn refuses_usage_then_missing_then_version() {
        let mut bad = request();
        bad.bytes[USAGE] = 1;
        bad.bytes[VALID_BITMAP..VALID_BITMAP + 16].fill(0);
        bad.bytes[VERSION] = 1;
        assert_eq!(bad.header(), Err(Malformed::Usage));
        bad.bytes[USAGE] = 0;
        assert_eq!(bad.header(), Err(Malformed::MissingInput));
        bad.bytes[VALID_BITMAP..VALID_BITMAP + 16].fill(0xff);
        assert_eq!(bad.header(), Err(Malformed::InvalidInput));
    }

    #[test]
    fn keeps_scratch_inside_the_shared_buffer() {
        let mut one = request();
        assert_eq!(one.scratch(8), Err(Malformed::MissingInput));
        one.bytes[VALID_BITMAP..VALID_BITMAP + 16].fill(0xff);
        let mut scratch = |at: u64, len| {
            one.bytes[SW_SCRATCH..SW_SCRATCH + 8].copy_from_slice(&at.to_le_bytes());
            one.scratch(len)
        };
        assert_eq!(scratch(0x7800, 2032), Ok(0x800));
        assert_eq!(scratch(0x7fe8, 8), Ok(0xfe8));
        assert_eq!(scratch(0x7fe9, 8), Err(Malformed::Scratch));
        assert_eq!(scratch(0x7801, 2032), Err(Malformed::Scratch));
        assert_eq!(scratch(0x77f8, 8), Err(Malformed::Scratch));
        assert_eq!(scratch(0x8800, 8), Err(Malformed::Scratch));
        assert_eq!(scratch(0, 8), Err(Malformed::Scratch));
    }
}
