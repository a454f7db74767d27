//! All states of a small machine, and all transitions between them, breadth first.
//!
//! A state is the table and the VMSA that runs on vCPU 1. Contents are no part of it: every page holds a VMSA that could run.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::model::{Access, Content, EVERY_RIGHT, Entry, Nested, READ, Rdx, SaveArea, WRITE};
use super::operation::Operation;
use super::{CPU1, PAGE_SIZE, Pair, std};
use crate::nested::NestedMap;
use crate::rmp::Rmp;

/// Small pages in a large one.
const FACTOR: u64 = 2;
/// Of the VMSA in every page.
const VMSA_LEVEL: u8 = 1;

/// Which machine.
struct Bounds {
    large_pages: u64,
    vmpls: u8,
    /// Masks that RMPADJUST gives.
    masks: &'static [u8],
    /// The host assigns a page to the guest address of the other large page too.
    crosswise: bool,
    /// RMPADJUST sets and clears the VMSA flag, and VMSAs run.
    vmsas: bool,
    /// The host maps large pages by 2M mappings, and to each other.
    remaps: bool,
}

/// A state that was reached and not left yet.
struct State {
    table: Rmp,
    nested_map: NestedMap,
    entries: Vec<Entry>,
    nested: Vec<Option<Nested>>,
    running: Option<u64>,
}

impl Bounds {
    fn pages(&self) -> u64 {
        self.large_pages * FACTOR
    }

    /// Everything that host and guest may do.
    fn operations(&self) -> Vec<Operation> {
        let mut all = Vec::new();
        for (page, large) in self.places() {
            let address = page * PAGE_SIZE;
            let other = (page + FACTOR) % self.pages() * PAGE_SIZE;
            let targets = [None, Some(address), Some(other)];
            for to in targets.into_iter().take(if self.crosswise { 3 } else { 2 }) {
                all.push(Operation::Rmpupdate { address, large, to });
            }
            for valid in [false, true] {
                all.push(Operation::Pvalidate { vmpl: 0, address, large, valid });
            }
            all.push(Operation::Pvalidate { vmpl: 1, address, large, valid: true });
            for vmpl in 0..self.vmpls - 1 {
                for target in vmpl + 1..self.vmpls {
                    for mask in self.masks {
                        for vmsa in [false, true].into_iter().take(if self.vmsas { 2 } else { 1 }) {
                            let rdx = Rdx { target, mask: *mask, vmsa };
                            all.push(Operation::Rmpadjust { vmpl, address, large, rdx });
                        }
                    }
                }
                let rdx = Rdx { target: vmpl, mask: 0, vmsa: false };
                all.push(Operation::Rmpadjust { vmpl, address, large, rdx });
            }
            if large {
                all.push(Operation::Psmash { address });
                if self.remaps {
                    all.extend(self.maps(page));
                }
            } else {
                self.looks(page, &mut all);
                if self.vmsas {
                    all.push(Operation::Vmrun { address });
                }
            }
        }
        all.push(Operation::Halt);
        all
    }

    /// Operations that change nothing.
    fn looks(&self, page: u64, all: &mut Vec<Operation>) {
        for vmpl in 0..self.vmpls {
            for access in [Access::Read, Access::Write, Access::FetchUser] {
                all.push(Operation::Access { vmpl, guest_page: page, access, private: true, value: 0 });
            }
            for target in [vmpl.saturating_sub(1), vmpl] {
                all.push(Operation::Rmpquery { vmpl, address: page * PAGE_SIZE, target });
            }
        }
        for access in [Access::Read, Access::Write] {
            all.push(Operation::Access { vmpl: 1, guest_page: page, access, private: false, value: 0 });
        }
        all.push(Operation::HostWrite { guest_page: page, value: 0 });
    }

    /// The mappings of a large page.
    fn maps(&self, page: u64) -> impl Iterator<Item = Operation> {
        let targets = [page, (page + FACTOR) % self.pages()];
        targets.into_iter().map(move |to| Operation::Map { guest_page: page, large: true, to: Some(to) })
    }

    /// First small page of every small and every large page, and whether it is large.
    fn places(&self) -> impl Iterator<Item = (u64, bool)> {
        let small = (0..self.pages()).map(|page| (page, false));
        small.chain((0..self.large_pages).map(|page| (page * FACTOR, true)))
    }

