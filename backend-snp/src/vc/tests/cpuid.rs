//! CPUID comes from the page (CP-01).

use x86_64::PhysAddr;

use super::super::*;
use super::mock::*;
use crate::insn::Gpr;

fn scene(leaf: u64, sub_leaf: u64) -> Scene {
    let mut scene = Scene::new(&[0x0f, 0xa2]).with(Gpr::RAX, leaf).with(Gpr::RCX, sub_leaf);
    let entries = [
        [0, 0, 0x10, 0x1111, 0x2222, 0x3333],
        [1, 0, 0xa0_0f11, 0x7708_0800, 1 << 27, 0x200],
        [7, 0, 0, 7, 1 << 4, 0],
        [0x8000_0000, 0, 0x8000_001f, 0, 0, 0],
        [0x8000_001f, 0, 0x3a, 0x4073, 5, 6],
    ];
    for (entry, [eax_in, ecx_in, eax, ebx, ecx, edx]) in scene.cpuid.entries.iter_mut().zip(entries) {
        (entry.eax_in, entry.ecx_in) = (eax_in, ecx_in);
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx);
    }
    scene.cpuid.count = 5;
    scene
}

fn answer(scene: &mut Scene) -> [u64; 4] {
    scene.done(ExitCode::CPUID, 2);
    [Gpr::RAX, Gpr::RBX, Gpr::RCX, Gpr::RDX].map(|gpr| scene.gpr(gpr))
}

#[test]
fn a_leaf_of_the_page_is_not_asked_from_the_host() {
    for (leaf, sub_leaf, expected) in [
        (0, 9, [0x10, 0x1111, 0x2222, 0x3333]),
        // APIC id of the vCPU, OSXSAVE off.
        (1, 0, [0xa0_0f11, 0x0508_0800, 0, 0x200]),
        (0xffff_ffff_0000_0000, 0, [0x10, 0x1111, 0x2222, 0x3333]),
        (7, 0, [0, 7, 0, 0]),
        (6, 0, [0; 4]),
        (0x11, 0, [0; 4]),
        (0x8000_0020, 0, [0; 4]),
        (0xc000_0000, 0, [0; 4]),
    ] {
        let mut scene = scene(leaf, sub_leaf);
        assert_eq!(answer(&mut scene), expected, "{leaf:#x}");
        assert_eq!(scene.host.asked, []);
    }
}

#[test]
fn cpuid_follows_control_registers() {
    let mut scene = scene(1, 0);
    scene.context.cr4 |= 1 << 18;
    assert_eq!(answer(&mut scene)[2], 1 << 27);
}

#[test]
fn the_host_answers_for_the_leaves_of_the_hypervisor_only() {
    for leaf in [0x4000_0000, 0x4000_0100, 0x4fff_ffff] {
        let mut scene = scene(leaf, 2);
        assert_eq!(answer(&mut scene), [0xa, 0xb, 0xc, 0xd]);
        assert_eq!(scene.host.asked, [Asked::Cpuid(leaf as u32, 2)]);
    }
    for leaf in [0x3fff_ffff, 0x5000_0000] {
        assert_eq!(answer(&mut scene(leaf, 0)), [0; 4]);
    }
}

#[test]
fn an_svsm_is_announced_where_there_is_one() {
    assert_eq!(answer(&mut scene(0x8000_001f, 0)), [0x3a, 0x4073, 5, 6]);
    let mut served = scene(0x8000_001f, 0);
    served.call_area = Some(PhysAddr::new(0x1000));
    assert_eq!(answer(&mut served), [0x1000_003a, 0x4073, 5, 6]);
}
