//! The copy of the instruction.

use super::super::*;
use super::mock::*;

fn at(scene: &mut Scene, rip: u64, bytes: &[u8]) {
    scene.context.registers.rip = rip;
    scene.space.put(rip, bytes);
}

#[test]
fn every_byte_is_fetched_once_and_the_second_page_only_if_needed() {
    let mut scene = Scene::new(&[0x0f, 0xa2]);
    scene.done(ExitCode::CPUID, 2);
    assert_eq!(scene.space.fetched, [(CODE, 15)]);

    let mut scene = Scene::new(&[]);
    at(&mut scene, CODE + 0xffe, &[0x0f, 0xa2]);
    scene.done(ExitCode::CPUID, 2);
    assert_eq!(scene.space.fetched, [(CODE + 0xffe, 2)]);

    let mut scene = Scene::new(&[]);
    let page = scene.space.page(CODE).clone();
    scene.space.map(CODE + 0x1000, page);
    at(&mut scene, CODE + 0xfff, &[0x0f, 0xa2]);
    scene.done(ExitCode::CPUID, 2);
    assert_eq!(scene.space.fetched, [(CODE + 0xfff, 1), (CODE + 0x1000, 14)]);
}

#[test]
fn faults_of_fetching_are_raised() {
    let mut scene = Scene::new(&[]);
    at(&mut scene, CODE + 0xfff, &[0x0f]);
    assert_eq!(scene.refused(ExitCode::CPUID), page_fault(CODE + 0x1000, ABSENT));
    scene.context.registers.rip = 0x70_0000;
    assert_eq!(scene.refused(ExitCode::CPUID), page_fault(0x70_0000, ABSENT));
    scene.context.registers.rip = 1 << 63;
    assert_eq!(scene.refused(ExitCode::CPUID), GP);

    let mut scene = Scene::new(&[0x0f, 0xa2]).at_cpl(3);
    scene.space.page(CODE).user = false;
    assert_eq!(scene.refused(ExitCode::CPUID), page_fault(CODE, FORBIDDEN));
}

#[test]
fn code_ends_with_its_segment() {
    let mut scene = Scene::legacy(&[0x0f, 0xa2], 1);
    scene.context.segments.cs.limit = CODE as u32 + 1;
    scene.done(ExitCode::CPUID, 2);
    assert_eq!(scene.space.fetched, [(CODE, 2)]);
    let mut scene = Scene::legacy(&[0x0f, 0xa2], 1);
    scene.context.segments.cs.limit = CODE as u32;
    assert_eq!(scene.refused(ExitCode::CPUID), GP);
}

#[test]
fn more_than_fifteen_bytes_are_no_instruction() {
    let mut code = [0x66; 17];
    code[15..].copy_from_slice(&[0x0f, 0xa2]);
    assert_eq!(Scene::new(&code).refused(ExitCode::CPUID), FALSE_EXIT);
    Scene::new(&code[2..]).done(ExitCode::CPUID, 15);
}
