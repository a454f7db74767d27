//! Each liar lies in the way it says, and only in that way.

use super::*;
use crate::tdx::host::{Policy, all_policies};
use crate::tdx::status::{
    L2_EXIT_HOST_ROUTED_ASYNC, L2_EXIT_HOST_ROUTED_TDVMCALL, L2_EXIT_PENDING_INTERRUPT, L2_SEPT_WALK_FAILED,
    OPERAND_BUSY, PAGE_SIZE_MISMATCH, PENDING_INTERRUPT, vmcall as sub,
};

fn liar(policy: Policy) -> Machine {
    let mut m = machine_with(|config| config.shared = alloc::vec![(BLOCK + 0x40_0000, 0x2000)]);
    m.host_state_mut().set_policy(policy);
    m
}

#[test]
fn busy_so_often_and_no_longer() {
    let mut m = liar(Policy::Busy(2));
    assert_eq!([0; 3].map(|_| accept(&mut m, PAGE, 0)), [OPERAND_BUSY | 1, OPERAND_BUSY | 1, 0]);
    let mut m = liar(Policy::BusyEach(1));
    assert!(m.host_add_page(PAGE, false));
    assert_eq!([0; 4].map(|_| accept(&mut m, PAGE, 0)), [OPERAND_BUSY | 1, 0, OPERAND_BUSY | 1, 0x0b0a_0000_0000]);
    assert_eq!(call(&mut m, leaf::MR_RTMR_EXTEND, Regs { rcx: VAPIC, ..NONE }).rax, OPERAND_BUSY | 168);
    let busy = attr_wr(&mut liar(Policy::Busy(1)), PAGE, 0, part(1, RWX), part(1, 0xf));
    assert_eq!((busy.rax, busy.rcx, busy.rdx), (OPERAND_BUSY | 1, 0, 0));
}

#[test]
fn withholds_table_pages_in_both_ways() {
    let mut m = liar(Policy::NoTables { exits: false });
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    for _ in 0..3 {
        let failed = attr_wr(&mut m, PAGE, 0, part(1, RWX), part(1, 0x7f));
        assert_eq!(failed.rax, L2_SEPT_WALK_FAILED | 1 << 16 | 1);
    }
    let mut m = liar(Policy::NoTables { exits: true });
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    let op = tdcall(leaf::MEM_PAGE_ATTR_WR, Regs { rcx: PAGE, rdx: part(1, RWX), r8: part(1, 0x7f), ..NONE });
    assert_eq!(m.step(CPU0, op), Outcome::Exit);
    assert_eq!(stopped(&mut m, CPU0), Some(Stop::EptViolation { gpa: PAGE, level: 0 }));
}

#[test]
fn resumes_l1_every_so_many_steps_of_an_l2() {
    let mut m = in_l2();
    m.host_state_mut().set_policy(Policy::ResumeL1 { every: 3 });
    let mut asynchronous = 0;
    for _ in 0..9 {
        if m.step(CPU0, Op::Pause) == Outcome::Exit {
            assert_eq!(back_in_l1(&mut m).rax, L2_EXIT_HOST_ROUTED_ASYNC | 1);
            assert_eq!(enter(&mut m, 1).resume, Resume::Retry);
            asynchronous += 1;
        }
    }
    assert_eq!(asynchronous, 3);

    let mut m = machine();
    assert_eq!(vp_wr(&mut m, 0xa020_0003_0000_0051, 2, 7).rax, 0);
    prepare(&mut m, 1);
    enter(&mut m, 1);
    m.host_state_mut().set_policy(Policy::ResumeL1 { every: 100 });
    let exit = exit_with(&mut m, Op::Tdcall(Regs { rcx: 0xff00, r11: sub::WBINVD, ..NONE }));
    assert_eq!(exit.rax, L2_EXIT_HOST_ROUTED_TDVMCALL | 77);
}

