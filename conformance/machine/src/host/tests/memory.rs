//! Page state changes, nested faults, and the attacks on memory.

use super::super::ghcb::{SHARED_BUFFER, SW_EXIT_INFO_1, SW_EXIT_INFO_2, SW_SCRATCH};
use super::*;
use crate::op::{Fault, Resume, Stop};
use crate::rmp::npf;

const PRIVATE: u64 = 1 << 52;
const SHARED: u64 = 2 << 52;
const TWO_MIB: u64 = 1 << 56;
const DESCRIPTOR: u64 = GHCB + SHARED_BUFFER as u64;

impl Bench {
    /// Sends a list and returns the status, and header and entries as the host left them.
    fn psc(&mut self, header: u64, entries: &[u64]) -> ((u64, u64), Vec<u64>) {
        let words: Vec<u64> = core::iter::once(header).chain(entries.iter().copied()).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(BOOT, DESCRIPTOR, &bytes);
        let status = self.event((0x8000_0010, 0, 0), &[(SW_SCRATCH, DESCRIPTOR)]);
        let after = self.read(BOOT, DESCRIPTOR, 8 * words.len() + 8);
        (status, after.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect())
    }

    /// Sends a list of its own from the first entry on; the cursor afterwards.
    fn psc_all(&mut self, entries: &[u64]) -> ((u64, u64), Vec<u64>) {
        self.psc((entries.len() as u64 - 1) << 16, entries)
    }

    fn is_private(&self, gpa: u64) -> bool {
        let entry = self.machine.rmp_entry(gpa).unwrap();
        entry.assigned && entry.gpa == gpa
    }

    fn is_large(&self, gpa: u64) -> bool {
        self.machine.rmp_entry(gpa).unwrap().large
    }

    fn pvalidate(&mut self, gpa: u64, large: bool) -> Outcome {
        self.machine.step(BOOT, Op::Pvalidate { gpa, ecx: u32::from(large), edx: 1 })
    }

    fn read_private(&mut self, gpa: u64) -> Outcome {
        self.machine.step(BOOT, Op::Read { gpa, len: 8, private: true })
    }
}

fn validated() -> Outcome {
    Outcome::Done(Answer::Pvalidate { eax: 0, carry: false })
}

#[test]
fn the_single_page_form_converts_both_ways() {
    let mut bench = Bench::new(Policy::Honest);
    assert_eq!(bench.msr(PRIVATE | PAGE | 0x014), 0x015);
    assert!(bench.is_private(PAGE));
    assert_eq!(bench.pvalidate(PAGE, false), validated());
    // What is private already keeps its validation.
    assert_eq!(bench.msr(PRIVATE | PAGE | 0x014), 0x015);
    assert!(bench.machine.rmp_entry(PAGE).unwrap().validated);
    assert_eq!(bench.msr(SHARED | PAGE | 0x014), 0x015);
    assert!(!bench.is_private(PAGE));
}

#[test]
fn the_single_page_form_fails_with_error_bits() {
    let mut bench = Bench::new(Policy::Honest);
    for request in [3 << 52 | PAGE, PRIVATE | 1 << 56 | PAGE, PRIVATE | 1 << 45] {
        assert_eq!(bench.msr(request | 0x014), 0x8000_0000_0000_0015, "{request:#x}");
    }
    assert!(!bench.is_private(PAGE));
}

#[test]
fn works_off_a_list_and_moves_the_cursor() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let entries = [PRIVATE | PAGE, PRIVATE | (PAGE + 0x1000), SHARED | PRIVATE_PAGE, 3 << 52 | PAGE];
    let (status, after) = bench.psc_all(&entries);
    assert_eq!(status, (0, 0));
    assert_eq!(after[..5], [0x3_0004, entries[0] | 1, entries[1] | 1, entries[2] | 1, entries[3]]);
    assert!(bench.is_private(PAGE) && bench.is_private(PAGE + 0x1000) && !bench.is_private(PRIVATE_PAGE));
}

