//! Tests of the leaves and rules by row id of the fact tables, and of the oracles.

mod accept;
mod attr;
mod enter;
mod events;
mod exits;
mod facts;
mod honest_host;
mod interrupts;
mod liars;
mod memory;
mod metadata;
mod oracles_conduct;
mod oracles_memory;
mod report;
mod robust;
mod rules;
mod scale;
mod start;
mod tlb;
mod unswitched;
mod views;

use alloc::vec::Vec;

use super::status::leaf;
use super::{Answer, CallRegs, Config, Entry, Fault, HostStep, Machine, Op, Outcome, Regs, Resume, Stop};
use crate::Vcpu;

pub(super) const CPU0: Vcpu = Vcpu(0);
pub(super) const CPU1: Vcpu = Vcpu(1);
/// A page nobody has touched, not at the start of a 2M block.
pub(super) const PAGE: u64 = 0x60_3000;
/// A 2M block nobody has touched.
pub(super) const BLOCK: u64 = 0x80_0000;
/// L1's own pages: register pages from here on, the virtual-APIC pages and a scratch page behind them.
pub(super) const REGISTERS: u64 = 0x20_0000;
pub(super) const VAPIC: u64 = 0x20_1000;
pub(super) const SCRATCH: u64 = 0x20_8000;
/// Where programs of the L2 VMs begin.
pub(super) const L2_ENTRY: u64 = 0x9000;
/// VALID, R, W, Xs, Xu.
pub(super) const RWX: u64 = 0x800f;
/// The shared bit of a machine with the default width.
pub(super) const SHARED: u64 = 1 << 47;

pub(super) fn registers_of(vcpu: Vcpu, vm: u8) -> u64 {
    REGISTERS + u64::from(vcpu.0) * 0x400 + u64::from(vm) * 0x100
}

/// A machine with two vCPUs on which L1 runs, and its own pages accepted.
pub(super) fn machine_with(change: impl FnOnce(&mut Config)) -> Machine {
    let mut config = Config { vcpus: 2, ..Config::default() };
    change(&mut config);
    let mut m = Machine::new(config);
    m.launch_page(0x1000, &[0xcc; 4096]).expect("nothing is there");
    m.launch_finish().expect("not finished");
    for vcpu in (0..m.config().vcpus).map(Vcpu) {
        let HostStep::Entered(entry) = m.host(vcpu) else { return m };
        assert_eq!((entry.level, entry.key.vcpu), (0, vcpu));
    }
    for page in 0..9 {
        // A test may be about ACCEPT itself.
        let _ = status_of(&mut m, tdcall(leaf::MEM_PAGE_ACCEPT, Regs { rcx: REGISTERS + page * 0x1000, ..NONE }));
    }
    m
}

pub(super) const NONE: Regs = Regs {
    rax: 0,
    rcx: 0,
    rdx: 0,
    rbx: 0,
    rbp: 0,
    rsi: 0,
    rdi: 0,
    r8: 0,
    r9: 0,
    r10: 0,
    r11: 0,
    r12: 0,
    r13: 0,
    r14: 0,
    r15: 0,
};

pub(super) fn machine() -> Machine {
    machine_with(|_| {})
}