#[test]
fn interrupts_an_l2_without_l1s_knowledge() {
    let mut m = in_l2();
    m.host_state_mut().set_policy(Policy::Interrupt { every: 2 });
    assert_eq!(m.step(CPU0, Op::Pause), done());
    assert_eq!(m.step(CPU0, Op::Pause), Outcome::Exit);
    assert!(matches!(m.host(CPU0), HostStep::Entered(Entry { level: 1, resume: Resume::Retry, .. })));
}

#[test]
fn posts_interrupts_that_refuse_every_entry() {
    let mut m = machine();
    prepare(&mut m, 1);
    m.host_state_mut().set_policy(Policy::PostInterrupts { every: 1 });
    for _ in 0..4 {
        assert_eq!(status_of(&mut m, enter_op(1, 0)), PENDING_INTERRUPT);
    }
    m.host_state_mut().set_policy(Policy::PostInterrupts { every: 3 });
    let mut left = 0;
    for _ in 0..6 {
        if m.running_level(CPU0) == Some(0) {
            let _ = l1(&mut m, enter_op(1, 0));
        } else if m.step(CPU0, Op::Pause) == Outcome::Exit {
            assert_eq!(back_in_l1(&mut m).rax, L2_EXIT_PENDING_INTERRUPT | 1);
            left += 1;
        }
        if m.running(CPU0).is_none() {
            assert!(matches!(m.host(CPU0), HostStep::Entered(Entry { level: 1, .. })));
        }
    }
    assert_eq!(left, 2);
}

#[test]
fn map_gpa_cursors_lie_as_they_say() {
    let ask = |policy| {
        let mut m = liar(policy);
        for page in 0..4 {
            assert_eq!(accept(&mut m, PAGE + page * 0x1000, 0), 0);
        }
        let answer = host_call(&mut m, sub::MAP_GPA, PAGE | SHARED, 0x4000);
        let shared = (0..4).filter(|page| m.host_is_shared(PAGE + page * 0x1000)).count();
        (answer.r10, answer.r11 ^ SHARED, shared)
    };
    assert_eq!(ask(Policy::MapGpaChunks(3)), (1, PAGE + 0x3000, 3));
    assert_eq!(ask(Policy::MapGpaChunks(4)), (0, SHARED, 4));
    assert_eq!(ask(Policy::MapGpaStuck), (1, PAGE, 0));
    assert_eq!(ask(Policy::MapGpaBackwards), (1, PAGE - 0x1000, 1));
    assert_eq!(ask(Policy::MapGpaOutside), (1, PAGE + 0x5000, 1));
    assert_eq!(ask(Policy::MapGpaAtEnd), (1, PAGE + 0x4000, 4));
    assert_eq!(ask(Policy::MapGpaUnaligned), (1, PAGE + 0xfff, 1));
    assert_eq!(ask(Policy::MapGpaOtherBit), (1, (PAGE + 0x1000) | SHARED, 1));
    assert_eq!(ask(Policy::MapGpaRefuse(0x1234)), (0x1234, SHARED, 0));
    assert_eq!(ask(Policy::MapGpaPretend), (0, SHARED, 0));
}

