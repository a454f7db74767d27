//! Fields (metadata_fields.csv).

use super::*;
use crate::tdx::FLEXIBLE_PENDING_VE;
use crate::tdx::host::Policy;
use crate::tdx::status::{
    METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE, METADATA_FIELD_NOT_WRITABLE,
    METADATA_FIELD_VALUE_NOT_VALID, METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_BUSY, OPERAND_INVALID,
};

fn rd(m: &mut Machine, number: u16, id: u64) -> Regs {
    call(m, number, Regs { rdx: id, ..NONE })
}

fn value(m: &mut Machine, number: u16, id: u64) -> u64 {
    let regs = rd(m, number, id);
    assert_eq!(regs.rax, 0, "{id:#x}");
    regs.r8
}

const L2_CTLS: u64 = 0xa020_0003_0000_0050;

#[test]
fn vp_info_says_who_and_how_wide() {
    let mut m = machine_with(|config| config.gpaw = 52);
    let info = call(&mut m, leaf::VP_INFO, Regs { r12: 9, ..NONE });
    assert_eq!(
        (info.rcx, info.rdx, info.r8, info.r9, info.r10, info.r11, info.r12),
        (52, 1 << 28, 2 << 32 | 2, 0, 1, 0, 9)
    );
    let Outcome::Done(Answer::Regs(other)) = on(&mut m, CPU1, tdcall(leaf::VP_INFO, NONE)) else { panic!() };
    assert_eq!(other.r9, 1);
}

#[test]
fn platform_and_td_fields_have_their_values() {
    let mut m = machine_with(|config| config.l2_vms = 2);
    assert_eq!(value(&mut m, leaf::SYS_RD, 0x0a00_0003_0000_0008) >> 7 & 1, 1);
    assert_eq!(value(&mut m, leaf::SYS_RD, 0xa200_0001_0000_0000), 0x807f);
    assert_eq!(value(&mut m, leaf::SYS_RD, 0x0800_0002_0000_0000), 0x8086);
    assert_eq!(value(&mut m, leaf::VM_RD, 0x9010_0001_0000_0005), 2);
    assert_eq!(value(&mut m, leaf::VM_RD, 0x9010_0002_0000_0001), 2);
    assert_eq!(value(&mut m, leaf::VM_RD, 0x1110_0003_0000_0000), 1 << 28);
    let mrtd = m.mrtd();
    assert_eq!(value(&mut m, leaf::VM_RD, 0x1310_0003_0000_0001).to_le_bytes(), mrtd[8..16]);
    assert_eq!(value(&mut m, leaf::VP_RD, 0xa020_0002_0000_0002), 0);
    let mut plain = machine_with(|config| config.partitioning = false);
    assert_eq!(value(&mut plain, leaf::SYS_RD, 0x0a00_0003_0000_0008) >> 7 & 1, 0);
}

#[test]
fn unknown_ids_are_incorrect_and_closed_fields_are_closed() {
    let mut m = machine_with(|config| config.l2_vms = 1);
    for id in [
        vmcs(2, 0x681e),
        vmcs(1, 0x681f),
        vmcs(1, 0x7000),
        vmcs(1, 0x681e) | 1 << 24,
        vmcs(1, 0x681e) | 1 << 34,
        vmcs(1, 0x681e) | 1 << 38,
        vmcs(1, 0x681e) | 1 << 47,
        vmcs(1, 0x681e) | 1 << 55,
        vmcs(1, 0x681e) | 1 << 62,
        L2_CTLS + 4,
        0x3f << 56,
    ] {
        let read = rd(&mut m, leaf::VP_RD, id);
        assert_eq!((read.rax, read.rdx, read.r8), (METADATA_FIELD_ID_INCORRECT, u64::MAX, 0), "{id:#x}");
        let written = vp_wr(&mut m, id, 5, 1);
        assert_eq!((written.rax, written.rdx, written.r8), (METADATA_FIELD_ID_INCORRECT, id, 0), "{id:#x}");
    }
    // Element size, stride, context and the bit for fields that are not architectural are ignored in a single access.
    assert_eq!(rd(&mut m, leaf::VP_RD, vmcs(1, 0x681e) | 3 << 32 | 1 << 50 | 2 << 52 | 1 << 63).rax, 0);
    assert_eq!(rd(&mut m, leaf::VP_RD, L2_CTLS & !(1 << 63)).rax, 0);
    assert_eq!(value(&mut m, leaf::VM_RD, 0x9110_0003_0000_0016), value(&mut m, leaf::VM_RD, 0x1110_0003_0000_0016));
    for hidden in [vmcs(1, 0x2010), vmcs(1, 0x203c), 0, 0x1000_0000_0000_0000, 38 << 56] {
        assert_eq!(rd(&mut m, leaf::VP_RD, hidden).rax, METADATA_FIELD_NOT_READABLE, "{hidden:#x}");
        assert_eq!(vp_wr(&mut m, hidden, 0, 1).rax, METADATA_FIELD_NOT_WRITABLE, "{hidden:#x}");
    }
    for id in [0x9110_0003_0000_0012, 1 << 62] {
        assert_eq!(rd(&mut m, leaf::VM_RD, id).rax, METADATA_FIELD_ID_INCORRECT, "{id:#x}");
    }
    assert_eq!(rd(&mut m, leaf::SYS_RD, 5 << 56).rax, METADATA_FIELD_ID_INCORRECT);
    assert_eq!(call(&mut m, leaf::VP_RD, Regs { rcx: 1, rdx: L2_CTLS, ..NONE }).rax, OPERAND_INVALID | 1);
}

