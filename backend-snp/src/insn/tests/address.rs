//! Registers and addresses, by hand-made values.

use super::super::*;
use crate::abi::segment::{Segment, SegmentAttributes};

/// A present segment of the given descriptor type.
fn segment(kind: u16, big: u16, base: u64, limit: u32) -> Segment {
    let attributes = SegmentAttributes::default().with_present(1).with_s(1).with_descriptor_type(kind).with_d_b(big);
    Segment { selector: 8, attributes, limit, base }
}

const DATA: u16 = 3;
const READ_ONLY: u16 = 1;
const EXPAND_DOWN: u16 = 7;
const CODE: u16 = 11;
const EXECUTE_ONLY: u16 = 9;

fn with_ds(ds: Segment) -> Segments {
    Segments { ds, ..Segments::default() }
}

fn linear(ds: Segment, offset: u64, len: usize, access: Access) -> Result<u64, AddressFault> {
    with_ds(ds).linear(Mode::Bits32, 48, SegmentName::Ds, offset, len, access).map(LinearAddr::as_u64)
}

const REFUSED: Result<u64, AddressFault> = Err(AddressFault::GeneralProtection);

#[test]
fn parts_of_registers_are_written_as_the_processor_does() {
    let mut registers = Registers::default();
    registers.set_gpr(Gpr::RBX, 0x1111_2222_3333_4455);
    registers.write(Register::High(Gpr::RBX), 0xaaee);
    assert_eq!(registers.gpr(Gpr::RBX), 0x1111_2222_3333_ee55);
    assert_eq!(registers.read(Register::High(Gpr::RBX)), 0xee);
    registers.write(Register::Low(Gpr::RBX, Width::Byte), u64::MAX);
    assert_eq!(registers.gpr(Gpr::RBX), 0x1111_2222_3333_eeff);
    registers.write(Register::Low(Gpr::RBX, Width::Word), 0x7777_1234);
    assert_eq!(registers.gpr(Gpr::RBX), 0x1111_2222_3333_1234);
    registers.write(Register::Low(Gpr::RBX, Width::Dword), u64::MAX);
    assert_eq!(registers.gpr(Gpr::RBX), 0xffff_ffff);
    registers.write(Register::Low(Gpr::RBX, Width::Qword), u64::MAX);
    assert_eq!(registers.read(Register::Low(Gpr::RBX, Width::Qword)), u64::MAX);
}

#[test]
fn the_next_address_wraps_at_the_size_of_the_mode() {
    let at = |rip| Registers { rip, ..Registers::default() };
    assert_eq!(at(0xffff).next_rip(2, Mode::Bits16), 1);
    assert_eq!(at(0xffff_ffff).next_rip(2, Mode::Bits32), 1);
    assert_eq!(at(0xffff_ffff).next_rip(2, Mode::Bits64), 0x1_0000_0001);
    assert_eq!(at(u64::MAX).next_rip(2, Mode::Bits64), 1);
}

#[test]
fn the_code_segment_tells_the_mode() {
    let cs =
        |l, d_b| Segment { attributes: SegmentAttributes::default().with_l(l).with_d_b(d_b), ..Segment::default() };
    assert_eq!(Mode::of(&cs(1, 0), true), Mode::Bits64);
    assert_eq!(Mode::of(&cs(1, 0), false), Mode::Bits16);
    assert_eq!(Mode::of(&cs(0, 1), true), Mode::Bits32);
    assert_eq!(Mode::of(&cs(0, 1), false), Mode::Bits32);
    assert_eq!(Mode::of(&cs(0, 0), true), Mode::Bits16);
}

#[test]
fn long_mode_uses_the_bases_of_fs_and_gs_only() {
    let any = segment(DATA, 1, 0x1000, 0);
    let segments = Segments { es: any, cs: any, ss: any, ds: any, fs: any, gs: any };
    let linear = |name| segments.linear(Mode::Bits64, 48, name, 0x5000, 8, Access::Write).map(LinearAddr::as_u64);
    for name in [SegmentName::Es, SegmentName::Cs, SegmentName::Ss, SegmentName::Ds] {
        assert_eq!(linear(name), Ok(0x5000));
    }
    for name in [SegmentName::Fs, SegmentName::Gs] {
        assert_eq!(linear(name), Ok(0x6000));
    }
}

