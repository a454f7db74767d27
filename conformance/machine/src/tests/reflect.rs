//! Instructions that raise #VC, and what becomes of them with ReflectVC; devices; the right to shadow stacks.

use super::vmsa::{field, set_field};
use super::*;
use crate::Resume;
use crate::rmp::{code, npf};

const FEATURES: u64 = layout::features::SNP_ACTIVE | layout::features::REFLECT_VC;

/// A machine whose VMPL 1 reflects on vCPU 0, and its VMSA.
fn reflecting() -> (Machine, u64) {
    let (mut m, vmsa) = (machine(), vmsa_of(CPU0, 1));
    set_field(&mut m, vmsa, layout::SEV_FEATURES, FEATURES);
    (m, vmsa)
}

/// An instruction, the code and EXITINFO1 of its #VC, and its bytes.
fn instructions() -> [(Op, u64, u64, u64); 6] {
    [
        (Op::Cpuid { leaf: 7, subleaf: 1 }, 0x72, 0, 2),
        (Op::Rdmsr(0x10), 0x7c, 0, 2),
        (Op::Wrmsr(0x10, 5), 0x7c, 1, 2),
        (Op::In { port: 0x3fd, size: 1 }, 0x7b, 0x3fd_0211, 1),
        (Op::Out { port: 0xcf8, size: 4, value: 9 }, 0x7b, 0xcf8_0240, 1),
        (Op::Intercepted { code: 0x89, info1: 0x55, length: 2 }, 0x89, 0x55, 2),
    ]
}

#[test]
fn vc_is_an_exit_with_its_own_code_in_the_vmsa_and_no_detail_for_the_host() {
    for (op, code, info1, length) in instructions() {
        let (mut m, vmsa) = reflecting();
        assert_eq!(at(&mut m, 1, op.clone()), Outcome::Exit);
        let seen = m.exit_info(CPU0).expect("an exit");
        assert_eq!((seen.code, seen.info1, seen.info2), (0x5d, 0, 0), "{op:?}");
        let told = [layout::GUEST_EXIT_CODE, layout::GUEST_EXITINFO1, layout::GUEST_EXITINFO2, layout::GUEST_NRIP];
        assert_eq!(told.map(|offset| field(&m, vmsa, offset)), [code, info1, 0, 0x1000 + length], "{op:?}");
        assert_eq!(field(&m, vmsa, layout::RIP), 0x1000, "it has not retired");
    }
}

#[test]
fn without_reflect_vc_and_at_vmpl0_the_level_gets_the_exception_itself() {
    for (op, code, ..) in instructions() {
        assert_eq!(at(&mut machine(), 1, op.clone()), Outcome::Fault(Fault::Vc { code, gpa: 0 }));
        let mut m = machine();
        set_field(&mut m, vmsa_of(CPU1, 0), layout::SEV_FEATURES, FEATURES);
        assert_eq!(on(&mut m, CPU1, 0, op), Outcome::Fault(Fault::Vc { code, gpa: 0 }));
    }
}

#[test]
fn a_reflected_instruction_is_over_when_rip_is_behind_it_and_at_no_other_place() {
    let answers = [
        Answer::Cpuid([0xa, 0xb, 0xc, 0xd]),
        Answer::Value(0xd_0000_000a),
        Answer::None,
        Answer::Value(0x0a),
        Answer::None,
        Answer::None,
    ];
    for ((op, .., length), answer) in instructions().into_iter().zip(answers) {
        let (mut m, vmsa) = reflecting();
        assert_eq!(at(&mut m, 1, op.clone()), Outcome::Exit);
        let key = m.exit_info(CPU0).expect("an exit").key;
        for (offset, value) in [(layout::RAX, 0xa), (layout::RBX, 0xb), (layout::RCX, 0xc), (layout::RDX, 0xd)] {
            set_field(&mut m, vmsa, offset, value);
        }
        for wrong in [0x1000, 0x1000 + length + 1, 0] {
            set_field(&mut m, vmsa, layout::RIP, wrong);
            let mut copy = m.clone();
            // Whatever the host says of it.
            copy.complete(key, Resume::Complete(Answer::None));
            let entry = switch(&mut copy, CPU0, 1).expect("entered");
            assert_eq!(entry.resume, Resume::Retry, "{op:?} {wrong:#x}");
        }
        set_field(&mut m, vmsa, layout::RIP, 0x1000 + length);
        let entry = switch(&mut m, CPU0, 1).expect("entered");
        assert_eq!(entry.resume, Resume::Complete(answer), "{op:?}");
    }
}

#[test]
fn ports_have_1_2_or_4_bytes() {
    for size in [0, 3, 5, 8, 255] {
        let refused = Outcome::Fault(Fault::InvalidOpcode);
        assert_eq!(at(&mut machine(), 1, Op::In { port: 1, size }), refused);
        assert_eq!(at(&mut machine(), 1, Op::Out { port: 1, size, value: 0 }), refused);
    }
}

#[test]
fn hlt_is_no_vc_and_leaves_with_rip_behind_it() {
    let (mut m, vmsa) = reflecting();
    assert_eq!(at(&mut m, 1, Op::Hlt), Outcome::Exit);
    assert_eq!(m.exit_info(CPU0).map(|exit| exit.code), Some(0x78));
    assert_eq!((field(&m, vmsa, layout::GUEST_EXIT_CODE), field(&m, vmsa, layout::RIP)), (0x78, 0x1001));
    assert_eq!(m.vmrun(CPU0, vmsa).map(|entry| entry.resume), Ok(Resume::Complete(Answer::None)));
}

