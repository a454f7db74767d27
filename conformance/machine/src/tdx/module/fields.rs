//! The metadata fields that L1 can name (metadata_fields.csv): where they are, and which bits L1 reads and writes.

use crate::tdx::status::{METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE};

/// Class and code of CPUID_SUPERVISOR_VE.
pub(crate) const CPUID_SUPERVISOR_VE: (u8, u32) = (32, 7);
/// Class and code of CPUID_USER_VE.
pub(crate) const CPUID_USER_VE: (u8, u32) = (32, 8);
/// Class and code of L2_CTLS of VM 0; VM n has code + n.
pub(crate) const L2_CTLS: (u8, u32) = (32, 0x50);
/// Class and code of TSC_DEADLINE of VM 0.
pub(crate) const TSC_DEADLINE: (u8, u32) = (32, 0x58);
/// L2_CTLS: the VM sees shared memory.
pub(crate) const ENABLE_SHARED_EPTP: u64 = 1 << 0;
/// L2_CTLS: leaf 0 of TDCALL goes to the host.
pub(crate) const ENABLE_TDVMCALL: u64 = 1 << 1;

const BITS_8: u64 = 0xff;
const BITS_16: u64 = 0xffff;
const BITS_32: u64 = 0xffff_ffff;
const ALL: u64 = u64::MAX;

/// One field of a table: the id of its first element, elements, bits to read and to write.
pub(crate) struct Row {
    pub(super) id: u64,
    pub(crate) count: u32,
    read: u64,
    write: u64,
}

const fn fixed(id: u64, count: u32, read: u64) -> Row {
    open(id, count, read, 0)
}

const fn open(id: u64, count: u32, read: u64, write: u64) -> Row {
    Row { id, count, read, write }
}

/// TDVPS fields outside of the VMCSs and bitmaps.
pub(crate) const VP: &[Row] = &[
    fixed(0xa020_0002_0000_0002, 1, BITS_32),
    open(0xa020_0000_0000_0007, 1, BITS_8, BITS_8),
    open(0xa020_0000_0000_0008, 1, BITS_8, BITS_8),
    open(0xa020_0003_0000_0050, 4, ALL, 0x7),
    open(0xa020_0003_0000_0058, 4, ALL, ALL),
    open(0xa120_0000_0000_0000, 128, BITS_8, 0x3),
];

/// TDCS fields.
pub(crate) const VM: &[Row] = &[
    fixed(0x8010_0003_0000_0020, 4, ALL),
    fixed(0x9010_0002_0000_0001, 1, BITS_32),
    fixed(0x9010_0001_0000_0005, 1, BITS_16),
    fixed(0x1110_0003_0000_0000, 1, ALL),
    fixed(0x1110_0003_0000_0001, 1, ALL),
    fixed(0x1110_0002_0000_0002, 1, BITS_32),
    fixed(0x1110_0000_0000_0003, 1, BITS_8),
    fixed(0x1110_0001_0000_000c, 1, BITS_16),
    open(0x9110_0003_0000_0010, 1, 0x1, 0x1),
    fixed(0x1110_0003_0000_0016, 1, ALL),
    open(0x1110_0003_0000_0017, 1, ALL, 0x1),
    fixed(0x1310_0003_0000_0000, 6, ALL),
    fixed(0x1310_0003_0000_0010, 6, ALL),
    fixed(0x1310_0003_0000_0018, 6, ALL),
    fixed(0x1310_0003_0000_0020, 6, ALL),
    fixed(0x1310_0003_0000_0040, 24, ALL),
    fixed(0x9810_0003_0000_0040, 4, ALL),
    fixed(0x9910_0003_0000_0000, 6, ALL),
    fixed(0x9910_0001_0000_0006, 1, BITS_16),
    fixed(0x9910_0003_0000_0080, 16, ALL),
];

