//! The GHCB MSR protocol: requests and answers in one 64-bit register.
//!
//! Bits 11:0 carry the code, 63:12 the data. A request is written to [`Msr::GHCB`](super::sev_features::Msr::GHCB),
//! VMGEXIT follows, the answer is read from the same register. The host makes the answer: every decoder refuses another
//! code and set reserved bits, and returns a value that is no more than the host's word.
//!
//! Source: 56421 version 2, `facts/ghcb_msr.csv`.

use thiserror_no_std::Error;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::nae::HvFeatures;
use super::terminate::TerminateReason;
use super::vmpl::Vmpl;

codes! {
    /// Bits 11:0 of the register.
    pub struct MsrCode(u16) {
        /// The data is the frame of the GHCB page to use.
        GHCB_GPA = 0x000;
        /// See [`SevInfo`].
        SEV_INFO_RESPONSE = 0x001;
        /// See [`sev_info_request`].
        SEV_INFO_REQUEST = 0x002;
        /// See [`cpuid_request`].
        CPUID_REQUEST = 0x004;
        /// See [`cpuid_response`].
        CPUID_RESPONSE = 0x005;
        /// See [`ap_reset_hold_request`].
        AP_RESET_HOLD_REQUEST = 0x006;
        /// See [`ap_reset_hold_response`].
        AP_RESET_HOLD_RESPONSE = 0x007;
        /// See [`preferred_ghcb_request`].
        PREFERRED_GHCB_GPA_REQUEST = 0x010;
        /// See [`preferred_ghcb_response`].
        PREFERRED_GHCB_GPA_RESPONSE = 0x011;
        /// See [`register_ghcb_request`].
        REGISTER_GHCB_GPA_REQUEST = 0x012;
        /// See [`register_ghcb_response`].
        REGISTER_GHCB_GPA_RESPONSE = 0x013;
        /// See [`page_state_request`].
        PAGE_STATE_CHANGE_REQUEST = 0x014;
        /// See [`page_state_response`].
        PAGE_STATE_CHANGE_RESPONSE = 0x015;
        /// See [`run_vmpl_request`].
        RUN_VMPL_REQUEST = 0x016;
        /// See [`run_vmpl_response`].
        RUN_VMPL_RESPONSE = 0x017;
        /// See [`unregister_ghcb_request`].
        UNREGISTER_GHCB_GPA_REQUEST = 0x018;
        /// See [`unregister_ghcb_response`].
        UNREGISTER_GHCB_GPA_RESPONSE = 0x019;
        /// See [`hv_features_request`].
        HYPERVISOR_FEATURES_REQUEST = 0x080;
        /// See [`hv_features_response`].
        HYPERVISOR_FEATURES_RESPONSE = 0x081;
        /// See [`terminate_request`].
        TERMINATE_REQUEST = 0x100;
    }
}

/// A value that is not the answer to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MsrError {
    /// The code is not that of the answer.
    #[error("GHCB MSR {raw:#x} is no {expected:?}")]
    UnexpectedCode {
        /// The code that belongs to the request.
        expected: MsrCode,
        /// The whole register.
        raw: u64,
    },
    /// A bit is set that has to be zero.
    #[error("GHCB MSR {raw:#x} has reserved bits")]
    ReservedBits {
        /// The whole register.
        raw: u64,
    },
    /// The answer is about another register or frame, or names an impossible one.
    #[error("GHCB MSR {raw:#x} answers another question")]
    Mismatch {
        /// The whole register.
        raw: u64,
    },
    /// The host says that it did not do it.
    #[error("the host refused: GHCB MSR {raw:#x}")]
    Refused {
        /// The whole register.
        raw: u64,
    },
}

impl core::error::Error for MsrError {}

/// What the host says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SevInfo {
    /// Highest protocol version.
    pub max_version: u16,
    /// Lowest protocol version; not above the highest.
    pub min_version: u16,
    /// Position of the encryption bit. Not to be believed without a check.
    pub c_bit: u8,
}

/// A result register of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CpuidRegister {
    /// EAX.
    Eax = 0,
    /// EBX.
    Ebx = 1,
    /// ECX.
    Ecx = 2,
    /// EDX.
    Edx = 3,
}

/// A change of page state. Split and join are not allowed by MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MsrPageState {
    /// Private to the guest.
    Private = 1,
    /// Shared with the host.
    Shared = 2,
}

