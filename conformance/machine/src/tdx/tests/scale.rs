//! Large memories stay practical.

use super::*;

const GIB: u64 = 1 << 30;

fn large_machine() -> Machine {
    machine_with(|config| config.ram = alloc::vec![(0, 2 * GIB)])
}

#[test]
fn a_gibibyte_in_2m_entries() {
    let mut m = large_machine();
    m.declare_monitor_pages(0, 0x1_0000);
    for block in 0..512 {
        grant(&mut m, GIB + block * 0x20_0000, true, 1, RWX);
    }
    assert_eq!(l1(&mut m, zero(GIB, GIB / 0x1000)), done());
    prepare(&mut m, 1);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, write(2 * GIB - 1, &[1])), done());
    let snapshot = m.snapshot();
    m.check_all();
    assert_eq!(snapshot, m.snapshot());
    assert!(m.violations().is_empty(), "{:?}", m.violations());
}

#[test]
fn a_gibibyte_in_4k_entries() {
    let mut m = large_machine();
    for page in 0..GIB / 0x1000 {
        grant(&mut m, GIB + page * 0x1000, false, 1, RWX);
    }
    prepare(&mut m, 1);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, read(2 * GIB - 1, 1)), bytes(&[0]));
    m.check_all();
    assert!(m.violations().is_empty(), "{:?}", m.violations());
}
