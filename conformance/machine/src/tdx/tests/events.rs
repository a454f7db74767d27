//! Exits that no instruction of their own stands for: by controls, by exceptions, by time (TDX-43, TDX-46,
//! vmx_exit_reasons.csv).

use super::*;

const PRIMARY: u32 = 0x4002;
const SECONDARY: u32 = 0x401e;
const EXCEPTIONS: u32 = 0x4004;

fn other(reason: u32, qualification: u64) -> Op {
    Op::Other { reason, qualification, length: 3 }
}

/// VM 1 runs with these fields written: encoding, bits.
fn with(fields: &[(u32, u64)]) -> Machine {
    let mut m = machine();
    for (encoding, bits) in fields {
        assert_eq!(vp_wr(&mut m, vmcs(1, *encoding), *bits, *bits).rax, 0, "{encoding:#x}");
    }
    in_l2_of(m)
}

/// What L1 finds in RAX after an operation, if it exits there.
fn reason_of(m: &Machine, op: Op) -> Option<u64> {
    let mut m = m.clone();
    (m.step(CPU0, op) == Outcome::Exit).then(|| back_in_l1(&mut m).rax)
}

#[test]
fn unconditional_exits_carry_their_qualification_and_length() {
    let m = in_l2();
    for reason in
        (9..77).filter(|reason| matches!(reason, 9 | 11 | 13 | 17 | 19..=27 | 36 | 39 | 50 | 51 | 63..=65 | 76))
    {
        let mut m = m.clone();
        let exit = exit_with(&mut m, other(reason, 0x55));
        assert_eq!((exit.rax, exit.rcx, exit.r11 >> 32), (reason.into(), 0x55, 3));
        let rip = register(&m, 1, 0x88);
        set_register(&mut m, 1, 0x88, rip + 3);
        assert_eq!(enter(&mut m, 1).resume, Resume::Complete(Answer::None));
    }
    // An event cannot be completed, only gone on from.
    let mut m = m;
    assert_eq!(exit_with(&mut m, Op::Other { reason: 56, qualification: 0xb0, length: 0 }).r11, 0);
    assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
}

#[test]
fn conditional_exits_need_their_control() {
    for (reason, fields) in [
        (14, &[(PRIMARY, 1 << 9)][..]),
        (15, &[(PRIMARY, 1 << 11)]),
        (16, &[(PRIMARY, 1 << 12)]),
        (29, &[(PRIMARY, 1 << 23)]),
        (43, &[(0x401c, 5)]),
        (46, &[(SECONDARY, 1 << 2)]),
        (47, &[(SECONDARY, 1 << 2)]),
        (57, &[(SECONDARY, 1 << 11)]),
        (58, &[(PRIMARY, 1 << 9), (SECONDARY, 1 << 12)]),
        (61, &[(SECONDARY, 1 << 16)]),
    ] {
        let mut without = in_l2();
        exit_with(&mut without, vmcall());
        // Controls that are on from the start.
        let start = without.vmcs_field(CPU0, 1, SECONDARY).unwrap() & 0xc51_3e0c;
        assert_eq!(
            vp_wr(&mut without, vmcs(1, SECONDARY), 0, start).rax,
            if start == 0 { 0xc000_0c01_0000_0000 } else { 0 }
        );
        enter(&mut without, 1);
        assert_eq!(without.step(CPU0, other(reason, 0)), done(), "{reason}");
        assert_eq!(reason_of(&with(fields), other(reason, 0)), Some(reason.into()), "{reason}");
    }
}

#[test]
fn eoi_exits_are_those_of_the_bitmap() {
    let m = with(&[(0x201e, 1 << 3)]);
    assert_eq!(reason_of(&m, other(45, 64 + 3)), Some(45));
    assert_eq!(m.clone().step(CPU0, other(45, 3)), done());
}

#[test]
fn tdx_57_control_registers_exit_for_the_bits_that_l1_owns() {
    let m = with(&[(PRIMARY, 1 << 15 | 1 << 20)]);
    for (register, kind, exits) in
        [(0, 0, true), (4, 0, true), (3, 0, true), (3, 1, false), (8, 0, false), (8, 1, true)]
    {
        let op = other(28, register | kind << 4);
        assert_eq!(reason_of(&m, op), exits.then_some(28), "CR{register} {kind}");
    }
    let mut m = in_l2();
    exit_with(&mut m, vmcall());
    for mask in [0x6000, 0x6002] {
        assert_eq!(vp_wr(&mut m, vmcs(1, mask), 0, u64::MAX).rax, 0);
    }
    enter(&mut m, 1);
    assert_eq!((m.step(CPU0, other(28, 0)), m.step(CPU0, other(28, 4))), (done(), done()));
}

#[test]
fn events_of_the_host_go_to_the_host_and_what_does_not_exist_is_ud() {
    let mut m = in_l2();
    for reason in [3, 5, 6, 42, 49, 74, 75] {
        assert_eq!(m.step(CPU0, other(reason, 0)), Outcome::Exit);
        assert!(matches!(m.host(CPU0), HostStep::Entered(Entry { level: 1, resume: Resume::Retry, .. })));
    }
    // With an operation of their own, fatal, or no reason at all.
    for reason in [0, 1, 2, 4, 10, 18, 33, 34, 35, 37, 38, 41, 44, 48, 52, 62, 66, 77, 78, u32::MAX] {
        assert_eq!(m.step(CPU0, other(reason, 0)), Outcome::Fault(Fault::InvalidOpcode), "{reason}");
    }
}

