//! Memory as the guest's own page tables show it.

use x86_64::PhysAddr;

use crate::host::SharedAddr;
use crate::insn::{Access, LinearAddr};

/// On whose behalf memory is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// CPL 3: only pages that user mode can access.
    User,
    /// CPL 0 to 2.
    Supervisor,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// To a page that belongs to the guest.
    Private(PhysAddr),
    /// To a page that the host can access: memory or a device.
    Shared(SharedAddr),
}

/// The page fault that an access raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The address, for CR2.
    pub at: LinearAddr,
    /// Error code.
    pub error_code: u32,
}

/// The address space of the interrupted code.
///
/// For implementers: page tables must be the guest's own, walked with the rights of `by`; nothing that the host says may
/// decide what is private. Bytes are copied once. An access of several bytes can cross the end of a page; it happens
/// completely or not at all.
pub trait AddressSpace {
    /// Copies instruction bytes. They never cross the end of a page.
    ///
    /// # Errors
    /// The fault that fetching them raises.
    fn fetch(&mut self, at: LinearAddr, into: &mut [u8], by: Privilege) -> Result<(), PageFault>;

    /// Copies 1 to 8 bytes of data out.
    ///
    /// # Errors
    /// The fault that reading them raises.
    fn read(&mut self, at: LinearAddr, into: &mut [u8], by: Privilege) -> Result<(), PageFault>;

    /// Copies 1 to 8 bytes of data in.
    ///
    /// # Errors
    /// The fault that writing them raises.
    fn write(&mut self, at: LinearAddr, from: &[u8], by: Privilege) -> Result<(), PageFault>;

    /// Translates the address of one byte for an access, without accessing it.
    ///
    /// # Errors
    /// The fault that the access raises.
    fn translate(&mut self, at: LinearAddr, access: Access, by: Privilege) -> Result<Mapping, PageFault>;
}