/// Fields of the platform.
pub(crate) const SYS: &[Row] = &[
    fixed(0x0800_0002_0000_0000, 1, BITS_32),
    fixed(0x0800_0001_0000_0003, 1, BITS_16),
    fixed(0x0800_0001_0000_0004, 1, BITS_16),
    fixed(0x0a00_0002_0000_0000, 1, BITS_32),
    fixed(0x0a00_0000_0000_0001, 1, BITS_8),
    fixed(0x0a00_0003_0000_0008, 1, ALL),
    fixed(0xa000_0003_0000_0000, 1, ALL),
    fixed(0x2000_0001_0000_0001, 4, BITS_16),
    fixed(0xa200_0001_0000_0000, 1, BITS_16),
];

/// VMCS fields that L1 neither reads nor writes.
const HIDDEN: &[u32] = &[
    0x0, 0x4, 0x812, 0x2004, 0x2006, 0x2008, 0x200a, 0x200c, 0x200e, 0x2010, 0x2014, 0x2024, 0x2026, 0x2028, 0x2032,
    0x2038, 0x203a, 0x203c, 0x203e, 0x204a, 0x204c, 0x2800, 0x400e, 0x4010, 0x4014, 0x4026, 0x4828, 0x482e, 0x6c08,
    0x6c14, 0x6c16, 0x6c1a,
];
/// VMCS fields that L1 only reads.
const READ_ONLY: &[u32] =
    &[0x2, 0x2000, 0x2002, 0x2016, 0x2018, 0x202a, 0x202e, 0x2036, 0x4000, 0x400c, 0x4024, 0x4826];
/// VMCS fields that L1 reads and writes as a whole.
const OPEN: &[u32] = &[
    0x6, 0x800, 0x802, 0x804, 0x806, 0x808, 0x80a, 0x80c, 0x80e, 0x810, 0x814, 0x201c, 0x201e, 0x2020, 0x2022, 0x202c,
    0x2400, 0x2804, 0x2808, 0x280a, 0x280c, 0x280e, 0x2810, 0x2814, 0x2816, 0x2818, 0x4006, 0x4008, 0x400a, 0x4016,
    0x4018, 0x401a, 0x401c, 0x4020, 0x4022, 0x4400, 0x4402, 0x4404, 0x4406, 0x4408, 0x440a, 0x440c, 0x440e, 0x4800,
    0x4802, 0x4804, 0x4806, 0x4808, 0x480a, 0x480c, 0x480e, 0x4810, 0x4812, 0x4814, 0x4816, 0x4818, 0x481a, 0x481c,
    0x481e, 0x4820, 0x4822, 0x4824, 0x482a, 0x6000, 0x6002, 0x6004, 0x6006, 0x6008, 0x600a, 0x600c, 0x600e, 0x6400,
    0x6402, 0x6404, 0x6406, 0x6408, 0x640a, 0x6802, 0x6806, 0x6808, 0x680a, 0x680c, 0x680e, 0x6810, 0x6812, 0x6814,
    0x6816, 0x6818, 0x681a, 0x681c, 0x681e, 0x6820, 0x6822, 0x6824, 0x6826, 0x6828, 0x682a, 0x682c,
];
/// VMCS fields of which L1 reads or writes some bits: encoding, read, write.
const MASKED: &[(u32, u64, u64)] = &[
    (0x2012, ALL, 0xffff_ffff_ffff_f000),
    (0x201a, 0xfff0_0000_0000_0fff, 0x80),
    (0x2034, ALL, 0xe),
    (0x2040, ALL, 0x000f_ffff_ffff_f018),
    (0x2802, 0xffff_ffff_ffff_dfff, 0xffc7),
    (0x2806, ALL, 0x501),
    (0x4002, BITS_32, 0x48d9_9a04),
    (0x4004, BITS_32, 0xfffb_ffff),
    (0x4012, BITS_32, 0x200),
    (0x401e, BITS_32, 0x0c51_3e0c),
    (0x6800, ALL, 0x8005_001f),
    (0x6804, ALL, 0x03ff_1fbf),
];

