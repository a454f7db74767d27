//! RMPUPDATE, PSMASH, contents, launch, the host's own accesses.

use super::*;
use crate::rmp::code;
use crate::{CIPHERTEXT_TAG, GARBAGE_TAG, LaunchError};

fn tag_of(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[6], bytes[7]])
}

fn first_bytes(m: &mut Machine, gpa: u64) -> Vec<u8> {
    let Outcome::Done(Answer::Bytes(bytes)) = at(m, 0, read(gpa, 8)) else { panic!("VMPL0 reads") };
    bytes
}

#[test]
fn rmp_003_a_page_outside_the_table_stays_the_hosts() {
    let mut m = machine();
    assert_eq!(m.rmpupdate(1 << 46, false, Some(1 << 46)), code::FAIL_INPUT);
    assert!(!m.rmp_entry_at(1 << 46).assigned);
    assert_eq!(m.rmp_entry(1 << 46), None);
}

#[test]
fn rmp_005_a_new_page_is_for_vmpl0_alone() {
    let mut m = machine();
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    let entry = m.rmp_entry(PAGE).expect("mapped");
    assert!(entry.assigned && entry.asid == 1 && entry.gpa == PAGE);
    assert!(!entry.validated && !entry.vmsa && !entry.large && !entry.immutable);
    assert_eq!(entry.perms, [perm::ALL, 0, 0, 0]);
    let mut m = broken(&["RMP-005"]);
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE)), 0);
    assert_eq!(rights(&m, PAGE), [perm::ALL; 4]);
}

#[test]
fn rmp_006_another_address_or_size_clears_validated_and_rights() {
    let mut m = machine();
    grant(&mut m, PAGE, false, 1, RWX);
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE + 0x1000)), 0);
    let entry = m.rmp_entry_at(PAGE);
    assert!(!entry.validated);
    assert_eq!(entry.perms, [perm::ALL, 0, 0, 0]);
    // RMP-070: the same fields again clear it too.
    grant(&mut m, PAGE + 0x2000, false, 1, RWX);
    assert_eq!(m.rmpupdate(PAGE + 0x2000, false, Some(PAGE + 0x2000)), 0);
    assert!(!m.rmp_entry(PAGE + 0x2000).expect("mapped").validated);
    let mut m = broken(&["RMP-006"]);
    grant(&mut m, PAGE, false, 1, RWX);
    assert_eq!(m.rmpupdate(PAGE, false, Some(PAGE + 0x1000)), 0);
    assert!(m.rmp_entry_at(PAGE).validated);
}

#[test]
fn rmp_012_psmash_keeps_everything_and_counts_the_addresses_up() {
    let mut m = machine();
    grant(&mut m, BLOCK, true, 1, 0x3);
    assert_eq!(at(&mut m, 0, write(BLOCK + 0x7000, b"kept")), done());
    assert_eq!(m.psmash(BLOCK), 0);
    for page in [0, 7, 511] {
        let entry = m.rmp_entry(BLOCK + page * 0x1000).expect("mapped");
        assert!(entry.validated && !entry.large && entry.gpa == BLOCK + page * 0x1000);
        assert_eq!(entry.perms, [perm::ALL, 3, 0, 0]);
    }
    assert_eq!(at(&mut m, 1, read(BLOCK + 0x7000, 4)), bytes(b"kept"));
    assert_eq!(m.psmash(BLOCK), code::FAIL_INPUT);
    assert_eq!(m.psmash(PAGE), code::FAIL_INPUT);
}

