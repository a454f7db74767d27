use coco_part_api::range::LARGE;
use coco_part_api::{After, Error, ErrorKind, Grants, Origin, Rights, Stopped};

use super::mock::{Broken, Did, Entry};
use super::*;
use crate::SnpError;

const FREE: u64 = 16 << 20;

fn adjust(at: u64, vmpl: u8, rights: u8) -> Did {
    Did::Rmpadjust { at, large: false, vmpl, rights, vmsa: false }
}

fn assign(bench: &Bench, pages: u64) {
    for page in 0..pages {
        let entry = Entry { assigned: true, ..Entry::default() };
        bench.machine.with(|world| {
            world.rmp.insert((FREE >> 12) + page, entry);
            world.pages.insert((FREE >> 12) + page, [0xee; 4096]);
        });
    }
}

#[test]
fn validates_zeroes_and_grants_in_this_order() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    assign(&bench, 1);
    let grants = Grants::one(GuestLevel::ONE, Rights::RAM).with(GuestLevel::TWO, Rights::READ);
    l1.validate_for(range(FREE, 1), &grants, Origin::Request).unwrap();
    assert_eq!(
        bench.machine.take_log(),
        [
            Did::Pvalidate { at: FREE, large: false, valid: true },
            Did::Zero { at: FREE, frames: 1 },
            adjust(FREE, 1, 0xf),
            adjust(FREE, 2, 0x1),
        ]
    );
}

#[test]
fn levels_without_rights_cost_nothing_and_unused_levels_get_none() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.validate_for(range(FREE, 1), &Grants::one(GuestLevel::TWO, Rights::RAM), Origin::Monitor).unwrap();
    let log = bench.machine.take_log();
    assert_eq!(log[0], Did::PageState { at: FREE, frames: 1, private: true });
    assert_eq!(log[3..], [adjust(FREE, 2, 0xf)]);
    for grants in [Grants::one(GuestLevel::THREE, Rights::READ), Grants::one(GuestLevel::ONE, Rights::WRITE)] {
        let refused = Err(Stopped::at_start(SnpError::IllegalGrants));
        assert_eq!(l1.validate_for(range(FREE + 0x1000, 1), &grants, Origin::Monitor), refused);
        assert_eq!(l1.publish(range(0x3_0000, 1), &grants), refused);
        assert_eq!(l1.set_rights(range(FREE, 1), &grants, &mut Cut::default()), refused);
    }
    assert_eq!(bench.machine.take_log(), []);
}

#[test]
fn a_failure_at_any_step_leaves_no_page_half_granted() {
    let grants = Grants::one(GuestLevel::ONE, Rights::RAM).with(GuestLevel::TWO, Rights::RAM);
    for step in 0..12 {
        let bench = Bench::new();
        let mut l1 = bench.start(0);
        assign(&bench, 3);
        let mut expected = bench.machine.rmp();
        bench.machine.break_after(step, Broken::Code(2));
        let stopped = l1.validate_for(range(FREE, 3), &grants, Origin::Request).unwrap_err();
        assert_eq!(stopped.done, u64::from(step / 4), "step {step}");
        for page in 0..stopped.done {
            let rights = [0, 0xf, 0xf, 0];
            expected.insert((FREE >> 12) + page, Entry { assigned: true, valid: true, vmsa: false, rights });
        }
        assert_eq!(bench.machine.rmp(), expected, "step {step}");
        let log = bench.machine.take_log();
        if step % 4 == 3 {
            // Level 1 had the right for a moment: revoked, flushed, then given up.
            let at = FREE + stopped.done * 0x1000;
            let undo = [
                adjust(at, 1, 0),
                adjust(at, 2, 0),
                Did::Invlpgb,
                Did::Tlbsync,
                Did::Pvalidate { at, large: false, valid: false },
            ];
            assert_eq!(log[log.len() - 5..], undo);
        }
    }
}

#[test]
fn what_cannot_be_undone_is_quarantined() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    assign(&bench, 1);
    // The zeroing fails, and so does the PVALIDATE that would undo.
    bench.machine.break_after(1, Broken::Fault);
    bench.machine.with(|world| world.breaks_again = 1);
    let stopped = l1.validate_for(range(FREE, 1), &Grants::NONE, Origin::Request).unwrap_err();
    assert_eq!(stopped, Stopped { done: 0, cause: SnpError::Quarantined { at: PhysAddr::new(FREE) } });
    assert_eq!(bench.machine.with(|world| world.entry(FREE >> 12).rights), [0; 4], "no lower level reaches it");
}