/// Where a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// VMCS of a VM.
    Vmcs { vm: u8, encoding: u32 },
    /// Word of the MSR bitmaps of a VM.
    MsrBitmap { vm: u8, word: u16 },
    /// Class and code.
    Plain { class: u8, code: u32 },
}

/// A field that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) place: Place,
    pub(crate) read: u64,
    pub(crate) write: u64,
    /// Id of the next field that L1 reads, [`NO_FIELD`] at the end.
    pub(crate) next: u64,
}

/// The id of no field. As an operand it asks for the first one.
pub(crate) const NO_FIELD: u64 = u64::MAX;
/// Bits of an id that are 0: reserved ones, and the sequence that single accesses do not have.
const ZERO: u64 = 0xff << 24 | 0xf << 34 | 0x1ff << 38 | 7 << 47 | 1 << 55 | 1 << 62;
/// CONTEXT_CODE of an id: the leaf says it already.
const CONTEXT: u64 = 7 << 52;
/// Class codes of VM 1 lie from here on, those of the next VM [`PER_VM`] higher: VMCS, MSR bitmaps, their shadow.
const VM_CLASSES: u8 = 36;
const PER_VM: u8 = 8;
/// Words of the MSR bitmaps.
const BITMAP_WORDS: u32 = 512;

/// Whether an id asks for the first field.
pub(super) fn asks_for_first(id: u64) -> bool {
    id | CONTEXT == NO_FIELD
}

fn class_of(id: u64) -> u8 {
    (id >> 56 & 0x3f) as u8
}

fn code_of(id: u64) -> u32 {
    (id & 0xff_ffff) as u32
}

/// Finds a field of a table. Class and code decide: element size, stride, mask flag, context and the bit for fields that
/// are not architectural are ignored in a single access.
pub(crate) fn find(table: &[Row], id: u64) -> Result<Field, u64> {
    if id & ZERO != 0 {
        return Err(METADATA_FIELD_ID_INCORRECT);
    }
    let (class, code) = (class_of(id), code_of(id));
    let index_in = |row: &Row| {
        let index = code.checked_sub(code_of(row.id))?;
        (class == class_of(row.id) && index < row.count).then_some(index)
    };
    let (at, row, index) =
        (0..).zip(table).find_map(|(at, row)| Some((at, row, index_in(row)?))).ok_or(METADATA_FIELD_ID_INCORRECT)?;
    let next = match table.get(at + 1) {
        _ if index + 1 < row.count => row.id + u64::from(index) + 1,
        Some(next) => next.id,
        None => NO_FIELD,
    };
    Ok(Field { place: Place::Plain { class, code }, read: row.read, write: row.write, next })
}

/// Finds a vCPU field; `vms` is how many VMs there are.
pub(crate) fn find_vp(id: u64, vms: u8) -> Result<Field, u64> {
    let (class, code) = (class_of(id), code_of(id));
    let offset = class.checked_sub(VM_CLASSES).filter(|offset| *offset < 3 * PER_VM);
    let (Some(offset), 0) = (offset, id & ZERO) else {
        return match class {
            // TD VMCS, VAPIC, #VE information, registers, violation log: not open to L1.
            0..=2 | 16..=19 | 34 if id & ZERO == 0 => Err(METADATA_FIELD_NOT_READABLE),
            _ => find(VP, id).map(|field| match field.next {
                NO_FIELD => Field { next: first_of(1, vms), ..field },
                _ => field,
            }),
        };
    };
    let vm = offset / PER_VM + 1;
    match offset % PER_VM {
        _ if vm > vms => Err(METADATA_FIELD_ID_INCORRECT),
        0 => {
            let (read, write) = vmcs_masks(code).ok_or(METADATA_FIELD_ID_INCORRECT)?;
            let next = next_encoding(code).map_or(id_of(class + 1, 3, 0), |next| vmcs_id(class, next));
            Ok(Field { place: Place::Vmcs { vm, encoding: code }, read, write, next })
        }
        1 if code < BITMAP_WORDS => {
            let next = if code + 1 < BITMAP_WORDS { id_of(class, 3, code + 1) } else { first_of(vm + 1, vms) };
            Ok(Field { place: Place::MsrBitmap { vm, word: code as u16 }, read: ALL, write: ALL, next })
        }
        // The shadow of the bitmaps.
        2 => Err(METADATA_FIELD_NOT_READABLE),
        _ => Err(METADATA_FIELD_ID_INCORRECT),
    }
}

