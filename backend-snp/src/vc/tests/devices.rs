//! Device accesses: what reaches the host, and what must not (PG-28).

use std::vec;

use super::super::*;
use super::mock::*;
use crate::abi::segment::Segment;
use crate::insn::{Gpr, LinearAddr, Registers};

#[test]
fn loads_extend_as_the_instruction_says() {
    for (bytes, len, value) in [
        (&[0x8a, 0x06][..], 1, 0x1111_2222_0000_0081),
        (&[0x66, 0x8b, 0x06], 2, 0x1111_2222_0000_8281),
        (&[0x8b, 0x06], 4, 0x8483_8281),
        (&[0x48, 0x8b, 0x06], 8, VALUE),
        (&[0x0f, 0xb6, 0x06], 1, 0x81),
        (&[0x48, 0x0f, 0xb7, 0x06], 2, 0x8281),
        (&[0x66, 0x0f, 0xb6, 0x06], 1, 0x1111_2222_0000_0081),
        (&[0x0f, 0xbe, 0x06], 1, 0xffff_ff81),
        (&[0x48, 0x0f, 0xbe, 0x06], 1, 0xffff_ffff_ffff_ff81),
        (&[0x48, 0x0f, 0xbf, 0x06], 2, 0xffff_ffff_ffff_8281),
        (&[0x48, 0x63, 0x06], 4, 0xffff_ffff_8483_8281),
    ] {
        let mut scene = Scene::new(bytes).with(Gpr::RSI, DEVICE + 0x20);
        scene.done(ExitCode::NPF, bytes.len() as u64);
        assert_eq!(scene.host.asked, [Asked::MmioRead(DEVICE_AT + 0x20, len)], "{bytes:02x?}");
        assert_eq!(scene.gpr(Gpr::RAX), value, "{bytes:02x?}");
    }
    // The high byte of a register.
    let mut scene = Scene::new(&[0x8a, 0x26]).with(Gpr::RSI, DEVICE);
    scene.done(ExitCode::NPF, 2);
    assert_eq!(scene.gpr(Gpr::RAX), 0x1111_2222_0000_8180);
}

#[test]
fn stores_show_the_host_the_operand_and_nothing_more() {
    let value = 0x1122_3344_5566_7788u64;
    for (bytes, data) in [
        (&[0x88, 0x0f][..], vec![0x88]),
        (&[0x88, 0x2f], vec![0x77]),
        (&[0x66, 0x89, 0x0f], vec![0x88, 0x77]),
        (&[0x89, 0x0f], vec![0x88, 0x77, 0x66, 0x55]),
        (&[0x48, 0x89, 0x0f], value.to_le_bytes().to_vec()),
        (&[0xc6, 0x07, 0xfe], vec![0xfe]),
        (&[0x66, 0xc7, 0x07, 1, 0xfe], vec![1, 0xfe]),
        (&[0xc7, 0x07, 1, 2, 3, 0xfe], vec![1, 2, 3, 0xfe]),
        (&[0x48, 0xc7, 0x07, 1, 2, 3, 0xfe], vec![1, 2, 3, 0xfe, 0xff, 0xff, 0xff, 0xff]),
    ] {
        let mut scene = Scene::new(bytes).with(Gpr::RDI, DEVICE + 8).with(Gpr::RCX, value);
        let before = scene.context.registers.gprs;
        scene.done(ExitCode::NPF, bytes.len() as u64);
        assert_eq!(scene.host.asked, [Asked::MmioWrite(DEVICE_AT + 8, data)], "{bytes:02x?}");
        assert_eq!(scene.context.registers.gprs, before);
    }
}

#[test]
fn addresses_are_those_of_the_instruction() {
    // mov eax, [rip + 0x200000 - 6]; the next instruction is at CODE + 6.
    let mut scene = Scene::new(&[0x8b, 0x05, 0xfa, 0xff, 0x1f, 0x00]);
    scene.done(ExitCode::NPF, 6);
    assert_eq!(scene.host.asked, [Asked::MmioRead(DEVICE_AT, 4)]);
    // mov eax, gs:[rbx + rcx * 4 + 0x10]
    let mut scene = Scene::new(&[0x65, 0x8b, 0x44, 0x8b, 0x10]).with(Gpr::RBX, 0x20).with(Gpr::RCX, 3);
    scene.context.segments.gs = Segment { base: DEVICE, ..Segment::default() };
    scene.done(ExitCode::NPF, 5);
    assert_eq!(scene.host.asked, [Asked::MmioRead(DEVICE_AT + 0x3c, 4)]);
    // mov eax, [esi], in 64-bit mode and in 32-bit mode.
    for mut scene in [Scene::new(&[0x67, 0x8b, 0x06]), Scene::legacy(&[0x3e, 0x8b, 0x06], 1)] {
        scene.context.registers.set_gpr(Gpr::RSI, 0xffff_ffff_0000_0000 | DEVICE);
        scene.done(ExitCode::NPF, 3);
        assert_eq!(scene.host.asked, [Asked::MmioRead(DEVICE_AT, 4)]);
    }
}