#[test]
fn starts_at_the_cursor_and_takes_an_empty_rest() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let entries = [PRIVATE | PAGE, PRIVATE | (PAGE + 0x1000)];
    let (status, after) = bench.psc(0x1_0001, &entries);
    assert_eq!((status, after[0]), ((0, 0), 0x1_0002));
    assert!(!bench.is_private(PAGE) && bench.is_private(PAGE + 0x1000));
    assert_eq!(bench.psc(0x1_0002, &entries).0, (0, 0));
    assert!(!bench.is_private(PAGE));
}

#[test]
fn a_free_2m_page_becomes_one_large_entry() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let (status, after) = bench.psc_all(&[PRIVATE | TWO_MIB | LARGE]);
    assert_eq!((status, after[0], after[1] & 0xfff), ((0, 0), 1, 512));
    assert!(bench.is_large(LARGE));
    assert_eq!(bench.pvalidate(LARGE, true), validated());
    let (status, _) = bench.psc_all(&[SHARED | TWO_MIB | LARGE]);
    assert_eq!(status, (0, 0));
    assert!(!bench.is_private(LARGE) && !bench.is_private(LARGE + 0x1000));
}

#[test]
fn a_2m_page_that_is_private_in_part_becomes_small_entries() {
    let mut bench = Bench::with_guest(Policy::Honest);
    assert_eq!(bench.msr(PRIVATE | (LARGE + 0x5000) | 0x014), 0x015);
    assert_eq!(bench.psc_all(&[PRIVATE | TWO_MIB | LARGE]).0, (0, 0));
    assert!((0..512).all(|page| bench.is_private(LARGE + page * 0x1000)));
    assert!(!bench.is_large(LARGE));
}

#[test]
fn a_2m_entry_goes_on_at_its_page_count() {
    let mut bench = Bench::with_guest(Policy::Honest);
    let (status, after) = bench.psc_all(&[PRIVATE | TWO_MIB | LARGE | 510]);
    assert_eq!((status, after[1] & 0xfff), ((0, 0), 512));
    assert!(!bench.is_private(LARGE + 509 * 0x1000));
    assert!(bench.is_private(LARGE + 510 * 0x1000) && bench.is_private(LARGE + 511 * 0x1000));
}

#[test]
fn a_small_page_leaves_a_large_entry() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.psc_all(&[PRIVATE | TWO_MIB | LARGE]);
    bench.pvalidate(LARGE, true);
    assert_eq!(bench.msr(SHARED | (LARGE + 0x1000) | 0x014), 0x015);
    assert!(!bench.is_private(LARGE + 0x1000) && bench.is_private(LARGE + 0x2000));
    assert!(bench.machine.rmp_entry(LARGE + 0x2000).unwrap().validated);
}

#[test]
fn names_a_bad_header_and_stops_at_a_bad_entry() {
    let mut bench = Bench::with_guest(Policy::Honest);
    assert_eq!(bench.psc(253 << 16, &[PRIVATE | PAGE]).0, (0, 0x1_0000_0001));
    assert_eq!(bench.psc(1 << 32, &[PRIVATE | PAGE]).0, (0, 0x1_0000_0001));
    let (status, after) = bench.psc_all(&[PRIVATE | PAGE, PRIVATE | TWO_MIB | PAGE]);
    assert_eq!((status, after[0]), ((0, 0x1_0000_0002), 0x1_0001));
    let (status, after) = bench.psc_all(&[PRIVATE | (PAGE + 0x1000), PRIVATE | 1 << 45]);
    assert_eq!((status, after[0]), ((0, 0x100_0000_0000), 0x1_0001));
}

#[test]
fn a_running_vmsa_stays_private() {
    let mut bench = Bench::with_guest_and_vcpus(Policy::Honest, 2);
    bench.create(Vcpu(1), 0, 1, OTHER_VMSA_0);
    bench.enter(Vcpu(1));
    assert_eq!(bench.msr(SHARED | OTHER_VMSA_0 | 0x014), 0x8000_0000_0000_0015);
    assert!(bench.is_private(OTHER_VMSA_0));
}

