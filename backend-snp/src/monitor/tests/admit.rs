use coco_part_api::{Error, ErrorKind, Exit};
use zerocopy::{FromBytes, IntoBytes};

use super::mock::{Broken, Did, PageBytes};
use super::*;
use crate::SnpError;
use crate::abi::sev_features::SevFeatures;
use crate::abi::vmsa::Vmsa;
use crate::abi::vmsa_control::{EventInj, VintrCtrl};
use crate::instr::Vmpl;
use crate::vmsa_image;

const MARK: Did = Did::Rmpadjust { at: VMSA, large: false, vmpl: 1, rights: 0, vmsa: true };
const UNMARK: Did = Did::Rmpadjust { at: VMSA, large: false, vmpl: 1, rights: 0, vmsa: false };

fn good() -> Vmsa {
    vmsa_image::image(&Context::long_mode(1, 2, 3), Vmpl::VMPL1, SevFeatures::SNP_ACTIVE)
}

fn admit_image(l1: &mut TestL1<'_>, at: u64, terms: &Terms) -> Result<Seed, SnpError> {
    let proof = l1.redeem(Cut::default()).unwrap();
    l1.admit(frame(at), Source::Image, terms, &proof)
}

fn vmsa(page: &PageBytes) -> Vmsa {
    Vmsa::read_from_bytes(page).unwrap()
}

#[test]
fn the_run_bit_comes_last() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.poke(VMSA, good().as_bytes());
    bench.machine.with(|world| {
        world.after_mark = Some(std::boxed::Box::new(|world| {
            assert_eq!(world.quad(VMSA + 0xd0) & Vmsa::EFER_SVME, 0, "the VMSA cannot run yet");
        }));
    });
    let _seed = admit_image(&mut l1, VMSA, &terms(0)).unwrap();
    assert_eq!(bench.machine.take_log(), [MARK]);
    assert!(bench.machine.with(|world| world.vmrun(VMSA)));
}

#[test]
fn forged_exits_and_tlb_state_of_an_image_do_not_count() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let mut image = good();
    image.guest_exit_code = crate::abi::exit_codes::ExitCode::VMGEXIT;
    image.pcpu_id = 7;
    bench.machine.poke(VMSA, image.as_bytes());
    bench.machine.poke(CALL_AREA, &[1]);
    let seed = admit_image(&mut l1, VMSA, &terms(0)).unwrap();
    l1.install(seed).unwrap();
    assert_eq!(vmsa(&bench.machine.page(VMSA)).pcpu_id, 0);
    bench.machine.take_log();
    assert!(matches!(l1.run(GuestLevel::ONE), Ok(Exit::Spurious)));
    assert_eq!(bench.machine.take_log(), [Did::Run(1)]);
}

#[test]
fn every_bad_field_is_refused_by_name_and_the_page_is_as_before() {
    type Spoil = fn(&mut Vmsa);
    let cases: &[(&str, Spoil)] = &[
        ("vmpl", |image| image.vmpl = 0),
        ("vmpl", |image| image.vmpl = 2),
        ("efer", |image| image.efer &= !Vmsa::EFER_SVME),
        ("sev_features", |image| image.sev_features = SevFeatures::empty()),
        ("sev_features", |image| image.sev_features = SevFeatures::SNP_ACTIVE | SevFeatures::VTOM),
        ("vintr_ctrl", |image| image.vintr_ctrl = VintrCtrl::from_bits_retain(1 << 63)),
        ("event_inj", |image| image.event_inj = EventInj::from_bits_retain(1 << 31)),
        ("guest_intercept_vectors", |image| image.guest_intercept_vectors[7] = 1),
        ("virtual_tom", |image| image.virtual_tom = 1 << 21),
        ("secure_avic_ctl", |image| image.secure_avic_ctl = 1),
        ("reg_prot_nonce", |image| image.reg_prot_nonce = 1),
    ];
    for (field, spoil) in cases {
        let bench = Bench::new();
        let mut l1 = bench.start(0);
        let mut image = good();
        spoil(&mut image);
        bench.machine.poke(VMSA, image.as_bytes());
        let before = bench.machine.rmp();
        let error = admit_image(&mut l1, VMSA, &terms(0)).unwrap_err();
        assert_eq!((error, error.kind()), (SnpError::BadVmsa { field }, ErrorKind::BadState));
        assert_eq!(bench.machine.page(VMSA)[..], *image.as_bytes());
        assert_eq!(bench.machine.rmp(), before);
        bench.machine.poke(VMSA, good().as_bytes());
        let _seed = admit_image(&mut l1, VMSA, &terms(0)).unwrap();
    }
}

