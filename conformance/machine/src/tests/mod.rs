//! Tests of the rules by row id of the fact tables, and of the oracles.

mod access;
mod embed;
mod facts;
mod instructions;
mod msrs;
mod oracles_conduct;
mod oracles_memory;
mod page_state;
mod reflect;
mod robust;
mod scale;
mod second_rmp;
mod tlb;
mod trace;
mod vmsa;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::memory::PageBytes;
use crate::rmp::perm;
use crate::vmsa as layout;
use crate::{Answer, Config, Entry, Fault, Machine, Op, Outcome, PageType, Regs, Vcpu};

pub(super) const CPU0: Vcpu = Vcpu(0);
pub(super) const CPU1: Vcpu = Vcpu(1);
/// A page nobody has touched, not at the start of a 2M block.
pub(super) const PAGE: u64 = 0x60_3000;
/// A 2M block nobody has touched.
pub(super) const BLOCK: u64 = 0x80_0000;
/// Full rights for a guest.
pub(super) const RWX: u64 = 0x0f;

pub(super) fn vmsa_of(vcpu: Vcpu, vmpl: u8) -> u64 {
    0x1000 + u64::from(vcpu.0) * 0x4000 + u64::from(vmpl) * 0x1000
}

/// A VMSA that can run.
pub(super) fn vmsa_image(vmpl: u8, rip: u64) -> Box<PageBytes> {
    let mut page = Box::new([0; 4096]);
    page[layout::VMPL] = vmpl;
    layout::write_u64(&mut page[..], layout::EFER, layout::EFER_SVME);
    layout::write_u64(&mut page[..], layout::SEV_FEATURES, layout::features::SNP_ACTIVE);
    layout::write_u64(&mut page[..], layout::RIP, rip);
    page
}

/// A machine with two vCPUs and a launch VMSA for each of their four VMPLs.
pub(super) fn machine_with(change: impl FnOnce(&mut Config)) -> Machine {
    let mut config = Config { vcpus: 2, rmpquery: true, ..Config::default() };
    change(&mut config);
    let mut machine = Machine::new(config);
    for vcpu in [CPU0, CPU1] {
        for vmpl in 0..4 {
            let image = vmsa_image(vmpl, 0x1000);
            assert_eq!(machine.launch_page(vmsa_of(vcpu, vmpl), PageType::Vmsa, &image), Ok(()));
        }
    }
    assert_eq!(machine.launch_finish(), Ok(()));
    machine
}

pub(super) fn machine() -> Machine {
    machine_with(|_| {})
}

/// A machine without some rules.
pub(super) fn broken(rules: &[&'static str]) -> Machine {
    machine_with(|config| config.broken_rules.extend(rules))
}

/// Brings a VMPL onto a vCPU: what runs there halts.
pub(super) fn switch(machine: &mut Machine, vcpu: Vcpu, vmpl: u8) -> Option<Entry> {
    if machine.running_vmpl(vcpu) == Some(vmpl) {
        return None;
    }
    if machine.running(vcpu).is_some() {
        assert_eq!(machine.step(vcpu, Op::Hlt), Outcome::Exit);
    }
    Some(machine.vmrun(vcpu, vmsa_of(vcpu, vmpl)).expect("the launch VMSA runs"))
}

/// One operation at a VMPL of a vCPU.
pub(super) fn on(machine: &mut Machine, vcpu: Vcpu, vmpl: u8, op: Op) -> Outcome {
    switch(machine, vcpu, vmpl);
    machine.step(vcpu, op)
}

/// One operation at a VMPL of vCPU 0.
pub(super) fn at(machine: &mut Machine, vmpl: u8, op: Op) -> Outcome {
    on(machine, CPU0, vmpl, op)
}

pub(super) fn read(gpa: u64, len: usize) -> Op {
    Op::Read { gpa, len, private: true }
}

pub(super) fn write(gpa: u64, bytes: &[u8]) -> Op {
    Op::Write { gpa, bytes: bytes.to_vec(), private: true }
}

pub(super) fn zero(gpa: u64, pages: u64) -> Op {
    Op::Zero { gpa, pages, private: true }
}

pub(super) fn pvalidate(gpa: u64, large: bool, valid: bool) -> Op {
    Op::Pvalidate { gpa, ecx: u32::from(large), edx: u32::from(valid) }
}

pub(super) fn rmpadjust(gpa: u64, large: bool, vmpl: u8, mask: u64) -> Op {
    Op::Rmpadjust { gpa, rcx: u64::from(large), rdx: mask << 8 | u64::from(vmpl) }
}

pub(super) fn flush_all() -> Op {
    Op::Invlpgb { rax: 0x8, ecx: 0, edx: 0 }
}

pub(super) fn done() -> Outcome {
    Outcome::Done(Answer::None)
}

pub(super) fn bytes(bytes: &[u8]) -> Outcome {
    Outcome::Done(Answer::Bytes(bytes.to_vec()))
}

pub(super) fn pvalidated(eax: u32, carry: bool) -> Outcome {
    Outcome::Done(Answer::Pvalidate { eax, carry })
}

pub(super) fn rmpadjusted(eax: u32) -> Outcome {
    Outcome::Done(Answer::Rmpadjust { eax })
}

pub(super) fn not_validated(gpa: u64) -> Outcome {
    Outcome::Fault(Fault::Vc { code: 0x404, gpa })
}

/// EXITINFO1 of the nested page fault that vCPU 0 has just left with, at this address.
pub(super) fn nested_fault(machine: &Machine, gpa: u64) -> u64 {
    let exit = machine.exit_info(CPU0).expect("the vCPU left");
    assert_eq!((exit.code, exit.info2), (0x400, gpa));
    exit.info1
}

/// Assigns and validates.
pub(super) fn take(machine: &mut Machine, gpa: u64, large: bool) {
    assert_eq!(machine.rmpupdate(gpa, large, Some(gpa)), 0);
    assert_eq!(at(machine, 0, pvalidate(gpa, large, true)), pvalidated(0, false));
}

/// Assigns, validates, zeroes and grants.
pub(super) fn grant(machine: &mut Machine, gpa: u64, large: bool, vmpl: u8, mask: u64) {
    take(machine, gpa, large);
    assert_eq!(at(machine, 0, zero(gpa, if large { 512 } else { 1 })), done());
    assert_eq!(at(machine, 0, rmpadjust(gpa, large, vmpl, mask)), rmpadjusted(0));
}

pub(super) fn rights(machine: &Machine, gpa: u64) -> [u8; 4] {
    machine.rmp_entry(gpa).expect("mapped").perms
}

/// The oracles that found something, without repetitions.
pub(super) fn found(machine: &Machine) -> Vec<&'static str> {
    let mut names: Vec<_> = machine.violations().iter().map(|violation| violation.oracle).collect();
    names.dedup();
    names
}

/// Nothing found, by a complete check too.
pub(super) fn silent(m: &mut Machine) {
    m.check_all();
    assert!(m.violations().is_empty(), "{:?}", m.violations());
}

pub(super) const REGS: Regs = Regs { rax: 1, rcx: 2, rdx: 3, r8: 4, r9: 5 };

#[test]
fn a_vcpu_without_a_vmsa_does_nothing() {
    let mut machine = machine();
    assert_eq!(machine.step(CPU0, Op::Pause), Outcome::Exit);
    assert_eq!(machine.step(Vcpu(7), Op::Pause), Outcome::Exit);
    assert_eq!(machine.steps(), 0);
    assert_eq!(machine.rmp_entry(vmsa_of(CPU0, 0)).map(|entry| entry.perms), Some([perm::ALL, 0, 0, 0]));
}