#[test]
fn private_mappings_are_refused_whatever_the_host_says() {
    let mut refused = 0;
    for (code, bytes) in HANDLED.into_iter().filter(|(code, _)| *code == ExitCode::NPF) {
        let mut scene = Scene::new(bytes).with(Gpr::RSI, DATA).with(Gpr::RDI, DATA);
        scene.space.put(DATA, b"a secret");
        assert_eq!(scene.refused(code), Err(VcError::PrivateDevice { at: LinearAddr::new(DATA) }), "{bytes:02x?}");
        assert_eq!(scene.space.bytes(DATA, 8), b"a secret");
        refused += 1;
    }
    assert_eq!(refused, 7);
}

#[test]
fn an_operand_across_pages_is_refused() {
    for (code, bytes) in [(ExitCode::NPF, [0x8b, 0x06]), (ExitCode::NPF, [0x89, 0x07])] {
        let at = DEVICE + 0xffd;
        let mut scene = Scene::new(&bytes).with(Gpr::RSI, at).with(Gpr::RDI, at);
        assert_eq!(scene.refused(code), Err(VcError::CrossesPage { at: LinearAddr::new(at) }));
    }
}

#[test]
fn faults_of_the_operand_are_raised() {
    let load = |at| Scene::new(&[0x8b, 0x06]).with(Gpr::RSI, at).refused(ExitCode::NPF);
    assert_eq!(load(0x70_0000), page_fault(0x70_0000, ABSENT));
    assert_eq!(load(1 << 63), GP);
    let mut scene = Scene::new(&[0x89, 0x07]).with(Gpr::RDI, DEVICE);
    scene.space.page(DEVICE).writable = false;
    assert_eq!(scene.refused(ExitCode::NPF), page_fault(DEVICE, FORBIDDEN));
    // mov eax, [rbp] is in SS.
    let mut scene = Scene::new(&[0x8b, 0x45, 0x00]).with(Gpr::RBP, 1 << 63);
    assert_eq!(scene.refused(ExitCode::NPF), Ok(Outcome::Raise(Exception::STACK)));
}

#[test]
fn string_moves_go_element_by_element_with_exact_registers() {
    // rep movsd from the device to memory.
    let mut scene = Scene::new(&[0xf3, 0xa5]).with(Gpr::RSI, DEVICE).with(Gpr::RDI, DATA).with(Gpr::RCX, 2);
    assert_eq!(scene.handle(ExitCode::NPF), Ok(Outcome::Again));
    let registers = scene.context.registers;
    assert_eq!((registers.rip, scene.gpr(Gpr::RCX)), (CODE, 1));
    assert_eq!((scene.gpr(Gpr::RSI), scene.gpr(Gpr::RDI)), (DEVICE + 4, DATA + 4));
    scene.done(ExitCode::NPF, 2);
    assert_eq!((scene.gpr(Gpr::RSI), scene.gpr(Gpr::RDI), scene.gpr(Gpr::RCX)), (DEVICE + 8, DATA + 8, 0));
    assert_eq!(scene.host.asked, [Asked::MmioRead(DEVICE_AT, 4), Asked::MmioRead(DEVICE_AT + 4, 4)]);
    assert_eq!(scene.space.bytes(DATA, 8), [0x81, 0x82, 0x83, 0x84, 0x81, 0x82, 0x83, 0x84]);

    // movsb from memory to the device, downwards.
    let mut scene = Scene::new(&[0xa4]).with(Gpr::RSI, DATA + 1).with(Gpr::RDI, DEVICE + 1);
    scene.context.registers.rflags |= Registers::DIRECTION;
    scene.space.put(DATA, &[7, 8]);
    scene.done(ExitCode::NPF, 1);
    assert_eq!(scene.host.asked, [Asked::MmioWrite(DEVICE_AT + 1, vec![8])]);
    assert_eq!((scene.gpr(Gpr::RSI), scene.gpr(Gpr::RDI)), (DATA, DEVICE));

    // rep stosw, with 32-bit addresses.
    let mut scene = Scene::new(&[0x66, 0x67, 0xf3, 0xab]).with(Gpr::RDI, 0xff_0000_0000 | DEVICE);
    scene.context.registers.set_gpr(Gpr::RCX, 0xff_0000_0002);
    scene.context.registers.set_gpr(Gpr::RAX, 0x1234);
    assert_eq!(scene.handle(ExitCode::NPF), Ok(Outcome::Again));
    assert_eq!((scene.gpr(Gpr::RDI), scene.gpr(Gpr::RCX)), (DEVICE + 2, 1));
    assert_eq!(scene.host.asked, [Asked::MmioWrite(DEVICE_AT, vec![0x34, 0x12])]);

    // Nothing to do.
    for bytes in [[0xf3, 0xa5], [0xf3, 0xab]] {
        let mut scene = Scene::new(&bytes).with(Gpr::RCX, 0);
        scene.done(ExitCode::NPF, 2);
        assert_eq!(scene.host.asked, []);
    }
}

#[test]
fn a_string_move_checks_its_target_before_the_device_is_read() {
    let mut scene = Scene::new(&[0xa5]).with(Gpr::RSI, DEVICE).with(Gpr::RDI, DATA);
    scene.space.page(DATA).writable = false;
    assert_eq!(scene.refused(ExitCode::NPF), page_fault(DATA, FORBIDDEN));
}
