//! CPUID of a level, from the page that the firmware checked and from the level's own state.
//!
//! The page has the processor's answers; what depends on control registers, on the vCPU or on software is put in here
//! (`facts/cpuid_page.csv`, rules; `facts/cpuid_leaves.csv`). Nothing comes from the host. So of the leaves about topology the
//! APIC id alone is that of the vCPU: core and node numbers stay as the page has them.

use crate::abi::cpuid::{CpuidAnswer, CpuidTable};
use crate::abi::cpuid_leaves::{CpuidLeaf, EncryptionFeatures};

/// What the answers depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelState {
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
    /// IA32_XSS.
    pub xss: u64,
    /// Number of the vCPU.
    pub apic_id: u32,
}

/// EAX, EBX, ECX and EDX for a level that an SVSM serves. `None` for a leaf beyond every range of the page.
pub fn answer(table: &CpuidTable<'_>, leaf: u32, sub_leaf: u32, state: &LevelState) -> Option<[u32; 4]> {
    let found = match table.lookup(leaf, sub_leaf) {
        CpuidAnswer::Entry(entry) => [entry.eax, entry.ebx, entry.ecx, entry.edx],
        CpuidAnswer::Zero => [0; 4],
        CpuidAnswer::OutOfRange => return None,
    };
    let [eax, ebx, ecx, edx] = found;
    Some(match (leaf, sub_leaf) {
        (FEATURES, _) => {
            let id = state.apic_id << 24;
            [eax, ebx & 0x00ff_ffff | id, with(ecx, OSXSAVE, state.cr4 & CR4_OSXSAVE != 0), edx]
        }
        (EXTENDED_FEATURES, 0) => [eax, ebx, with(ecx, OSPKE, state.cr4 & CR4_PKE != 0), edx],
        (TOPOLOGY, _) => [eax, ebx, ecx, state.apic_id],
        (EXTENDED_STATE, 0) => [eax, standard_size(table, enabled(state)), ecx, edx],
        (EXTENDED_STATE, 1) if eax & (XSAVEC | XSAVES) != 0 => {
            let supervisor = if eax & XSAVES != 0 { state.xss } else { 0 };
            [eax, compact_size(table, enabled(state) | supervisor), ecx, edx]
        }
        // No compact form, no size of it.
        (EXTENDED_STATE, 1) => [eax, 0, ecx, edx],
        (NODE, _) => [state.apic_id, ebx, ecx, edx],
        (ENCRYPTION, _) => [eax | SVSM_PRESENT, ebx, ecx, edx],
        _ => found,
    })
}

const FEATURES: u32 = CpuidLeaf::FEATURES.0;
const EXTENDED_FEATURES: u32 = 0x7;
const TOPOLOGY: u32 = CpuidLeaf::TOPOLOGY.0;
const EXTENDED_STATE: u32 = CpuidLeaf::EXTENDED_STATE.0;
const NODE: u32 = CpuidLeaf::NODE.0;
const ENCRYPTION: u32 = CpuidLeaf::ENCRYPTION.0;

/// Leaf 1, ECX.
const OSXSAVE: u32 = 1 << 27;
/// Leaf 7, ECX.
const OSPKE: u32 = 1 << 4;
/// Leaf 0xd, sub-leaf 1, EAX.
const XSAVEC: u32 = 1 << 1;
const XSAVES: u32 = 1 << 3;
/// An SVSM serves this level, and MSR SVSM_CAA can be read.
pub(crate) const SVSM_PRESENT: u32 = EncryptionFeatures::SVSM_COMM_PAGE_MSR.bits();

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// Bytes of x87 and SSE state and of the header behind them.
const LEGACY_AND_HEADER: u32 = 0x240;
/// Components that have a sub-leaf of their own.
const COMPONENTS: core::ops::Range<u32> = 2..64;

const fn with(word: u32, bit: u32, on: bool) -> u32 {
    if on { word | bit } else { word & !bit }
}

/// The components in use: x87 alone until software turns XSAVE on.
const fn enabled(state: &LevelState) -> u64 {
    if state.cr4 & CR4_OSXSAVE != 0 { state.xcr0 } else { 1 }
}