/// The first field of a VM.
fn first_of(vm: u8, vms: u8) -> u64 {
    let encoding = next_encoding(0).filter(|_| vm <= vms);
    encoding.map_or(NO_FIELD, |encoding| vmcs_id(VM_CLASSES + PER_VM * (vm - 1), encoding))
}

fn vmcs_masks(encoding: u32) -> Option<(u64, u64)> {
    let all = match encoding >> 13 & 3 {
        0 => BITS_16,
        2 => BITS_32,
        _ => ALL,
    };
    if OPEN.contains(&encoding) {
        Some((all, all))
    } else if READ_ONLY.contains(&encoding) {
        Some((all, 0))
    } else if HIDDEN.contains(&encoding) {
        Some((0, 0))
    } else {
        let (_, read, write) = MASKED.iter().find(|(known, ..)| *known == encoding)?;
        Some((*read, *write))
    }
}

/// The next VMCS field that L1 reads.
fn next_encoding(after: u32) -> Option<u32> {
    let plain = READ_ONLY.iter().chain(OPEN).copied();
    plain.chain(MASKED.iter().map(|row| row.0)).filter(|encoding| *encoding > after).min()
}

/// Class, context 2 (vCPU), size code, field code.
fn id_of(class: u8, size: u64, code: u32) -> u64 {
    u64::from(class) << 56 | 2 << 52 | size << 32 | u64::from(code)
}

fn vmcs_id(class: u8, encoding: u32) -> u64 {
    let size = match encoding >> 13 & 3 {
        0 => 1,
        2 => 2,
        _ => 3,
    };
    id_of(class, size, encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_table() {
        assert_eq!(vmcs_id(36, 0x681e), 0x2420_0003_0000_681e);
        assert_eq!(vmcs_id(44, 0x4016), 0x2c20_0002_0000_4016);
        assert_eq!(vmcs_id(52, 0x802), 0x3420_0001_0000_0802);
        for table in [VP, VM, SYS] {
            for row in table {
                assert!(find(table, row.id).is_ok_and(|field| field.read == row.read), "{:#x}", row.id);
            }
        }
    }

    #[test]
    fn each_vmcs_field_is_listed_once() {
        let all: alloc::vec::Vec<u32> =
            HIDDEN.iter().chain(READ_ONLY).chain(OPEN).copied().chain(MASKED.iter().map(|row| row.0)).collect();
        for (index, encoding) in all.iter().enumerate() {
            assert!(!all[..index].contains(encoding), "{encoding:#x}");
            assert_eq!(encoding % 2, 0, "high halves are refused");
        }
        assert_eq!(all.len(), 154);
    }

    #[test]
    fn enumeration_of_a_vcpu_goes_through_all_that_l1_reads_and_ends() {
        let plain: u32 = VP.iter().map(|row| row.count).sum();
        for vms in 0..4 {
            let mut id = VP[0].id;
            let mut count = 0;
            while let Ok(Field { next, read, .. }) = find_vp(id, vms) {
                assert_ne!(read, 0, "{id:#x}");
                count += 1;
                id = next;
            }
            let per_vm = (154 - HIDDEN.len()) as u32 + BITMAP_WORDS;
            assert_eq!((count, id), (plain + u32::from(vms) * per_vm, NO_FIELD));
        }
    }
}
