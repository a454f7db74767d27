//! The CPUID page of the test VM: a few leaves, as the firmware would vouch for them.

const PAGE: usize = 0x1000;

/// Leaf, subleaf, EAX, EBX, ECX, EDX.
pub(crate) const LEAVES: &[[u32; 6]] = &[
    [0x0000_0000, 0, 0x0000_000d, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
    [0x0000_0001, 0, 0x00a0_0f11, 0x0008_0800, 0x8000_0000 | 1 << 30 | 1 << 21, 0x1789_fbff],
    [0x0000_0007, 0, 0, 0, 0, 0],
    [0x8000_0000, 0, 0x8000_001f, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
    [0x8000_0008, 0, 0x0000_3034, 1 << 3, 0, 0x0001_0007],
    // SEV, SEV-ES, SNP, VMPL; C-bit 51, four VMPLs.
    [0x8000_001f, 0, 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5, 51 | 1 << 6 | 4 << 12, 0, 0],
];

/// Says whether a page has VmplSSS: in EAX of leaf 0x8000001f.
pub(crate) fn has_shadow_stack_right(page: &[u8; PAGE]) -> bool {
    page[0x10..].chunks_exact(48).any(|entry| entry[..4] == 0x8000_001f_u32.to_le_bytes() && entry[0x18] & 1 << 7 != 0)
}

/// The page with VmplSSS.
pub(crate) fn page_with_shadow_stack_right() -> [u8; PAGE] {
    let mut bytes = page();
    let index = LEAVES.iter().position(|leaf| leaf[0] == 0x8000_001f).expect("the page has the leaf");
    bytes[0x10 + index * 48 + 0x18] |= 1 << 7;
    bytes
}

/// The page in the firmware's format (`cpuid_page`).
pub(crate) fn page() -> [u8; PAGE] {
    let mut bytes = [0; PAGE];
    bytes[..4].copy_from_slice(&(LEAVES.len() as u32).to_le_bytes());
    for (index, [leaf, subleaf, eax, ebx, ecx, edx]) in LEAVES.iter().enumerate() {
        let at = 0x10 + index * 48;
        for (offset, word) in [(0, leaf), (4, subleaf), (0x18, eax), (0x1c, ebx), (0x20, ecx), (0x24, edx)] {
            bytes[at + offset..at + offset + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
    bytes
}