#[test]
fn long_mode_addresses_have_to_be_canonical_up_to_the_last_byte() {
    let at = |name, bits, offset, len| {
        Segments::default().linear(Mode::Bits64, bits, name, offset, len, Access::Read).map(LinearAddr::as_u64)
    };
    assert_eq!(at(SegmentName::Ds, 48, 0x7fff_ffff_fff8, 8), Ok(0x7fff_ffff_fff8));
    assert_eq!(at(SegmentName::Ds, 48, 0x7fff_ffff_fff9, 8), REFUSED);
    assert_eq!(at(SegmentName::Ss, 48, 0x7fff_ffff_fff9, 8), Err(AddressFault::Stack));
    assert_eq!(at(SegmentName::Ds, 57, 0x7fff_ffff_fff9, 8), Ok(0x7fff_ffff_fff9));
    assert_eq!(at(SegmentName::Ds, 48, 0xffff_7fff_ffff_ffff, 1), REFUSED);
    assert_eq!(at(SegmentName::Ds, 48, 0xffff_8000_0000_0000, 1), Ok(0xffff_8000_0000_0000));
    assert_eq!(at(SegmentName::Ds, 48, u64::MAX, 1), Ok(u64::MAX));
    assert_eq!(at(SegmentName::Ds, 48, u64::MAX, 2), REFUSED);
    assert_eq!(at(SegmentName::Ds, 48, 0, usize::MAX), REFUSED);
}

#[test]
fn outside_of_long_mode_limit_and_base_count() {
    let ds = segment(DATA, 1, 0x10_0000, 0xfff);
    assert_eq!(linear(ds, 0xffc, 4, Access::Write), Ok(0x10_0ffc));
    assert_eq!(linear(ds, 0xffd, 4, Access::Write), REFUSED);
    assert_eq!(linear(ds, u64::MAX, 4, Access::Read), REFUSED);
    let ss = Segments { ss: ds, ..Segments::default() };
    let fault = ss.linear(Mode::Bits16, 48, SegmentName::Ss, 0x1000, 1, Access::Read);
    assert_eq!(fault, Err(AddressFault::Stack));
    // The sum wraps at 4 GiB, an operand does not.
    let high = segment(DATA, 1, 0xffff_f000, 0xffff_ffff);
    assert_eq!(linear(high, 0x2000, 4, Access::Read), Ok(0x1000));
    assert_eq!(linear(high, 0xfff, 4, Access::Read), REFUSED);
}

#[test]
fn expand_down_segments_are_valid_above_their_limit() {
    let [small, big] = [0, 1].map(|d_b| segment(EXPAND_DOWN, d_b, 0, 0xfff));
    for ds in [small, big] {
        assert_eq!(linear(ds, 0xfff, 1, Access::Read), REFUSED);
        assert_eq!(linear(ds, 0x1000, 4, Access::Write), Ok(0x1000));
        assert_eq!(linear(ds, 0xfffc, 4, Access::Write), Ok(0xfffc));
    }
    assert_eq!(linear(small, 0xfffd, 4, Access::Write), REFUSED);
    assert_eq!(linear(big, 0xfffd, 4, Access::Write), Ok(0xfffd));
}

#[test]
fn the_type_of_a_segment_says_what_it_is_for() {
    for (kind, read, write) in
        [(DATA, true, true), (READ_ONLY, true, false), (CODE, true, false), (EXECUTE_ONLY, false, false)]
    {
        let ds = segment(kind, 1, 0, 0xffff);
        assert_eq!(linear(ds, 0, 1, Access::Fetch), Ok(0), "{kind}");
        assert_eq!(linear(ds, 0, 1, Access::Read).is_ok(), read, "{kind}");
        assert_eq!(linear(ds, 0, 1, Access::Write).is_ok(), write, "{kind}");
    }
    let mut ds = segment(DATA, 1, 0, 0xffff);
    ds.attributes = ds.attributes.with_present(0);
    assert_eq!(linear(ds, 0, 1, Access::Read), REFUSED);
    assert_eq!(linear(Segment::default(), 0, 1, Access::Read), REFUSED);
}

#[test]
fn debug_output_shows_no_register_but_rip() {
    let registers = Registers { gprs: [0x5ec4e7; 16], rip: 0x1234, rflags: 0x5ec4e7 };
    let text = std::format!("{registers:?}");
    assert!(text.contains("0x1234") && !text.contains("5ec4e7"), "{text}");
}