#[test]
fn rmp_047_a_page_marked_as_a_device_is_vc_and_gives_no_next_rip() {
    let (mut m, vmsa) = reflecting();
    m.mark_device(PAGE, true);
    for (op, access) in [(read(PAGE + 8, 8), 0), (write(PAGE + 8, &[1]), npf::WRITE)] {
        assert_eq!(at(&mut m, 1, op.clone()), Outcome::Exit);
        assert_eq!(m.exit_info(CPU0).map(|exit| exit.code), Some(0x5d));
        assert_eq!(field(&m, vmsa, layout::GUEST_EXIT_CODE), 0x400);
        let info = npf::RESERVED | npf::PRESENT | npf::FINAL | access;
        assert_eq!(field(&m, vmsa, layout::GUEST_EXITINFO1), info);
        assert_eq!(field(&m, vmsa, layout::GUEST_EXITINFO2), PAGE + 8);
        assert_eq!(field(&m, vmsa, layout::GUEST_NRIP), field(&m, vmsa, layout::RIP));
        assert_eq!(m.vmrun(CPU0, vmsa).map(|entry| entry.resume), Ok(Resume::Retry));
    }
    let shared = Op::Read { gpa: PAGE, len: 1, private: false };
    let fault = Outcome::Fault(Fault::Vc { code: 0x400, gpa: PAGE });
    assert_eq!(on(&mut m, CPU1, 2, shared.clone()), fault, "without ReflectVC it is the level's own");
    m.mark_device(PAGE, false);
    assert!(matches!(on(&mut m, CPU1, 2, shared), Outcome::Done(_)));
}

#[test]
fn vmpl_perms_shadow_stack_right_counts_with_vmpl_sss_alone() {
    let rw = 0x3;
    for (features, mask, allowed) in [(0, rw, true), (8, rw, false), (8, rw | 0x10, true)] {
        let (mut m, vmsa) = (machine(), vmsa_of(CPU0, 1));
        let features = if features == 0 { 0 } else { layout::features::VMPL_SSS };
        set_field(&mut m, vmsa, layout::SEV_FEATURES, layout::features::SNP_ACTIVE | features);
        assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), code::SUCCESS);
        assert!(matches!(at(&mut m, 0, pvalidate(PAGE, false, true)), Outcome::Done(_)));
        assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, mask)), Outcome::Done(Answer::Rmpadjust { eax: 0 }));
        let done = at(&mut m, 1, Op::ShadowStack { gpa: PAGE });
        if allowed {
            assert_eq!(done, Outcome::Done(Answer::None));
        } else {
            assert_eq!(done, Outcome::Exit);
            let info = m.exit_info(CPU0).expect("an exit").info1;
            let denied = npf::RMP | npf::VMPL | npf::SSS | npf::SHADOW_STACK | npf::WRITE;
            assert_eq!(info & denied, denied);
        }
    }
}

#[test]
fn vmpl_perms_shadow_stack_right_is_reserved_on_a_processor_without_it() {
    let mut m = machine_with(|config| config.vmpl_sss = false);
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), code::SUCCESS);
    assert!(matches!(at(&mut m, 0, pvalidate(PAGE, false, true)), Outcome::Done(_)));
    let adjusted = |m: &mut Machine, mask| at(m, 0, rmpadjust(PAGE, false, 1, mask));
    assert_eq!(adjusted(&mut m, 0x13), Outcome::Done(Answer::Rmpadjust { eax: code::FAIL_INPUT }));
    assert_eq!(adjusted(&mut m, 0x03), Outcome::Done(Answer::Rmpadjust { eax: code::SUCCESS }));
}

#[test]
fn rmp_014_and_015_vmpl1_gives_vmpl2_and_3_what_it_has_itself() {
    let mut m = machine();
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), code::SUCCESS);
    assert!(matches!(at(&mut m, 0, pvalidate(PAGE, false, true)), Outcome::Done(_)));
    assert_eq!(at(&mut m, 0, rmpadjust(PAGE, false, 1, 0x5)), Outcome::Done(Answer::Rmpadjust { eax: 0 }));
    let adjusted = |m: &mut Machine, vmpl, mask| at(m, 1, rmpadjust(PAGE, false, vmpl, mask));
    for target in [2, 3] {
        for mask in 0..0x20 {
            let eax = if mask & !0x5 == 0 { code::SUCCESS } else { code::FAIL_PERMISSION };
            assert_eq!(adjusted(&mut m, target, mask), Outcome::Done(Answer::Rmpadjust { eax }), "{target} {mask:#x}");
        }
    }
    for target in [0, 1, 4, 255] {
        let refused = Outcome::Done(Answer::Rmpadjust { eax: code::FAIL_PERMISSION });
        assert_eq!(adjusted(&mut m, target, 0x1), refused, "{target}");
    }
    assert_eq!(m.rmp_entry(PAGE).map(|entry| entry.perms), Some([0x1f, 0x5, 0x5, 0x5]));
}
