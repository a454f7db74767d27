//! The MSR protocol: one register out, one register back.

use coco_part_api::{FrameRange, HostState, Stopped};

use super::events::CpuidResult;
use super::{HostChannel, hv_features};
use crate::abi::ghcb_msr::{self, CpuidRegister, MsrError, MsrPageState};
use crate::abi::nae::HvFeatures;
use crate::abi::terminate::TerminateReason;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::instr::{CallFrame, Port};

/// The host reached by register. Needs no memory, and serves before a GHCB page exists.
///
/// The GHCB MSR has the value it had before after every request (SW-12).
#[derive(Clone, Copy, Debug, Default)]
pub struct MsrProtocol;

impl MsrProtocol {
    /// Asks for one CPUID leaf, register by register. The sub-leaf is always 0.
    ///
    /// The host's word: for anything that matters the CPUID page counts (CP-01).
    ///
    /// # Errors
    /// [`SnpError::UnexpectedResponse`].
    #[doc(alias = "CPUID")]
    pub fn cpuid<P: Port>(&mut self, port: &mut P, leaf: u32) -> Result<CpuidResult, SnpError> {
        let mut register = |register| {
            let sent = ghcb_msr::cpuid_request(leaf, register);
            let got = exchange(port, sent);
            ghcb_msr::cpuid_response(got, register).map_err(|_| SnpError::UnexpectedResponse { sent, got })
        };
        Ok(CpuidResult {
            eax: register(CpuidRegister::Eax)?,
            ebx: register(CpuidRegister::Ebx)?,
            ecx: register(CpuidRegister::Ecx)?,
            edx: register(CpuidRegister::Edx)?,
        })
    }
}

impl HostChannel for MsrProtocol {
    fn hv_features<P: Port>(&mut self, port: &mut P, needed: HvFeatures) -> Result<HvFeatures, SnpError> {
        hv_features(port, needed)
    }

    fn page_state<P: Port>(&mut self, port: &mut P, range: FrameRange, to: HostState) -> Result<(), Stopped<SnpError>> {
        let to = match to {
            HostState::Private => MsrPageState::Private,
            HostState::Shared => MsrPageState::Shared,
        };
        for (block, done) in range.small_blocks().zip(0..) {
            let sent = ghcb_msr::page_state_request(block.range().first(), to);
            let got = exchange(port, sent);
            let cause = match ghcb_msr::page_state_response(got) {
                Ok(()) => continue,
                Err(MsrError::Refused { raw }) => SnpError::PageState { code: raw >> 32 },
                Err(_) => SnpError::UnexpectedResponse { sent, got },
            };
            return Err(Stopped { done, cause });
        }
        Ok(())
    }

    fn run_vmpl<P: Port>(&mut self, port: &mut P, vmpl: Vmpl) -> Result<(), SnpError> {
        let sent = ghcb_msr::run_vmpl_request(vmpl);
        check_run(sent, exchange(port, sent))
    }

    fn call_vmpl0<P: Port, F: FnOnce() -> Result<(), SnpError>>(
        &mut self,
        port: &mut P,
        frame: &mut CallFrame,
        mark: F,
    ) -> Result<(), SnpError> {
        let sent = ghcb_msr::run_vmpl_request(Vmpl::VMPL0);
        let before = port.read_ghcb_msr();
        port.write_ghcb_msr(sent);
        if let Err(error) = mark() {
            port.write_ghcb_msr(before);
            return Err(error);
        }
        port.vmgexit_call(frame);
        let got = port.read_ghcb_msr();
        port.write_ghcb_msr(before);
        check_run(sent, got)
    }

    fn ap_reset_hold<P: Port>(&mut self, port: &mut P) -> Result<bool, SnpError> {
        let sent = ghcb_msr::ap_reset_hold_request();
        let got = exchange(port, sent);
        ghcb_msr::ap_reset_hold_response(got).map_err(|_| SnpError::UnexpectedResponse { sent, got })
    }

    fn terminate<P: Port>(&mut self, port: &mut P, reason: TerminateReason) -> ! {
        loop {
            port.write_ghcb_msr(ghcb_msr::terminate_request(reason));
            port.vmgexit();
            port.halt();
        }
    }
}

/// Sends one request and gives the answer. The register has its old value afterwards.
pub(super) fn exchange<P: Port>(port: &mut P, request: u64) -> u64 {
    let before = port.read_ghcb_msr();
    port.write_ghcb_msr(request);
    port.vmgexit();
    let answer = port.read_ghcb_msr();
    port.write_ghcb_msr(before);
    answer
}

fn check_run(sent: u64, got: u64) -> Result<(), SnpError> {
    match ghcb_msr::run_vmpl_response(got) {
        Ok(()) => Ok(()),
        // Bits 63:32.
        Err(MsrError::Refused { raw }) => Err(SnpError::RunVmpl { code: (raw >> 32) as u32 }),
        Err(_) => Err(SnpError::UnexpectedResponse { sent, got }),
    }
}