#[test]
fn takes_pages_away() {
    let attacked = |policy: Policy| {
        let mut m = machine();
        grant(&mut m, BLOCK, true, 1, RWX);
        m.host_state_mut().set_policy(policy.based_at(BLOCK + 0x3000));
        assert_eq!(m.step(CPU1, Op::Pause), done());
        m
    };
    let touch = |m: &mut Machine| {
        assert_eq!(m.step(CPU0, read(BLOCK + 0x3000, 1)), Outcome::Exit);
        stopped(m, CPU0)
    };
    let lost = Some(Stop::EptViolation { gpa: BLOCK + 0x3000, level: 0 });
    let mut m = attacked(Policy::RemovePage { gpa: 0, after_steps: 0 });
    assert_eq!((m.sept_entry(BLOCK + 0x3000), touch(&mut m)), (None, lost));
    let mut m = attacked(Policy::ReaddPage { gpa: 0, after_steps: 0 });
    assert_eq!(m.sept_entry(BLOCK + 0x3000).map(|entry| (entry.accepted, entry.aliases)), Some((false, [0; 3])));
    assert_eq!(touch(&mut m), lost);
    let mut m = attacked(Policy::BlockPage { gpa: 0, after_steps: 0 });
    assert_eq!((m.sept_entry(BLOCK).map(|entry| entry.blocked), touch(&mut m)), (Some(true), lost));
    // The page next to it stays.
    let mut m = attacked(Policy::RemovePage { gpa: 0, after_steps: 0 });
    assert_eq!(l1(&mut m, read(BLOCK + 0x4000, 1)), bytes(&[0]));
    silent(&mut m);
}

#[test]
fn cannot_alias_memory_unless_the_module_lets_it() {
    let attack = Policy::AliasPage { from: 0, to: 0x1000, after_steps: 0 }.based_at(PAGE);
    for rules in [&[][..], &["PAMT"][..]] {
        let mut m = broken(rules);
        for page in 0..2 {
            assert_eq!(accept(&mut m, PAGE + page * 0x1000, 0), 0);
        }
        m.host_state_mut().set_policy(attack.clone());
        assert_eq!(m.step(CPU1, Op::Pause), done());
        assert_eq!(found(&m).contains(&"O2"), !rules.is_empty());
        assert_eq!(m.sept_entry(PAGE + 0x1000).map(|entry| entry.accepted), Some(false));
    }
}

#[test]
fn splits_every_large_page() {
    let mut m = machine();
    grant(&mut m, BLOCK, true, 1, RWX);
    m.host_state_mut().set_policy(Policy::SplitAll);
    host_call(&mut m, sub::WBINVD, 0, 0);
    assert_eq!(m.sept_entry(BLOCK).map(|entry| (entry.large, entry.aliases[0])), Some((false, 0x800f)));
    assert_eq!(attr_wr(&mut m, BLOCK, 1, part(1, RWX), part(1, 0x7f)).rax, PAGE_SIZE_MISMATCH | 1);
}

#[test]
fn quotes_lie() {
    let buffer = BLOCK + 0x40_0000;
    let ask = |policy, times: u8| {
        let mut m = liar(policy);
        for byte in 1..=times {
            let mut header = [0; 24];
            header[0] = 1;
            header[16..20].copy_from_slice(&1024u32.to_le_bytes());
            assert!(m.host_write(buffer, &header) && m.host_write(buffer + 24, &[byte; 1024]));
            assert_eq!(host_call(&mut m, sub::GET_QUOTE, buffer | SHARED, 0x2000).r10, 0);
        }
        let mut out = [0; 24 + 8 + 1];
        m.host_read(buffer, &mut out);
        let word =
            |range: core::ops::Range<usize>| out[range].iter().rev().fold(0u64, |all, b| all << 8 | u64::from(*b));
        (word(8..16), word(20..24), out[24], out[32])
    };
    assert_eq!(ask(Policy::Honest, 2), (0, 1032, b'T', 2));
    assert_eq!(ask(Policy::QuoteReplay, 2), (0, 1032, b'T', 1));
    assert_eq!(ask(Policy::QuoteFlip(8), 1), (0, 1032, b'T', 0));
    assert_eq!(ask(Policy::QuoteError(0x8000_0000_0000_0001), 1).0, 0x8000_0000_0000_0001);
    assert_eq!(ask(Policy::QuoteInFlight, 1).0, u64::MAX);
    assert_eq!(ask(Policy::QuoteOversize, 1).1, 0xffff_ffff);
}

