//! A machine that is embedded decides as one that is stepped.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use core::fmt;

use spin::Mutex;

use super::{BLOCK, CPU0, CPU1, PAGE, RWX, at, machine, switch, vmsa_image, vmsa_of};
use crate::memory::PageBytes;
use crate::vmsa as layout;
use crate::{Changes, Config, Fault, Frames, Machine, Op, Outcome, PAGE_SIZE, PageType, Reach, Vcpu, exit_code};

/// Memory of an embedder.
struct Kept(Mutex<BTreeMap<u64, Box<PageBytes>>>);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Frames for Kept {
    fn read(&self, page: u64, offset: usize, out: &mut [u8]) {
        let mut pages = self.0.lock();
        let page = pages.entry(page).or_insert_with(|| Box::new([0; 4096]));
        out.copy_from_slice(&page[offset..offset + out.len()]);
    }

    fn write(&self, page: u64, offset: usize, bytes: &[u8]) {
        let mut pages = self.0.lock();
        let page = pages.entry(page).or_insert_with(|| Box::new([0; 4096]));
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

fn embedded() -> (Machine, &'static Kept) {
    let kept: &'static Kept = Box::leak(Box::new(Kept(Mutex::new(BTreeMap::new()))));
    let mut machine = Machine::with_frames(Config { vcpus: 2, ..Config::default() }, kept);
    for vmpl in 0..4 {
        assert_eq!(machine.launch_page(vmsa_of(CPU0, vmpl), PageType::Vmsa, &vmsa_image(vmpl, 0x1000)), Ok(()));
    }
    assert_eq!(machine.launch_page(PAGE, PageType::Normal, &[7; 4096]), Ok(()));
    assert_eq!(machine.launch_finish(), Ok(()));
    (machine, kept)
}

/// Pages in every state that decides about an access.
fn prepared() -> (Machine, [u64; 6]) {
    let mut machine = machine();
    let pages = [PAGE, PAGE + PAGE_SIZE, PAGE + 2 * PAGE_SIZE, BLOCK, BLOCK + PAGE_SIZE, vmsa_of(CPU0, 2)];
    for (gpa, rights) in [(PAGE, RWX), (PAGE + PAGE_SIZE, 0x05)] {
        assert_eq!(machine.rmpupdate(gpa, false, Some(gpa)), 0);
        assert!(matches!(at(&mut machine, 0, Op::Pvalidate { gpa, ecx: 0, edx: 1 }), Outcome::Done(_)));
        assert!(matches!(at(&mut machine, 0, Op::Rmpadjust { gpa, rcx: 0, rdx: rights << 8 | 2 }), Outcome::Done(_)));
    }
    // Assigned, not validated; then a block with one page of it moved away by nobody; the last is a VMSA.
    assert_eq!(machine.rmpupdate(PAGE + 2 * PAGE_SIZE, false, Some(PAGE + 2 * PAGE_SIZE)), 0);
    assert_eq!(machine.rmpupdate(BLOCK, true, Some(BLOCK)), 0);
    assert!(matches!(at(&mut machine, 0, Op::Pvalidate { gpa: BLOCK, ecx: 1, edx: 1 }), Outcome::Done(_)));
    (machine, pages)
}

#[test]
fn a_native_access_ends_as_the_operation_does() {
    let (machine, pages) = prepared();
    let mut seen = [0; 3];
    for (gpa, vmpl) in pages.iter().flat_map(|gpa| (0..4).map(move |vmpl| (*gpa, vmpl))) {
        for private in [true, false] {
            for reach in [Reach::Read, Reach::Write, Reach::Fetch { user: true }, Reach::Fetch { user: false }] {
                let op = match reach {
                    Reach::Read => Op::Read { gpa, len: 1, private },
                    Reach::Write => Op::Write { gpa, bytes: vec![1], private },
                    // Operations fetch with the C-bit only.
                    Reach::Fetch { .. } if !private => continue,
                    Reach::Fetch { user } => Op::Fetch { gpa, user },
                };
                let (mut stepped, mut reached) = (machine.clone(), machine.clone());
                let expected = at(&mut stepped, vmpl, op);
                switch(&mut reached, CPU0, vmpl);
                let found = reached.reach(CPU0, gpa, private, reach);
                let what = (gpa, vmpl, private, reach);
                match (expected, found) {
                    (Outcome::Done(_), Ok(_)) => seen[0] += 1,
                    (Outcome::Fault(expected), Err(Outcome::Fault(found))) => {
                        assert_eq!(expected, found, "{what:x?}");
                        seen[1] += 1;
                    }
                    (Outcome::Exit, Err(Outcome::Exit)) => {
                        assert_eq!(stepped.exit_info(CPU0), reached.exit_info(CPU0), "{what:x?}");
                        seen[2] += 1;
                    }
                    (expected, found) => panic!("{what:x?}: {expected:?}, natively {found:?}"),
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 5), "{seen:?}");
}

#[test]
fn a_page_is_mapped_with_no_more_than_the_level_has() {
    let (mut machine, _) = prepared();
    switch(&mut machine, CPU0, 2);
    let full = machine.reach(CPU0, PAGE, true, Reach::Read).expect("it has all rights");
    assert!(full.write && full.execute && !full.ciphertext);
    let least = machine.reach(CPU0, PAGE + PAGE_SIZE, true, Reach::Read).expect("it may read");
    assert!(!least.write && least.execute);
    let shared = machine.reach(CPU0, PAGE, false, Reach::Read).expect("anybody reads ciphertext");
    assert!(shared.ciphertext && !shared.write && !shared.execute);
    // VMPL2 runs its VMSA: not even VMPL0 would be let write there now.
    let running = machine.reaches(0, vmsa_of(CPU0, 2), true, Reach::Read).expect("VMPL0 reads it");
    assert!(!running.write);
    assert_eq!(machine.reaches(0, vmsa_of(CPU0, 2), true, Reach::Write), None);
}

#[test]
fn code_without_the_c_bit_does_not_run() {
    let (mut machine, _) = prepared();
    switch(&mut machine, CPU0, 0);
    assert_eq!(machine.reach(CPU0, PAGE, false, Reach::Fetch { user: false }), Err(Outcome::Exit));
    assert_eq!(machine.exit_info(CPU0).map(|exit| exit.code), Some(exit_code::NPF));
}

#[test]
fn contents_and_registers_are_the_embedders() {
    let (mut machine, kept) = embedded();
    let mut byte = [0];
    kept.read(PAGE / PAGE_SIZE, 5, &mut byte);
    assert_eq!(byte, [7], "the launch wrote it there");
    switch(&mut machine, CPU0, 0);
    let registers = machine.registers_mut(CPU0).expect("a VMSA runs");
    layout::write_u64(registers, layout::RBX, 0x1234);
    assert_eq!(machine.step(CPU0, Op::Hlt), Outcome::Exit);
    let mut saved = [0; 8];
    kept.read(vmsa_of(CPU0, 0) / PAGE_SIZE, layout::RBX, &mut saved);
    assert_eq!(u64::from_le_bytes(saved), 0x1234, "the exit saved it");
    assert_eq!(machine.registers(CPU0), None);
}

#[test]
fn a_page_that_changes_hands_is_garbage_for_the_embedder_too() {
    let (mut machine, kept) = embedded();
    kept.write(0x700, 0, &[1; 8]);
    assert_eq!(machine.rmpupdate(0x70_0000, false, Some(0x70_0000)), 0);
    let mut word = [0; 8];
    kept.read(0x700, 0, &mut word);
    assert_eq!(word[6..], crate::GARBAGE_TAG.to_le_bytes());
}

#[test]
fn changes_name_what_has_to_be_forgotten_once() {
    let (mut machine, _) = embedded();
    machine.take_changes();
    assert_eq!(machine.take_changes(), Changes::default());
    assert_eq!(machine.rmpupdate(BLOCK, true, Some(BLOCK)), 0);
    assert_eq!(machine.psmash(BLOCK), 0);
    machine.map(PAGE, false, None);
    let block = (BLOCK / PAGE_SIZE, 512);
    let changes = machine.take_changes();
    assert_eq!(changes, Changes { system: vec![block, block], guest: vec![(PAGE / PAGE_SIZE, 1)] });
    assert_eq!(machine.take_changes(), Changes::default());
    // One that nobody embeds keeps no list.
    let mut stepped = super::machine();
    assert_eq!(stepped.rmpupdate(BLOCK, true, Some(BLOCK)), 0);
    assert_eq!(stepped.take_changes(), Changes::default());
}

#[test]
fn a_vcpu_that_nobody_wants_stays() {
    let (mut machine, _) = embedded();
    assert!(!machine.poll(CPU1) && !machine.poll(Vcpu(7)), "nothing runs there");
    switch(&mut machine, CPU0, 0);
    assert!(!machine.poll(CPU0) && !machine.is_wanted(CPU0));
    assert_eq!(machine.running_vmpl(CPU0), Some(0));
}

#[test]
fn an_unvalidated_page_is_vc_with_its_address() {
    let (mut machine, pages) = prepared();
    switch(&mut machine, CPU0, 0);
    let code = exit_code::PAGE_NOT_VALIDATED;
    let expected = Err(Outcome::Fault(Fault::Vc { code, gpa: pages[2] }));
    assert_eq!(machine.reach(CPU0, pages[2], true, Reach::Write), expected);
}

#[test]
fn a_level_that_stores_into_its_own_vmsa_ends_and_others_have_to_ask_again() {
    let (mut machine, _) = embedded();
    machine.take_changes();
    switch(&mut machine, CPU0, 0);
    let own = vmsa_of(CPU0, 0);
    let changes = machine.take_changes();
    assert_eq!(changes.guest, [(own / PAGE_SIZE, 1)], "nobody keeps it mapped for writing");
    assert_eq!(machine.reach(CPU0, own, true, Reach::Write), Err(Outcome::Exit));
    let exit = machine.exit_info(CPU0).expect("it has left");
    assert_eq!((exit.code, exit.info2), (exit_code::NPF, own));
    assert!(exit.info1 & crate::rmp::npf::VMPL != 0, "the host does not take it for a spurious fault");
}

#[test]
fn a_reflected_instruction_leaves_the_embedders_registers_whole() {
    let (mut machine, kept) = embedded();
    let image = vmsa_of(CPU0, 2) / PAGE_SIZE;
    let features = layout::features::SNP_ACTIVE | layout::features::REFLECT_VC;
    kept.write(image, layout::SEV_FEATURES, &features.to_le_bytes());
    switch(&mut machine, CPU0, 2);
    let registers = machine.registers_mut(CPU0).expect("a VMSA runs");
    layout::write_u64(registers, layout::RDX, 0x1234_5678_9abc_03f8);
    assert_eq!(machine.step(CPU0, Op::Wrmsr(0x1b, 7)), Outcome::Exit);
    let mut saved = [0; 8];
    kept.read(image, layout::RDX, &mut saved);
    assert_eq!(u64::from_le_bytes(saved), 0x1234_5678_9abc_03f8);
}