#[test]
fn bad_frames_and_targets_are_refused_before_the_page_is_read() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let cases = [
        (2 << 20, terms(0), ErrorKind::Misaligned),
        (RAM, terms(0), ErrorKind::OutOfRange),
        (VMSA, terms(2), ErrorKind::NotFound),
        (VMSA, Terms { level: GuestLevel::THREE, ..terms(0) }, ErrorKind::NotFound),
        (CALL_AREA, terms(0), ErrorKind::BadState),
    ];
    for (at, terms, kind) in cases {
        assert_eq!(admit_image(&mut l1, at, &terms).unwrap_err().kind(), kind, "{at:#x}");
    }
    assert_eq!(bench.machine.take_log(), []);
}

#[test]
fn a_page_that_changes_under_the_check_is_not_published() {
    for offset in [0xca, 0x3b0] {
        let bench = Bench::new();
        let mut l1 = bench.start(0);
        bench.machine.poke(VMSA, good().as_bytes());
        let before = bench.machine.rmp();
        bench.machine.with(|world| {
            world.after_mark = Some(std::boxed::Box::new(move |world| world.put(VMSA + offset, &[0])));
        });
        assert_eq!(admit_image(&mut l1, VMSA, &terms(0)).unwrap_err().kind(), ErrorKind::BadState);
        assert_eq!(bench.machine.take_log(), [MARK, UNMARK]);
        assert_eq!(bench.machine.rmp(), before);
    }
}

#[test]
fn a_failure_at_any_step_leaves_page_and_attribute_as_they_were() {
    for source in 0..2 {
        for step in 0..5 {
            let bench = Bench::new();
            let mut l1 = bench.start(0);
            bench.machine.poke(VMSA, good().as_bytes());
            let before = bench.machine.rmp();
            let attempt = |l1: &mut TestL1<'_>| {
                if source == 0 { admit_image(l1, VMSA, &terms(0)) } else { admit(l1, VMSA) }
            };
            bench.machine.break_after(step, Broken::Fault);
            let error = attempt(&mut l1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Inaccessible, "step {step}");
            assert_eq!(bench.machine.page(VMSA)[..], *good().as_bytes(), "step {step}");
            assert_eq!(bench.machine.rmp(), before, "step {step}");
            assert!(attempt(&mut l1).is_ok(), "step {step}");
        }
    }
}

#[test]
fn a_page_that_cannot_be_unmarked_is_never_used_again() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.poke(VMSA, good().as_bytes());
    // The store of the exit code fails, and the RMPADJUST that would undo.
    bench.machine.break_after(2, Broken::Fault);
    bench.machine.with(|world| world.breaks_again = 1);
    let at = PhysAddr::new(VMSA);
    assert_eq!(admit_image(&mut l1, VMSA, &terms(0)).unwrap_err(), SnpError::Quarantined { at });
    assert_eq!(admit_image(&mut l1, VMSA, &terms(0)).unwrap_err(), SnpError::FrameInUse { at });
    assert_eq!(l1.retire(frame(VMSA), &terms(0)).unwrap_err(), SnpError::FrameBusy { at });
}

#[test]
fn a_frame_serves_one_vcpu() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let _seed = admit(&mut l1, VMSA).unwrap();
    assert_eq!(admit(&mut l1, VMSA).unwrap_err().kind(), ErrorKind::InUse);
}

#[test]
fn the_host_learns_of_a_vmsa_of_l1_when_it_is_installed() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let seed = admit(&mut l1, VMSA).unwrap();
    assert_eq!(bench.machine.take_log(), [MARK]);
    bench.machine.with(|world| world.ap_answer = (2, 5));
    let (seed, error) = l1.install(seed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostRefused);
    assert!(matches!(l1.run(GuestLevel::ONE), Err(SnpError::NoVcpu { .. })));
    bench.machine.with(|world| world.ap_answer = (0, 0));
    bench.machine.take_log();
    l1.install(seed).unwrap();
    let told = Did::ApCreation { request: 0, vmpl: 1, apic_id: 0, vmsa: VMSA };
    assert_eq!(bench.machine.take_log(), [told]);
}

#[test]
fn a_guest_tells_the_host_about_its_own_vmsa() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.poke(VMSA, good().as_bytes());
    let seed = admit_image(&mut l1, VMSA, &terms(0)).unwrap();
    bench.machine.take_log();
    l1.install(seed).unwrap();
    assert_eq!(bench.machine.take_log(), []);
}

