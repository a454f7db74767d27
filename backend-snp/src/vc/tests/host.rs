//! Hosts that refuse or misbehave, and anything at all.

use super::super::*;
use super::mock::*;
use crate::error::SnpError;

/// Instructions of [`HANDLED`] for which the host is asked.
fn asking() -> impl Iterator<Item = (ExitCode, &'static [u8])> {
    HANDLED.into_iter().filter(|(code, _)| ![ExitCode::CPUID, ExitCode::DR7_READ].contains(code))
}

fn answer_with(code: ExitCode, bytes: &[u8], error: SnpError) -> Result<Outcome, VcError> {
    let mut scene = ready(code, bytes);
    scene.host.errors.push_back(error);
    let before = scene.context;
    let outcome = scene.handle(code);
    assert_eq!(scene.context, before, "{bytes:02x?}");
    assert_eq!(scene.host.asked.len(), 1);
    outcome
}

#[test]
fn gp_and_ud_of_the_host_are_raised_and_change_nothing() {
    let mut raised = 0;
    for (code, bytes) in asking() {
        // With and without an error code of the host's.
        for info in [0x8000_030d, 0xdead_8000_0b0d] {
            assert_eq!(answer_with(code, bytes, SnpError::Exception { info }), GP);
        }
        assert_eq!(answer_with(code, bytes, SnpError::Exception { info: 0x8000_0306 }), UD);
        raised += 3;
    }
    assert!(raised > 90, "{raised}");
}

#[test]
fn every_other_answer_error_is_fatal_and_changes_nothing() {
    for (code, bytes) in asking() {
        for error in [
            SnpError::ForbiddenException { info: 0x8000_030e },
            SnpError::UnknownStatus { status: 3 },
            SnpError::MalformedRequest { code: 5 },
            SnpError::MissingField { field: crate::abi::ghcb::ValidBit::RAX },
        ] {
            assert_eq!(answer_with(code, bytes, error), Err(VcError::Host(error)));
        }
    }
}

#[test]
fn an_exception_that_is_neither_gp_nor_ud_is_never_raised() {
    for vector in (0..=255u64).filter(|vector| ![6, 13].contains(vector)) {
        let info = 0x8000_0300 | vector;
        let outcome = answer_with(ExitCode::MSR, &[0x0f, 0x32], SnpError::Exception { info });
        assert_eq!(outcome, Err(VcError::Host(SnpError::ForbiddenException { info })));
    }
}

#[test]
fn no_bytes_and_no_registers_make_it_panic_or_change_things_halfway() {
    let mut seed = 0x5eed_0004u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut done, mut raised, mut fatal) = (0, 0, 0);
    for round in 0..20_000u32 {
        let (code, bytes) = HANDLED[next() as usize % HANDLED.len()];
        let mut scene = if round % 3 == 0 { Scene::legacy(bytes, (round / 3 % 2) as u16) } else { Scene::new(bytes) };
        for gpr in &mut scene.context.registers.gprs {
            let near = [DATA, DEVICE, CODE, 0, u64::MAX][next() as usize % 5];
            *gpr = near.wrapping_add(next() % 0x2000).wrapping_sub(0x800);
        }
        scene.context.registers.rflags = next() & 0x6_3fff;
        scene.context.cpl = (next() % 8).min(3) as u8 * u8::from(round % 2 == 0);
        let byte = next() as usize % 15;
        if round % 4 == 0 {
            scene.space.page(CODE).bytes[byte] = next() as u8;
        }
        let before = scene.context;
        match scene.handle(code) {
            Ok(Outcome::Done | Outcome::Again) => done += 1,
            Ok(Outcome::Raise(_)) => {
                assert_eq!(scene.context, before);
                raised += 1;
            }
            Err(_) => {
                assert_eq!((scene.context, scene.host.asked.len()), (before, 0));
                fatal += 1;
            }
        }
    }
    assert!(done > 1000 && raised > 1000 && fatal > 1000, "{done} done, {raised} raised, {fatal} fatal");
}
