//! Events that this crate sends in no case.

use crate::abi::nae::NaeCode;
use crate::error::SnpError;

/// Events that are never sent, each with what it stands for.
///
/// INVD would throw away what the guest has written; PAUSE is an automatic exit. The jump table of secondary vCPUs is found
/// by the secrets page. The others give the host a say in interrupts, for which there is no support.
pub const NEVER_SENT: [(NaeCode, &str); 9] = [
    (NaeCode::INVD, "INVD"),
    (NaeCode::PAUSE, "PAUSE by the host"),
    (NaeCode::AP_JUMP_TABLE, "the jump table of the host"),
    (NaeCode::HV_DOORBELL_PAGE, "the doorbell page"),
    (NaeCode::HV_TIMER, "the timer of the doorbell page"),
    (NaeCode::SECURE_AVIC, "the secure interrupt controller"),
    (NaeCode::CONFIGURE_INTERRUPT_INJECTION, "configuration of interrupt injection"),
    (NaeCode::DISABLE_ALTERNATE_INJECTION, "giving up alternate injection"),
    (NaeCode::SPECIFIC_EOI, "end of interrupt by vector"),
];

/// The error for an event that is never sent, [`SnpError::Unsupported`] with its name; `None` for all others.
pub fn refusal(code: NaeCode) -> Option<SnpError> {
    let found = NEVER_SENT.iter().find(|(never, _)| *never == code);
    found.map(|(_, what)| SnpError::Unsupported { what })
}
