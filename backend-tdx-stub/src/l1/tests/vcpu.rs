//! Admit, install, retire.

use coco_part_api::svsm::state_frame::StateFrame;
use coco_part_api::{AdmitVcpu, Error as _, ErrorKind, Grant, GuestMemory, RunLevel, Source};

use super::*;
use crate::abi::guest_state::EnterGuestState;
use crate::abi::status::Status;

fn proof(l1: &mut Tested) -> super::super::Flushed {
    l1.redeem(Default::default()).unwrap()
}

#[test]
fn a_context_of_l1_fills_the_frame() {
    let (mut l1, _script, ram) = l1();
    ram.write(PhysAddr::new(FRAME + 0xf00), &[0xaa]).unwrap();
    let proof = proof(&mut l1);
    l1.admit(frame(FRAME), Source::Context(&kernel()), &terms(ONE, 1), &proof).unwrap();
    let image: StateFrame = ram.read_value(PhysAddr::new(FRAME)).unwrap();
    assert_eq!(image, StateFrame::new(ONE, kernel()));
    assert_eq!(ram.read_value::<u8>(PhysAddr::new(FRAME + 0xf00)), Ok(0), "the rest of the frame is zero");
}

#[test]
fn a_frame_of_a_guest_is_refused_for_another_level_layout_or_state() {
    let (mut l1, _script, ram) = l1();
    let proof = proof(&mut l1);
    let good = StateFrame::new(ONE, kernel());
    let bad = [
        StateFrame { magic: 0, ..good },
        StateFrame::new(TWO, kernel()),
        StateFrame { level: 0, ..good },
        StateFrame { level: 0x1_0000_0001, ..good },
        StateFrame::new(ONE, Context { cr4: 1 << 13, ..kernel() }),
        StateFrame::new(ONE, Context { rip: 1 << 63, ..kernel() }),
    ];
    for image in bad {
        ram.write_value(PhysAddr::new(FRAME), &image).unwrap();
        let before = ram.snapshot();
        let error = l1.admit(frame(FRAME), Source::Image, &terms(ONE, 0), &proof).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadState, "{error}");
        assert_eq!(ram.snapshot(), before, "the frame is as it was");
    }
    ram.write_value(PhysAddr::new(FRAME), &good).unwrap();
    l1.admit(frame(FRAME), Source::Image, &terms(ONE, 0), &proof).unwrap();
}

#[test]
fn a_context_that_no_l2_can_have_leaves_the_frame_alone() {
    let (mut l1, _script, ram) = l1();
    let proof = proof(&mut l1);
    ram.write(PhysAddr::new(FRAME), &[0xaa]).unwrap();
    let before = ram.snapshot();
    let context = Context { efer: 0, ..kernel() };
    let error = l1.admit(frame(FRAME), Source::Context(&context), &terms(ONE, 0), &proof).unwrap_err();
    assert_eq!((error.kind(), ram.snapshot()), (ErrorKind::BadState, before));
}

#[test]
fn targets_levels_and_frames_that_do_not_exist_are_refused() {
    let (mut l1, _script, ram) = l1();
    let proof = proof(&mut l1);
    let context = kernel();
    let mut kind = |at, terms| l1.admit(at, Source::Context(&context), &terms, &proof).unwrap_err().kind();
    assert_eq!(kind(frame(FRAME), terms(ONE, 2)), ErrorKind::NotFound);
    assert_eq!(kind(frame(FRAME), terms(ONE, u32::MAX)), ErrorKind::NotFound);
    assert_eq!(kind(frame(FRAME), terms(GuestLevel::THREE, 0)), ErrorKind::NotFound);
    assert_eq!(kind(frame(RAM), terms(ONE, 0)), ErrorKind::OutOfRange);
    ram.break_at(FRAME);
    assert_eq!(kind(frame(FRAME), terms(ONE, 0)), ErrorKind::Inaccessible);
}

