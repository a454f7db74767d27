use coco_part_api::{BootGuest, BootInfo, BootPage, Error, ErrorKind};

use super::*;

const COPY: u64 = 0x3_0000;

fn info(level: GuestLevel) -> BootInfo {
    BootInfo { level, call_area: frame(CALL_AREA), monitor: range(0, 256) }
}

#[test]
fn keys_of_higher_levels_do_not_reach_the_guest() {
    for (level, erased) in [(GuestLevel::ONE, 1), (GuestLevel::TWO, 2), (GuestLevel::THREE, 3)] {
        let bench = Bench::new();
        for key in 0..4 {
            bench.machine.poke(SECRETS + 0x20 + key * 0x20, &[0x10 + key as u8; 32]);
        }
        bench.machine.poke(SECRETS + 0xa0, &[0x77; 0x60]);
        bench.machine.poke(SECRETS + 0x100, &[0x33; 64]);
        let original = bench.machine.page(SECRETS);
        let mut l1 = bench.start(0);
        l1.fill(BootPage::Secrets, frame(COPY), &info(level)).unwrap();
        let copy = bench.machine.page(COPY);
        for key in 0..4_usize {
            let expected = if key < erased { [0; 32] } else { [0x10 + key as u8; 32] };
            assert_eq!(copy[0x20 + key * 0x20..0x40 + key * 0x20], expected, "key {key}");
        }
        // Guest-owned fields; reserved bytes of that area are not the guest's.
        assert_eq!((&copy[0xa0..0xc8], &copy[0xde..0x100]), (&[0; 0x28][..], &[0; 0x22][..]));
        assert_eq!(copy[0x100..0x140], [0x33; 64]);
        let quad = |at: usize| u64::from_le_bytes(*copy[at..].first_chunk().unwrap());
        assert_eq!((quad(0x140), quad(0x148), quad(0x150)), (0, 256 << 12, CALL_AREA));
        assert_eq!((copy[0x158], copy[0x15c]), (1, level.number()));
        // The key of VMPL0 was taken when L1 started, the guest's are handed out.
        let mut rest = original;
        rest[0x20..0x40].fill(0);
        rest[0x20 + erased * 0x20..0xa0].fill(0);
        assert_eq!(bench.machine.page(SECRETS), rest);
    }
}

#[test]
fn a_key_is_handed_out_once() {
    let bench = Bench::new();
    for key in 0..4 {
        bench.machine.poke(SECRETS + 0x20 + key * 0x20, &[0x10 + key as u8; 32]);
    }
    let mut l1 = bench.start(0);
    let fill = |l1: &mut TestL1<'_>, level| {
        l1.fill(BootPage::Secrets, frame(COPY), &info(level)).unwrap();
        [1, 2, 3].map(|key| bench.machine.page(COPY)[0x20 + key * 0x20])
    };
    assert_eq!(fill(&mut l1, GuestLevel::TWO), [0, 0x12, 0x13]);
    assert_eq!(fill(&mut l1, GuestLevel::TWO), [0; 3]);
    assert_eq!(fill(&mut l1, GuestLevel::ONE), [0x11, 0, 0]);
}

#[test]
fn keys_that_cannot_be_erased_are_not_handed_out() {
    let bench = Bench::new();
    bench.machine.poke(SECRETS + 0x40, &[0x11; 32]);
    let mut l1 = bench.start(0);
    // The copy is written, the original is not.
    bench.machine.break_after(1, super::mock::Broken::Fault);
    assert!(l1.fill(BootPage::Secrets, frame(COPY), &info(GuestLevel::ONE)).is_err());
    assert_eq!(bench.machine.page(COPY), [0; 4096]);
    l1.fill(BootPage::Secrets, frame(COPY), &info(GuestLevel::ONE)).unwrap();
    assert_eq!(bench.machine.page(COPY)[0x40], 0x11);
}

#[test]
fn features_are_copied_unless_they_count_too_many() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    bench.machine.poke(CPUID, &64_u32.to_le_bytes());
    bench.machine.poke(CPUID + 0x10, &[0x5a; 64 * 0x30]);
    l1.fill(BootPage::Features, frame(COPY), &info(GuestLevel::ONE)).unwrap();
    assert_eq!(bench.machine.page(COPY), bench.machine.page(CPUID));
    bench.machine.poke(CPUID, &65_u32.to_le_bytes());
    let error = l1.fill(BootPage::Features, frame(COPY + 0x1000), &info(GuestLevel::ONE)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(bench.machine.page(COPY + 0x1000), [0; 4096]);
}

#[test]
fn a_frame_outside_the_map_is_refused() {
    let bench = Bench::new();
    let mut l1 = bench.start(0);
    let error = l1.fill(BootPage::Features, frame(RAM), &info(GuestLevel::ONE)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
}
