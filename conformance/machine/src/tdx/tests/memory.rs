//! Memory accesses of L1 and of an L2, private and shared (TDX-21 to TDX-31).

use super::*;

fn shared(gpa: u64, len: usize) -> Op {
    Op::Read { gpa, len, private: false }
}

#[test]
fn every_kind_of_access_of_l1_works_on_its_page() {
    let mut m = machine();
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    assert_eq!(l1(&mut m, write(PAGE + 0xff8, &[1, 2, 3, 4, 5, 6, 7, 8])), done());
    assert_eq!(l1(&mut m, read(PAGE + 0xffe, 2)), bytes(&[7, 8]));
    assert_eq!(l1(&mut m, read(PAGE + 0xffe, 3)), Outcome::Fault(Fault::GeneralProtection));
    assert_eq!(l1(&mut m, write(PAGE + 0xfff, &[1, 2])), Outcome::Fault(Fault::GeneralProtection));
    let swap = |private| Op::Swap8 { gpa: PAGE + 0xff8, value: 9, private };
    assert_eq!(l1(&mut m, swap(true)), Outcome::Done(Answer::Value(1)));
    let exchange = |expected, gpa| Op::CompareExchange64 { gpa, expected, new: 3, private: true };
    assert_eq!(l1(&mut m, exchange(0, PAGE)), Outcome::Done(Answer::Value(0)));
    assert_eq!(l1(&mut m, exchange(0, PAGE)), Outcome::Done(Answer::Value(3)));
    assert_eq!(l1(&mut m, exchange(0, PAGE + 4)), Outcome::Fault(Fault::GeneralProtection));
    assert_eq!(l1(&mut m, fetch(PAGE, true)), done());
    assert_eq!(l1(&mut m, zero(PAGE, 1)), done());
    assert_eq!(l1(&mut m, read(PAGE, 8)), bytes(&[0; 8]));
    assert_eq!(l1(&mut m, zero(PAGE + 1, 1)), Outcome::Fault(Fault::GeneralProtection));
    assert_eq!(l1(&mut m, zero(PAGE, u64::MAX)), Outcome::Fault(Fault::GeneralProtection));
    assert_eq!(m.counters(CPU0, 0).zeroed_pages, 1);
}

#[test]
fn shared_memory_is_apart_and_belongs_to_host_and_td() {
    let mut m = machine_with(|config| config.shared = alloc::vec![(PAGE, 0x2000)]);
    assert_eq!(l1(&mut m, Op::Write { gpa: PAGE, bytes: alloc::vec![1, 2], private: false }), done());
    let mut seen = [0; 2];
    m.host_read(PAGE, &mut seen);
    assert_eq!(seen, [1, 2]);
    assert!(m.host_write(PAGE + 0xfff, &[3, 4]) && !m.host_write(PAGE + 0x1fff, &[3, 4]));
    assert_eq!(l1(&mut m, shared(PAGE + 0x1000, 1)), bytes(&[4]));
    // The bit may be in the address too.
    assert_eq!(l1(&mut m, read(PAGE | SHARED, 2)), bytes(&[1, 2]));
    let swap = Op::Swap8 { gpa: PAGE, value: 9, private: false };
    assert_eq!(l1(&mut m, swap), Outcome::Done(Answer::Value(1)));
    assert_eq!(l1(&mut m, Op::Zero { gpa: PAGE, pages: 2, private: false }), done());
    assert_eq!(m.peek(PAGE, 2, None), Some(alloc::vec![0, 0]));
    assert_eq!(
        l1(&mut m, Op::Fetch { gpa: PAGE, user: false, private: false }),
        Outcome::Fault(Fault::GeneralProtection)
    );
}

#[test]
fn shared_addresses_without_memory_are_ve_and_not_shared_memory_ends_it() {
    let mut m = machine();
    let mmio = 1 << 40;
    assert_eq!(l1(&mut m, shared(mmio, 1)), Outcome::Fault(Fault::Ve { reason: 48, gpa: mmio | SHARED }));
    // Another #VE before the information is read is the end of the vCPU.
    assert_eq!(m.step(CPU0, Op::Hlt), Outcome::Exit);
    assert_eq!(stopped(&mut m, CPU0), Some(Stop::TripleFault));
    let mut m = machine();
    assert_eq!(m.step(CPU0, shared(PAGE, 1)), Outcome::Exit);
    assert_eq!(stopped(&mut m, CPU0), Some(Stop::EptViolation { gpa: PAGE | SHARED, level: 0 }));
}

