//! Device memory that the host emulates.

use coco_part_api::range::SMALL;
use coco_part_api::{GuestMemory, RangeError};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::abi::nae::{MAX_DATA_BYTES, NaeCode};
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::host::request::Request;
use crate::instr::Port;

/// An address in a page that is not private to the guest: the only kind whose contents may go to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedAddr(PhysAddr);

impl SharedAddr {
    /// Checks an address as a page table entry has it, with the encryption bit at position `c_bit` of the CPUID page.
    /// `is_private` says what the guest knows of the page.
    ///
    /// A #VC on a private page is not an access to a device but an attack: emulating it would hand the data to the host
    /// (GH-11).
    ///
    /// # Errors
    /// [`SnpError::PrivateAddress`] with the bit set, for a page that is private, and for a position that is none.
    pub fn try_new(at: PhysAddr, c_bit: u8, is_private: impl FnOnce(PhysFrame) -> bool) -> Result<Self, SnpError> {
        let is_encrypted = 1u64.checked_shl(c_bit.into()).is_none_or(|bit| at.as_u64() & bit != 0);
        if is_encrypted || is_private(PhysFrame::containing_address(at)) {
            return Err(SnpError::PrivateAddress { at });
        }
        Ok(Self(at))
    }

    /// The address.
    pub const fn address(self) -> PhysAddr {
        self.0
    }

    /// Checks an access of so many bytes: what lies in the next page was not checked.
    fn check(self, bytes: usize) -> Result<(), SnpError> {
        if !(1..=MAX_DATA_BYTES).contains(&bytes) {
            return Err(SnpError::BadLength { given: bytes, most: MAX_DATA_BYTES, element: 1 });
        }
        let left = SMALL - self.0.as_u64() % SMALL;
        if bytes as u64 > left {
            return Err(RangeError::OutsideMap { at: self.0 }.into());
        }
        Ok(())
    }
}

/// 1 to [`MAX_DATA_BYTES`] bytes, all in one page.
impl<M: GuestMemory> GhcbPage<M> {
    /// Reads device memory until `into` is full. After an answer error `into` is as before.
    ///
    /// # Errors
    /// [`SnpError::BadLength`], [`SnpError::Range`] for an access beyond the page: nothing was sent. Else the answer errors.
    pub fn mmio_read<P: Port>(&mut self, port: &mut P, at: SharedAddr, into: &mut [u8]) -> Result<(), SnpError> {
        at.check(into.len())?;
        let (address, bytes) = (at.0.as_u64(), into.len() as u64);
        self.ask(port, &Request::new(NaeCode::MMIO_READ, address, bytes).with_buffer(&[]))?;
        self.take_buffer(into)
    }

    /// Writes device memory.
    ///
    /// # Errors
    /// As [`mmio_read`](Self::mmio_read).
    pub fn mmio_write<P: Port>(&mut self, port: &mut P, at: SharedAddr, from: &[u8]) -> Result<(), SnpError> {
        at.check(from.len())?;
        let request = Request::new(NaeCode::MMIO_WRITE, at.0.as_u64(), from.len() as u64);
        self.ask(port, &request.with_buffer(from))
    }
}
