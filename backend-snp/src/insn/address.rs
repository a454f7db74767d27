//! Offsets to linear addresses, by the rules of the mode.

use core::fmt;

use thiserror_no_std::Error;

use super::Mode;
use super::operand::SegmentName;
use crate::abi::segment::Segment;

/// A linear address: what page tables translate. In 64-bit mode it is canonical.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinearAddr(u64);

impl LinearAddr {
    /// Wraps a number.
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on, if it is one.
    pub fn checked_add(self, bytes: usize) -> Option<Self> {
        self.0.checked_add(u64::try_from(bytes).ok()?).map(Self)
    }
}

impl fmt::LowerHex for LinearAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl fmt::Debug for LinearAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinearAddr({self:#x})")
    }
}

/// The segment registers, expanded as in a VMSA. In 64-bit mode only the bases of FS and GS count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
}

/// What is done with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Instructions are fetched.
    Fetch,
    /// Data is read.
    Read,
    /// Data is written.
    Write,
}

/// The exception that an address raises. Its error code is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressFault {
    /// #GP.
    #[error("address raises #GP")]
    GeneralProtection,
    /// #SS: as #GP, with an address in SS.
    #[error("address raises #SS")]
    Stack,
}

impl core::error::Error for AddressFault {}

/// Type bit of a descriptor: code.
const CODE: u16 = 1 << 3;
/// Type bit of a data descriptor: valid offsets are above the limit.
const EXPAND_DOWN: u16 = 1 << 2;
/// Type bit: writable data or readable code.
const ACCESSIBLE: u16 = 1 << 1;

impl Segments {
    /// One of them.
    pub const fn segment(&self, name: SegmentName) -> &Segment {
        match name {
            SegmentName::Es => &self.es,
            SegmentName::Cs => &self.cs,
            SegmentName::Ss => &self.ss,
            SegmentName::Ds => &self.ds,
            SegmentName::Fs => &self.fs,
            SegmentName::Gs => &self.gs,
        }
    }

    /// Linear address of `len` bytes at `offset`, all of which `access` may touch as far as segmentation goes. They do not
    /// wrap around the end of the address space.
    ///
    /// `address_bits` is the size of canonical addresses in 64-bit mode: 48, or 57 with CR4.LA57.
    ///
    /// # Errors
    /// [`AddressFault`] for a byte that is not canonical, outside of the limit, or of a segment that is not present or not
    /// for such an access.
    pub fn linear(
        &self,
        mode: Mode,
        address_bits: u32,
        name: SegmentName,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<LinearAddr, AddressFault> {
        let segment = self.segment(name);
        let more = u64::try_from(len).unwrap_or(u64::MAX).saturating_sub(1);
        let linear = match mode {
            Mode::Bits64 => canonical(flat(name, segment).wrapping_add(offset), more, address_bits),
            Mode::Bits32 | Mode::Bits16 => limited(segment, offset, more, access),
        };
        let fault = if name == SegmentName::Ss { AddressFault::Stack } else { AddressFault::GeneralProtection };
        linear.map(LinearAddr).ok_or(fault)
    }
}

/// Base in 64-bit mode.
const fn flat(name: SegmentName, segment: &Segment) -> u64 {
    match name {
        SegmentName::Fs | SegmentName::Gs => segment.base,
        _ => 0,
    }
}

fn canonical(first: u64, more: u64, address_bits: u32) -> Option<u64> {
    let last = first.checked_add(more)?;
    let same_half = (first ^ last) >> 63 == 0;
    (same_half && is_canonical(first, address_bits) && is_canonical(last, address_bits)).then_some(first)
}

/// Says whether the bits above `address_bits` repeat the highest one below.
pub(crate) const fn is_canonical(address: u64, address_bits: u32) -> bool {
    let spare = 64u32.saturating_sub(address_bits) & 63;
    ((address << spare) as i64 >> spare) as u64 == address
}

fn limited(segment: &Segment, offset: u64, more: u64, access: Access) -> Option<u64> {
    let attributes = segment.attributes;
    let kind = attributes.descriptor_type();
    let is_code = kind & CODE != 0;
    let allowed = match access {
        // CS was loaded already, and in real mode with any type.
        Access::Fetch => true,
        Access::Read => !is_code || kind & ACCESSIBLE != 0,
        Access::Write => !is_code && kind & ACCESSIBLE != 0,
    };
    let limit = u64::from(segment.limit);
    let last = offset.checked_add(more)?;
    let is_inside = if !is_code && kind & EXPAND_DOWN != 0 {
        let top = if attributes.d_b() == 1 { u64::from(u32::MAX) } else { u64::from(u16::MAX) };
        offset > limit && last <= top
    } else {
        last <= limit
    };
    if attributes.present() == 0 || attributes.s() == 0 || !allowed || !is_inside {
        return None;
    }
    let first = u64::from((segment.base as u32).wrapping_add(offset as u32));
    (first.checked_add(more)? <= u64::from(u32::MAX)).then_some(first)
}