/// Selects the GHCB page that the next VMGEXIT uses.
pub const fn ghcb_gpa(page: PhysFrame) -> u64 {
    page.start_address().as_u64()
}

/// Asks for protocol versions and encryption bit.
pub const fn sev_info_request() -> u64 {
    code(MsrCode::SEV_INFO_REQUEST)
}

/// Decodes the answer to [`sev_info_request`].
///
/// # Errors
/// [`MsrError::UnexpectedCode`]; [`MsrError::ReservedBits`] for bits 23:12; [`MsrError::Mismatch`] if the lowest version
/// is above the highest.
pub const fn sev_info_response(raw: u64) -> Result<SevInfo, MsrError> {
    if let Err(error) = expect(raw, MsrCode::SEV_INFO_RESPONSE, 0x00ff_f000) {
        return Err(error);
    }
    let info = SevInfo { max_version: (raw >> 48) as u16, min_version: (raw >> 32) as u16, c_bit: (raw >> 24) as u8 };
    if info.min_version > info.max_version { Err(MsrError::Mismatch { raw }) } else { Ok(info) }
}

/// Asks for one register of one CPUID leaf, sub-leaf 0.
pub const fn cpuid_request(leaf: u32, register: CpuidRegister) -> u64 {
    (leaf as u64) << 32 | (register as u64) << 30 | code(MsrCode::CPUID_REQUEST)
}

/// Decodes the answer to [`cpuid_request`] for the same register.
///
/// # Errors
/// [`MsrError::UnexpectedCode`]; [`MsrError::ReservedBits`] for bits 29:12; [`MsrError::Mismatch`] for another register.
pub const fn cpuid_response(raw: u64, register: CpuidRegister) -> Result<u32, MsrError> {
    if let Err(error) = expect(raw, MsrCode::CPUID_RESPONSE, 0x3fff_f000) {
        return Err(error);
    }
    if (raw >> 30) & 3 != register as u64 {
        return Err(MsrError::Mismatch { raw });
    }
    Ok((raw >> 32) as u32)
}

/// Parks the vCPU until the host starts it.
pub const fn ap_reset_hold_request() -> u64 {
    code(MsrCode::AP_RESET_HOLD_REQUEST)
}

/// Decodes the answer to [`ap_reset_hold_request`]: whether the vCPU was started. If not, ask again.
///
/// # Errors
/// [`MsrError::UnexpectedCode`].
pub const fn ap_reset_hold_response(raw: u64) -> Result<bool, MsrError> {
    match expect(raw, MsrCode::AP_RESET_HOLD_RESPONSE, 0) {
        Ok(()) => Ok(raw >> 12 != 0),
        Err(error) => Err(error),
    }
}

/// Asks where the host wants the GHCB.
pub const fn preferred_ghcb_request() -> u64 {
    code(MsrCode::PREFERRED_GHCB_GPA_REQUEST)
}

/// Decodes the answer to [`preferred_ghcb_request`]: `None` if the host does not mind.
///
/// # Errors
/// [`MsrError::UnexpectedCode`]; [`MsrError::Mismatch`] for a frame beyond 52 address bits.
pub fn preferred_ghcb_response(raw: u64) -> Result<Option<PhysFrame>, MsrError> {
    expect(raw, MsrCode::PREFERRED_GHCB_GPA_RESPONSE, 0)?;
    if raw & DATA == DATA {
        return Ok(None);
    }
    let at = PhysAddr::try_new(raw & DATA).map_err(|_| MsrError::Mismatch { raw })?;
    Ok(Some(PhysFrame::containing_address(at)))
}

/// Tells the host which page is the GHCB of this vCPU. Needed before the page is used.
pub const fn register_ghcb_request(page: PhysFrame) -> u64 {
    page.start_address().as_u64() | code(MsrCode::REGISTER_GHCB_GPA_REQUEST)
}

/// Decodes the answer to [`register_ghcb_request`] for the same page.
///
/// # Errors
/// [`MsrError::UnexpectedCode`]; [`MsrError::Refused`] if the host wants none; [`MsrError::Mismatch`] for another page.
pub const fn register_ghcb_response(raw: u64, page: PhysFrame) -> Result<(), MsrError> {
    same_page(raw, MsrCode::REGISTER_GHCB_GPA_RESPONSE, page)
}

