//! String I/O: pieces, directions, faults in the middle (GH-08).

use std::vec::Vec;

use super::super::*;
use super::mock::*;
use crate::abi::nae::MAX_DATA_BYTES;
use crate::abi::segment::Segment;
use crate::host::{AddressSize, PortAccess, PortSize, Segment as PortSegment};
use crate::insn::{Gpr, Registers};

fn string(bytes: &[u8], at: u64, count: u64) -> Scene {
    Scene::new(bytes).with(Gpr::RSI, at).with(Gpr::RDI, at).with(Gpr::RCX, count).with(Gpr::RDX, 0x1f0)
}

const fn access(size: PortSize, address: AddressSize) -> PortAccess {
    PortAccess { port: 0x1f0, size, address }
}

const WORDS: PortAccess = access(PortSize::Word, AddressSize::Bits64);
const BYTES: PortAccess = access(PortSize::Byte, AddressSize::Bits64);

fn upwards(from: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| from.wrapping_add(i as u8)).collect()
}

#[test]
fn a_count_beyond_the_buffer_is_done_in_pieces() {
    // rep insw, three pieces over two pages.
    let count = 2 * (MAX_DATA_BYTES as u64 / 2) + 5;
    let mut scene = string(&[0x66, 0xf3, 0x6d], DATA, count);
    for piece in 1..=2 {
        assert_eq!(scene.handle(ExitCode::IOIO), Ok(Outcome::Again));
        let done = piece * MAX_DATA_BYTES as u64;
        assert_eq!((scene.gpr(Gpr::RCX), scene.gpr(Gpr::RDI)), (count - done / 2, DATA + done));
        assert_eq!(scene.context.registers.rip, CODE);
    }
    scene.done(ExitCode::IOIO, 3);
    assert_eq!((scene.gpr(Gpr::RCX), scene.gpr(Gpr::RDI)), (0, DATA + 2 * count));
    let lengths = [MAX_DATA_BYTES, MAX_DATA_BYTES, 10];
    assert_eq!(scene.host.asked, lengths.map(|len| Asked::InString(WORDS, len)));
    assert_eq!(scene.space.bytes(DATA, 2 * count), upwards(1, 2 * count as usize));
}

#[test]
fn outs_shows_the_host_the_elements_and_nothing_more() {
    let mut scene = string(&[0xf3, 0x6e], DATA + 0xffe, 4);
    scene.space.put(DATA + 0xff0, &upwards(0x10, 0x20));
    scene.done(ExitCode::IOIO, 2);
    assert_eq!(scene.host.asked, [Asked::OutString(BYTES, PortSegment::Ds, upwards(0x1e, 4))]);
    assert_eq!((scene.gpr(Gpr::RCX), scene.gpr(Gpr::RSI)), (0, DATA + 0x1002));
    assert_eq!(scene.gpr(Gpr::RDI), DATA + 0xffe);
}

#[test]
fn without_rep_one_element_is_done_and_rcx_does_not_count() {
    for (bytes, index) in [(0x6c, Gpr::RDI), (0x6e, Gpr::RSI)] {
        for count in [0, 1, u64::MAX] {
            let mut scene = string(&[bytes], DATA, count);
            scene.done(ExitCode::IOIO, 1);
            assert_eq!((scene.gpr(Gpr::RCX), scene.gpr(index)), (count, DATA + 1));
            assert_eq!(scene.host.asked.len(), 1);
        }
    }
}

#[test]
fn a_count_of_zero_does_nothing() {
    for bytes in [[0xf3, 0x6c], [0xf2, 0x6f]] {
        let mut scene = string(&bytes, 0xdead_0000, 0);
        let before = scene.context.registers.gprs;
        scene.done(ExitCode::IOIO, 2);
        assert_eq!((scene.context.registers.gprs, scene.host.asked), (before, Vec::new()));
    }
}

