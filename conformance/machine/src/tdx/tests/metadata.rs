//! Fields (metadata_fields.csv).

use super::*;
use crate::tdx::FLEXIBLE_PENDING_VE;
use crate::tdx::status::{
    METADATA_FIELD_CURRENTLY_NOT_WRITABLE, METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE,
    METADATA_FIELD_NOT_WRITABLE, METADATA_FIELD_VALUE_NOT_VALID, METADATA_WR_MASK_NOT_VALID, OPERAND_INVALID,
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
        vmcs(1, 0x681e) | 1 << 63,
        L2_CTLS + 2,
        L2_CTLS & !(1 << 63),
        0x3f << 56,
    ] {
        assert_eq!(rd(&mut m, leaf::VP_RD, id).rax, METADATA_FIELD_ID_INCORRECT, "{id:#x}");
        assert_eq!(vp_wr(&mut m, id, 0, 1).rax, METADATA_FIELD_ID_INCORRECT, "{id:#x}");
    }
    // Element size, stride and context are ignored in a single access.
    assert_eq!(rd(&mut m, leaf::VP_RD, vmcs(1, 0x681e) | 3 << 32 | 1 << 50 | 2 << 52).rax, 0);
    for hidden in [vmcs(1, 0x2010), vmcs(1, 0x203c), 0, 0x1000_0000_0000_0000, 38 << 56] {
        assert_eq!(rd(&mut m, leaf::VP_RD, hidden).rax, METADATA_FIELD_NOT_READABLE, "{hidden:#x}");
        assert_eq!(vp_wr(&mut m, hidden, 0, 1).rax, METADATA_FIELD_NOT_WRITABLE, "{hidden:#x}");
    }
    for id in [0x9110_0003_0000_0012, 1 << 62, 0x9110_0003_0000_0016] {
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
    // Bits that are not L1's are dropped here.
    assert_eq!(vp_wr(&mut m, efer, 0, u64::MAX).rax, 0);
    assert_eq!(value(&mut m, leaf::VP_RD, efer), 0x800);
    assert_eq!(vp_wr(&mut m, efer, 0, 0x800).rax, METADATA_WR_MASK_NOT_VALID);
    assert_eq!(vp_wr(&mut m, efer, 0, 0).rax, METADATA_WR_MASK_NOT_VALID);
    for fixed in [vmcs(1, 0x4000), vmcs(1, 0x400c), vmcs(1, 0x2016), 0xa020_0002_0000_0002, L2_CTLS] {
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
    assert_eq!(write(&mut m, 0).rax, METADATA_FIELD_CURRENTLY_NOT_WRITABLE);
    let mut m = machine_with(|config| config.config_flags = FLEXIBLE_PENDING_VE);
    let old = write(&mut m, 0);
    assert_eq!((old.rax, old.r8), (0, 1));
    assert!(m.host_add_page(PAGE, false));
    assert!(matches!(l1(&mut m, read(PAGE, 1)), Outcome::Fault(Fault::Ve { reason: 48, .. })));
    let notify = Regs { rdx: 0x9110_0003_0000_0010, r8: 1, r9: 1, ..NONE };
    assert_eq!(call(&mut m, leaf::VM_WR, notify).rax, 0);
    assert_eq!(value(&mut m, leaf::VM_RD, 0x9110_0003_0000_0010), 1);
    assert_eq!(
        call(&mut m, leaf::VM_WR, Regs { rdx: 0x1110_0003_0000_0000, r9: 1, ..NONE }).rax,
        METADATA_FIELD_NOT_WRITABLE
    );
}

#[test]
fn version_1_of_vm_rd_enumerates() {
    let mut m = machine();
    let rd1 = |m: &mut Machine, rdx| call(m, leaf::VM_RD, Regs { rdx, ..NONE });
    assert_eq!(rd1(&mut m, u64::MAX).rax, METADATA_FIELD_ID_INCORRECT);
    let op = |rdx| Op::Tdcall(Regs { rax: 1 << 16 | 7, rdx, ..NONE });
    let mut id = u64::MAX;
    let mut count = 0;
    while let Outcome::Done(Answer::Regs(regs)) = l1(&mut m, op(id)) {
        assert!(regs.rax == 0 || count == 0 && regs.rax == 0x0000_0c0b_0000_0000);
        id = regs.rdx;
        if id == u64::MAX {
            break;
        }
        count += 1;
    }
    assert_eq!(count, 4 + 10 + 4 * 6 + 24 + 4 + 6 + 1 + 16);
}