#[test]
fn a_right_that_cannot_be_taken_back_costs_the_page_its_validity() {
    let grants = Grants::one(GuestLevel::ONE, Rights::RAM).with(GuestLevel::TWO, Rights::RAM);
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    // The right of level 2 fails, and so does revoking that of level 1.
    bench.machine.break_after(1, Broken::Fault);
    bench.machine.with(|world| world.breaks_again = 1);
    let stopped = l1.publish(range(0x3_0000, 1), &grants).unwrap_err();
    assert_eq!(stopped.cause, SnpError::Quarantined { at: PhysAddr::new(0x3_0000) });
    assert!(!bench.machine.with(|world| world.entry(0x30).valid), "nobody reaches a page that is not valid");
    let invalid = Did::Pvalidate { at: 0x3_0000, large: false, valid: false };
    assert_eq!(bench.machine.take_log()[3..], [invalid, Did::Invlpgb, Did::Tlbsync]);
}

#[test]
fn the_block_at_which_a_withdrawal_stops_can_be_regranted() {
    let grants = Grants::one(GuestLevel::ONE, Rights::RAM).with(GuestLevel::TWO, Rights::READ);
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.publish(range(0x3_0000, 3), &grants).unwrap();
    let before = bench.machine.rmp();
    bench.machine.break_after(3, Broken::Code(3));
    let mut cut = Cut::default();
    let stopped = l1.withdraw(range(0x3_0000, 3), Origin::Monitor, &mut cut).unwrap_err();
    assert_eq!(stopped.done, 1);
    assert_eq!(bench.machine.with(|world| world.entry(0x31).rights), [0, 0, 1, 0], "level 1 lost its right");
    let proof = l1.redeem(cut).unwrap();
    l1.regrant(range(0x3_0000, stopped.done + 1), &grants, &proof).unwrap();
    assert_eq!(bench.machine.rmp(), before);
}

#[test]
fn a_request_is_told_about_a_size_mismatch_and_the_monitor_is_not() {
    let grants = Grants::one(GuestLevel::ONE, Rights::RAM);
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    assign(&bench, 512);
    bench.machine.with(|world| world.small.insert(FREE >> 21));
    let before = bench.machine.rmp();
    let stopped = l1.validate_for(range(FREE, 512), &grants, Origin::Request).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (0, ErrorKind::SizeMismatch));
    assert_eq!(bench.machine.rmp(), before);
    bench.machine.take_log();
    l1.validate_for(range(FREE, 512), &grants, Origin::Monitor).unwrap();
    let split = |did: &&Did| matches!(did, Did::Rmpadjust { large: false, .. });
    assert_eq!(bench.machine.take_log().iter().filter(split).count(), 512);
}

#[test]
fn a_large_page_is_zeroed_and_granted_whole() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.validate_for(range(FREE, 512), &Grants::one(GuestLevel::ONE, Rights::RAM), Origin::Monitor).unwrap();
    assert_eq!(
        bench.machine.take_log(),
        [
            Did::PageState { at: FREE, frames: 512, private: true },
            Did::Pvalidate { at: FREE, large: true, valid: true },
            Did::Zero { at: FREE, frames: 512 },
            Did::Rmpadjust { at: FREE, large: true, vmpl: 1, rights: 0xf, vmsa: false },
        ]
    );
    assert_eq!(bench.machine.page(FREE + LARGE - 0x1000), [0; 4096]);
}

#[test]
fn taking_a_page_back_revokes_flushes_and_gives_up_in_this_order() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.validate_for(range(FREE, 1), &Grants::one(GuestLevel::ONE, Rights::RAM), Origin::Monitor).unwrap();
    bench.machine.take_log();
    let mut cut = Cut::default();
    l1.withdraw(range(FREE, 1), Origin::Monitor, &mut cut).unwrap();
    let proof = l1.redeem(cut).unwrap();
    l1.rescind_from(range(FREE, 1), After::Shared, Origin::Monitor, &proof).unwrap();
    assert_eq!(
        bench.machine.take_log(),
        [
            adjust(FREE, 1, 0),
            adjust(FREE, 2, 0),
            Did::Invlpgb,
            Did::Tlbsync,
            Did::Pvalidate { at: FREE, large: false, valid: false },
            Did::PageState { at: FREE, frames: 1, private: false },
        ]
    );
}