/// Takes back the registration of a page, with the host feature `GHCB_UNREGISTER` only.
pub const fn unregister_ghcb_request(page: PhysFrame) -> u64 {
    page.start_address().as_u64() | code(MsrCode::UNREGISTER_GHCB_GPA_REQUEST)
}

/// Decodes the answer to [`unregister_ghcb_request`] for the same page. The table does not say what the result is; it is
/// read as that of [`register_ghcb_response`].
///
/// # Errors
/// As [`register_ghcb_response`].
pub const fn unregister_ghcb_response(raw: u64, page: PhysFrame) -> Result<(), MsrError> {
    same_page(raw, MsrCode::UNREGISTER_GHCB_GPA_RESPONSE, page)
}

/// Asks the host to change the state of one 4 KiB page.
pub const fn page_state_request(page: PhysFrame, to: MsrPageState) -> u64 {
    (to as u64) << 52 | page.start_address().as_u64() | code(MsrCode::PAGE_STATE_CHANGE_REQUEST)
}

/// Decodes the answer to [`page_state_request`].
///
/// # Errors
/// [`MsrError::UnexpectedCode`]; [`MsrError::ReservedBits`] for bits 31:12; [`MsrError::Refused`] for an error code.
pub const fn page_state_response(raw: u64) -> Result<(), MsrError> {
    done_or_refused(raw, MsrCode::PAGE_STATE_CHANGE_RESPONSE)
}

/// Asks the host to run another level on this vCPU.
pub const fn run_vmpl_request(level: Vmpl) -> u64 {
    (level.number() as u64) << 32 | code(MsrCode::RUN_VMPL_REQUEST)
}

/// Decodes the answer to [`run_vmpl_request`]. Success does not prove that the level ran.
///
/// # Errors
/// [`MsrError::UnexpectedCode`]; [`MsrError::ReservedBits`] for bits 31:12; [`MsrError::Refused`] for an error code.
pub const fn run_vmpl_response(raw: u64) -> Result<(), MsrError> {
    done_or_refused(raw, MsrCode::RUN_VMPL_RESPONSE)
}

/// Asks for the host's features.
pub const fn hv_features_request() -> u64 {
    code(MsrCode::HYPERVISOR_FEATURES_REQUEST)
}

/// Decodes the answer to [`hv_features_request`]. Unknown features are kept.
///
/// # Errors
/// [`MsrError::UnexpectedCode`].
pub const fn hv_features_response(raw: u64) -> Result<HvFeatures, MsrError> {
    match expect(raw, MsrCode::HYPERVISOR_FEATURES_RESPONSE, 0) {
        Ok(()) => Ok(HvFeatures::from_bits_retain(raw >> 12)),
        Err(error) => Err(error),
    }
}

/// Asks the host to end the guest. There is no answer; the host may run the vCPU on.
pub const fn terminate_request(reason: TerminateReason) -> u64 {
    ((reason.bits() & !TerminateReason::RESERVED) as u64) << 12 | code(MsrCode::TERMINATE_REQUEST)
}

/// The bits that carry data.
const DATA: u64 = !0xfff;

const fn code(code: MsrCode) -> u64 {
    code.0 as u64
}

const fn expect(raw: u64, expected: MsrCode, reserved: u64) -> Result<(), MsrError> {
    if raw & !DATA != code(expected) {
        Err(MsrError::UnexpectedCode { expected, raw })
    } else if raw & reserved != 0 {
        Err(MsrError::ReservedBits { raw })
    } else {
        Ok(())
    }
}

const fn same_page(raw: u64, expected: MsrCode, page: PhysFrame) -> Result<(), MsrError> {
    if let Err(error) = expect(raw, expected, 0) {
        return Err(error);
    }
    match raw & DATA {
        DATA => Err(MsrError::Refused { raw }),
        at if at == page.start_address().as_u64() => Ok(()),
        _ => Err(MsrError::Mismatch { raw }),
    }
}

