//! Counters, as the host tells them. No decision of security rests on them (GH-21).

use coco_part_api::GuestMemory;

use crate::abi::nae::NaeCode;
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::host::request::{Fields, Request};
use crate::instr::Port;

/// What RDTSCP returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscAndAux {
    /// Time stamp counter.
    pub tsc: u64,
    /// ECX: TSC_AUX.
    pub aux: u32,
}

impl<M: GuestMemory> GhcbPage<M> {
    /// Asks for the time stamp counter.
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "RDTSC")]
    pub fn rdtsc<P: Port>(&mut self, port: &mut P) -> Result<u64, SnpError> {
        self.ask_for_registers(port, &Request::plain(NaeCode::RDTSC))?.edx_eax()
    }

    /// Asks for the time stamp counter and TSC_AUX.
    ///
    /// # Errors
    /// The answer errors.
    #[doc(alias = "RDTSCP")]
    pub fn rdtscp<P: Port>(&mut self, port: &mut P) -> Result<TscAndAux, SnpError> {
        let registers = self.ask_for_registers(port, &Request::plain(NaeCode::RDTSCP))?;
        Ok(TscAndAux { tsc: registers.edx_eax()?, aux: registers.rcx()? as u32 })
    }

    /// Asks for a performance counter.
    ///
    /// # Errors
    /// The answer errors; [`SnpError::Exception`] for a counter that the host does not have.
    #[doc(alias = "RDPMC")]
    pub fn rdpmc<P: Port>(&mut self, port: &mut P, counter: u32) -> Result<u64, SnpError> {
        let fields = Fields { rcx: Some(counter.into()), ..Fields::default() };
        self.ask_for_registers(port, &Request::plain(NaeCode::RDPMC).with(fields))?.edx_eax()
    }
}
