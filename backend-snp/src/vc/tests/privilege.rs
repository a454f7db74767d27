//! What code above CPL 0 may do.

use super::super::*;
use super::mock::*;

fn at_cpl(code: ExitCode, bytes: &[u8], cpl: u8) -> Scene {
    ready(code, bytes).at_cpl(cpl)
}

#[test]
fn privileged_instructions_raise_gp_above_cpl_0() {
    for (code, bytes) in HANDLED {
        if matches!(code, ExitCode::MSR | ExitCode::WBINVD | ExitCode::DR7_READ | ExitCode::DR7_WRITE) {
            for cpl in 1..=3 {
                assert_eq!(at_cpl(code, bytes, cpl).refused(code), GP, "{bytes:02x?}");
            }
        }
    }
}

#[test]
fn monitor_and_mwait_raise_ud_above_cpl_0_and_their_user_forms_do_not() {
    for (code, plain, user) in
        [(ExitCode::MONITOR, [0x0f, 1, 0xc8], [0x0f, 1, 0xfa]), (ExitCode::MWAIT, [0x0f, 1, 0xc9], [0x0f, 1, 0xfb])]
    {
        assert_eq!(at_cpl(code, &plain, 3).refused(code), UD);
        at_cpl(code, &user, 3).done(code, 3);
    }
}

#[test]
fn time_and_counters_follow_cr4() {
    for (code, bytes, bit, raises_when_set) in [
        (ExitCode::RDTSC, &[0x0f, 0x31][..], 1 << 2, true),
        (ExitCode::RDTSCP, &[0x0f, 1, 0xf9], 1 << 2, true),
        (ExitCode::RDPMC, &[0x0f, 0x33], 1 << 8, false),
    ] {
        for (cr4, is_set) in [(bit, true), (0, false)] {
            let scene = |cpl| {
                let mut scene = at_cpl(code, bytes, cpl);
                scene.context.cr4 = cr4;
                scene
            };
            scene(0).done(code, bytes.len() as u64);
            if is_set == raises_when_set {
                assert_eq!(scene(3).refused(code), GP);
            } else {
                scene(3).done(code, bytes.len() as u64);
            }
        }
    }
}

#[test]
fn user_mode_executes_cpuid_and_vmmcall() {
    for (code, bytes) in [(ExitCode::CPUID, &[0x0f, 0xa2][..]), (ExitCode::VMMCALL, &[0x0f, 1, 0xd9])] {
        at_cpl(code, bytes, 3).done(code, bytes.len() as u64);
    }
}

#[test]
fn ports_need_iopl_and_no_bitmap_is_trusted() {
    for (code, bytes) in HANDLED.into_iter().filter(|(code, _)| *code == ExitCode::IOIO) {
        for cpl in 0..=3u8 {
            for iopl in 0..=3u8 {
                let mut scene = at_cpl(code, bytes, cpl);
                scene.context.registers.rflags |= u64::from(iopl) << 12;
                if cpl <= iopl {
                    scene.done(code, bytes.len() as u64);
                } else {
                    assert_eq!(scene.refused(code), GP, "{bytes:02x?} {cpl} {iopl}");
                }
            }
        }
    }
}

#[test]
fn virtual_8086_mode_has_no_ports_and_real_mode_has_all() {
    let scene = |rflags, cr0| {
        let mut scene = Scene::legacy(&[0xe4, 0x60], 0).at_cpl(3);
        scene.context.registers.rip = CODE & 0xffff;
        scene.context.segments.cs.base = CODE;
        (scene.context.registers.rflags, scene.context.cr0) = (rflags, cr0);
        scene
    };
    assert_eq!(scene(1 << 17 | 3 << 12, 1).refused(ExitCode::IOIO), GP);
    scene(0, 0).done(ExitCode::IOIO, 2);
}

#[test]
fn devices_are_not_accessed_for_user_mode() {
    for (code, bytes) in HANDLED.into_iter().filter(|(code, _)| *code == ExitCode::NPF) {
        for cpl in 1..=3 {
            assert_eq!(at_cpl(code, bytes, cpl).refused(code), Err(VcError::UserDevice { rip: CODE }));
        }
    }
}