#[test]
fn a_guest_does_the_hosts_part_of_its_request() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let proof = l1.redeem(Cut::default()).unwrap();
    l1.rescind_from(range(0x3_0000, 1), After::Shared, Origin::Request, &proof).unwrap();
    assert_eq!(bench.machine.take_log(), [Did::Pvalidate { at: 0x3_0000, large: false, valid: false }]);
}

#[test]
fn nothing_cut_costs_no_flush() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let mut cut = Cut::default();
    l1.set_rights(
        range(0x3_0000, 1),
        &Grants::one(GuestLevel::ONE, Rights::RAM).with(GuestLevel::TWO, Rights::RAM),
        &mut cut,
    )
    .unwrap();
    assert!(l1.withdraw(range(RAM, 1), Origin::Monitor, &mut cut).is_err());
    bench.machine.take_log();
    l1.redeem(cut).unwrap();
    assert_eq!(bench.machine.take_log(), []);
    let mut cut = Cut::default();
    l1.set_rights(range(0x3_0000, 1), &Grants::one(GuestLevel::ONE, Rights::READ), &mut cut).unwrap();
    bench.machine.take_log();
    l1.redeem(cut).unwrap();
    assert_eq!(bench.machine.take_log(), [Did::Invlpgb, Did::Tlbsync]);
}

#[test]
fn a_withdrawal_that_stops_is_exact_and_its_cut_is_kept() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.break_after(4, Broken::Code(3));
    let mut cut = Cut::default();
    let stopped = l1.withdraw(range(0x3_0000, 4), Origin::Monitor, &mut cut).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (2, ErrorKind::InUse));
    bench.machine.take_log();
    l1.redeem(cut).unwrap();
    assert_eq!(bench.machine.take_log(), [Did::Invlpgb, Did::Tlbsync]);
}

#[test]
fn a_withdrawal_of_small_entries_falls_back() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.validate(range(FREE, 512)).unwrap();
    bench.machine.with(|world| world.small.insert(FREE >> 21));
    bench.machine.take_log();
    l1.withdraw(range(FREE, 512), Origin::Monitor, &mut Cut::default()).unwrap();
    let log = bench.machine.take_log();
    assert_eq!(log.len(), 1 + 2 * 512);
    assert_eq!(log[1], adjust(FREE, 1, 0));
}

#[test]
fn a_withdrawal_for_a_request_stops_at_an_entry_of_another_size_and_cuts_nothing_of_it() {
    let grants = Grants::one(GuestLevel::ONE, Rights::RAM);
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    l1.validate_for(range(FREE, 1024), &grants, Origin::Monitor).unwrap();
    bench.machine.with(|world| world.small.insert((FREE >> 21) + 1));
    bench.machine.take_log();
    let mut cut = Cut::default();
    let stopped = l1.withdraw(range(FREE, 1024), Origin::Request, &mut cut).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (512, ErrorKind::SizeMismatch));
    let rights = |at: u64| bench.machine.with(|world| world.entry(at >> 12).rights[1]);
    assert_eq!((rights(FREE), rights(FREE + LARGE)), (0, 0xf));
    // Two levels of the block before, and the one refusal.
    assert_eq!(bench.machine.take_log().len(), 3);
    assert!(cut.is_pending());
}

#[test]
fn publishing_keeps_contents_and_undoes_a_page_that_fails() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.poke(0x3_0000, b"image");
    let grants = Grants::one(GuestLevel::ONE, Rights::READ).with(GuestLevel::TWO, Rights::READ);
    let before = bench.machine.rmp();
    bench.machine.break_after(1, Broken::Fault);
    let stopped = l1.publish(range(0x3_0000, 1), &grants).unwrap_err();
    assert_eq!((stopped.done, stopped.cause.kind()), (0, ErrorKind::Inaccessible));
    assert_eq!(bench.machine.rmp(), before);
    assert_eq!(bench.machine.take_log()[4..], [Did::Invlpgb, Did::Tlbsync]);
    l1.publish(range(0x3_0000, 1), &grants).unwrap();
    assert_eq!(bench.machine.page(0x3_0000)[..5], *b"image");
    assert_eq!(bench.machine.with(|world| world.entry(0x30).rights), [0, 1, 1, 0]);
}