#[test]
fn splits_an_entry_for_a_small_pvalidate() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.psc_all(&[PRIVATE | TWO_MIB | LARGE]);
    assert_eq!(bench.pvalidate(LARGE, false), Outcome::Exit);
    assert_eq!(bench.enter(BOOT).resume, Resume::Retry);
    assert!(!bench.is_large(LARGE));
    assert_eq!(bench.pvalidate(LARGE, false), validated());
}

#[test]
fn converts_nothing_on_a_fault() {
    let mut bench = Bench::new(Policy::Honest);
    assert_eq!(bench.read_private(PAGE), Outcome::Exit);
    let HostStep::Stopped(Stop::NestedFault { gpa, info }) = bench.machine.host(BOOT) else { panic!("runs on") };
    assert_eq!((gpa, info & npf::RMP), (PAGE, npf::RMP));
    assert!(!bench.is_private(PAGE));
}

#[test]
fn a_denied_vmpl_ends_the_vcpu() {
    let mut bench = Bench::with_guest(Policy::Honest);
    bench.run_guest();
    assert_eq!(bench.read_private(PRIVATE_PAGE), Outcome::Exit);
    let HostStep::Stopped(Stop::NestedFault { info, .. }) = bench.machine.host(BOOT) else { panic!("runs on") };
    assert_ne!(info & npf::VMPL, 0);
}

#[test]
fn lies_about_page_state() {
    let entries = [PRIVATE | PAGE, PRIVATE | (PAGE + 0x1000)];
    let end = 0x1_0002;
    let run = |policy| {
        let mut bench = Bench::with_guest(policy);
        let (status, after) = bench.psc_all(&entries);
        (status, after, bench.is_private(PAGE), bench.is_private(PAGE + 0x1000))
    };
    let (status, after, first, second) = run(Policy::PscDoesNothing);
    assert_eq!((status, after[0], after[1], first, second), ((0, 0), end, entries[0] | 1, false, false));
    let (status, after, first, second) = run(Policy::PscStopsAfter(1));
    assert_eq!((status, after[0], first, second), ((0, 0), end, true, false));
    let (status, after, first, second) = run(Policy::PscPartial(1));
    assert_eq!((status, after[0], first, second), ((0, 0), 0x1_0001, true, false));
    let (status, after, first, _) = run(Policy::PscPartial(0));
    assert_eq!((status, after[0], first), ((0, 0), 0x1_0000, false));
    let (status, after, first, second) = run(Policy::PscErrorOnlyInInfo2);
    assert_eq!((status, after[0], first, second), ((0, 0x100_0000_0000), end, false, false));
    let (status, after, first, second) = run(Policy::PscEditsEntries);
    assert_eq!((status, after[0], first, second), ((0, 0), end, true, true));
    assert_eq!(after[1], SHARED | (PAGE ^ 0x1000) | 1);
    assert_eq!(run(Policy::PscRewindsCursor).1[0], 0x1_0000);
    assert_eq!(run(Policy::PscSetsReserved).1[0], 1 << 32 | end);
    let (_, after, ..) = run(Policy::PscGrowsEnd);
    assert_eq!((after[0], after[3]), (0x2_0002, PRIVATE));
}

#[test]
fn lies_about_the_single_page_form() {
    let mut bench = Bench::new(Policy::PscDoesNothing);
    assert_eq!(bench.msr(PRIVATE | PAGE | 0x014), 0x015);
    assert!(!bench.is_private(PAGE));
}

#[test]
fn takes_a_page_away_when_its_time_has_come() {
    for policy in [
        Policy::UnmapPage { gpa: PRIVATE_PAGE, after_steps: 2 },
        Policy::UnassignPage { gpa: PRIVATE_PAGE, after_steps: 2 },
    ] {
        let mut bench = Bench::new(policy);
        assert!(matches!(bench.read_private(PRIVATE_PAGE), Outcome::Done(_)));
        assert_eq!(bench.read_private(PRIVATE_PAGE), Outcome::Exit);
        assert!(matches!(bench.machine.host(BOOT), HostStep::Stopped(Stop::NestedFault { .. })));
    }
}