#[test]
fn in_l1_they_are_ud_ve_or_nothing() {
    let mut m = machine();
    assert_eq!(l1(&mut m, other(27, 0)), Outcome::Fault(Fault::InvalidOpcode));
    assert_eq!((l1(&mut m, other(16, 0)), l1(&mut m, other(43, 0))), (done(), done()));
    for reason in [36, 39, 54, 65] {
        assert_eq!(l1(&mut m, other(reason, 7)), Outcome::Fault(Fault::Ve { reason, gpa: 0 }));
        let info = call(&mut m, leaf::VP_VEINFO_GET, NONE);
        assert_eq!((info.rcx, info.rdx, info.r10), (reason.into(), 7, 3));
    }
    assert_eq!(l1(&mut m, Op::Raise { vector: 6, error: None }), done());
}

#[test]
fn exceptions_go_where_the_bitmap_says_with_r9() {
    let mut m = with(&[(EXCEPTIONS, 1 << 6 | 1 << 13 | 1 << 3)]);
    assert_eq!(m.step(CPU0, Op::Raise { vector: 0, error: None }), done());
    for (vector, error, r9) in [(6, None, 0x8000_0306), (13, Some(0x55), 0x55_8000_0b0d), (3, None, 0x8000_0603)] {
        let exit = exit_with(&mut m, Op::Raise { vector, error });
        assert_eq!((exit.rax, exit.r9), (0, r9));
        let fields = [0x4404, 0x4406].map(|encoding| m.vmcs_field(CPU0, 1, encoding).unwrap());
        assert_eq!(fields[0] | fields[1] << 32, r9);
        assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
    }
    for vector in [2, 18, 32, 255] {
        assert_eq!(m.step(CPU0, Op::Raise { vector, error: None }), Outcome::Fault(Fault::InvalidOpcode));
    }
    // The next exit has no event.
    assert_eq!(exit_with(&mut m, vmcall()).r9, 0);
}

#[test]
fn page_faults_are_filtered_by_their_error_code() {
    let fault = |code| Op::Raise { vector: 14, error: Some(code) };
    let filter = [(0x4006, 0x11), (0x4008, 0x11)];
    let selected = with(&[(EXCEPTIONS, 1 << 14), filter[0], filter[1]]);
    assert_eq!([0x11, 0x13, 0x1].map(|code| reason_of(&selected, fault(code))), [Some(0), Some(0), None]);
    let inverted = with(&filter);
    assert_eq!([0x11, 0x13, 0x1].map(|code| reason_of(&inverted, fault(code))), [None, None, Some(0)]);
}

#[test]
fn tdx_43_windows_open_when_the_l2_takes_the_event() {
    for (control, reason, blocked, rflags) in [(1 << 2, 7, 1, 0x202), (1 << 22, 8, 8, 2)] {
        let mut m = machine();
        assert_eq!(vp_wr(&mut m, vmcs(1, PRIMARY), control, control).rax, 0);
        assert_eq!(vp_wr(&mut m, vmcs(1, 0x4824), blocked, u64::MAX).rax, 0);
        grant(&mut m, PAGE, false, 1, RWX);
        prepare(&mut m, 1);
        set_register(&mut m, 1, 0x80, rflags);
        enter(&mut m, 1);
        assert_eq!(m.step(CPU0, write(PAGE, &[1])), done());
        exit_with(&mut m, vmcall());
        assert_eq!(vp_wr(&mut m, vmcs(1, 0x4824), 0, u64::MAX).rax, 0);
        enter(&mut m, 1);
        // The instruction did not run.
        assert_eq!(exit_with(&mut m, write(PAGE, &[2])).rax, reason);
        assert_eq!(m.peek(PAGE, 1, Some(0)), Some(alloc::vec![1]));
        assert_eq!(vp_wr(&mut m, vmcs(1, PRIMARY), 0, control).rax, 0);
        assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
        assert_eq!(m.step(CPU0, write(PAGE, &[2])), done());
    }
    // No interrupt without IF.
    assert_eq!(with(&[(PRIMARY, 1 << 2)]).step(CPU0, Op::Pause), done());
}

#[test]
fn tdx_46_a_deadline_that_has_passed_ends_the_run_until_it_is_disarmed() {
    const DEADLINE: u64 = 0xa020_0003_0000_0059;
    let mut m = machine();
    prepare(&mut m, 1);
    let after = m.steps() + 4;
    assert_eq!(vp_wr(&mut m, DEADLINE, after, u64::MAX).rax, 0);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, Op::Pause), done());
    for _ in 0..2 {
        assert_eq!(exit_with(&mut m, Op::Pause).rax, 52);
        enter(&mut m, 1);
    }
    exit_with(&mut m, Op::Pause);
    assert_eq!(vp_wr(&mut m, DEADLINE, u64::MAX, u64::MAX).rax, 0);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, Op::Pause), done());
    // One in the past fires at once, and of this VM alone.
    exit_with(&mut m, vmcall());
    assert_eq!(vp_wr(&mut m, DEADLINE, 0, u64::MAX).rax, 0);
    prepare(&mut m, 2);
    enter(&mut m, 2);
    assert_eq!(m.step(CPU0, Op::Pause), done());
}

#[test]
fn an_exit_leaves_the_registers_of_the_page_in_the_vmcs() {
    let mut m = machine();
    prepare(&mut m, 1);
    for (offset, value) in [(0x20, 0x1111), (0x90, 0x2222), (0x98, 0x31f0)] {
        set_register(&mut m, 1, offset, value);
    }
    enter(&mut m, 1);
    exit_with(&mut m, vmcall());
    let fields = [0x681c, 0x682a, 0x810, 0x6820, 0x681e].map(|encoding| m.vmcs_field(CPU0, 1, encoding));
    assert_eq!(fields, [0x1111, 0x2222, 0x31f0, 2, L2_ENTRY + 0x10].map(Some));
}