#[test]
fn ve_information_is_read_once_td_09() {
    let mut m = machine();
    for (op, reason, qualification, length) in [
        (Op::Hlt, 12, 0, 1),
        (Op::Cpuid { leaf: 0x8000_0000, subleaf: 0 }, 10, 0, 2),
        (Op::Rdmsr(0x830), 31, 0, 2),
        (Op::Wrmsr(0x830, 1), 32, 0, 2),
        (Op::In { port: 0x60, size: 1 }, 30, 0x60_0008, 1),
    ] {
        assert_eq!(l1(&mut m, op), Outcome::Fault(Fault::Ve { reason, gpa: 0 }));
        let info = call(&mut m, leaf::VP_VEINFO_GET, NONE);
        assert_eq!((info.rax, info.rcx, info.rdx, info.r10), (0, reason.into(), qualification, length));
        let none = call(&mut m, leaf::VP_VEINFO_GET, Regs { rcx: 1, rdx: 2, r8: 3, r9: 4, r10: 5, r11: 6, ..NONE });
        assert_eq!(none, Regs { rax: 0xc000_0704_0000_0000, r11: 6, ..NONE });
    }
    assert_eq!(
        l1(&mut m, Op::Cpuid { leaf: 0x21, subleaf: 0 }),
        Outcome::Done(Answer::Cpuid([0, 0x6574_6e49, 0x2020_2020, 0x5844_546c]))
    );
    assert_eq!(call(&mut m, leaf::VP_CPUIDVE_SET, Regs { rcx: 1, ..NONE }).rax, 0);
    assert!(matches!(l1(&mut m, Op::Cpuid { leaf: 0x21, subleaf: 0 }), Outcome::Fault(Fault::Ve { reason: 10, .. })));
    assert_eq!(call(&mut m, leaf::VP_CPUIDVE_SET, Regs { rcx: 4, ..NONE }).rax, 0xc000_0100_0000_0001);
}

#[test]
fn tdx_23_an_l2_has_the_rights_of_its_alias() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, 0x8001);
    grant(&mut m, PAGE + 0x1000, false, 2, RWX);
    prepare(&mut m, 1);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, read(PAGE, 1)), bytes(&[0]));
    for op in [write(PAGE, &[1]), zero(PAGE, 1), fetch(PAGE, false), read(PAGE + 0x1000, 1), read(SCRATCH, 1)] {
        let mut m = m.clone();
        assert_eq!(exit_with(&mut m, op).rax, 48);
    }
    let swap = Op::Swap8 { gpa: PAGE, value: 1, private: true };
    assert_eq!(exit_with(&mut m, swap).rcx, 0x18a);
}

#[test]
fn tdx_27_shared_memory_of_an_l2_is_all_or_nothing() {
    for (enabled, expected) in [(0, false), (1, true)] {
        let mut m = machine_with(|config| config.shared = alloc::vec![(PAGE, 0x1000)]);
        assert_eq!(vp_wr(&mut m, 0xa020_0003_0000_0051, enabled, 7).rax, 0);
        assert_eq!(l1(&mut m, Op::Zero { gpa: PAGE, pages: 1, private: false }), done());
        prepare(&mut m, 1);
        enter(&mut m, 1);
        assert_eq!(m.step(CPU0, shared(PAGE, 1)) == bytes(&[0]), expected);
    }
}

#[test]
fn a_large_alias_covers_its_block_and_no_more() {
    let mut m = machine();
    grant(&mut m, BLOCK, true, 1, RWX);
    prepare(&mut m, 1);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, zero(BLOCK, 512)), done());
    assert_eq!(m.step(CPU0, write(BLOCK + 0x1f_ffff, &[1])), done());
    assert_eq!(m.peek(BLOCK + 0x1f_ffff, 1, Some(1)), Some(alloc::vec![1]));
    assert_eq!(m.peek(BLOCK + 0x1f_ffff, 2, Some(0)), None);
    assert_eq!(m.peek(BLOCK, 1, Some(2)), None);
}

#[test]
fn blocked_pages_are_out_of_reach_until_unblocked() {
    let mut m = in_l2();
    assert!(m.host_block_page(PAGE));
    assert_eq!(m.peek(PAGE, 1, Some(0)), None);
    assert_eq!(m.step(CPU0, read(PAGE, 1)), Outcome::Exit);
    m.host_unblock_page(PAGE);
    assert!(m.td_enter(CPU0).is_some_and(|entry| entry.level == 1));
    assert_eq!(m.step(CPU0, read(PAGE, 1)), bytes(&[0]));
}