#[test]
fn rmp_013_small_and_large_entries_do_not_replace_each_other() {
    let mut m = machine();
    take(&mut m, BLOCK, true);
    assert_eq!(m.rmpupdate(BLOCK + 0x1000, false, None), code::FAIL_OVERLAP);
    take(&mut m, BLOCK + 0x20_1000, false);
    assert_eq!(m.rmpupdate(BLOCK + 0x20_0000, true, Some(BLOCK + 0x20_0000)), code::FAIL_OVERLAP);
    assert_eq!(m.rmpupdate(BLOCK + 0x20_1000, false, None), 0);
    assert_eq!(m.rmpupdate(BLOCK + 0x20_0000, true, Some(BLOCK + 0x20_0000)), 0);
    assert_eq!(m.rmpupdate(BLOCK, true, None), 0);
    assert!(!m.rmp_entry(BLOCK).expect("mapped").assigned);
}

#[test]
fn rmpupdate_refuses_what_is_not_aligned() {
    let mut m = machine();
    for (spa, large, gpa) in
        [(PAGE + 1, false, PAGE), (PAGE, false, PAGE + 1), (PAGE, true, BLOCK), (BLOCK, true, PAGE)]
    {
        assert_eq!(m.rmpupdate(spa, large, Some(gpa)), code::FAIL_INPUT);
    }
}

#[test]
fn rmp_020_the_entry_of_a_running_vmsa_does_not_change() {
    let running = vmsa_of(CPU1, 1);
    let clear = Op::Rmpadjust { gpa: running, rcx: 0, rdx: 1 };
    let mut m = machine();
    switch(&mut m, CPU1, 1);
    assert_eq!(m.rmpupdate(running, false, None), code::FAIL_INUSE);
    assert_eq!(at(&mut m, 0, clear.clone()), rmpadjusted(code::FAIL_INUSE));
    assert_eq!(at(&mut m, 0, pvalidate(running, false, false)), pvalidated(code::FAIL_INUSE, false));
    assert!(m.rmp_entry(running).expect("mapped").vmsa);
    assert_eq!(m.step(CPU1, Op::Hlt), Outcome::Exit);
    assert_eq!(at(&mut m, 0, clear.clone()), rmpadjusted(0));
    assert!(!m.rmp_entry(running).expect("mapped").vmsa);
    let mut m = broken(&["RMP-020"]);
    switch(&mut m, CPU1, 1);
    assert_eq!(at(&mut m, 0, clear), rmpadjusted(0));
}

#[test]
fn rmp_052_contents_do_not_survive_a_change_of_hands() {
    let mut m = machine();
    assert!(m.host_write(PAGE, b"from the host"));
    take(&mut m, PAGE, false);
    let first = first_bytes(&mut m, PAGE);
    assert_eq!(tag_of(&first), GARBAGE_TAG);
    assert_eq!(at(&mut m, 0, write(PAGE, b"private!")), done());
    assert_eq!(m.rmpupdate(PAGE, false, None), 0);
    let mut seen = [0; 8];
    m.host_read(PAGE, &mut seen);
    assert_eq!(tag_of(&seen), GARBAGE_TAG);
    assert_ne!(&seen[..], &first[..]);
}

#[test]
fn a_page_that_only_moves_to_another_guest_address_keeps_its_contents() {
    let (from, to) = (PAGE, PAGE + 0x5000);
    let mut m = machine();
    take(&mut m, from, false);
    assert_eq!(at(&mut m, 0, write(from, b"secret")), done());
    assert_eq!(m.rmpupdate(from, false, Some(to)), 0);
    m.map(to, false, Some(from));
    assert_eq!(at(&mut m, 0, pvalidate(to, false, true)), pvalidated(0, false));
    assert_eq!(at(&mut m, 0, read(to, 6)), bytes(b"secret"));
    // The old address is not usable.
    assert_eq!(at(&mut m, 0, read(from, 6)), Outcome::Exit);
}

