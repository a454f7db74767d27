use coco_part_api::{Attest, Binding, DataForm, Error, ErrorKind, GuestLevel, Level, REPORT_DATA};

use super::{Lie, RAM, World, frame, negotiated, shim};
use crate::ShimError;

const NONCE: [u8; REPORT_DATA] = [0x5a; REPORT_DATA];

#[test]
fn prefers_the_ports_own_evidence() {
    let (mut shim, world, _) = shim();
    world.get().port_evidence = true;
    let mut out = [0; 4096];
    let evidence = shim.attest(&NONCE, &mut out).unwrap();
    assert_eq!((evidence.bound_by, evidence.data), (Binding::Hardware, DataForm::Verbatim));
    assert!(world.get().calls.is_empty());
}

#[test]
fn gets_evidence_from_l1_through_a_page() {
    for (told, bound_by) in [(0, Binding::Monitor), (1, Binding::Hardware)] {
        let (mut shim, world, _) = shim();
        world.get().evidence = (70, told);
        shim.set_evidence_page(frame(0x5000)).unwrap();
        let mut out = [0xff; 80];
        let evidence = shim.attest(&NONCE, &mut out).unwrap();
        assert_eq!((evidence.len, evidence.names), (70, Level::Guest(GuestLevel::TWO)));
        assert_eq!((evidence.bound_by, evidence.data), (bound_by, DataForm::Digest));
        assert_eq!(out[..64], NONCE);
        assert_eq!(out[64..70], [0; 6]);
        assert_eq!(out[70..], [0xff; 10]);
    }
}

#[test]
fn refuses_lengths_and_words_that_cannot_be() {
    for (len, told) in [(0, 0), (4097, 0), (u64::MAX, 0), (70, 2), (70, u64::MAX)] {
        let (mut shim, world, _) = shim();
        world.get().lies.push_back(Lie::Regs(len, told, 0));
        shim.set_evidence_page(frame(0x5000)).unwrap();
        let error = shim.attest(&NONCE, &mut [0; 8192]).unwrap_err();
        assert!(matches!(error, ShimError::BadAnswer { .. }), "{len:#x} {told:#x} gave {error:?}");
    }
}

#[test]
fn refuses_a_buffer_that_is_too_small() {
    let (mut shim, _, _) = shim();
    shim.set_evidence_page(frame(0x5000)).unwrap();
    let error = shim.attest(&NONCE, &mut [0; 99]).unwrap_err();
    assert_eq!(error, ShimError::BufferTooSmall { needed: 100, given: 99 });
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn says_so_when_nobody_can_attest() {
    let (mut shim, world, _) = shim();
    assert_eq!(shim.attest(&NONCE, &mut [0; 4096]).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(shim.set_evidence_page(frame(RAM)).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert!(world.get().calls.is_empty());
    let alone = World { own: 0, port_capabilities: Some(super::CAPABILITIES), ..World::default() };
    let mut shim = negotiated(alone).0.unwrap();
    shim.set_evidence_page(frame(0x5000)).unwrap();
    assert_eq!(shim.attest(&NONCE, &mut [0; 4096]).unwrap_err().kind(), ErrorKind::Unsupported);
}
