use std::collections::BTreeSet;
use std::string::ToString;

use super::*;

/// One of each, all with the same numbers inside.
fn samples() -> [SnpError; 56] {
    let (at, id, level, code) = (PhysAddr::new(0x1000), VcpuId(1), GuestLevel::ONE, RmpCode(1));
    [
        SnpError::Range(RangeError::Empty { at }),
        SnpError::IllegalGrants,
        SnpError::BufferTooSmall { needed: 1, given: 1 },
        SnpError::BadLength { given: 1, most: 1, element: 1 },
        SnpError::PrivateAddress { at },
        SnpError::VmsaAligned2m { at },
        SnpError::UnknownVcpu { id },
        SnpError::NoVcpu { level },
        SnpError::NotAStateFrame { at },
        SnpError::WrongVcpu { target: id, here: id },
        SnpError::VcpuRuns { at },
        SnpError::FrameInUse { at },
        SnpError::FrameBusy { at },
        SnpError::NoRoom { id },
        SnpError::ChannelBusy,
        SnpError::Quarantined { at },
        SnpError::CallUnanswered { level },
        SnpError::NoTrap { level },
        SnpError::WrongCompletion { level },
        SnpError::NextRip { rip: 1, next: 1 },
        SnpError::BadVmsa { field: "field" },
        SnpError::BadVector { vector: 1 },
        SnpError::Unsupported { what: "field" },
        SnpError::NoGhcbPage,
        SnpError::Pvalidate { code: PvalidateCode(1) },
        SnpError::NoChange,
        SnpError::Rmpadjust { code },
        SnpError::Rmpquery { code },
        SnpError::Fault(Fault::InvalidOpcode),
        SnpError::Memory { at, kind: ErrorKind::Inaccessible },
        SnpError::SevStatus { missing: SevStatus::SNP_ACTIVE, refused: SevStatus::empty() },
        SnpError::NoSvsm,
        SnpError::BadSecrets { field: "field" },
        SnpError::LevelMismatch { told: 1, probed: 1 },
        SnpError::UnexpectedResponse { sent: 1, got: 1 },
        SnpError::VersionRange { min: 1, max: 1 },
        SnpError::MissingFeatures { missing: 1 },
        SnpError::GhcbRefused { asked: 1, got: 1 },
        SnpError::PageState { code: 1 },
        SnpError::PageStateHeader { was: 1, now: 1, end: 1, reserved: 1 },
        SnpError::PageStateStalled { exits: 1 },
        SnpError::RunVmpl { code: 1 },
        SnpError::NotServed,
        SnpError::SwitchInDoubt { got: 1 },
        SnpError::MissingField { field: ValidBit::RAX },
        SnpError::Exception { info: 1 },
        SnpError::ForbiddenException { info: 1 },
        SnpError::MalformedRequest { code: 1 },
        SnpError::UnknownStatus { status: 1 },
        SnpError::PagesNeeded { given: 1, needed: 1 },
        SnpError::ListTooLong { count: 1, most: 1 },
        SnpError::GuestRequest { host: 1, firmware: 1 },
        SnpError::BadResponse { field: "field" },
        SnpError::NotAuthentic,
        SnpError::Firmware { status: 1 },
        SnpError::ChannelClosed,
    ]
}

#[test]
fn no_two_errors_read_alike() {
    let texts: BTreeSet<_> = samples().iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), samples().len());
    assert!(texts.iter().all(|text| !text.ends_with('.')));
}

#[test]
fn a_memory_error_keeps_what_the_handle_said() {
    let at = PhysAddr::new(0x3000);
    let error = SnpError::memory(at)(SnpError::NoChange);
    assert_eq!(error, SnpError::Memory { at, kind: ErrorKind::AlreadyInState });
    assert_eq!(error.kind(), ErrorKind::AlreadyInState);
}
