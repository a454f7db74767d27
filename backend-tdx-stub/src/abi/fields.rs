//! Metadata field ids (fact table `metadata_fields`).

use coco_part_api::GuestLevel;

/// The id of a metadata field, as RDX of TDG.SYS.RD, TDG.VM.RD, TDG.VP.RD and TDG.VP.WR takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldId(pub u64);

impl FieldId {
    /// TDX_FEATURES0 of the module; [`FEATURE_TD_PARTITIONING`] is one of its bits.
    pub const TDX_FEATURES0: Self = Self(0x0A00_0003_0000_0008);
    /// How many L2 VMs the host gave this TD.
    pub const NUM_L2_VMS: Self = Self(0x9010_0001_0000_0005);

    /// L2_CTLS of a VM: bit 0 shared memory, bit 1 TDVMCALL, bit 2 extended #VE.
    pub const fn l2_ctls(level: GuestLevel) -> Self {
        Self(0xA020_0003_0000_0050 + level.number() as u64)
    }

    /// A field of the VMCS of a VM on this vCPU.
    pub const fn vmcs(level: GuestLevel, field: VmcsField) -> Self {
        // Class 36, 44 or 52; context 2 (vCPU); size code; VMCS encoding.
        let class = 36 + 8 * (level.number() as u64 - 1);
        Self(class << 56 | 2 << 52 | field.size_code() << 32 | field.0 as u64)
    }
}

/// Bit of TDX_FEATURES0: TD partitioning is there.
pub const FEATURE_TD_PARTITIONING: u64 = 1 << 7;

/// Bit of the TD's ATTRIBUTES: an access to a pending page is no #VE.
pub const ATTRIBUTE_SEPT_VE_DISABLE: u64 = 1 << 28;

/// Bits of L2_CTLS that L1 may write.
pub const L2_CTLS_MASK: u64 = 0x7;

codes! {
    /// The encoding of a VMCS field.
    pub struct VmcsField(u32) {
        /// Virtual-APIC address; has to be set before the first entry.
        VIRTUAL_APIC_ADDRESS = 0x2012;
        /// IA32_PAT.
        PAT = 0x2804;
        /// IA32_EFER.
        EFER = 0x2806;
        /// VM-entry controls.
        ENTRY_CONTROLS = 0x4012;
        /// VM-entry interruption information.
        ENTRY_INTERRUPTION = 0x4016;
        /// VM-entry exception error code.
        ENTRY_ERROR_CODE = 0x4018;
        /// VM-entry instruction length.
        ENTRY_LENGTH = 0x401A;
        /// Secondary processor-based controls.
        SECONDARY_CONTROLS = 0x401E;
        /// GDTR limit.
        GDTR_LIMIT = 0x4810;
        /// IDTR limit.
        IDTR_LIMIT = 0x4812;
        /// Interruptibility state.
        INTERRUPTIBILITY = 0x4824;
        /// IA32_SYSENTER_CS.
        SYSENTER_CS = 0x482A;
        /// CR0 guest/host mask.
        CR0_MASK = 0x6000;
        /// CR4 guest/host mask.
        CR4_MASK = 0x6002;
        /// CR0 read shadow.
        CR0_SHADOW = 0x6004;
        /// CR4 read shadow.
        CR4_SHADOW = 0x6006;
        /// CR0.
        CR0 = 0x6800;
        /// CR3.
        CR3 = 0x6802;
        /// CR4.
        CR4 = 0x6804;
        /// GDTR base.
        GDTR_BASE = 0x6816;
        /// IDTR base.
        IDTR_BASE = 0x6818;
        /// DR7.
        DR7 = 0x681A;
        /// Pending debug exceptions.
        PENDING_DEBUG = 0x6822;
        /// IA32_SYSENTER_ESP.
        SYSENTER_ESP = 0x6824;
        /// IA32_SYSENTER_EIP.
        SYSENTER_EIP = 0x6826;
    }
}

impl VmcsField {
    /// Size code of a field id, from the width in bits 14:13 of the encoding: 16, 64, 32 bits, natural width.
    const fn size_code(self) -> u64 {
        match self.0 >> 13 & 3 {
            0 => 1,
            2 => 2,
            _ => 3,
        }
    }
}

/// A segment register of the VMCS, in VMCS order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentRegister {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// LDTR.
    Ldtr,
    /// TR.
    Tr,
}

impl SegmentRegister {
    /// Selector.
    pub const fn selector(self) -> VmcsField {
        VmcsField(0x800 + 2 * self as u32)
    }

    /// Limit.
    pub const fn limit(self) -> VmcsField {
        VmcsField(0x4800 + 2 * self as u32)
    }

    /// Access rights.
    pub const fn access_rights(self) -> VmcsField {
        VmcsField(0x4814 + 2 * self as u32)
    }

