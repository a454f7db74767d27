//! Pages that the firmware or the monitor filled, and reports.

use std::cell::Cell;

use backend_snp::abi::cpuid::{CpuidAnswer, CpuidEntry, CpuidPage, MAX_ENTRIES};
use backend_snp::abi::report::AttestationReport;
use backend_snp::abi::rmp::{RmpAttributes, RmpCode};
use backend_snp::abi::secrets::SecretsPage;
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::guest::Placement;
use backend_snp::instr::Page;
use zerocopy::{FromBytes, IntoBytes};

use super::bytes::{Bytes, Memory};
use super::port::HostilePort;
use crate::world::layout::{PAGE, frame};

const SECRETS: u64 = 0x2000;
const SCRATCH: u64 = 0x3000;

/// A guest finds its place by its secrets page and by what RMPADJUST answers.
pub(super) fn secrets(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let (status, codes) = (bytes.u64(), bytes.take::<3>());
    let memory = Memory::new();
    memory.poke(SECRETS, &bytes.take::<0x40>());
    memory.poke(SECRETS + 0x140, &bytes.take::<0x20>());
    let asked = Cell::new(0usize);
    let mut adjust = |page: Page, attributes: RmpAttributes| {
        assert_eq!((page.at().as_u64(), attributes.bits() >> 8), (SCRATCH, 0), "only rights on the scratch page go");
        let number = asked.replace(asked.get() + 1);
        Ok(RmpCode(u32::from(*codes.get(number).expect("a probe per level"))))
    };
    let mut host = |_: &mut u64| panic!("the host has no part in this");
    let mut port = HostilePort::new(&mut host, &mut adjust);
    port.sev_status = status;
    let before = memory.copy();
    let found = Placement::find(&mut port, &memory, frame(SECRETS), frame(SCRATCH));
    assert_eq!(memory.copy(), before);
    if let Ok(place) = &found {
        let told = memory.peek::<1>(SECRETS + 0x15c)[0];
        assert!((1..=3).contains(&told) && place.level().number() == told && place.vmpl().number() == told);
        // Refused up to the own level, done below it.
        assert!((1..=3).zip(codes).all(|(target, code)| code == if target > told { 0 } else { 2 }));
        assert_eq!(status & 0b111, 0b111);
        let size = u64::from_le_bytes(memory.peek(SECRETS + 0x148));
        assert!(size > 0 && place.monitor().bytes() == size);
    }
    let page = SecretsPage::read_from_bytes(&memory.peek::<4096>(SECRETS)).expect("a page");
    assert_eq!(page.as_bytes(), memory.peek::<4096>(SECRETS));
    for vmpl in Vmpl::ALL {
        let at = 0x20 * (1 + usize::from(vmpl.number()));
        assert_eq!(page.vmpck(vmpl).0, page.as_bytes()[at..at + 0x20]);
    }
    found.is_ok()
}

pub(super) fn secrets_examples() -> Vec<Vec<u8>> {
    let example = |level: u8, codes: [u8; 3], base: u64, size: u64, area: u64| {
        let mut bytes = 0b111u64.to_le_bytes().to_vec();
        bytes.extend(codes);
        bytes.extend([3, 0, 0, 0]);
        bytes.extend([1; 0x3c]);
        bytes.extend([base, size, area].map(u64::to_le_bytes).concat());
        bytes.extend([1, 0, 0, 0, level, 0, 0, 0]);
        bytes
    };
    vec![
        example(1, [2, 0, 0], 0x10_0000, 0x10_0000, 0x40_0000),
        example(2, [2, 2, 0], 0x10_0000, PAGE, 0x40_0000),
        example(3, [2, 2, 2], 0, PAGE, 0),
        example(2, [2, 2, 0], 0xf_ffff_ffff_f000, PAGE, 0xf_ffff_ffff_f000),
        example(2, [0, 0, 0], 0, 0, 0),
    ]
}