#[test]
fn a_write_changes_what_mask_and_field_allow_and_gives_the_old_value() {
    let mut m = machine();
    let efer = vmcs(1, 0x2806);
    let old = vp_wr(&mut m, efer, 0x501, 0x501);
    assert_eq!((old.rax, old.r8), (0, 0x901));
    assert_eq!(value(&mut m, leaf::VP_RD, efer), 0xd01);
    // Bits that the mask selects and that are not L1's must not change.
    assert_eq!(vp_wr(&mut m, efer, 0, u64::MAX).rax, METADATA_FIELD_VALUE_NOT_VALID);
    assert_eq!(value(&mut m, leaf::VP_RD, efer), 0xd01);
    assert_eq!(vp_wr(&mut m, efer, 0x800, u64::MAX).rax, 0);
    assert_eq!(value(&mut m, leaf::VP_RD, efer), 0x800);
    // A field of 16 bits takes a wide mask, but no wide value.
    assert_eq!(vp_wr(&mut m, vmcs(1, 0x802), 0x10, u64::MAX).rax, 0);
    assert_eq!(vp_wr(&mut m, vmcs(1, 0x802), 0x1_0010, u64::MAX).rax, METADATA_FIELD_VALUE_NOT_VALID);
    assert_eq!(vp_wr(&mut m, efer, 0, 0x800).rax, METADATA_FIELD_NOT_WRITABLE);
    assert_eq!(vp_wr(&mut m, efer, 0, 0).rax, METADATA_FIELD_NOT_WRITABLE);
    for fixed in [vmcs(1, 0x4000), vmcs(1, 0x400c), vmcs(1, 0x2016), 0xa020_0002_0000_0002] {
        assert_eq!(vp_wr(&mut m, fixed, 1, 1).rax, METADATA_FIELD_NOT_WRITABLE, "{fixed:#x}");
    }
}

#[test]
fn tdx_56_controls_and_control_registers_keep_the_modules_bits() {
    let mut m = machine();
    for (encoding, inside, outside) in [
        (0x6800, 0x8000_0011u64, 1u64 << 5),
        (0x6804, 0x20, 1 << 6),
        (0x401e, 1 << 22, 1 << 1),
        (0x4002, 1 << 30, 1 << 7),
        (0x2802, 1, 1 << 3),
    ] {
        let id = vmcs(1, encoding);
        let before = m.vmcs_field(CPU0, 1, encoding).unwrap();
        assert_eq!(vp_wr(&mut m, id, before ^ outside, u64::MAX).rax, METADATA_FIELD_VALUE_NOT_VALID, "{encoding:#x}");
        assert_eq!(m.vmcs_field(CPU0, 1, encoding), Some(before));
        assert_eq!(vp_wr(&mut m, id, before ^ inside, u64::MAX).rax, 0, "{encoding:#x}");
        assert_eq!(m.vmcs_field(CPU0, 1, encoding), Some(before ^ inside));
    }
}

#[test]
fn cr4_takes_features_that_the_td_has() {
    let write = |m: &mut Machine, bit: u64| vp_wr(m, vmcs(1, 0x6804), 1 << bit, 1 << bit).rax;
    let mut m = machine();
    for feature in [19, 22, 23, 24, 25] {
        assert_eq!(write(&mut m, feature), METADATA_FIELD_VALUE_NOT_VALID, "{feature}");
    }
    assert_eq!(write(&mut m, 18), 0);
    let mut pks = machine_with(|config| config.attributes |= 1 << 30);
    assert_eq!((write(&mut pks, 24), write(&mut pks, 22)), (0, METADATA_FIELD_VALUE_NOT_VALID));
}

#[test]
fn tdx_46_a_deadline_is_not_too_far_ahead() {
    let mut m = machine_with(|config| config.l2_vms = 1);
    let deadline = |m: &mut Machine, vm: u64, value: u64| vp_wr(m, 0xa020_0003_0000_0058 + vm, value, u64::MAX).rax;
    assert_eq!([0, 1 << 62, u64::MAX].map(|value| deadline(&mut m, 1, value)), [0; 3]);
    assert_eq!(deadline(&mut m, 1, u64::MAX - 1), OPERAND_INVALID);
    assert_eq!(value(&mut m, leaf::VP_RD, 0xa020_0003_0000_0059), u64::MAX);
    // Elements of L1 and of VMs that are not there can be written and mean nothing.
    assert_eq!([0, 2].map(|vm| deadline(&mut m, vm, u64::MAX - 1)), [0; 2]);
    assert_eq!([0, 2].map(|vm| vp_wr(&mut m, L2_CTLS + vm, 1, 7).rax), [0; 2]);
}