    /// Visits every state; gives states and transitions.
    fn explore(&self) -> (usize, u64) {
        let mut pair = Pair::new(FACTOR, self.vmpls, self.pages(), &[]);
        if self.remaps {
            for page in 0..self.large_pages {
                let own = self.maps(page * FACTOR).next();
                assert!(own.is_some_and(|own| pair.apply(own).is_some()));
            }
        }
        let operations = self.operations();
        let mut known = BTreeSet::from([key(&pair)]);
        let mut open = VecDeque::from([State::of(&pair)]);
        let mut transitions = 0;
        while let Some(state) = open.pop_front() {
            state.restore(&mut pair);
            let here = key(&pair);
            for operation in &operations {
                if let Operation::Vmrun { address } = operation {
                    pair.put_save_area(address / PAGE_SIZE, VMSA_LEVEL);
                }
                if pair.apply(*operation).is_none() {
                    continue;
                }
                transitions += 1;
                assert_eq!(pair.compare_all(), Ok(()));
                let there = key(&pair);
                if there != here {
                    if known.insert(there) {
                        open.push_back(State::of(&pair));
                    }
                    state.restore(&mut pair);
                }
            }
        }
        (known.len(), transitions)
    }
}

impl State {
    fn of(pair: &Pair) -> Self {
        let (machine, model) = (&pair.machine, &pair.model);
        Self {
            table: machine.rmp.clone(),
            nested_map: machine.nested.clone(),
            entries: model.entries.clone(),
            nested: model.nested.clone(),
            running: model.running,
        }
    }

    /// Brings both back to this state.
    fn restore(&self, pair: &mut Pair) {
        let vcpu = usize::from(CPU1.0);
        pair.machine.vcpus[vcpu].running = None;
        pair.machine.rmp = self.table.clone();
        pair.machine.nested = self.nested_map.clone();
        pair.machine.oracles.violations.clear();
        pair.model.entries.clone_from(&self.entries);
        pair.model.nested.clone_from(&self.nested);
        pair.model.running = None;
        let area = SaveArea { vmpl: VMSA_LEVEL, svme: true };
        pair.model.contents.fill(Content { first_byte: None, save_area: Some(area) });
        if let Some(page) = self.running {
            pair.put_save_area(page, VMSA_LEVEL);
            assert!(pair.apply(Operation::Vmrun { address: page * PAGE_SIZE }).is_some());
            assert_eq!(pair.model.running, Some(page), "it ran before");
        }
    }
}

/// A state as a number: 22 bits for each of up to four pages, and the page that runs.
fn key(pair: &Pair) -> u128 {
    let model = &pair.model;
    let mut key = model.running.map_or(0, |page| u128::from(page) + 1);
    for (entry, nested) in model.entries.iter().zip(&model.nested) {
        let flags = [entry.assigned, entry.large, entry.validated, entry.vmsa];
        let flags = flags.iter().fold(0, |all, flag| all << 1 | u128::from(*flag));
        let [_, first, second, _] = entry.rights;
        let rights = u128::from(first & EVERY_RIGHT) << 5 | u128::from(second & EVERY_RIGHT);
        let to = nested.map_or(15, |nested| nested.page);
        assert!(entry.guest_page < 16 && to < 16);
        key = ((key << 4 | flags) << 10 | rights) << 8 | u128::from(entry.guest_page << 4 | to);
    }
    key
}

fn report(what: &str, bounds: &Bounds, expected: usize) {
    let (states, transitions) = bounds.explore();
    std::println!("second_rmp: states {states}, transitions {transitions} ({what})");
    assert_eq!(states, expected);
}

#[test]
fn second_rmp_agrees_in_every_state_of_two_large_pages_and_two_vmpls() {
    let masks = &[0, READ | WRITE];
    let bounds = Bounds { large_pages: 2, vmpls: 2, masks, crosswise: true, vmsas: true, remaps: false };
    // A small entry: none, of the other guest address, or Validated, rights and VMSA in all ways. A large one has no VMSA.
    let small = 1 + 1 + 2 * 2 * 2;
    let block = small * small + 1 + 2 * 2;
    // The second page of each block runs as a VMSA, whatever the first one is.
    let with_running = 2 * (small * 4) * block;
    report("two large pages, two VMPLs", &bounds, block * block + with_running);
}

#[test]
fn second_rmp_agrees_in_every_state_of_two_large_pages_that_the_host_maps_to_each_other() {
    let masks = &[0, READ | WRITE];
    let bounds = Bounds { large_pages: 2, vmpls: 2, masks, crosswise: true, vmsas: false, remaps: true };
    // Each guest address is reached, so that all of it varies for both; and there are four nested maps.
    let small = 1 + 2 * 2 * 2;
    let block = small * small + 2 * 2 * 2;
    report("two large pages, two VMPLs, nested map", &bounds, 4 * block * block);
}

#[test]
fn second_rmp_agrees_in_every_state_of_one_large_page_and_three_vmpls() {
    let masks = &[0, READ, READ | WRITE];
    let bounds = Bounds { large_pages: 1, vmpls: 3, masks, crosswise: false, vmsas: true, remaps: false };
    let small = 1 + 2 * 9 * 2;
    let block = small * small + 2 * 9;
    // The second page runs as a VMSA.
    report("one large page, three VMPLs", &bounds, block + small * 18);
}