/// A machine without some rules.
pub(super) fn broken(rules: &[&'static str]) -> Machine {
    machine_with(|config| config.broken_rules.extend(rules))
}

pub(super) fn tdcall(leaf: u16, regs: Regs) -> Op {
    Op::Tdcall(Regs { rax: leaf.into(), ..regs })
}

/// One operation on a vCPU to its end: TD exits whose operation is executed again, or that answer it, are gone through.
pub(super) fn on(m: &mut Machine, vcpu: Vcpu, op: Op) -> Outcome {
    let level = m.running_level(vcpu).expect("somebody runs");
    for _ in 0..64 {
        let outcome = m.step(vcpu, op.clone());
        if outcome != Outcome::Exit || m.td_exit_info(vcpu).is_none() {
            return outcome;
        }
        match m.host(vcpu) {
            HostStep::Entered(Entry { level: same, resume: Resume::Retry, .. }) if same == level => {}
            HostStep::Entered(Entry { level: same, resume: Resume::Complete(answer), .. }) if same == level => {
                return Outcome::Done(answer);
            }
            _ => return Outcome::Exit,
        }
    }
    panic!("no end to it");
}

/// The same on vCPU 0.
pub(super) fn l1(m: &mut Machine, op: Op) -> Outcome {
    assert_eq!(m.running_level(CPU0), Some(0));
    on(m, CPU0, op)
}

/// Registers after a leaf on vCPU 0.
pub(super) fn call(m: &mut Machine, number: u16, regs: Regs) -> Regs {
    match l1(m, tdcall(number, regs)) {
        Outcome::Done(Answer::Regs(regs)) => regs,
        other => panic!("leaf {number}: {other:?}"),
    }
}

/// RAX after a leaf; all ones if it did not come back.
pub(super) fn status_of(m: &mut Machine, op: Op) -> u64 {
    match on(m, CPU0, op) {
        Outcome::Done(Answer::Regs(regs)) => regs.rax,
        _ => u64::MAX,
    }
}

pub(super) fn accept(m: &mut Machine, gpa: u64, level: u64) -> u64 {
    status_of(m, tdcall(leaf::MEM_PAGE_ACCEPT, Regs { rcx: gpa | level, ..NONE }))
}

pub(super) fn attr_wr(m: &mut Machine, gpa: u64, level: u64, rdx: u64, r8: u64) -> Regs {
    call(m, leaf::MEM_PAGE_ATTR_WR, Regs { rcx: gpa | level, rdx, r8, ..NONE })
}

/// Attributes of one VM as words for RDX and R8.
pub(super) fn part(vm: u8, attributes: u64) -> u64 {
    attributes << (16 * u32::from(vm))
}

/// Accepts a page and gives a VM these attributes.
pub(super) fn grant(m: &mut Machine, gpa: u64, large: bool, vm: u8, attributes: u64) {
    assert_eq!(accept(m, gpa, large.into()), 0);
    assert_eq!(attr_wr(m, gpa, large.into(), part(vm, attributes), part(vm, 0x7f)).rax, 0);
}

/// Takes the alias of a VM away, without INVEPT.
pub(super) fn cut(m: &mut Machine, gpa: u64, vm: u8) {
    assert_eq!(attr_wr(m, gpa, 0, part(vm, 0x8000), part(vm, 0x7f)).rax, 0);
}

/// Field id of the VMCS of a VM.
pub(super) fn vmcs(vm: u8, encoding: u32) -> u64 {
    (36 + 8 * (u64::from(vm) - 1)) << 56 | u64::from(encoding)
}

pub(super) fn vp_wr(m: &mut Machine, id: u64, value: u64, mask: u64) -> Regs {
    call(m, leaf::VP_WR, Regs { rdx: id, r8: value, r9: mask, ..NONE })
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

pub(super) fn fetch(gpa: u64, user: bool) -> Op {
    Op::Fetch { gpa, user, private: true }
}

pub(super) fn done() -> Outcome {
    Outcome::Done(Answer::None)
}

pub(super) fn bytes(bytes: &[u8]) -> Outcome {
    Outcome::Done(Answer::Bytes(bytes.to_vec()))
}

pub(super) const CALL: CallRegs = CallRegs { rax: 1 << 32, rcx: 2, rdx: 3, r8: 4, r9: 5 };

pub(super) fn vmcall() -> Op {
    Op::Vmcall { regs: CALL, cpl: 0 }
}

/// Writes a quadword of the register page of a VM of vCPU 0.
pub(super) fn set_register(m: &mut Machine, vm: u8, offset: u64, value: u64) {
    assert_eq!(l1(m, write(registers_of(CPU0, vm) + offset, &value.to_le_bytes())), done());
}

pub(super) fn register(m: &Machine, vm: u8, offset: u64) -> u64 {
    let bytes = m.peek(registers_of(CPU0, vm) + offset, 8, Some(0)).expect("accepted");
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

/// Everything that the first VP.ENTER of a VM on vCPU 0 needs.
pub(super) fn prepare(m: &mut Machine, vm: u8) {
    assert_eq!(vp_wr(m, vmcs(vm, 0x2012), VAPIC + u64::from(vm) * 0x1000, !0xfff).rax, 0);
    set_register(m, vm, 0x80, 2);
    set_register(m, vm, 0x88, L2_ENTRY);
}

pub(super) fn enter_op(vm: u8, invalidate: u64) -> Op {
    let rcx = u64::from(vm) << 52 | invalidate;
    Op::Enter(Regs { rax: leaf::VP_ENTER.into(), rcx, rdx: registers_of(CPU0, vm), ..NONE })
}

/// VP.ENTER on vCPU 0 that enters.
pub(super) fn enter_with(m: &mut Machine, vm: u8, invalidate: u64) -> Entry {
    assert_eq!(l1(m, enter_op(vm, invalidate)), Outcome::Exit);
    match m.host(CPU0) {
        HostStep::Entered(entry) => entry,
        other => panic!("not entered: {other:?}"),
    }
}

pub(super) fn enter(m: &mut Machine, vm: u8) -> Entry {
    enter_with(m, vm, 0)
}

/// An operation of the L2 on vCPU 0 that goes to L1: what L1 finds in its registers.
pub(super) fn exit_with(m: &mut Machine, op: Op) -> Regs {
    assert_eq!(m.step(CPU0, op), Outcome::Exit);
    back_in_l1(m)
}

/// L1 is entered on vCPU 0 and its VP.ENTER completes.
pub(super) fn back_in_l1(m: &mut Machine) -> Regs {
    match m.host(CPU0) {
        HostStep::Entered(Entry { level: 0, resume: Resume::Complete(Answer::Regs(regs)), .. }) => regs,
        other => panic!("L1 was not entered: {other:?}"),
    }
}

/// VM 1 runs on vCPU 0 and has full rights on `PAGE`.
pub(super) fn in_l2() -> Machine {
    in_l2_of(machine())
}

pub(super) fn in_l2_of(mut m: Machine) -> Machine {
    grant(&mut m, PAGE, false, 1, RWX);
    prepare(&mut m, 1);
    assert!(matches!(enter(&mut m, 1).resume, Resume::Start { rip: L2_ENTRY, .. }));
    m
}

/// TDVMCALL of L1 on vCPU 0 that shows R8 to R15.
pub(super) fn host_call(m: &mut Machine, r11: u64, r12: u64, r13: u64) -> Regs {
    call(m, leaf::VP_VMCALL, Regs { rcx: 0xff00, r11, r12, r13, ..NONE })
}

/// Why the vCPU stopped.
pub(super) fn stopped(m: &mut Machine, vcpu: Vcpu) -> Option<Stop> {
    match m.host(vcpu) {
        HostStep::Stopped(stop) => Some(stop),
        _ => None,
    }
}

/// The oracles that found something, without repetitions.
pub(super) fn found(m: &Machine) -> Vec<&'static str> {
    let mut names: Vec<_> = m.violations().iter().map(|violation| violation.oracle).collect();
    names.dedup();
    names
}

/// Nothing found, by a complete check too.
pub(super) fn silent(m: &mut Machine) {
    m.check_all();
    assert!(m.violations().is_empty(), "{:?}", m.violations());
}