#[test]
fn tdx_10_fields_belong_to_the_vcpu_that_writes_them() {
    let mut m = machine();
    assert_eq!(vp_wr(&mut m, vmcs(3, 0x6802), 0x5000, u64::MAX).rax, 0);
    assert_eq!(m.vmcs_field(CPU0, 3, 0x6802), Some(0x5000));
    assert_eq!((m.vmcs_field(CPU1, 3, 0x6802), m.vmcs_field(CPU0, 1, 0x6802)), (Some(0), Some(0)));
    assert_eq!(vp_wr(&mut m, L2_CTLS + 3, 0x3, 0x7).rax, 0);
    assert_eq!(value(&mut m, leaf::VP_RD, L2_CTLS + 3), 3);
    assert_eq!(vp_wr(&mut m, L2_CTLS + 3, 0x8, 0xf).rax, METADATA_FIELD_VALUE_NOT_VALID);
    assert_eq!(value(&mut m, leaf::VP_RD, 0xa020_0003_0000_0059), u64::MAX);
    assert_eq!(value(&mut m, leaf::VP_RD, 0x2520_0003_0000_01ff), u64::MAX);
}

#[test]
fn tdx_11_the_virtual_apic_address_is_private() {
    let mut m = machine();
    assert_eq!(vp_wr(&mut m, vmcs(1, 0x2012), VAPIC | SHARED, !0xfff).rax, METADATA_FIELD_VALUE_NOT_VALID);
    assert_eq!(vp_wr(&mut m, vmcs(1, 0x2012), VAPIC | 1, u64::MAX).rax, METADATA_FIELD_VALUE_NOT_VALID);
    assert_eq!(m.vmcs_field(CPU0, 1, 0x2012), Some(0));
}

#[test]
fn td_controls_change_only_where_the_td_is_flexible() {
    let id = 0x1110_0003_0000_0017;
    let write = |m: &mut Machine, value| call(m, leaf::VM_WR, Regs { rdx: id, r8: value, r9: 1, ..NONE });
    let mut m = machine();
    assert_eq!(value(&mut m, leaf::VM_RD, id), 1);
    let refused = write(&mut m, 0);
    assert_eq!((refused.rax, refused.r8), (METADATA_FIELD_VALUE_NOT_VALID, 0));
    assert_eq!(write(&mut m, 1).rax, 0);
    let mut m = machine_with(|config| config.config_flags = FLEXIBLE_PENDING_VE);
    let old = write(&mut m, 0);
    assert_eq!((old.rax, old.r8), (0, 1));
    assert!(m.host_add_page(PAGE, false));
    assert!(matches!(l1(&mut m, read(PAGE, 1)), Outcome::Fault(Fault::Ve { reason: 48, .. })));
    let notify = Regs { rdx: 0x9110_0003_0000_0010, r8: 1, r9: 1, ..NONE };
    m.host_state_mut().set_policy(Policy::Busy(1));
    assert_eq!(call(&mut m, leaf::VM_WR, notify).rax, OPERAND_BUSY | 176);
    assert_eq!(call(&mut m, leaf::VM_WR, notify).rax, 0);
    assert_eq!(value(&mut m, leaf::VM_RD, 0x9110_0003_0000_0010), 1);
    assert_eq!(
        call(&mut m, leaf::VM_WR, Regs { rdx: 0x1110_0003_0000_0000, r9: 1, ..NONE }).rax,
        METADATA_FIELD_NOT_WRITABLE
    );
}

/// How many fields a leaf names, from the first one on.
fn enumerate(m: &mut Machine, rax: u64) -> u32 {
    let mut next = |rdx| match l1(m, Op::Tdcall(Regs { rax, rdx, ..NONE })) {
        Outcome::Done(Answer::Regs(regs)) => regs,
        other => panic!("{other:?}"),
    };
    let first = next(u64::MAX);
    assert_eq!((first.rax, first.r8), (METADATA_FIRST_FIELD_ID_IN_CONTEXT, 0));
    let mut id = first.rdx;
    let mut count = 0;
    while id != u64::MAX {
        let regs = next(id);
        assert_eq!(regs.rax, 0, "{id:#x}");
        (id, count) = (regs.rdx, count + 1);
    }
    count
}

#[test]
fn the_id_of_no_field_starts_an_enumeration() {
    let mut m = machine_with(|config| config.l2_vms = 2);
    assert_eq!(rd(&mut m, leaf::VM_RD, u64::MAX).rax, METADATA_FIELD_ID_INCORRECT);
    assert_eq!(enumerate(&mut m, 1 << 16 | u64::from(leaf::VM_RD)), 4 + 10 + 4 * 6 + 24 + 4 + 6 + 1 + 16);
    assert_eq!(enumerate(&mut m, leaf::SYS_RD.into()), 12);
    assert_eq!(enumerate(&mut m, leaf::VP_RD.into()), 3 + 8 + 128 + 2 * (122 + 512));
    let first = rd(&mut m, leaf::SYS_RD, !(7 << 52));
    assert_eq!((first.rax, first.rdx), (METADATA_FIRST_FIELD_ID_IN_CONTEXT, 0x0800_0002_0000_0000));
}
