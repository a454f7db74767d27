//! The machine's RMP against a second one that was written independently from the tables, on random operations and on all
//! states of a small machine.

extern crate std;

mod exhaustive;
mod model;
mod operation;
mod random;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use self::model::{Content, Entry, Given, SaveArea, SecondRmp};
use self::operation::Operation;
use super::{CPU0, CPU1, vmsa_image};
use crate::rmp::RmpEntry;
use crate::{Config, Machine, Op, Outcome, PAGE_SIZE, PageType, VmsaWrite};

/// Where the launch VMSAs of vCPU 0 are: behind the pages under test, none at the beginning of a large page of any size.
fn launch_vmsa(vmpl: u8) -> u64 {
    (1 << 30) + u64::from(vmpl) * 2 * PAGE_SIZE + PAGE_SIZE
}

/// The machine and the model of it. Pages under test are the first of the machine's memory, and all of it.
struct Pair {
    machine: Machine,
    model: SecondRmp,
}

impl Pair {
    /// A machine without some rules, if any are named.
    fn new(factor: u64, vmpls: u8, pages: u64, broken: &[&'static str]) -> Self {
        let mut machine = Machine::new(Config {
            ram: alloc::vec![(0, pages * PAGE_SIZE)],
            spare: Vec::new(),
            vcpus: 2,
            vmpls,
            pages_per_large: factor,
            rmpquery: true,
            vmsa_write: VmsaWrite::Waits,
            honest_host: false,
            broken_rules: broken.iter().copied().collect(),
            ..Config::default()
        });
        for vmpl in 0..vmpls {
            assert_eq!(machine.launch_page(launch_vmsa(vmpl), PageType::Vmsa, &vmsa_image(vmpl, 0)), Ok(()));
        }
        assert_eq!(machine.launch_finish(), Ok(()));
        Self { machine, model: SecondRmp::new(factor, vmpls, pages) }
    }

    /// Both do it, and give the same. `None` if the model says nothing about it: then neither has done it.
    ///
    /// # Errors
    /// What the two disagree about.
    fn try_apply(&mut self, operation: Operation) -> Result<Option<Given>, String> {
        let allowed = operation.on_model(&mut self.model);
        if allowed.is_empty() {
            return Ok(None);
        }
        let given = operation.on_machine(&mut self.machine);
        if !allowed.iter().any(|allowed| agrees(*allowed, given)) {
            return Err(format!("{operation:x?} gives {given:x?}, the tables say {allowed:x?}"));
        }
        operation.page().map_or(Ok(()), |page| self.compare(page))?;
        Ok(Some(given))
    }

    /// As [`try_apply`](Self::try_apply).
    ///
    /// # Panics
    /// If the two disagree.
    fn apply(&mut self, operation: Operation) -> Option<Given> {
        self.try_apply(operation).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The entries of one page are the same.
    fn compare(&self, page: u64) -> Result<(), String> {
        let Some(second) = self.model.entries.get(page as usize) else { return Ok(()) };
        let first = self.machine.rmp_entry_at(page * PAGE_SIZE);
        if is_same(second, &first) { Ok(()) } else { Err(format!("page {page:#x}: {first:x?} is not {second:x?}")) }
    }

    /// The tables are the same.
    fn compare_all(&self) -> Result<(), String> {
        (0..self.model.entries.len() as u64).try_for_each(|page| self.compare(page))
    }

    /// An operation of vCPU 0 at a VMPL: outcome, or the exit that it made.
    fn step(machine: &mut Machine, vmpl: u8, op: Op) -> Outcome {
        if machine.running_vmpl(CPU0) != Some(vmpl) {
            if machine.running(CPU0).is_some() {
                assert_eq!(machine.step(CPU0, Op::Hlt), Outcome::Exit);
            }
            assert!(machine.vmrun(CPU0, launch_vmsa(vmpl)).is_ok());
        }
        machine.step(CPU0, op)
    }

    /// Puts a save area into a page behind the back of both.
    fn put_save_area(&mut self, page: u64, vmpl: u8) {
        self.machine.memory.write(page, 0, &vmsa_image(vmpl, 0)[..]);
        self.model.contents[page as usize] =
            Content { first_byte: Some(0), save_area: Some(SaveArea { vmpl, svme: true }) };
    }
}

/// A byte that the model does not know may be any, and the carry counts only with success.
fn agrees(allowed: Given, given: Given) -> bool {
    match (allowed, given) {
        (Given::Accessed(None), Given::Accessed(_)) => true,
        (Given::Validated { code, .. }, Given::Validated { code: other, .. }) if code != model::SUCCESS => {
            code == other
        }
        _ => allowed == given,
    }
}

/// Of a page of the hypervisor only that it is one says anything (RMP-002).
fn is_same(second: &Entry, first: &RmpEntry) -> bool {
    if !second.assigned {
        return !first.assigned && first.asid == 0 && !first.validated && !first.vmsa;
    }
    *second
        == Entry {
            assigned: first.assigned,
            asid: first.asid.into(),
            guest_page: first.gpa / PAGE_SIZE,
            large: first.large,
            immutable: first.immutable,
            vmsa: first.vmsa,
            validated: first.validated,
            rights: first.perms,
        }
}