#[test]
fn only_the_target_installs() {
    let bench = Bench::new();
    let (mut first, mut second) = (bench.start(0), bench.start(1));
    bench.machine.poke(VMSA, good().as_bytes());
    let seed = admit_image(&mut first, VMSA, &terms(1)).unwrap();
    let (seed, error) = first.install(seed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    second.install(seed).unwrap();
    assert!(second.run(GuestLevel::ONE).is_ok());
}

#[test]
fn a_seed_whose_frame_was_retired_installs_nothing() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let stale = admit(&mut l1, VMSA).unwrap();
    l1.retire(frame(VMSA), &terms(0)).unwrap();
    let fresh = admit(&mut l1, VMSA).unwrap();
    let (_stale, error) = l1.install(stale).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    l1.install(fresh).unwrap();
}

#[test]
fn the_older_vmsa_cannot_run_any_more() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let seed = admit(&mut l1, VMSA + 0x1000).unwrap();
    bench.machine.with(|world| assert!(world.vmrun(VMSA)));
    // In use: nothing changes.
    bench.machine.with(|world| world.store = super::mock::VmsaStore::Plain);
    let (seed, error) = l1.install(seed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    bench.machine.with(|world| world.exit(VMSA, crate::abi::exit_codes::ExitCode::INTR));
    l1.install(seed).unwrap();
    bench.machine.with(|world| assert!(!world.vmrun(VMSA) && world.vmrun(VMSA + 0x1000)));
    l1.retire(frame(VMSA), &terms(0)).unwrap();
}

#[test]
fn a_call_of_the_older_one_is_answered_before_it_is_replaced() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.on_run(|machine| machine.with(|world| assert!(world.calls(VMSA, CALL_AREA, 1, 0))));
    let Ok(Exit::Call(call)) = l1.run(GuestLevel::ONE) else { panic!("no call") };
    let seed = admit(&mut l1, VMSA + 0x1000).unwrap();
    let (seed, error) = l1.install(seed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert_eq!(l1.retire(frame(VMSA), &terms(0)).unwrap_err().kind(), ErrorKind::InUse);
    l1.answer(call, coco_part_api::CallRegs::default()).unwrap();
    l1.install(seed).unwrap();
}

#[test]
fn retiring_makes_the_page_ordinary_with_its_contents() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    bench.machine.with(|world| assert!(world.entry(VMSA >> 12).vmsa));
    l1.retire(frame(VMSA), &terms(0)).unwrap();
    bench.machine.with(|world| assert!(!world.entry(VMSA >> 12).vmsa && !world.vmrun(VMSA)));
    assert_eq!(vmsa(&bench.machine.page(VMSA)).rip, 0x1234);
    assert!(matches!(l1.run(GuestLevel::ONE), Err(SnpError::NoVcpu { .. })));
    assert_eq!(l1.retire(frame(VMSA), &terms(0)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_running_vcpu_is_neither_retired_nor_stored_into() {
    for store in [super::mock::VmsaStore::Waits, super::mock::VmsaStore::Plain] {
        let bench = Bench::new();
        let (_first, mut second) = (bench.with_guest(), bench.start(1));
        let page = bench.machine.page(VMSA);
        bench.machine.with(|world| {
            world.store = store;
            assert!(world.vmrun(VMSA));
        });
        assert_eq!(second.retire(frame(VMSA), &terms(0)).unwrap_err().kind(), ErrorKind::InUse);
        assert_eq!(bench.machine.page(VMSA), page);
        assert_eq!(bench.machine.take_log(), [UNMARK]);
        bench.machine.with(|world| assert!(world.running.contains_key(&(VMSA >> 12))));
    }
}

#[test]
fn a_failed_retirement_leaves_the_vcpu_as_it_was() {
    let bench = Bench::new();
    let mut l1 = bench.with_guest();
    let (page, rmp) = (bench.machine.page(VMSA), bench.machine.rmp());
    bench.machine.break_after(0, Broken::Fault);
    assert!(l1.retire(frame(VMSA), &terms(0)).is_err());
    assert_eq!((bench.machine.page(VMSA), bench.machine.rmp()), (page, rmp));
    assert!(l1.run(GuestLevel::ONE).is_ok());
    bench.machine.take_log();
    l1.retire(frame(VMSA), &terms(0)).unwrap();
    assert_eq!(bench.machine.take_log(), [UNMARK], "one instruction, so that there is no half-way");
}