#[test]
fn rmp_036_the_host_reads_ciphertext_and_cannot_write() {
    let mut m = machine();
    take(&mut m, PAGE, false);
    assert_eq!(at(&mut m, 0, write(PAGE, b"plaintext")), done());
    let mut seen = [0; 16];
    m.host_read(PAGE, &mut seen);
    assert_eq!(tag_of(&seen), CIPHERTEXT_TAG);
    // All or nothing, over page ends too.
    assert!(!m.host_write(PAGE - 4, &[1; 8]));
    m.host_read(PAGE - 4, &mut seen[..4]);
    assert_eq!(seen[..4], [0; 4]);
    assert!(m.host_write(PAGE - 4, &[1; 4]));
    assert!(!m.host_write(1 << 46, &[1]));
    m.host_read(1 << 46, &mut seen);
    assert_eq!(seen, [0xff; 16]);
}

#[test]
fn rmp_065_launch_pages_are_validated_and_hold_what_their_type_says() {
    let mut m = Machine::new(Config::default());
    let contents = [7; 4096];
    let types = [PageType::Normal, PageType::Zero, PageType::Unmeasured, PageType::Secrets, PageType::Cpuid];
    for (index, page_type) in (0..).zip(types) {
        assert_eq!(m.launch_page_with_rights(PAGE + index * 0x1000, page_type, &contents, [1, 0, 3]), Ok(()));
        let entry = m.rmp_entry(PAGE + index * 0x1000).expect("mapped");
        assert!(entry.assigned && entry.validated && !entry.vmsa);
        assert_eq!(entry.perms, [perm::ALL, 1, 0, 3]);
    }
    let page = |m: &Machine, index: u64| m.peek(PAGE + index * 0x1000, 4096, Some(0)).expect("VMPL0 may");
    assert_eq!(page(&m, 0), contents);
    assert_eq!(page(&m, 1), [0; 4096]);
    assert_eq!(page(&m, 2), contents);
    assert_eq!(page(&m, 3), m.psp().secrets_page()[..]);
    assert_eq!(page(&m, 4), contents);
    assert_eq!(m.launch_page(PAGE, PageType::Normal, &contents), Err(LaunchError::Assigned));
    assert_eq!(m.launch_page(PAGE + 1, PageType::Normal, &contents), Err(LaunchError::Misaligned));
    // The address of the boot VMSA has no RAM.
    let boot = 0xffff_ffff_f000;
    assert_eq!(m.launch_page(boot, PageType::Vmsa, &vmsa_image(0, 0xfff0)), Ok(()));
    assert!(m.rmp_entry(boot).is_some_and(|entry| entry.vmsa));
    assert_eq!(m.launch_finish(), Ok(()));
    assert_eq!(m.launch_finish(), Err(LaunchError::Finished));
    assert_eq!(m.launch_page(0x9000, PageType::Normal, &contents), Err(LaunchError::Finished));
    assert!(m.vmrun(CPU0, boot).is_ok());
}

#[test]
fn rmp_026_the_digest_is_the_same_wherever_the_boot_vmsa_is() {
    let digest = |boot: u64| {
        let mut m = Machine::new(Config::default());
        assert_eq!(m.launch_page(boot, PageType::Vmsa, &vmsa_image(0, 0xfff0)), Ok(()));
        assert_eq!(m.rmp_entry(boot).map(|entry| (entry.vmsa, entry.gpa)), Some((true, boot)));
        assert_eq!(m.launch_finish(), Ok(()));
        assert!(m.vmrun(CPU0, boot).is_ok());
        m.psp().digest()
    };
    let (milan, genoa) = (0xffff_ffff_f000, 0x7_ffff_ffff_f000);
    assert_eq!(digest(milan), digest(genoa));
    assert_ne!(digest(milan), digest(milan - 0x1000));
}

#[test]
fn a_refused_launch_page_changes_nothing() {
    let mut m = Machine::new(Config::default());
    m.psp_mut().finish(crate::psp::DEFAULT_POLICY, [0; 32], None).expect("an empty launch");
    assert!(matches!(m.launch_page(PAGE, PageType::Normal, &[0; 4096]), Err(LaunchError::Firmware(_))));
    assert!(!m.rmp_entry(PAGE).expect("mapped").assigned);
}
