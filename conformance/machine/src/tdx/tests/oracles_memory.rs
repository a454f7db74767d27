//! O1 to O4: each oracle is silent where it should be and finds what it is for.

use super::*;

/// VM 1 has the page, L1 runs and the page is declared the monitor's.
fn monitors_page(rights: u64) -> Machine {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, rights);
    m.declare_monitor_pages(PAGE, 1);
    m
}

#[test]
fn o1_a_labelled_page_with_an_alias_that_reads() {
    for (rights, expected) in [(0x8001, &["O2", "O1"][..]), (0x8004, &["O2"][..])] {
        let mut m = monitors_page(rights);
        assert_eq!(l1(&mut m, write(PAGE, &[1])), done());
        assert_eq!(found(&m), expected);
    }
}

#[test]
fn o1_labels_come_with_writes_of_the_monitor_and_go_with_the_contents() {
    let mut m = machine();
    m.declare_monitor_pages(PAGE, 0x1000);
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    assert_eq!(l1(&mut m, write(PAGE, &[1])), done());
    m.undeclare_monitor_pages(PAGE, 0x1000);
    let give = |mut m: Machine| {
        assert_eq!(attr_wr(&mut m, PAGE, 0, part(1, RWX), part(1, 0x7f)).rax, 0);
        found(&m)
    };
    assert_eq!(give(m.clone()), ["O1"]);
    let mut zeroed = m.clone();
    assert_eq!(l1(&mut zeroed, zero(PAGE, 1)), done());
    assert!(give(zeroed).is_empty());
    let mut overwritten = m.clone();
    assert_eq!(l1(&mut overwritten, write(PAGE, &[3; 4096])), done());
    assert!(give(overwritten).is_empty());
    assert!(m.host_remove_page(PAGE));
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    assert!(give(m).is_empty());
}

#[test]
fn o1_a_cached_translation_reads_too() {
    let mut m = in_l2();
    assert_eq!(m.step(CPU0, read(PAGE, 1)), bytes(&[0]));
    exit_with(&mut m, vmcall());
    cut(&mut m, PAGE, 1);
    let mut flushed = m.clone();
    assert_eq!(call(&mut flushed, leaf::VP_INVEPT, Regs { rcx: 2, ..NONE }).rax, 0);
    for (m, expected) in [(&mut m, &["O1"][..]), (&mut flushed, &[])] {
        m.declare_monitor_pages(PAGE, 0x1000);
        assert_eq!(l1(m, write(PAGE, &[1])), done());
        assert_eq!(found(m), expected);
    }
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, read(PAGE, 1)), bytes(&[1]));
    assert_eq!(m.violations().len(), 2, "the read itself is found too");
}

#[test]
fn o1_tagged_pages_and_bytes() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    m.tag_secret_bytes(b"short");
    m.tag_secret_bytes(b"0123456789abcdef");
    assert_eq!(l1(&mut m, write(PAGE + 7, b"x0123456789abcde")), done());
    silent(&mut m);
    assert_eq!(l1(&mut m, write(PAGE + 23, b"f")), done());
    assert_eq!(found(&m), ["O1"]);

    let mut m = machine();
    m.tag_secret(PAGE, 1);
    grant(&mut m, PAGE, false, 1, RWX);
    silent(&mut m);
    m.tag_secret(PAGE, 1);
    assert_eq!(found(&m), ["O1"]);
}

#[test]
fn o1_tagged_bytes_in_shared_memory_and_in_registers() {
    let mut m = machine_with(|config| config.shared = alloc::vec![(PAGE, 0x1000)]);
    m.tag_secret_bytes(&0x1122_3344_5566_7788u64.to_le_bytes());
    let mut by_register = m.clone();
    let op = |bytes: &[u8]| Op::Write { gpa: PAGE, bytes: bytes.to_vec(), private: false };
    assert_eq!(l1(&mut m, op(&[1; 16])), done());
    silent(&mut m);
    assert_eq!(l1(&mut m, op(&0x1122_3344_5566_7788u64.to_le_bytes())), done());
    assert_eq!(found(&m), ["O1"]);

    let regs = Regs { r11: 0x1_0003 + 1, r15: 0x1122_3344_5566_7788, ..NONE };
    assert_eq!(call(&mut by_register, leaf::VP_VMCALL, Regs { rcx: 0x3c00, ..regs }).rax, 0);
    silent(&mut by_register);
    assert_eq!(call(&mut by_register, leaf::VP_VMCALL, Regs { rcx: 0xfc00, ..regs }).rax, 0);
    assert_eq!(found(&by_register), ["O1"]);
}

