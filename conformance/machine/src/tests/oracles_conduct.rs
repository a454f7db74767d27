//! O5 to O9 are shown to fire, and to keep still where nothing is wrong.

use super::*;
use crate::oracle::ProgressLimit;

/// A message page to the firmware under a VMPCK: number, then any payload (guest_request.csv).
fn message(key: &[u8; 32], seqno: u64, payload: &[u8]) -> Box<PageBytes> {
    use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

    let mut page = Box::new([0; 4096]);
    page[0x20..0x28].copy_from_slice(&seqno.to_le_bytes());
    // Algorithm, header version, header size, type, message version, size.
    page[0x30..0x38].copy_from_slice(&[1, 1, 0x60, 0, 5, 1, payload.len() as u8, 0]);
    let mut iv = [0; 12];
    iv[..8].copy_from_slice(&seqno.to_le_bytes());
    let mut text = payload.to_vec();
    let cipher = Aes256Gcm::new(&(*key).into());
    let tag = cipher.encrypt_inout_detached(&iv.into(), &page[0x30..0x60], text.as_mut_slice().into());
    page[..16].copy_from_slice(&tag.expect("short text"));
    page[0x60..0x60 + text.len()].copy_from_slice(&text);
    page
}

#[test]
fn o5_two_messages_under_one_number() {
    let mut m = machine();
    let key = *m.psp().vmpck(0).expect("exists");
    for payload in [&[1; 32], &[1; 32]] {
        m.psp_mut().observe(&message(&key, 1, payload));
        assert_eq!(at(&mut m, 0, Op::Pause), done());
    }
    silent(&mut m);
    m.psp_mut().observe(&message(&key, 1, &[2; 32]));
    assert_eq!(at(&mut m, 0, Op::Pause), done());
    assert_eq!(found(&m), ["O5"]);
}

#[test]
fn o6_who_asked_to_be_terminated_does_nothing_more() {
    let terminate = |m: &mut Machine| {
        assert_eq!(at(m, 1, Op::Wrmsr(0xc001_0130, 0x0001_0100)), done());
        assert_eq!(m.step(CPU0, Op::Vmgexit(REGS)), Outcome::Exit);
        assert!(m.vmrun(CPU0, vmsa_of(CPU0, 1)).is_ok());
    };
    let mut m = machine();
    terminate(&mut m);
    for op in [Op::Wrmsr(0xc001_0130, 0x100), Op::Pause] {
        assert_eq!(m.step(CPU0, op), done());
    }
    assert_eq!(m.step(CPU0, Op::Hlt), Outcome::Exit);
    assert!(m.vmrun(CPU0, vmsa_of(CPU0, 1)).is_ok());
    silent(&mut m);
    assert!(matches!(m.step(CPU0, Op::Rdmsr(0xc001_0131)), Outcome::Done(_)));
    assert_eq!(found(&m), ["O6"]);

    // Others go on only if the host lets them, and then it is the host's doing.
    let mut honest = machine();
    terminate(&mut honest);
    assert_eq!(on(&mut honest, CPU1, 0, Op::Pause), done());
    assert_eq!(found(&honest), ["O6"]);
    let mut liar = machine_with(|config| config.honest_host = false);
    terminate(&mut liar);
    assert_eq!(on(&mut liar, CPU1, 0, Op::Pause), done());
    silent(&mut liar);
}

#[test]
fn o7_registers_of_another_level_that_no_call_defines() {
    let vmsa = vmsa_of(CPU0, 1);
    let store = |offset: usize, value: u64| write(vmsa + offset as u64, &value.to_le_bytes());
    let mut m = machine();
    // Before the first run everything may be set up.
    assert_eq!(at(&mut m, 0, store(layout::RSP, 0x9000)), done());
    assert_eq!(at(&mut m, 1, Op::Pause), done());
    for (offset, value) in [
        (layout::RAX, 1),
        (layout::RCX, 1),
        (layout::RDX, 1),
        (layout::R8, 1),
        (layout::R9, 1),
        (layout::EFER, 0),
        (layout::EFER, layout::EFER_SVME),
        (layout::PCPU_ID, 0),
        (layout::GUEST_EXIT_CODE, u64::MAX),
        (layout::VINTR_CTRL, layout::VINTR_CTRL_BUSY),
        (layout::RSP, 0x9000),
    ] {
        assert_eq!(at(&mut m, 0, store(offset, value)), done());
    }
    silent(&mut m);
    for (offset, value) in [
        (layout::RSP, 0),
        (layout::RIP, 2),
        (layout::RBX, 1),
        (layout::EFER, 0x500),
        (layout::SEV_FEATURES, 3),
        (layout::XCR0, 7),
        (0x420, 1),
    ] {
        let mut m = m.clone();
        assert_eq!(at(&mut m, 0, store(offset, value)), done());
        assert_eq!(found(&m), ["O7"], "{offset:#x}");
    }
    let mut zeroed = m.clone();
    assert_eq!(at(&mut zeroed, 0, zero(vmsa, 1)), done());
    assert_eq!(found(&zeroed), ["O7"]);
    // Its own VMSAs are its own business, and a page without the flag is no VMSA.
    assert_eq!(at(&mut m, 0, write(vmsa_of(CPU1, 0) + layout::RSP as u64, &[1])), done());
    assert_eq!(at(&mut m, 0, Op::Rmpadjust { gpa: vmsa, rcx: 0, rdx: 1 }), rmpadjusted(0));
    assert_eq!(at(&mut m, 0, zero(vmsa, 1)), done());
    silent(&mut m);
}