    /// Base.
    pub const fn base(self) -> VmcsField {
        VmcsField(0x6806 + 2 * self as u32)
    }
}

/// Bit of the access rights: the segment cannot be used.
pub const UNUSABLE: u32 = 1 << 16;

/// Bits that L1 may write, by field.
pub mod mask {
    /// CR0: PE MP EM TS ET WP AM PG... The rest belongs to the module.
    pub const CR0: u64 = 0x8005_001F;
    /// CR4: all but MCE and VMXE, SMXE and what no processor has.
    pub const CR4: u64 = 0x3FF_1FBF;
    /// EFER: SCE, LME, LMA.
    pub const EFER: u64 = 0x501;
    /// VM-entry controls: IA-32e mode guest.
    pub const IA32E_MODE: u64 = 1 << 9;
    /// Secondary controls, one bit of several: mode-based execute control.
    pub const MODE_BASED_EXECUTE: u64 = 1 << 22;
    /// Virtual-APIC address: whole pages.
    pub const VIRTUAL_APIC: u64 = !0xfff;
}

/// Bits that the module keeps set whatever L1 writes.
pub mod fixed {
    /// CR0.NE.
    pub const CR0: u64 = 1 << 5;
    /// CR4.MCE; a guest sees it set.
    pub const CR4: u64 = 1 << 6;
    /// EFER.NXE.
    pub const EFER: u64 = 1 << 11;
}

/// Interruption information: VM-entry, VM-exit and IDT-vectoring have it in common.
pub mod interruption {
    /// Valid.
    pub const VALID: u32 = 1 << 31;
    /// An error code goes with it.
    pub const ERROR_CODE: u32 = 1 << 11;
    /// Type, bits 10:8: non-maskable interrupt.
    pub const NMI: u32 = 2 << 8;
    /// Type: hardware exception.
    pub const EXCEPTION: u32 = 3 << 8;
    /// Type: software interrupt; this type and those above it need the instruction's length.
    pub const SOFTWARE: u32 = 4 << 8;
    /// The bits of the type.
    pub const TYPE: u32 = 7 << 8;
    /// The bits that a VM entry takes: valid, error code, type, vector.
    pub const ENTRY: u32 = VALID | ERROR_CODE | TYPE | 0xff;

    /// Interruptibility state: blocking by STI.
    pub const BLOCKED_BY_STI: u64 = 1 << 0;
    /// Interruptibility state: blocking by MOV SS.
    pub const BLOCKED_BY_MOV_SS: u64 = 1 << 1;
    /// Interruptibility state: blocking by NMI.
    pub const BLOCKED_BY_NMI: u64 = 1 << 3;
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use super::*;
    use crate::facts::{Table, number};

    fn table() -> Table {
        Table::parse(include_str!("../../facts/metadata_fields.csv"))
    }

    const SEGMENTS: [(SegmentRegister, &str); 8] = [
        (SegmentRegister::Es, "ES"),
        (SegmentRegister::Cs, "CS"),
        (SegmentRegister::Ss, "SS"),
        (SegmentRegister::Ds, "DS"),
        (SegmentRegister::Fs, "FS"),
        (SegmentRegister::Gs, "GS"),
        (SegmentRegister::Ldtr, "LDTR"),
        (SegmentRegister::Tr, "TR"),
    ];

    fn named() -> Vec<(VmcsField, String)> {
        let fields = [
            (VmcsField::VIRTUAL_APIC_ADDRESS, "Virtual-APIC address"),
            (VmcsField::PAT, "IA32_PAT"),
            (VmcsField::EFER, "IA32_EFER"),
            (VmcsField::ENTRY_CONTROLS, "VM-Entry Controls"),
            (VmcsField::ENTRY_INTERRUPTION, "VM-entry interruption information"),
            (VmcsField::ENTRY_ERROR_CODE, "VM-entry exception error code"),
            (VmcsField::ENTRY_LENGTH, "VM-entry instruction length"),
            (VmcsField::SECONDARY_CONTROLS, "Secondary Processor-Based VM-execution Controls"),
            (VmcsField::GDTR_LIMIT, "Guest GDTR limit"),
            (VmcsField::IDTR_LIMIT, "Guest IDTR limit"),
            (VmcsField::INTERRUPTIBILITY, "Interruptibility State"),
            (VmcsField::SYSENTER_CS, "IA32_SYSENTER_CS"),
            (VmcsField::CR0_MASK, "CR0 Guest/Host Mask"),
            (VmcsField::CR4_MASK, "CR4 Guest/Host Mask"),
            (VmcsField::CR0_SHADOW, "CR0 Read Shadow"),
            (VmcsField::CR4_SHADOW, "CR4 Read Shadow"),
            (VmcsField::CR0, "Guest CR0"),
            (VmcsField::CR3, "Guest CR3"),
            (VmcsField::CR4, "Guest CR4"),
            (VmcsField::GDTR_BASE, "Guest GDTR base"),
            (VmcsField::IDTR_BASE, "Guest IDTR base"),
            (VmcsField::DR7, "Guest DR7"),
            (VmcsField::PENDING_DEBUG, "Pending Debug Exceptions"),
            (VmcsField::SYSENTER_ESP, "IA32_SYSENTER_ESP"),
            (VmcsField::SYSENTER_EIP, "IA32_SYSENTER_EIP"),
        ];
        assert_eq!(fields.len(), VmcsField::KNOWN.len());
        let segments = SEGMENTS.into_iter().flat_map(|(register, name)| {
            [
                (register.selector(), std::format!("Guest {name} selector")),
                (register.limit(), std::format!("Guest {name} limit")),
                (register.access_rights(), std::format!("Guest {name} access rights")),
                (register.base(), std::format!("Guest {name} base")),
            ]
        });
        fields.into_iter().map(|(field, name)| (field, String::from(name))).chain(segments).collect()
    }