#[test]
fn a_seed_holds_what_was_checked_whatever_becomes_of_the_frame() {
    let (mut l1, script, ram) = l1();
    let proof = proof(&mut l1);
    ram.write_value(PhysAddr::new(FRAME), &StateFrame::new(ONE, kernel())).unwrap();
    let seed = l1.admit(frame(FRAME), Source::Image, &terms(ONE, 0), &proof).unwrap();
    ram.zero(range(FRAME, 0x1000)).unwrap();
    script_install(&script, ONE, VAPIC, &kernel());
    l1.install(seed).unwrap();
    let state: EnterGuestState = ram.read_value(PhysAddr::new(REGISTERS)).unwrap();
    assert_eq!(state, EnterGuestState::new(kernel().gpr, 0x10_0000, 2));
}

#[test]
fn a_seed_prints_no_register() {
    use std::fmt::Write;
    let (mut l1, _script, _ram) = l1();
    let proof = proof(&mut l1);
    let context = Context { gpr: [0x5a5a_0123; 16], ..kernel() };
    let seed = l1.admit(frame(FRAME), Source::Context(&context), &terms(ONE, 0), &proof).unwrap();
    let mut text = std::string::String::new();
    write!(text, "{seed:?} {seed:x?}").unwrap();
    assert!(text.contains("target") && !text.contains("5a5a0123") && !text.contains(&std::format!("{}", 0x5a5a_0123)));
}

#[test]
fn a_seed_is_installed_on_its_target_only() {
    let (mut l1, _script, _ram) = l1();
    let proof = proof(&mut l1);
    let seed = l1.admit(frame(FRAME), Source::Context(&kernel()), &terms(ONE, 1), &proof).unwrap();
    let (_seed, error) = l1.install(seed).unwrap_err();
    assert_eq!(error, Error::OtherVcpu { target: VcpuId(1) });
}

#[test]
fn a_level_without_pages_here_takes_no_vcpu() {
    let (script, ram) = (Script::default(), Ram::default());
    discover(&script, 0, 3);
    let mut l1 = L1::new(script.clone(), ram, map(), shared(), pages(0)).unwrap();
    let proof = proof(&mut l1);
    let three = GuestLevel::THREE;
    let seed = l1.admit(frame(FRAME), Source::Context(&kernel()), &terms(three, 0), &proof).unwrap();
    assert_eq!(l1.install(seed).unwrap_err().1, Error::NoSuchLevel { level: three });
    assert_eq!(l1.run(three).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn after_a_refused_field_the_level_has_no_vcpu() {
    let (mut l1, script, _ram) = ready();
    let proof = proof(&mut l1);
    let seed = l1.admit(frame(FRAME), Source::Context(&kernel()), &terms(ONE, 0), &proof).unwrap();
    let refused = Status::METADATA_FIELD_VALUE_NOT_VALID;
    let ctls = Regs { rdx: FieldId::l2_ctls(ONE).0, r9: 7, ..Regs::default() };
    let apic =
        Regs { rdx: FieldId::vmcs(ONE, VmcsField::VIRTUAL_APIC_ADDRESS).0, r8: VAPIC, r9: !0xfff, ..Regs::default() };
    script.reset(ONE).call(Leaf::VP_WR, ctls, Regs::default()).call(Leaf::VP_WR, apic, status(refused.0));
    let (seed, error) = l1.install(seed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadState);
    assert_eq!(l1.run(ONE).unwrap_err(), Error::NoVcpu { level: ONE });
    // The seed came back and can be tried again.
    script_install(&script, ONE, VAPIC, &kernel());
    l1.install(seed).unwrap();
}

#[test]
fn a_retired_vcpu_does_not_run_again() {
    let (mut l1, _script, _ram) = ready();
    let at = frame(FRAME + 0x2000);
    l1.retire(frame(FRAME + 0x3000), &terms(ONE, 0)).unwrap();
    l1.retire(at, &terms(TWO, 0)).unwrap();
    assert!(l1.slot.is_installed(ONE), "another frame or level is another vCPU");
    l1.retire(at, &terms(ONE, 0)).unwrap();
    assert_eq!(l1.run(ONE).unwrap_err(), Error::NoVcpu { level: ONE });
    assert_eq!(l1.retire(at, &terms(ONE, 9)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn two_levels_of_one_vcpu_have_their_own_fields_and_pages() {
    let (mut l1, script, ram) = ready();
    install(&mut l1, &script, TWO);
    let state: EnterGuestState = ram.read_value(PhysAddr::new(REGISTERS + 0x100)).unwrap();
    assert_eq!(state.rip, 0x10_0000);
}