#[test]
fn answers_lie() {
    assert_eq!(host_call(&mut liar(Policy::LieCpuid), sub::CPUID, 1, 0).r12, 0xffff_ffff);
    let msr = host_call(&mut liar(Policy::LieMsr), sub::RDMSR, 0x10, 0);
    assert_eq!((msr.r10, msr.r11), (0, u64::MAX));
    assert_eq!(host_call(&mut liar(Policy::VmcallStatus(7)), sub::WBINVD, 0, 0).r10, 7);
}

#[test]
fn swallows_wake_ups() {
    let mut m = liar(Policy::NoKick);
    prepare(&mut m, 1);
    assert_eq!(host_call(&mut m, sub::WRMSR, 0x830, 3 << 18 | 2 << 18).r10, 0);
    enter(&mut m, 1);
}

#[test]
fn does_not_run_a_vcpu_or_stops_all() {
    let only = Policy::OnlyOn { vcpu: CPU1, inner: alloc::boxed::Box::new(Policy::NeverRun) };
    let mut m = liar(only);
    assert_eq!(m.step(CPU1, Op::Pause), Outcome::Exit);
    assert_eq!((m.host(CPU1), m.host(CPU1)), (HostStep::Parked, HostStep::Parked));
    assert_eq!(m.step(CPU0, Op::Pause), done());
    let mut m = liar(Policy::Honest);
    let exits = m.host_state().exits();
    m.host_state_mut().set_policy(Policy::StopAfter(exits + 1));
    assert_eq!(host_call(&mut m, sub::WBINVD, 0, 0).r10, 0);
    assert_eq!(m.step(CPU0, Op::Pause), Outcome::Exit);
    assert_eq!(stopped(&mut m, CPU0), Some(Stop::Refused));
}

#[test]
fn keeps_a_dead_td_alive_in_whole_or_in_part() {
    let fatal = || tdcall(leaf::VP_VMCALL, Regs { rcx: 0xff00, r11: sub::FATAL_ERROR, ..NONE });
    let mut m = liar(Policy::IgnoreFatalError);
    assert!(matches!(on(&mut m, CPU0, fatal()), Outcome::Done(_)));
    let mut m = liar(Policy::StopOneOnly);
    assert_eq!(m.step(CPU0, fatal()), Outcome::Exit);
    assert_eq!(stopped(&mut m, CPU0), Some(Stop::FatalError(0)));
    assert_eq!(m.step(CPU1, Op::Pause), done());
}

#[test]
fn lies_only_after_so_many_exits() {
    let mut m = machine();
    let exits = m.host_state().exits();
    let inner = alloc::boxed::Box::new(Policy::VmcallStatus(7));
    m.host_state_mut().set_policy(Policy::After { exits: exits + 1, inner });
    assert_eq!([0; 2].map(|_| host_call(&mut m, sub::WBINVD, 0, 0).r10), [0, 7]);
}

#[test]
fn the_catalogue_has_every_policy() {
    let names: Vec<_> = all_policies().into_iter().map(|(_, policy, _)| alloc::format!("{policy:?}")).collect();
    for kind in [
        "Busy(",
        "BusyEach",
        "NoTables",
        "ResumeL1",
        "Interrupt",
        "PostInterrupts",
        "MapGpaChunks",
        "MapGpaStuck",
        "MapGpaBackwards",
        "MapGpaOutside",
        "MapGpaAtEnd",
        "MapGpaUnaligned",
        "MapGpaOtherBit",
        "MapGpaRefuse",
        "MapGpaPretend",
        "ReaddPage",
        "RemovePage",
        "BlockPage",
        "AliasPage",
        "SplitAll",
        "QuoteError",
        "QuoteInFlight",
        "QuoteFlip",
        "QuoteReplay",
        "QuoteOversize",
        "LieCpuid",
        "LieMsr",
        "VmcallStatus",
        "NoKick",
        "NeverRun",
        "StopAfter",
        "IgnoreFatalError",
        "StopOneOnly",
    ] {
        assert!(names.iter().any(|name| name.starts_with(kind)), "{kind}");
    }
}
