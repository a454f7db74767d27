//! What the handler asks the host for.

use coco_part_api::GuestMemory;

use crate::error::SnpError;
use crate::host::{CpuidRequest, GhcbPage, MonitorOperands, PortAccess, Segment, SharedAddr, TscAndAux};
use crate::instr::Port;

/// The host's part of instructions. [`GhcbPage`] has methods of the same names, which say what each does.
///
/// An implementation may do less: one that does not want to show the host an address does nothing in
/// [`monitor`](Self::monitor) and [`mwait`](Self::mwait). Whatever an answer is, it is the host's word.
///
/// Every method returns the answer errors of [`GhcbPage`]; [`SnpError::Exception`] raises #GP or #UD, all others end it.
pub trait Events {
    /// CPUID of a leaf that is the hypervisor's: EAX, EBX, ECX and EDX. See [`GhcbPage::cpuid`].
    fn hypervisor_cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], SnpError>;
    /// See [`GhcbPage::read_msr`].
    fn read_msr(&mut self, number: u32) -> Result<u64, SnpError>;
    /// See [`GhcbPage::write_msr`].
    fn write_msr(&mut self, number: u32, value: u64) -> Result<(), SnpError>;
    /// See [`GhcbPage::write_dr7`].
    fn write_dr7(&mut self, value: u64) -> Result<(), SnpError>;
    /// See [`GhcbPage::rdtsc`].
    fn rdtsc(&mut self) -> Result<u64, SnpError>;
    /// See [`GhcbPage::rdtscp`].
    fn rdtscp(&mut self) -> Result<TscAndAux, SnpError>;
    /// See [`GhcbPage::rdpmc`].
    fn rdpmc(&mut self, counter: u32) -> Result<u64, SnpError>;
    /// See [`GhcbPage::wbinvd`].
    fn wbinvd(&mut self) -> Result<(), SnpError>;
    /// See [`GhcbPage::monitor`].
    fn monitor(&mut self, operands: MonitorOperands) -> Result<(), SnpError>;
    /// See [`GhcbPage::mwait`].
    fn mwait(&mut self, eax: u32, ecx: u32) -> Result<(), SnpError>;
    /// See [`GhcbPage::vmmcall`].
    fn vmmcall(&mut self, rax: u64, cpl: u8) -> Result<u64, SnpError>;
    /// See [`GhcbPage::port_in`].
    fn port_in(&mut self, access: PortAccess) -> Result<u32, SnpError>;
    /// See [`GhcbPage::port_out`].
    fn port_out(&mut self, access: PortAccess, value: u32) -> Result<(), SnpError>;
    /// See [`GhcbPage::port_in_string`].
    fn port_in_string(&mut self, access: PortAccess, into: &mut [u8]) -> Result<(), SnpError>;
    /// See [`GhcbPage::port_out_string`].
    fn port_out_string(&mut self, access: PortAccess, segment: Segment, from: &[u8]) -> Result<(), SnpError>;
    /// See [`GhcbPage::mmio_read`].
    fn mmio_read(&mut self, at: SharedAddr, into: &mut [u8]) -> Result<(), SnpError>;
    /// See [`GhcbPage::mmio_write`].
    fn mmio_write(&mut self, at: SharedAddr, from: &[u8]) -> Result<(), SnpError>;
}

/// [`Events`] by a GHCB page.
#[derive(Debug)]
pub struct PageEvents<'a, P: Port, M: GuestMemory> {
    /// The instructions of this vCPU.
    pub port: &'a mut P,
    /// Its page.
    pub page: &'a mut GhcbPage<M>,
}

impl<P: Port, M: GuestMemory> Events for PageEvents<'_, P, M> {
    fn hypervisor_cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], SnpError> {
        let request = CpuidRequest { leaf, subleaf, ..CpuidRequest::default() };
        self.page.cpuid(self.port, request).map(|found| [found.eax, found.ebx, found.ecx, found.edx])
    }

    fn read_msr(&mut self, number: u32) -> Result<u64, SnpError> {
        self.page.read_msr(self.port, number)
    }

    fn write_msr(&mut self, number: u32, value: u64) -> Result<(), SnpError> {
        self.page.write_msr(self.port, number, value)
    }

    fn write_dr7(&mut self, value: u64) -> Result<(), SnpError> {
        self.page.write_dr7(self.port, value)
    }

    fn rdtsc(&mut self) -> Result<u64, SnpError> {
        self.page.rdtsc(self.port)
    }

    fn rdtscp(&mut self) -> Result<TscAndAux, SnpError> {
        self.page.rdtscp(self.port)
    }

    fn rdpmc(&mut self, counter: u32) -> Result<u64, SnpError> {
        self.page.rdpmc(self.port, counter)
    }

    fn wbinvd(&mut self) -> Result<(), SnpError> {
        self.page.wbinvd(self.port)
    }

    fn monitor(&mut self, operands: MonitorOperands) -> Result<(), SnpError> {
        self.page.monitor(self.port, operands)
    }

    fn mwait(&mut self, eax: u32, ecx: u32) -> Result<(), SnpError> {
        self.page.mwait(self.port, eax, ecx)
    }

    fn vmmcall(&mut self, rax: u64, cpl: u8) -> Result<u64, SnpError> {
        self.page.vmmcall(self.port, rax, cpl)
    }

    fn port_in(&mut self, access: PortAccess) -> Result<u32, SnpError> {
        self.page.port_in(self.port, access)
    }

    fn port_out(&mut self, access: PortAccess, value: u32) -> Result<(), SnpError> {
        self.page.port_out(self.port, access, value)
    }

    fn port_in_string(&mut self, access: PortAccess, into: &mut [u8]) -> Result<(), SnpError> {
        self.page.port_in_string(self.port, access, into)
    }

    fn port_out_string(&mut self, access: PortAccess, segment: Segment, from: &[u8]) -> Result<(), SnpError> {
        self.page.port_out_string(self.port, access, segment, from)
    }

    fn mmio_read(&mut self, at: SharedAddr, into: &mut [u8]) -> Result<(), SnpError> {
        self.page.mmio_read(self.port, at, into)
    }

    fn mmio_write(&mut self, at: SharedAddr, from: &[u8]) -> Result<(), SnpError> {
        self.page.mmio_write(self.port, at, from)
    }
}
