//! Interrupts between host and vCPU that need no doorbell page.

use coco_part_api::GuestMemory;

use crate::abi::nae::NaeCode;
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::host::request::Request;
use crate::instr::Port;

impl<M: GuestMemory> GhcbPage<M> {
    /// Says that the handler of an NMI is done, so that the host may send the next one.
    ///
    /// # Errors
    /// The answer errors.
    pub fn nmi_complete<P: Port>(&mut self, port: &mut P) -> Result<(), SnpError> {
        self.ask(port, &Request::plain(NaeCode::NMI_COMPLETE))
    }

    /// Sends an interrupt to other vCPUs, in the format of the x2APIC interrupt command register.
    ///
    /// The event belongs to the host feature `RESTRICTED_INJECTION`; without it a write of the MSR says the same.
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "ICR")]
    pub fn send_ipi<P: Port>(&mut self, port: &mut P, icr: u64) -> Result<(), SnpError> {
        self.ask(port, &Request::new(NaeCode::HV_IPI, icr, 0))
    }
}
