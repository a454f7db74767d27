//! Instructions on registers: exact results.

use x86_64::PhysAddr;

use super::super::*;
use super::mock::*;
use crate::abi::sev_features::SevStatus;
use crate::host::{AddressSize, MonitorOperands, PortAccess, PortSize};
use crate::insn::Gpr;

/// A register of the mock that nobody wrote.
const fn untouched(gpr: Gpr) -> u64 {
    0x1111_2222_0000_0000 | (gpr.number() as u64) << 8 | 0x80
}

const LOW: u64 = VALUE & 0xffff_ffff;
const HIGH: u64 = VALUE >> 32;

#[test]
fn msrs_go_through_edx_eax() {
    let mut scene = Scene::new(&[0x0f, 0x32]).with(Gpr::RCX, 0xffff_ffff_c000_0080);
    scene.done(ExitCode::MSR, 2);
    assert_eq!((scene.gpr(Gpr::RAX), scene.gpr(Gpr::RDX)), (LOW, HIGH));
    assert_eq!(scene.host.asked, [Asked::ReadMsr(0xc000_0080)]);

    let mut scene = Scene::new(&[0x0f, 0x30]).with(Gpr::RCX, 0x277).with(Gpr::RAX, VALUE).with(Gpr::RDX, !0);
    scene.done(ExitCode::MSR, 2);
    assert_eq!(scene.host.asked, [Asked::WriteMsr(0x277, 0xffff_ffff_0000_0000 | LOW)]);
    assert_eq!(scene.gpr(Gpr::RAX), VALUE);
}

#[test]
fn msrs_that_the_host_must_not_intercept_are_never_asked_for() {
    for bytes in [[0x0f, 0x32], [0x0f, 0x30]] {
        for msr in [0xc001_0130, 0xc001_0131] {
            let mut scene = Scene::new(&bytes).with(Gpr::RCX, msr.into());
            assert_eq!(scene.refused(ExitCode::MSR), Err(VcError::ProtectedMsr { msr }));
        }
        assert_eq!(Scene::new(&bytes).with(Gpr::RCX, 0xc001_f000).refused(ExitCode::MSR), GP);
    }
}

#[test]
fn the_call_area_is_told_by_the_guest_itself() {
    let scene = |bytes: [u8; 2]| {
        let mut scene = Scene::new(&bytes).with(Gpr::RCX, 0xc001_f000);
        scene.call_area = Some(PhysAddr::new(0x1_2345_6000));
        scene
    };
    let mut read = scene([0x0f, 0x32]);
    read.done(ExitCode::MSR, 2);
    assert_eq!((read.gpr(Gpr::RAX), read.gpr(Gpr::RDX)), (0x2345_6000, 1));
    assert_eq!(read.host.asked, []);
    assert_eq!(scene([0x0f, 0x30]).refused(ExitCode::MSR), GP);
}

#[test]
fn counters_go_to_edx_eax() {
    for (code, bytes, asked) in [
        (ExitCode::RDTSC, &[0x0f, 0x31][..], Asked::Rdtsc),
        (ExitCode::RDTSCP, &[0x0f, 1, 0xf9], Asked::Rdtscp),
        (ExitCode::RDPMC, &[0x0f, 0x33], Asked::Rdpmc(0x180)),
    ] {
        let mut scene = Scene::new(bytes);
        scene.done(code, bytes.len() as u64);
        assert_eq!((scene.gpr(Gpr::RAX), scene.gpr(Gpr::RDX)), (LOW, HIGH));
        let rcx = if code == ExitCode::RDTSCP { 0x77 } else { untouched(Gpr::RCX) };
        assert_eq!(scene.gpr(Gpr::RCX), rcx);
        assert_eq!(scene.host.asked, [asked]);
    }
}

#[test]
fn a_secure_counter_and_virtual_debug_registers_cannot_be_intercepted() {
    for (code, bytes, feature) in [
        (ExitCode::RDTSC, &[0x0f, 0x31][..], SevStatus::SECURE_TSC),
        (ExitCode::RDTSCP, &[0x0f, 1, 0xf9], SevStatus::SECURE_TSC),
        (ExitCode::DR7_READ, &[0x0f, 0x21, 0xf8], SevStatus::DEBUG_VIRTUALIZATION),
        (ExitCode::DR7_WRITE, &[0x0f, 0x23, 0xfd], SevStatus::DEBUG_VIRTUALIZATION),
    ] {
        let mut scene = ready(code, bytes);
        scene.sev_status |= feature;
        assert_eq!(scene.refused(code), FALSE_EXIT);
    }
}