const fn done_or_refused(raw: u64, expected: MsrCode) -> Result<(), MsrError> {
    if let Err(error) = expect(raw, expected, 0xffff_f000) {
        return Err(error);
    }
    if raw >> 32 == 0 { Ok(()) } else { Err(MsrError::Refused { raw }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(at: u64) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new(at))
    }

    #[test]
    fn every_decoder_refuses_every_other_code() {
        let page = frame(0x1000);
        for low in 0..0x1000_u64 {
            let raw = 0x1000 | low;
            let code = MsrCode(low as u16);
            let refused = |error| matches!(error, Err(MsrError::UnexpectedCode { raw: kept, .. }) if kept == raw);
            assert_eq!(refused(sev_info_response(raw).map(drop)), code != MsrCode::SEV_INFO_RESPONSE);
            let cpuid = cpuid_response(raw, CpuidRegister::Eax).map(drop);
            assert_eq!(refused(cpuid), code != MsrCode::CPUID_RESPONSE);
            assert_eq!(refused(ap_reset_hold_response(raw).map(drop)), code != MsrCode::AP_RESET_HOLD_RESPONSE);
            let preferred = preferred_ghcb_response(raw).map(drop);
            assert_eq!(refused(preferred), code != MsrCode::PREFERRED_GHCB_GPA_RESPONSE);
            assert_eq!(refused(register_ghcb_response(raw, page)), code != MsrCode::REGISTER_GHCB_GPA_RESPONSE);
            let unregistered = unregister_ghcb_response(raw, page);
            assert_eq!(refused(unregistered), code != MsrCode::UNREGISTER_GHCB_GPA_RESPONSE);
            assert_eq!(refused(page_state_response(raw)), code != MsrCode::PAGE_STATE_CHANGE_RESPONSE);
            assert_eq!(refused(run_vmpl_response(raw)), code != MsrCode::RUN_VMPL_RESPONSE);
            assert_eq!(refused(hv_features_response(raw).map(drop)), code != MsrCode::HYPERVISOR_FEATURES_RESPONSE);
        }
    }

    #[test]
    fn decoders_refuse_reserved_bits() {
        for bit in 12..32 {
            for raw in [0x015_u64 | 1 << bit, 0x017 | 1 << bit] {
                let answer = if raw & 0xfff == 0x015 { page_state_response(raw) } else { run_vmpl_response(raw) };
                assert_eq!(answer, Err(MsrError::ReservedBits { raw }));
            }
        }
        for bit in 12..24 {
            let raw = 0x0002_0001_3300_0001 | 1 << bit;
            assert_eq!(sev_info_response(raw), Err(MsrError::ReservedBits { raw }));
        }
        for bit in 12..30 {
            let raw = 0x005 | 1 << bit;
            assert_eq!(cpuid_response(raw, CpuidRegister::Eax), Err(MsrError::ReservedBits { raw }));
        }
    }

    #[test]
    fn an_error_code_of_the_host_is_a_refusal() {
        let raw = 0x8000_0000_0000_0015;
        assert_eq!(page_state_response(raw), Err(MsrError::Refused { raw }));
        let raw = 0x0000_0001_0000_0017;
        assert_eq!(run_vmpl_response(raw), Err(MsrError::Refused { raw }));
    }

    #[test]
    fn refuses_an_answer_about_another_page_or_register() {
        let raw = 0x2013;
        assert_eq!(register_ghcb_response(raw, frame(0x1000)), Err(MsrError::Mismatch { raw }));
        let raw = !0xfff | 0x013;
        assert_eq!(register_ghcb_response(raw, frame(0x1000)), Err(MsrError::Refused { raw }));
        let raw = 0x2019;
        assert_eq!(unregister_ghcb_response(raw, frame(0x1000)), Err(MsrError::Mismatch { raw }));
        assert_eq!(unregister_ghcb_response(raw, frame(0x2000)), Ok(()));
        let raw = !0xfff | 0x019;
        assert_eq!(unregister_ghcb_response(raw, frame(0x1000)), Err(MsrError::Refused { raw }));
        let raw = 0x0000_0007_4000_0005;
        assert_eq!(cpuid_response(raw, CpuidRegister::Ecx), Err(MsrError::Mismatch { raw }));
        assert_eq!(cpuid_response(raw, CpuidRegister::Ebx), Ok(7));
    }

    #[test]
    fn refuses_an_impossible_version_range_or_frame() {
        let raw = 0x0001_0002_3300_0001;
        assert_eq!(sev_info_response(raw), Err(MsrError::Mismatch { raw }));
        let raw = 0xfff0_0000_0000_1011;
        assert_eq!(preferred_ghcb_response(raw), Err(MsrError::Mismatch { raw }));
        assert_eq!(preferred_ghcb_response(!0xfff | 0x011), Ok(None));
    }
}