#[test]
fn swaps_a_page_and_back() {
    let mut bench = Bench::new(Policy::SwapBack { gpa: PRIVATE_PAGE, after_steps: 3 });
    bench.step(BOOT, Op::Write { gpa: PRIVATE_PAGE, bytes: alloc::vec![7; 8], private: true });
    bench.step(BOOT, Op::Pause);
    let not_validated = Outcome::Fault(Fault::Vc { code: 0x404, gpa: PRIVATE_PAGE });
    assert_eq!(bench.read_private(PRIVATE_PAGE), not_validated);
    assert_eq!(bench.pvalidate(PRIVATE_PAGE, false), validated());
    bench.step(BOOT, Op::Pause);
    // The old page, still validated.
    assert_eq!(bench.read_private(PRIVATE_PAGE), Outcome::Done(Answer::Bytes(alloc::vec![7; 8])));
}

#[test]
fn swaps_a_page_for_good() {
    let mut bench = Bench::new(Policy::SwapPage { gpa: PRIVATE_PAGE, after_steps: 1 });
    assert!(matches!(bench.read_private(PRIVATE_PAGE), Outcome::Fault(_)));
    assert_eq!(bench.machine.translate(PRIVATE_PAGE), Some(1 << 40));
}

#[test]
fn moves_a_page_with_its_contents() {
    let mut bench = Bench::new(Policy::RemapInto { from: PRIVATE_PAGE, to: PAGE, after_steps: 2 });
    bench.step(BOOT, Op::Write { gpa: PRIVATE_PAGE, bytes: alloc::vec![7; 8], private: true });
    assert_eq!(bench.pvalidate(PAGE, false), validated());
    assert_eq!(bench.read_private(PAGE), Outcome::Done(Answer::Bytes(alloc::vec![7; 8])));
    assert_eq!(bench.machine.translate(PRIVATE_PAGE), None);
}

#[test]
fn smashes_every_large_entry() {
    let mut bench = Bench::with_guest(Policy::SmashAll);
    bench.psc_all(&[PRIVATE | TWO_MIB | LARGE]);
    assert!(bench.is_private(LARGE) && !bench.is_large(LARGE));
}

#[test]
fn flips_the_page_between_two_reads() {
    let offset = SW_EXIT_INFO_2 as u16;
    let mut bench = Bench::with_guest(Policy::FlipGhcb { offset, mask: 0xf00 });
    bench.fill(BOOT, GHCB, (0x8000_fffd, 0, 0), &[]);
    bench.vmgexit(BOOT);
    bench.enter(BOOT);
    let reads: Vec<u64> = (0..3).map(|_| bench.read_u64(BOOT, GHCB + SW_EXIT_INFO_2 as u64)).collect();
    assert_eq!(reads, [0x33, 0xf33, 0x33]);
    let other = bench.read_u64(BOOT, GHCB + SW_EXIT_INFO_1 as u64);
    assert_eq!(other, 0);
}

#[test]
fn rmp_039_an_access_that_met_a_busy_entry_is_repeated() {
    let mut bench = Bench::with_guest(Policy::Honest);
    assert_eq!(bench.msr(PRIVATE | PAGE | 0x014), 0x015);
    assert_eq!(bench.pvalidate(PAGE, false), validated());
    let store = || Op::Write { gpa: PAGE, bytes: alloc::vec![1], private: true };
    bench.machine.hold_entry(PAGE);
    assert_eq!(bench.machine.step(BOOT, store()), Outcome::Exit);
    assert_eq!(bench.enter(BOOT).resume, Resume::Retry);
    assert_eq!(bench.step(BOOT, store()), Answer::None);
}
