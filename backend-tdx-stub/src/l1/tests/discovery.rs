//! Who am I, and what L1 refuses to start on.

use coco_part_api::{
    Binding, BootGuest, BootInfo, BootPage, Error as _, ErrorKind, FlushReach, HasMemory, Hierarchy, HostReach,
    Identify, Level, Support,
};

use super::*;
use crate::abi::status::Status;

fn start(script: &Script, pages: Pages, map: MemoryMap<'static>) -> Result<Tested, ErrorKind> {
    L1::new(script.clone(), Ram::default(), map, shared(), pages).map_err(|error| error.kind())
}

#[test]
fn learns_its_place_from_the_module() {
    let (script, ram) = (Script::default(), Ram::default());
    let l1 = l1_on(1, &script, &ram, shared());
    assert_eq!((l1.level(), l1.vcpu()), (Level::Monitor, VcpuId(1)));
    let capabilities = l1.capabilities();
    assert_eq!(capabilities.guest_levels, 2);
    assert_eq!(capabilities.hierarchy, Hierarchy::Siblings);
    assert_eq!(capabilities.host_reach, HostReach::ThroughMonitor);
    assert_eq!(capabilities.rescind_unassigned, Support::No);
    assert_eq!(capabilities.flush, FlushReach::OwnVcpu);
    assert_eq!(capabilities.binding, Binding::Monitor);
    assert_eq!(capabilities.inject, Support::Yes);
}

#[test]
fn refuses_a_module_without_partitioning() {
    let script = Script::default();
    script.call(Leaf::VP_INFO, Regs::default(), Regs { r10: 0, ..info(0) });
    assert_eq!(start(&script, pages(0), map()).err(), Some(ErrorKind::Unsupported));
    let features = Regs { rdx: FieldId::TDX_FEATURES0.0, ..Regs::default() };
    script.call(Leaf::VP_INFO, Regs::default(), info(0)).call(
        Leaf::SYS_RD,
        features,
        Regs { r8: !FEATURE_TD_PARTITIONING, ..Regs::default() },
    );
    assert_eq!(start(&script, pages(0), map()).err(), Some(ErrorKind::Unsupported));
}

#[test]
fn refuses_a_td_without_l2_vms_and_a_number_of_them_that_cannot_be() {
    let script = Script::default();
    discover(&script, 0, 0);
    assert_eq!(start(&script, pages(0), map()).err(), Some(ErrorKind::Unsupported));
    discover(&script, 0, 4);
    assert_eq!(start(&script, pages(0), map()).err(), Some(ErrorKind::Refused));
}

#[test]
fn refuses_a_td_in_which_the_host_can_raise_ve_on_private_memory() {
    let script = Script::default();
    script.call(Leaf::VP_INFO, Regs::default(), Regs { rdx: !ATTRIBUTE_SEPT_VE_DISABLE, ..info(0) });
    assert_eq!(start(&script, pages(0), map()).err(), Some(ErrorKind::Unsupported));
}

#[test]
fn refuses_an_address_width_that_does_not_exist() {
    let script = Script::default();
    script.call(Leaf::VP_INFO, Regs::default(), Regs { rcx: 47, ..info(0) });
    assert_eq!(start(&script, pages(0), map()).err(), Some(ErrorKind::Refused));
}

#[test]
fn refuses_a_vcpu_for_which_there_is_no_room() {
    let script = Script::default();
    discover(&script, 2, 1);
    assert_eq!(start(&script, pages(0), map()).err(), Some(ErrorKind::NotFound));
}

#[test]
fn an_error_of_the_module_keeps_its_status() {
    let script = Script::default();
    let bad = Status::OPERAND_INVALID;
    script.call(Leaf::VP_INFO, Regs::default(), status(bad.0));
    let error = L1::new(script.clone(), Ram::default(), map(), shared(), pages(0)).err();
    assert_eq!(error, Some(Error::Refused { leaf: Leaf::VP_INFO, status: bad }));
}

#[test]
fn refuses_a_map_that_reaches_the_shared_half() {
    let script = Script::default();
    let ranges: &'static _ = Box::leak(Box::new([range(0, RAM), range(SHARED_BIT - 0x1000, 0x2000)]));
    discover(&script, 0, 2);
    assert_eq!(start(&script, pages(0), MemoryMap::new(ranges).unwrap()).err(), Some(ErrorKind::OutOfRange));
}

#[test]
fn refuses_pages_that_are_misaligned_outside_or_used_twice() {
    let script = Script::default();
    let good = pages(0);
    let level = |change: fn(&mut LevelPages)| {
        let mut pages = good;
        let mut level = pages.levels[0].unwrap();
        change(&mut level);
        pages.levels[0] = Some(level);
        pages
    };
    let bad = [
        level(|level| level.registers = PhysAddr::new(REGISTERS + 0x80)),
        level(|level| level.registers = PhysAddr::new(RAM)),
        level(|level| level.registers = PhysAddr::new(REGISTERS + 0x100)), // level 2's
        level(|level| level.registers = PhysAddr::new(SCRATCH + 0xf00)),
        level(|level| level.vapic = frame(SCRATCH)),
        Pages { scratch: frame(0xf_ffff_ffff_f000), ..good },
    ];
    for pages in bad {
        discover(&script, 0, 2);
        assert_eq!(start(&script, pages, map()).err(), Some(ErrorKind::InvalidArgument), "{pages:x?}");
    }
}

#[test]
fn hands_over_no_boot_pages() {
    let (mut l1, _script, _ram) = l1();
    assert!(Tested::PAGES.is_empty());
    let info = BootInfo { level: ONE, call_area: frame(0x1000), monitor: range(0x10_0000, 0x1000) };
    assert_eq!(l1.fill(BootPage::Secrets, frame(0x2000), &info), Err(Error::NoBootPage));
    let _: Ram = l1.memory();
}