    #[test]
    fn vmcs_field_ids_are_those_of_the_table() {
        let table = table();
        for (field, name) in named() {
            let row = table.with("group", "L2_VMCS").find(|row| row.text("name") == name).expect(&name);
            let ids: Vec<u64> = row.text("field_id_hex").split(' ').filter_map(number).collect();
            let ours: Vec<u64> = GuestLevel::ALL.iter().map(|level| FieldId::vmcs(*level, field).0).collect();
            assert_eq!(ours, ids, "{name}");
            assert_ne!(row.number("l1_write_mask"), 0, "L1 cannot write {name}");
        }
    }

    #[test]
    fn write_masks_are_those_of_the_table() {
        let table = table();
        let of = |field: VmcsField| {
            let code = std::format!("0x{:X}", field.0);
            table
                .with("group", "L2_VMCS")
                .find(|row| row.text("field_code_hex") == code)
                .unwrap()
                .number("l1_write_mask")
        };
        assert_eq!(mask::CR0, of(VmcsField::CR0));
        assert_eq!(mask::CR4, of(VmcsField::CR4));
        assert_eq!(mask::EFER, of(VmcsField::EFER));
        assert_eq!(mask::IA32E_MODE, of(VmcsField::ENTRY_CONTROLS));
        assert_eq!(mask::VIRTUAL_APIC, of(VmcsField::VIRTUAL_APIC_ADDRESS) | !0xf_ffff_ffff_ffff);
        assert_eq!(of(VmcsField::SECONDARY_CONTROLS) & mask::MODE_BASED_EXECUTE, mask::MODE_BASED_EXECUTE);
    }

    #[test]
    fn fixed_bits_are_outside_of_the_write_masks_and_set_from_the_start() {
        let table = table();
        for (field, mask, fixed) in [
            (VmcsField::CR0, mask::CR0, fixed::CR0),
            (VmcsField::CR4, mask::CR4, fixed::CR4),
            (VmcsField::EFER, mask::EFER, fixed::EFER),
        ] {
            let code = std::format!("0x{:X}", field.0);
            let row = table.with("group", "L2_init").find(|row| row.text("field_code_hex") == code).unwrap();
            let start = row.text("meaning").split("0x").nth(1).unwrap();
            let start = u64::from_str_radix(start, 16).unwrap();
            assert_eq!(mask & fixed, 0);
            assert_eq!(start & fixed, fixed, "{field:?}");
        }
    }

    #[test]
    fn other_field_ids_are_those_of_the_table() {
        let table = table();
        let id = |name| table.one("name", name).number("field_id_hex");
        assert_eq!(FieldId::TDX_FEATURES0.0, id("TDX_FEATURES0"));
        assert_eq!(FieldId::NUM_L2_VMS.0, id("NUM_L2_VMS"));
        for level in GuestLevel::ALL {
            assert_eq!(FieldId::l2_ctls(level).0, id("L2_CTLS") + u64::from(level.number()));
        }
        assert_eq!(L2_CTLS_MASK, table.one("name", "L2_CTLS").number("l1_write_mask"));
        let bit = table.one("name", "TD PARTITIONING").text("field_id_hex");
        assert_eq!(bit, "0x0A00000300000008 bit 7");
        assert_eq!(FEATURE_TD_PARTITIONING, 1 << 7);
        let attributes = table.one("field_id_hex", "0x1110000300000000").text("meaning");
        assert!(attributes.contains("28 SEPT_VE_DISABLE"), "{attributes}");
        assert_eq!(ATTRIBUTE_SEPT_VE_DISABLE, 1 << 28);
    }
}