/// Size and offset of the components in `which`. One that the page does not have does not count.
fn components<'t>(table: &'t CpuidTable<'_>, which: u64) -> impl Iterator<Item = (u32, u32)> + use<'t> {
    COMPONENTS.filter(move |component| which >> component & 1 == 1).filter_map(|component| {
        match table.lookup(EXTENDED_STATE, component) {
            CpuidAnswer::Entry(entry) => Some((entry.eax, entry.ebx)),
            CpuidAnswer::Zero | CpuidAnswer::OutOfRange => None,
        }
    })
}

/// Up to the end of the component that lies last.
fn standard_size(table: &CpuidTable<'_>, which: u64) -> u32 {
    components(table, which).map(|(size, offset)| offset.saturating_add(size)).fold(LEGACY_AND_HEADER, u32::max)
}

/// All of them in a row.
fn compact_size(table: &CpuidTable<'_>, which: u64) -> u32 {
    components(table, which).map(|(size, _)| size).fold(LEGACY_AND_HEADER, u32::saturating_add)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::*;
    use crate::abi::cpuid::CpuidPage;

    /// Leaf, sub-leaf, EAX, EBX, ECX, EDX.
    const PAGE: &[[u32; 6]] = &[
        [0, 0, 0x10, 1, 2, 3],
        [1, 0, 0xa0_0f11, 0x7708_0800, OSXSAVE | 1, 0x200],
        [7, 0, 0, 7, OSPKE | 2, 0],
        [0xb, 0, 1, 2, 0x100, 0x99],
        [0xd, 1, XSAVES | XSAVEC, 0x999, 0x1800, 0],
        [0xd, 2, 0x100, 0x240, 0, 0],
        [0xd, 9, 8, 0x980, 0, 0],
        [0xd, 11, 16, 0, 1, 0],
        [0x8000_0000, 0, 0x8000_001f, 0, 0, 0],
        [0x8000_001e, 0, 0x99, 0x104, 0x300, 0],
        [0x8000_001f, 0, 0x3a, 0x4073, 5, 6],
    ];

    fn page(leaves: &[[u32; 6]]) -> CpuidPage {
        let mut page = CpuidPage::read_from_bytes(&[0; 0x1000]).unwrap();
        for (entry, [eax_in, ecx_in, eax, ebx, ecx, edx]) in page.entries.iter_mut().zip(leaves) {
            (entry.eax_in, entry.ecx_in) = (*eax_in, *ecx_in);
            entry.xcr0_in = u64::from(*eax_in == EXTENDED_STATE && *ecx_in < 2);
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (*eax, *ebx, *ecx, *edx);
        }
        page.count = leaves.len() as u32;
        page
    }

    fn asked(leaf: u32, sub_leaf: u32, state: LevelState) -> Option<[u32; 4]> {
        answer(&page(PAGE).table().unwrap(), leaf, sub_leaf, &state)
    }

    const PLAIN: LevelState = LevelState { cr4: 0, xcr0: 1, xss: 0, apic_id: 5 };

    #[test]
    fn a_leaf_of_the_page_is_answered_as_it_stands_there() {
        assert_eq!(asked(0, 0, PLAIN), Some([0x10, 1, 2, 3]));
        assert_eq!(asked(0xd, 9, PLAIN), Some([8, 0x980, 0, 0]));
    }

    #[test]
    fn a_leaf_inside_a_range_and_not_in_the_page_is_zero_and_outside_of_all_ranges_is_unknown() {
        assert_eq!(asked(6, 0, PLAIN), Some([0; 4]));
        assert_eq!(asked(7, 1, PLAIN), Some([0; 4]));
        for unknown in [0x11, 0x4000_0000, 0x8000_0020, 0xc000_0000, u32::MAX] {
            assert_eq!(asked(unknown, 0, PLAIN), None, "{unknown:#x}");
        }
    }

    #[test]
    fn leaf_1_has_the_apic_id_and_osxsave_of_the_level() {
        assert_eq!(asked(1, 0, PLAIN), Some([0xa0_0f11, 0x0508_0800, 1, 0x200]));
        let on = LevelState { cr4: CR4_OSXSAVE, apic_id: 0x1ff, ..PLAIN };
        assert_eq!(asked(1, 7, on), Some([0xa0_0f11, 0xff08_0800, OSXSAVE | 1, 0x200]));
    }

    #[test]
    fn leaf_7_has_ospke_of_the_level() {
        assert_eq!(asked(7, 0, PLAIN), Some([0, 7, 2, 0]));
        assert_eq!(asked(7, 0, LevelState { cr4: CR4_PKE, ..PLAIN }), Some([0, 7, OSPKE | 2, 0]));
    }

    #[test]
    fn leaves_about_topology_have_the_apic_id_of_the_vcpu() {
        assert_eq!(asked(0xb, 0, PLAIN), Some([1, 2, 0x100, 5]));
        // Not in the page, but the id is the same in every sub-leaf.
        assert_eq!(asked(0xb, 1, PLAIN), Some([0, 0, 0, 5]));
        assert_eq!(asked(0x8000_001e, 0, PLAIN), Some([5, 0x104, 0x300, 0]));
    }

    #[test]
    fn leaf_0xd_has_the_sizes_of_what_is_enabled() {
        let size = |sub_leaf, cr4, xcr0, xss| {
            asked(0xd, sub_leaf, LevelState { cr4, xcr0, xss, apic_id: 0 }).map(|[_, ebx, ..]| ebx)
        };
        let on = CR4_OSXSAVE;
        // Standard form: up to the last component.
        assert_eq!(size(0, on, 0b11, 0), Some(0x240));
        assert_eq!(size(0, on, 0b111, 0), Some(0x340));
        assert_eq!(size(0, on, 0x207, 0), Some(0x988));
        // XCR0 does not count before it can be used, XSS never in this form.
        assert_eq!(size(0, 0, 0x207, 0x800), Some(0x240));
        assert_eq!(size(0, on, 0b11, 0x800), Some(0x240));
        // Compact form: the sum.
        assert_eq!(size(1, on, 0x207, 0), Some(0x240 + 0x100 + 8));
        assert_eq!(size(1, on, 0x207, 0x800), Some(0x240 + 0x100 + 8 + 16));
        // A component that the page does not have is dropped.
        assert_eq!(size(0, on, u64::MAX, 0), Some(0x988));
        assert_eq!(size(1, on, u64::MAX, u64::MAX), Some(0x240 + 0x100 + 8 + 16));
    }

    #[test]
    fn xss_counts_with_xsaves_only_and_no_compact_form_has_no_size() {
        let mut leaves = PAGE.to_vec();
        let state = LevelState { cr4: CR4_OSXSAVE, xcr0: 7, xss: 0x800, apic_id: 0 };
        for (eax, size) in [(XSAVEC, 0x340), (XSAVES, 0x350), (0, 0)] {
            leaves[4][2] = eax;
            let page = page(&leaves);
            let found = answer(&page.table().unwrap(), 0xd, 1, &state).unwrap();
            assert_eq!(found, [eax, size, 0x1800, 0]);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_saturate() {
        let leaves = [[0, 0, 0x10, 0, 0, 0], [0xd, 1, XSAVEC, 0, 0, 0], [0xd, 2, u32::MAX, u32::MAX, 0, 0]];
        let page = page(&leaves);
        let state = LevelState { cr4: CR4_OSXSAVE, xcr0: u64::MAX, xss: 0, apic_id: 0 };
        let table = page.table().unwrap();
        assert_eq!(answer(&table, 0xd, 0, &state).unwrap()[1], u32::MAX);
        assert_eq!(answer(&table, 0xd, 1, &state).unwrap()[1], u32::MAX);
    }

    #[test]
    fn leaf_0x8000001f_says_that_there_is_an_svsm_and_keeps_the_c_bit() {
        assert_eq!(asked(0x8000_001f, 0, PLAIN), Some([0x1000_003a, 0x4073, 5, 6]));
    }
}
