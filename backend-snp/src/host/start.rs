//! The first talk with the host, by MSR protocol: versions, features, registration of the GHCB page.

use x86_64::structures::paging::PhysFrame;

use super::features;
use super::msr_protocol::exchange;
use crate::abi::ghcb::Ghcb;
use crate::abi::ghcb_msr::{self, MsrError, SevInfo};
use crate::abi::nae::HvFeatures;
use crate::error::SnpError;
use crate::instr::Port;

/// Asks for the versions of the GHCB protocol and demands that version 2 is among them.
///
/// The position of the encryption bit in the answer is the host's word; the CPUID page has the true one (CP-04).
///
/// # Errors
/// [`SnpError::VersionRange`], [`SnpError::UnexpectedResponse`].
pub fn negotiate<P: Port>(port: &mut P) -> Result<SevInfo, SnpError> {
    let sent = ghcb_msr::sev_info_request();
    let got = exchange(port, sent);
    match ghcb_msr::sev_info_response(got) {
        Ok(info) if (info.min_version..=info.max_version).contains(&Ghcb::VERSION_2) => Ok(info),
        Ok(info) => Err(SnpError::VersionRange { min: info.min_version, max: info.max_version }),
        // The lowest version is above the highest: bits 47:32 and 63:48.
        Err(MsrError::Mismatch { raw }) => {
            Err(SnpError::VersionRange { min: (raw >> 32) as u16, max: (raw >> 48) as u16 })
        }
        Err(_) => Err(SnpError::UnexpectedResponse { sent, got }),
    }
}

/// Asks for the host's features and demands `needed`, with all that those need in turn.
///
/// A feature counts as absent when the host lacks one that it needs. A host that claims a feature falsely stops progress
/// only.
///
/// # Errors
/// [`SnpError::MissingFeatures`], [`SnpError::UnexpectedResponse`].
pub fn hv_features<P: Port>(port: &mut P, needed: HvFeatures) -> Result<HvFeatures, SnpError> {
    let sent = ghcb_msr::hv_features_request();
    let got = exchange(port, sent);
    let features = ghcb_msr::hv_features_response(got).map_err(|_| SnpError::UnexpectedResponse { sent, got })?;
    features::demand(features, needed)
}

/// Asks where the host wants the GHCB page; `None` if it does not mind. A wish only, and the host's: the page has to be
/// one that the guest would have chosen itself ([`GhcbPage::register_preferred`](super::GhcbPage::register_preferred)).
///
/// # Errors
/// [`SnpError::UnexpectedResponse`], also for a frame beyond the address space.
pub fn preferred_ghcb<P: Port>(port: &mut P) -> Result<Option<PhysFrame>, SnpError> {
    let sent = ghcb_msr::preferred_ghcb_request();
    let got = exchange(port, sent);
    ghcb_msr::preferred_ghcb_response(got).map_err(|_| SnpError::UnexpectedResponse { sent, got })
}

/// Tells the host which page is the GHCB of this vCPU at this level. The answer has to name the same page (GH-05).
///
/// # Errors
/// [`SnpError::GhcbRefused`], [`SnpError::UnexpectedResponse`].
pub fn register_ghcb<P: Port>(port: &mut P, page: PhysFrame) -> Result<(), SnpError> {
    let sent = ghcb_msr::register_ghcb_request(page);
    let got = exchange(port, sent);
    check_page(sent, got, ghcb_msr::register_ghcb_response(got, page))
}

/// Takes the registration of a GHCB page back. `features` are those that [`hv_features`] gave.
///
/// # Errors
/// [`SnpError::MissingFeatures`] without `GHCB_UNREGISTER`: nothing was sent. Else as [`register_ghcb`].
pub fn unregister_ghcb<P: Port>(port: &mut P, page: PhysFrame, features: HvFeatures) -> Result<(), SnpError> {
    features::demand(features, HvFeatures::GHCB_UNREGISTER)?;
    let sent = ghcb_msr::unregister_ghcb_request(page);
    let got = exchange(port, sent);
    check_page(sent, got, ghcb_msr::unregister_ghcb_response(got, page))
}

fn check_page(sent: u64, got: u64, answer: Result<(), MsrError>) -> Result<(), SnpError> {
    answer.map_err(|error| match error {
        MsrError::Refused { raw } | MsrError::Mismatch { raw } => {
            SnpError::GhcbRefused { asked: sent >> 12, got: raw >> 12 }
        }
        _ => SnpError::UnexpectedResponse { sent, got },
    })
}