/// Bytes of a table entry in an input.
const ENTRY: usize = 0x28;

/// Look-ups in a CPUID page.
pub(super) fn cpuid(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let (count, leaf, sub_leaf) = (bytes.u32(), bytes.u32(), bytes.u32());
    let mut raw = vec![0; 4096];
    raw[..4].copy_from_slice(&count.to_le_bytes());
    let mut filled = 0;
    while !bytes.is_over() && filled < MAX_ENTRIES {
        raw[0x10 + 0x30 * filled..][..ENTRY].copy_from_slice(&bytes.take::<ENTRY>());
        filled += 1;
    }
    let page = CpuidPage::read_from_bytes(&raw).expect("a page");
    assert_eq!(page.as_bytes(), raw);
    let Ok(table) = page.table() else {
        assert!(count as usize > MAX_ENTRIES);
        return false;
    };
    let counted = &page.entries[..count as usize];
    let leaves = counted.iter().map(|entry| (entry.eax_in, entry.ecx_in));
    for (leaf, sub_leaf) in leaves.chain([(leaf, sub_leaf), (leaf.wrapping_add(1), 0)]) {
        match table.lookup(leaf, sub_leaf) {
            CpuidAnswer::Entry(entry) => {
                assert!(entry.eax_in == leaf && counted.contains(&entry));
                assert!(leaf != 0xd || sub_leaf > 1 || is_basic_state(&entry));
            }
            CpuidAnswer::Zero => assert!(is_in_a_range(counted, leaf)),
            CpuidAnswer::OutOfRange => assert!(!is_in_a_range(counted, leaf)),
        }
    }
    true
}

fn is_basic_state(entry: &CpuidEntry) -> bool {
    (entry.xcr0_in == 1 || entry.xcr0_in == 3) && entry.xss_in == 0
}

fn is_in_a_range(entries: &[CpuidEntry], leaf: u32) -> bool {
    let starts = [0, 0x4000_0000, 0x8000_0000];
    entries.iter().any(|entry| starts.contains(&entry.eax_in) && entry.eax_in <= leaf && leaf <= entry.eax)
}

pub(super) fn cpuid_examples() -> Vec<Vec<u8>> {
    let entry = |leaf: u32, sub_leaf: u32, xcr0: u64, eax: u32| {
        let mut bytes = [leaf.to_le_bytes(), sub_leaf.to_le_bytes()].concat();
        bytes.extend(xcr0.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(eax.to_le_bytes());
        bytes.extend([0; 12]);
        bytes
    };
    let head = |count: u32, leaf: u32| [count, leaf, 0].map(u32::to_le_bytes).concat();
    vec![
        [head(3, 0xd), entry(0, 0, 0, 0x10), entry(0xd, 0, 1, 7), entry(0xd, 1, 3, 7)].concat(),
        [head(2, 0x8000_0000), entry(0x8000_0000, 0, 0, 0x8000_0028), entry(7, 1, 0, 0)].concat(),
        [head(65, 0), entry(0, 0, 0, u32::MAX)].concat(),
    ]
}

/// A report and the parts that are read in two ways.
pub(super) fn report(data: &[u8]) -> bool {
    let Ok((report, rest)) = AttestationReport::read_from_prefix(data) else {
        assert!(data.len() < 0x4a0);
        return false;
    };
    assert_eq!(report.as_bytes(), &data[..data.len() - rest.len()]);
    for tcb in [report.current_tcb, report.reported_tcb, report.committed_tcb, report.launch_tcb] {
        assert_eq!(tcb.as_milan().as_bytes(), tcb.0);
        assert_eq!(tcb.as_turin().as_bytes(), tcb.0);
    }
    assert!(!format!("{report:?}").is_empty());
    true
}

pub(super) fn report_examples() -> Vec<Vec<u8>> {
    [2u8, 3, 5].map(|version| (0..0x4a0).map(|at| if at == 0 { version } else { 0 }).collect()).to_vec()
}