#[test]
fn the_direction_flag_turns_the_order_in_memory() {
    let mut scene = string(&[0xf3, 0x6c], DATA + 3, 3);
    scene.context.registers.rflags |= Registers::DIRECTION;
    scene.done(ExitCode::IOIO, 2);
    assert_eq!(scene.space.bytes(DATA, 4), [0, 3, 2, 1]);
    assert_eq!((scene.gpr(Gpr::RDI), scene.gpr(Gpr::RCX)), (DATA, 0));

    let mut scene = string(&[0x66, 0xf3, 0x6f], DATA + 2, 2);
    scene.context.registers.rflags |= Registers::DIRECTION;
    scene.space.put(DATA, &[1, 2, 3, 4]);
    scene.done(ExitCode::IOIO, 3);
    assert_eq!(scene.host.asked, [Asked::OutString(WORDS, PortSegment::Ds, [3, 4, 1, 2].into())]);
    assert_eq!(scene.gpr(Gpr::RSI), DATA - 2);
}

#[test]
fn a_fault_in_the_middle_leaves_the_elements_before_it_done() {
    // Memory ends behind the second page.
    for (bytes, index) in [(0x6c, Gpr::RDI), (0x6e, Gpr::RSI)] {
        let start = DATA + 0x1ffd;
        let mut scene = string(&[0xf3, bytes], start, 8);
        assert_eq!(scene.handle(ExitCode::IOIO), Ok(Outcome::Again));
        assert_eq!((scene.gpr(Gpr::RCX), scene.gpr(index)), (5, DATA + 0x2000));
        let before = scene.context;
        assert_eq!(scene.handle(ExitCode::IOIO), page_fault(DATA + 0x2000, ABSENT));
        assert_eq!(scene.context, before);
        assert_eq!(scene.host.asked.len(), 1);
    }
}

#[test]
fn an_element_across_pages_is_checked_to_its_last_byte_before_the_host_is_asked() {
    let mut scene = string(&[0x6d], DATA + 0x1ffe, 1);
    assert_eq!(scene.refused(ExitCode::IOIO), page_fault(DATA + 0x2000, ABSENT));
    let mut scene = string(&[0x6d], DATA, 1);
    scene.space.page(DATA).writable = false;
    assert_eq!(scene.refused(ExitCode::IOIO), page_fault(DATA, FORBIDDEN));
}

#[test]
fn user_mode_reaches_no_memory_of_the_kernel_by_string_io() {
    for bytes in [0x6c, 0x6e] {
        let mut scene = string(&[bytes], DATA, 1).at_cpl(3);
        scene.context.registers.rflags |= 3 << 12;
        scene.space.page(DATA).user = false;
        assert_eq!(scene.refused(ExitCode::IOIO), page_fault(DATA, FORBIDDEN));
    }
}

#[test]
fn addresses_have_the_size_and_the_segment_of_the_instruction() {
    // rep outs dx, byte fs:[esi]
    let mut scene = string(&[0x64, 0x67, 0xf3, 0x6e], 0xff_0000_0000 | 0x10, 0xff_0000_0002);
    scene.context.segments.fs = Segment { base: DATA, ..Segment::default() };
    scene.space.put(DATA + 0x10, &[5, 6]);
    scene.done(ExitCode::IOIO, 4);
    let small = access(PortSize::Byte, AddressSize::Bits32);
    assert_eq!(scene.host.asked, [Asked::OutString(small, PortSegment::Fs, [5, 6].into())]);
    assert_eq!((scene.gpr(Gpr::RSI), scene.gpr(Gpr::RCX)), (0x12, 0));

    // rep insb in 16-bit code wraps at 64 KiB and keeps the rest of the registers.
    let mut scene = Scene::legacy(&[0xf3, 0x6c], 0).with(Gpr::RDX, 0x1f0);
    scene.context.segments.cs.base = CODE;
    scene.context.registers.rip = 0;
    scene.context.segments.es.base = DATA - 0xf000;
    scene.context.registers.set_gpr(Gpr::RDI, 0xaaaa_ffff);
    scene.context.registers.set_gpr(Gpr::RCX, 0xbbbb_0001);
    scene.done(ExitCode::IOIO, 2);
    assert_eq!((scene.gpr(Gpr::RDI), scene.gpr(Gpr::RCX)), (0xaaaa_0000, 0xbbbb_0000));
    assert_eq!(scene.space.bytes(DATA + 0xfff, 1), [1]);
}

#[test]
fn a_huge_count_is_bounded_by_the_buffer() {
    let mut scene = string(&[0xf3, 0x6f], DATA, u64::MAX);
    assert_eq!(scene.handle(ExitCode::IOIO), Ok(Outcome::Again));
    assert_eq!(scene.gpr(Gpr::RCX), u64::MAX - MAX_DATA_BYTES as u64 / 4);
}
