//! Random operations from a seed.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use super::model::{Access, Given, Rdx, SaveArea};
use super::operation::Operation;
use super::{PAGE_SIZE, Pair, std};
use crate::RULES;
use crate::tests::robust::Random;

const SEED: u64 = 0x5eed;
/// Large pages under test.
const LARGE_PAGES: u64 = 3;
/// Operations after which both begin anew.
const ROUND: u64 = 4096;
/// Small pages in a large one, by round.
const FACTORS: [u64; 3] = [2, 4, 512];
/// Kinds of outcome that a run has to show.
const KINDS: usize = 31;
/// Masks that levels get: often useful ones.
const MASKS: [u8; 8] = [0, 0x1, 0x3, 0x5, 0x9, 0xf, 0x1f, 0x2];

/// Draws operations on the pages of a machine.
struct Draw<'a> {
    random: &'a mut Random,
    factor: u64,
}

impl Draw<'_> {
    fn once_in(&mut self, times: u64) -> bool {
        self.random.below(times) == 0
    }

    /// Few different pages, so that operations meet; now and then one behind all memory.
    fn page(&mut self) -> u64 {
        if self.once_in(200) {
            return LARGE_PAGES * self.factor + self.random.below(2);
        }
        let within = [0, 1, self.factor / 2, self.factor - 1][self.random.below(4) as usize];
        self.random.below(LARGE_PAGES) * self.factor + within
    }

    /// An address that fits its size, mostly.
    fn address(&mut self, large: bool) -> u64 {
        let page = self.page();
        let fitting = if large && !self.once_in(50) { page - page % self.factor } else { page };
        fitting * PAGE_SIZE + if self.once_in(200) { 8 } else { 0 }
    }

    fn vmpl(&mut self) -> u8 {
        if self.once_in(2) { 0 } else { self.random.below(4) as u8 }
    }

    fn rdx(&mut self, vmpl: u8) -> Rdx {
        let target = if self.once_in(10) { self.random.below(6) as u8 } else { (vmpl + 1).min(3) };
        let any = self.random.below(256) as u8;
        let mask = if self.once_in(20) { any } else { MASKS[self.random.below(8) as usize] };
        Rdx { target, mask, vmsa: self.once_in(4) }
    }

    fn operation(&mut self) -> Operation {
        let large = self.once_in(3);
        let address = self.address(large);
        let (guest_page, vmpl) = (self.page(), self.vmpl());
        match self.random.below(64) {
            0..=9 => {
                let to = match self.random.below(8) {
                    0 | 1 => None,
                    2 if self.once_in(2) => Some(self.address(large)),
                    _ => Some(address),
                };
                Operation::Rmpupdate { address, large, to }
            }
            10..=12 => Operation::Psmash { address: self.address(true) },
            13 if self.once_in(8) => {
                let first = if large { guest_page - guest_page % self.factor } else { guest_page };
                let to = (self.address(large) / PAGE_SIZE) / if large { self.factor } else { 1 };
                let to = to * if large { self.factor } else { 1 };
                let to = if self.once_in(2) { first } else { to };
                Operation::Map { guest_page: first, large, to: (!self.once_in(8)).then_some(to) }
            }
            14 | 15 => Operation::HostWrite { guest_page, value: self.random.below(256) as u8 },
            16 if self.once_in(8) => Operation::Lose { page: guest_page, immutable: large },
            13 | 16..=30 => Operation::Pvalidate {
                vmpl: if self.once_in(16) { vmpl } else { 0 },
                address,
                large,
                valid: !self.once_in(4),
            },
            31..=42 => Operation::Rmpadjust { vmpl, address, large, rdx: self.rdx(vmpl) },
            43..=45 => {
                Operation::Rmpquery { vmpl, address: guest_page * PAGE_SIZE, target: self.random.below(5) as u8 }
            }
            46..=57 => Operation::Access {
                vmpl,
                guest_page,
                access: [Access::Read, Access::Write, Access::FetchUser, Access::FetchSupervisor]
                    [self.random.below(4) as usize],
                private: !self.once_in(4),
                value: self.random.below(256) as u8,
            },
            58 | 59 => {
                let area = SaveArea { vmpl: self.random.below(5) as u8, svme: !self.once_in(8) };
                Operation::WriteSaveArea { guest_page, area }
            }
            60..=62 => Operation::Vmrun { address: guest_page * PAGE_SIZE },
            _ => Operation::Halt,
        }
    }
}

/// How often each kind of outcome was seen.
type Seen = BTreeMap<&'static str, u64>;

