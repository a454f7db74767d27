//! Port I/O: one value in RAX, or a string of them in the shared buffer (GH-08).

use coco_part_api::GuestMemory;

use crate::abi::nae::{IoioInfo, MAX_DATA_BYTES, NaeCode};
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::host::request::{Fields, Request};
use crate::instr::Port;

/// Segment of the memory operand of a string form: always ES for INS, DS for OUTS without an override.
pub use crate::insn::SegmentName as Segment;

/// Size of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSize {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
}

impl PortSize {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }

    /// The bits of `value` that count.
    const fn cut(self, value: u64) -> u32 {
        let value = value as u32;
        match self {
            Self::Byte => value & 0xff,
            Self::Word => value & 0xffff,
            Self::Dword => value,
        }
    }
}

/// Size of addresses in the code that accesses the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSize {
    /// 16 bits.
    Bits16,
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
}

/// Which port is accessed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// Number of the port.
    pub port: u16,
    /// Size of one value.
    pub size: PortSize,
    /// Size of addresses.
    pub address: AddressSize,
}

impl PortAccess {
    /// An access by 64-bit code.
    pub const fn new(port: u16, size: PortSize) -> Self {
        Self { port, size, address: AddressSize::Bits64 }
    }

    /// SW_EXITINFO1 but for direction and string form.
    const fn info(self) -> IoioInfo {
        let info = IoioInfo::from_bits_retain(0).with_port(self.port as u64);
        let info = match self.size {
            PortSize::Byte => info.with_size_8(1),
            PortSize::Word => info.with_size_16(1),
            PortSize::Dword => info.with_size_32(1),
        };
        match self.address {
            AddressSize::Bits16 => info.with_address_16(1),
            AddressSize::Bits32 => info.with_address_32(1),
            AddressSize::Bits64 => info.with_address_64(1),
        }
    }

    /// SW_EXITINFO1 and 2 of the string form with so many bytes: the count is that of the values.
    fn string(self, bytes: usize, segment: Segment) -> Result<(IoioInfo, u64), SnpError> {
        let element = self.size.bytes();
        if !(1..=MAX_DATA_BYTES).contains(&bytes) || !bytes.is_multiple_of(element) {
            return Err(SnpError::BadLength { given: bytes, most: MAX_DATA_BYTES, element });
        }
        let count = (bytes / element) as u64;
        let info = self.info().with_is_string(1).with_is_rep(u64::from(count > 1)).with_segment(segment as u64);
        Ok((info, count))
    }
}

/// String forms carry 1 to [`MAX_DATA_BYTES`] bytes per exit, a whole number of values; with more than one the REP bit is
/// set. The count is the guest's: whatever the host makes of it, no more and no fewer bytes are taken than were asked for.
impl<M: GuestMemory> GhcbPage<M> {
    /// Reads one value from a port. Bits above its size are zero.
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "IN")]
    pub fn port_in<P: Port>(&mut self, port: &mut P, access: PortAccess) -> Result<u32, SnpError> {
        let info = access.info().with_is_in(1);
        let registers = self.ask_for_registers(port, &Request::new(NaeCode::IOIO, info.bits(), 0))?;
        Ok(access.size.cut(registers.rax()?))
    }

    /// Writes one value to a port. Bits above its size are not shown to the host.
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "OUT")]
    pub fn port_out<P: Port>(&mut self, port: &mut P, access: PortAccess, value: u32) -> Result<(), SnpError> {
        let value = access.size.cut(value.into());
        let fields = Fields { rax: Some(value.into()), ..Fields::default() };
        self.ask(port, &Request::new(NaeCode::IOIO, access.info().bits(), 0).with(fields))
    }

    /// Reads values from a port until `into` is full. After an answer error `into` is as before.
    ///
    /// # Errors
    /// [`SnpError::BadLength`]: nothing was sent. Else the answer errors.
    #[doc(alias = "INS")]
    pub fn port_in_string<P: Port>(
        &mut self,
        port: &mut P,
        access: PortAccess,
        into: &mut [u8],
    ) -> Result<(), SnpError> {
        let (info, count) = access.string(into.len(), Segment::Es)?;
        let request = Request::new(NaeCode::IOIO, info.with_is_in(1).bits(), count).with_buffer(&[]);
        self.ask(port, &request)?;
        self.take_buffer(into)
    }

    /// Writes all values in `from` to a port.
    ///
    /// # Errors
    /// As [`port_in_string`](Self::port_in_string).
    #[doc(alias = "OUTS")]
    pub fn port_out_string<P: Port>(
        &mut self,
        port: &mut P,
        access: PortAccess,
        segment: Segment,
        from: &[u8],
    ) -> Result<(), SnpError> {
        let (info, count) = access.string(from.len(), segment)?;
        self.ask(port, &Request::new(NaeCode::IOIO, info.bits(), count).with_buffer(from))
    }
}