#[test]
fn o2_an_alias_on_a_page_of_the_monitor_pending_or_large() {
    let mut m = machine();
    assert!(m.host_add_page(PAGE, false));
    m.declare_monitor_pages(PAGE, 0x1000);
    assert_eq!(attr_wr(&mut m, PAGE, 0, part(2, 0x8004), part(2, 0x7f)).rax, 0);
    assert_eq!(found(&m), ["O2"]);
    let mut m = machine();
    m.declare_monitor_pages(BLOCK + 0x7000, 0x1000);
    grant(&mut m, BLOCK, true, 1, 0x8001);
    assert_eq!(found(&m), ["O2"]);
    let mut m = machine();
    m.declare_monitor_pages(BLOCK + 0x7000, 0x1000);
    assert_eq!(accept(&mut m, BLOCK, 1), 0);
    grant(&mut m, BLOCK + 0x6000 + 0x20_0000, false, 1, RWX);
    silent(&mut m);
}

#[test]
fn o2_one_system_page_under_two_guest_pages() {
    let alias = |m: &mut Machine| {
        assert_eq!(accept(m, PAGE, 0), 0);
        m.host_add_system_page(PAGE + 0x1000, false, PAGE)
    };
    assert!(!alias(&mut machine()));
    let mut m = broken(&["PAMT"]);
    assert!(alias(&mut m));
    assert_eq!(found(&m), ["O2"]);
    let mut again = m.clone();
    again.check_all();
    assert!(found(&again).contains(&"O2"));
}

#[test]
fn o3_pages_that_an_l2_runs_through_are_out_of_reach() {
    for page in [REGISTERS, VAPIC + 0x1000] {
        for (rights, expected) in [(0x8001, &[][..]), (0x8003, &["O3"][..])] {
            let mut m = machine();
            prepare(&mut m, 1);
            assert_eq!(attr_wr(&mut m, page, 0, part(2, rights), part(2, 0x7f)).rax, 0);
            enter(&mut m, 1);
            assert_eq!(found(&m), expected, "{page:#x} {rights:#x}");
        }
    }
}

#[test]
fn o4_l1_reads_what_l1_wrote() {
    let mut m = in_l2();
    // An L2 with W is entitled to change it.
    assert_eq!(m.step(CPU0, write(PAGE, &[5])), done());
    exit_with(&mut m, vmcall());
    assert_eq!(l1(&mut m, read(PAGE, 2)), bytes(&[5, 0]));
    assert_eq!(l1(&mut m, write(PAGE, &[6])), done());
    // What the module writes is no surprise either.
    assert_eq!(l1(&mut m, read(REGISTERS + 0x100, 8)), bytes(&(1u64 << 32).to_le_bytes()));
    cut(&mut m, PAGE, 1);
    silent(&mut m);
    // A stale translation entitles nobody.
    let rip = register(&m, 1, 0x88);
    set_register(&mut m, 1, 0x88, rip + 3);
    enter(&mut m, 1);
    assert_eq!(m.step(CPU0, write(PAGE, &[7])), done());
    exit_with(&mut m, vmcall());
    let mut lazily = m.clone();
    assert_eq!(l1(&mut m, read(PAGE, 1)), bytes(&[7]));
    assert_eq!(found(&m), ["O4"]);
    lazily.check_all();
    assert_eq!(found(&lazily), ["O4"]);
}

#[test]
fn o4_an_accepted_page_is_zero() {
    let mut m = broken(&["ACCEPT-ZERO"]);
    assert_eq!(accept(&mut m, PAGE, 0), 0);
    assert!(matches!(l1(&mut m, read(PAGE, 8)), Outcome::Done(_)));
    assert_eq!(found(&m), ["O4"]);
}