/// Runs a round on a machine without some rules, if any are named.
///
/// # Errors
/// What the two disagree about.
fn run_round(round: u64, operations: u64, broken: &[&'static str], seen: &mut Seen) -> Result<(), String> {
    let factor = FACTORS[(round % 3) as usize];
    let mut random = Random((SEED + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut pair = Pair::new(factor, 4, LARGE_PAGES * factor, broken);
    let mut draw = Draw { random: &mut random, factor };
    for number in 0..operations {
        let operation = draw.operation();
        let given = pair.try_apply(operation);
        let given = given.map_err(|why| format!("operation {number} of round {round}: {why}"))?;
        if let Some(given) = given {
            *seen.entry(kind(operation, given)).or_insert(0) += 1;
        }
        if number % 64 == 0 {
            pair.compare_all()?;
        }
    }
    pair.compare_all()
}

/// What an outcome shows, in a word.
fn kind(operation: Operation, given: Given) -> &'static str {
    match (operation, given) {
        (Operation::Rmpupdate { .. }, Given::Code(code)) => match code {
            0 => "RMPUPDATE done",
            1 => "RMPUPDATE FAIL_INPUT",
            2 => "RMPUPDATE FAIL_PERMISSION",
            3 => "RMPUPDATE FAIL_INUSE",
            4 => "RMPUPDATE FAIL_OVERLAP",
            _ => "RMPUPDATE with another code",
        },
        (Operation::Psmash { .. }, Given::Code(0)) => "PSMASH done",
        (Operation::Psmash { .. }, _) => "PSMASH refused",
        (Operation::Pvalidate { .. }, Given::Validated { code, carry }) => match (code, carry) {
            (0, false) => "PVALIDATE done",
            (0, true) => "PVALIDATE changes nothing",
            (1, _) => "PVALIDATE FAIL_INPUT",
            (3, _) => "PVALIDATE FAIL_INUSE",
            (6, _) => "PVALIDATE FAIL_SIZEMISMATCH",
            _ => "PVALIDATE with another code",
        },
        (Operation::Rmpadjust { .. }, Given::Code(code)) => match code {
            0 => "RMPADJUST done",
            1 => "RMPADJUST FAIL_INPUT",
            2 => "RMPADJUST FAIL_PERMISSION",
            3 => "RMPADJUST FAIL_INUSE",
            6 => "RMPADJUST FAIL_SIZEMISMATCH",
            _ => "RMPADJUST with another code",
        },
        (Operation::Rmpquery { .. }, Given::Queried { code: 0, .. }) => "RMPQUERY done",
        (Operation::Rmpquery { .. }, Given::Queried { .. }) => "RMPQUERY FAIL_PERMISSION",
        (_, Given::GeneralProtection) => "#GP",
        (_, Given::NotValidated(_)) => "#VC 0x404",
        (_, Given::NestedFault(info, _)) if info >> 31 & 1 == 0 => "nested fault",
        (_, Given::NestedFault(info, _)) => match info >> 35 & 3 {
            0 => "RMP fault",
            1 => "RMP fault with SIZEM",
            _ => "RMP fault with VMPL",
        },
        (_, Given::Waits) => "store waits",
        (_, Given::Entered(_)) => "VMRUN done",
        (_, Given::NotEntered) => "VMRUN refused",
        (_, Given::HostWrote(true)) => "host wrote",
        (_, Given::HostWrote(false)) => "host could not write",
        (_, Given::Accessed(_)) => "access done",
        _ => "something else",
    }
}

fn report(operations: u64) {
    let mut seen = Seen::new();
    for round in 0..operations.div_ceil(ROUND) {
        let result = run_round(round, ROUND.min(operations - round * ROUND), &[], &mut seen);
        assert_eq!(result, Ok(()));
    }
    for (kind, times) in &seen {
        std::println!("second_rmp: {times:9} {kind}");
    }
    std::println!("second_rmp: {operations} operations, {} kinds of outcome", seen.len());
    assert_eq!(seen.len(), KINDS, "an outcome was never seen");
    assert!(seen.values().all(|times| *times > 20), "an outcome was hardly ever seen");
}

/// A million operations, or as many as `SECOND_RMP_OPERATIONS` says.
#[test]
fn second_rmp_agrees_on_random_operations() {
    let asked = std::env::var("SECOND_RMP_OPERATIONS").map(|count| count.parse().expect("a number"));
    report(asked.unwrap_or(1_000_000));
}

#[test]
fn second_rmp_disagrees_with_a_machine_that_lacks_a_rule() {
    // Of contents and translations the second RMP says nothing, and it makes no VMSA that VMRUN refuses by its features.
    let beyond = ["RMP-052", "RMP-055", "RMP-056", "VMRUN-BUSY", "VMRUN-FEATURES", "VMRUN-IN-USE"];
    for (rule, what) in RULES.iter().filter(|(rule, _)| !beyond.contains(rule)) {
        let found = (0..60).find_map(|round| run_round(round, ROUND, &[rule], &mut Seen::new()).err());
        assert!(found.is_some(), "{rule}: {what}");
    }
}