/// VMPL1 calls with these registers and VMPL0 has the vCPU.
fn call(m: &mut Machine, rax: u64, rcx: u64) {
    assert_eq!(at(m, 1, Op::Vmgexit(Regs { rax, rcx, ..REGS })), Outcome::Exit);
    assert!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).is_ok());
}

fn steps_until_o8(m: &mut Machine) -> u64 {
    for step in 1..20_000 {
        assert_eq!(m.step(CPU0, Op::Pause), done());
        if found(m) == ["O8"] {
            return step;
        }
    }
    0
}

#[test]
fn o8_a_call_that_takes_too_long() {
    let mut m = machine();
    switch(&mut m, CPU0, 0);
    call(&mut m, 0x1_0000_0000, 0);
    assert_eq!(steps_until_o8(&mut m), 65);
}

#[test]
fn o8_counts_entries_and_the_pages_of_large_ones() {
    let mut m = machine();
    m.set_progress_limit(ProgressLimit { base: 10, per_entry: 20, per_page: 2 });
    grant(&mut m, PAGE, false, 1, RWX);
    let list: Vec<u8> = [3u64, 0x7000 | 4, 0x20_0000 | 5, 0x40_0000 | 1].iter().flat_map(|q| q.to_le_bytes()).collect();
    assert_eq!(at(&mut m, 1, write(PAGE, &list)), done());
    call(&mut m, 1, PAGE);
    assert_eq!(steps_until_o8(&mut m), 10 + 3 * 20 + 2 * 2 * 512 + 1);
}

#[test]
fn o8_ends_when_vmpl0_offers_the_vcpu_and_when_nobody_called() {
    let mut m = machine();
    switch(&mut m, CPU0, 0);
    assert_eq!(steps_until_o8(&mut m), 0);
    call(&mut m, 0, 0);
    assert_eq!(m.step(CPU0, Op::Wrmsr(0xc001_0130, 1 << 32 | 0x16)), done());
    assert_eq!(m.step(CPU0, Op::Vmgexit(REGS)), Outcome::Exit);
    // A host that comes back to VMPL0 at once takes nobody's steps.
    assert!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).is_ok());
    assert_eq!(steps_until_o8(&mut m), 0);
    // A request in the GHCB page counts too.
    call(&mut m, 0, 0);
    assert!(m.host_write(0x60_0390, &0x8000_0018u64.to_le_bytes()));
    assert_eq!(m.step(CPU0, Op::Wrmsr(0xc001_0130, 0x60_0000)), done());
    assert_eq!(m.step(CPU0, Op::Vmgexit(REGS)), Outcome::Exit);
    assert!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).is_ok());
    assert_eq!(steps_until_o8(&mut m), 0);
}

#[test]
fn o8_a_host_that_prolongs_a_call_but_no_loop_of_vmpl0() {
    let mut m = machine_with(|config| config.policy = crate::host::Policy::LieMsr);
    call(&mut m, 0, 0);
    // Waits and requests to such a host are not VMPL0's own work; everything between them is.
    for _ in 0..10 {
        for _ in 0..64 {
            assert_eq!(m.step(CPU0, Op::Pause), done());
        }
        for _ in 0..63 {
            assert_eq!(m.step(CPU0, Op::Wrmsr(0xc001_0130, 0x2)), done());
        }
        assert_eq!(m.step(CPU0, Op::Vmgexit(REGS)), Outcome::Exit);
        assert!(m.vmrun(CPU0, vmsa_of(CPU0, 0)).is_ok());
    }
    silent(&mut m);
    for _ in 0..65 {
        assert_eq!(m.step(CPU0, Op::Tlbsync), done());
    }
    assert_eq!(found(&m), ["O8"]);
}

#[test]
fn o9_the_program_of_vmpl0_ends_or_terminates() {
    let mut m = machine();
    assert_eq!(at(&mut m, 1, Op::End), Outcome::Exit);
    silent(&mut m);
    let mut allowed = m.clone();
    allowed.allow_monitor_end(true);
    let mut liar = machine_with(|config| config.policy = crate::host::Policy::NeverSwitch);
    for (machine, expected) in [(&mut m, &["O9"][..]), (&mut allowed, &[]), (&mut liar, &[])] {
        assert!(machine.vmrun(CPU0, vmsa_of(CPU0, 0)).is_ok());
        assert_eq!(machine.step(CPU0, Op::End), Outcome::Exit);
        assert_eq!(found(machine), expected);
    }
    let mut m = machine();
    assert_eq!(at(&mut m, 0, Op::Wrmsr(0xc001_0130, 0x100)), done());
    assert_eq!(m.step(CPU0, Op::Vmgexit(REGS)), Outcome::Exit);
    assert_eq!(found(&m), ["O9"]);
}