#[test]
fn dr7_is_kept_here_and_the_host_is_only_told() {
    let mut scene = Scene::new(&[0x0f, 0x23, 0xfd, 0x0f, 0x21, 0xfb]).with(Gpr::RBP, 0xffff_ffff);
    scene.done(ExitCode::DR7_WRITE, 3);
    assert_eq!(scene.host.asked, [Asked::WriteDr7(0xffff_27ff)]);
    scene.done(ExitCode::DR7_READ, 3);
    assert_eq!(scene.gpr(Gpr::RBX), 0xffff_27ff);
    assert_eq!(scene.host.asked.len(), 1);

    let mut scene = Scene::new(&[0x0f, 0x23, 0xfd]).with(Gpr::RBP, 1 << 32);
    assert_eq!(scene.refused(ExitCode::DR7_WRITE), GP);
    assert_eq!(scene.context.dr7, 0x400);
}

#[test]
fn vmmcall_shows_one_register_and_the_privilege_level() {
    let mut scene = Scene::new(&[0x0f, 1, 0xd9]).with(Gpr::RAX, 9).at_cpl(3);
    scene.done(ExitCode::VMMCALL, 3);
    assert_eq!(scene.host.asked, [Asked::Vmmcall(9, 3)]);
    assert_eq!(scene.gpr(Gpr::RAX), VALUE);
}

#[test]
fn cache_and_wait_instructions_change_rip_only() {
    for (code, bytes, asked) in [
        (ExitCode::WBINVD, &[0x0f, 0x09][..], Asked::Wbinvd),
        (ExitCode::WBINVD, &[0xf3, 0x0f, 0x09], Asked::Wbinvd),
        (
            ExitCode::MONITOR,
            &[0x0f, 1, 0xc8],
            Asked::Monitor(MonitorOperands { at: None, rax: untouched(Gpr::RAX), ecx: 0x180, edx: 0x280 }),
        ),
        (ExitCode::MWAIT, &[0x0f, 1, 0xc9], Asked::Mwait(0x80, 0x180)),
    ] {
        let mut scene = Scene::new(bytes);
        let before = scene.context.registers.gprs;
        scene.done(code, bytes.len() as u64);
        assert_eq!((scene.context.registers.gprs, scene.host.asked), (before, [asked].into()));
    }
}

#[test]
fn ports_read_and_write_parts_of_rax() {
    let access = |port, size| PortAccess { port, size, address: AddressSize::Bits64 };
    for (bytes, port, size, rax) in [
        (&[0xe4, 0x60][..], 0x60, PortSize::Byte, untouched(Gpr::RAX) & !0xff | 0x81),
        (&[0x66, 0xe5, 0x60], 0x60, PortSize::Word, untouched(Gpr::RAX) & !0xffff | 0x8281),
        (&[0xed], 0x3f8, PortSize::Dword, LOW),
        (&[0x48, 0xed], 0x3f8, PortSize::Dword, LOW),
    ] {
        let mut scene = Scene::new(bytes).with(Gpr::RDX, 0xabcd_0000_03f8);
        scene.done(ExitCode::IOIO, bytes.len() as u64);
        assert_eq!(scene.host.asked, [Asked::In(access(port, size))]);
        assert_eq!(scene.gpr(Gpr::RAX), rax);
    }
    for (bytes, port, size, value) in [
        (&[0xe6, 0xff][..], 0xff, PortSize::Byte, 0x81),
        (&[0x66, 0xef], 0x3f8, PortSize::Word, 0x8281),
        (&[0xef], 0x3f8, PortSize::Dword, LOW as u32),
    ] {
        let mut scene = Scene::new(bytes).with(Gpr::RAX, VALUE).with(Gpr::RDX, 0x3f8);
        scene.done(ExitCode::IOIO, bytes.len() as u64);
        assert_eq!(scene.host.asked, [Asked::Out(access(port, size), value)]);
        assert_eq!(scene.gpr(Gpr::RAX), VALUE);
    }
}

#[test]
fn an_instruction_at_the_end_of_canonical_addresses_raises_gp() {
    let mut scene = Scene::new(&[]);
    let page = scene.space.page(CODE).clone();
    scene.space.map(0x7fff_ffff_f000, page);
    scene.space.put(0x7fff_ffff_fffe, &[0x0f, 0xa2]);
    scene.context.registers.rip = 0x7fff_ffff_fffe;
    assert_eq!(scene.refused(ExitCode::CPUID), GP);
    scene.context.cr4 |= 1 << 12;
    scene.done(ExitCode::CPUID, 2);
}
