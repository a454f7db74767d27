//! Launches the machine from an IGVM file, as firmware and hypervisor of an SNP guest do.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use backend_snp::abi::launch::PageType as FilePage;
use backend_snp::launch::Igvm;
use backend_snp::launch::igvm::{Contents, Parameter, Step};
use igvm_defs::{IGVM_VHS_MEMORY_MAP_ENTRY, MemoryMapEntryType};
use machine::host::Policy;
use machine::{Config, Machine, PAGE_SIZE, PageType, Vcpu};
use zerocopy::IntoBytes;

use crate::frames::{MEMORY, RAM_BYTES};
use crate::options::Options;

/// Seed of the machine: its keys and what its host draws are the same in every run.
const SEED: u64 = 1;

/// A machine that has launched the file, with vCPU 0 due at its VMSA.
///
/// # Errors
/// One sentence.
pub(crate) fn launch(options: &Options, file: &[u8]) -> Result<Machine, String> {
    let igvm = Igvm::try_new(file).map_err(|error| format!("IGVM file: {error}"))?;
    if igvm.id_block().is_some() {
        return Err("IGVM file: an ID block, which the emulator does not check".into());
    }
    let config = Config {
        ram: vec![(0, RAM_BYTES)],
        vcpus: options.vcpus,
        policy: options.host.clone(),
        honest_host: options.host == Policy::Honest,
        vmpl_sss: false,
        seed: SEED,
        trace: options.trace,
        ..Config::default()
    };
    let machine = Machine::with_frames(config, &MEMORY);
    let mut loader = Loader { machine, areas: BTreeMap::new(), first: None, vcpus: options.vcpus };
    igvm.steps().try_for_each(|step| loader.follow(step))?;
    let Loader { mut machine, first, .. } = loader;
    let first = first.ok_or("IGVM file: no VMSA for vCPU 0")?;
    machine
        .launch_finish_with(igvm.policy().bits(), [0; 32], None)
        .map_err(|error| format!("launch not finished: {error:?}"))?;
    machine.host_set_launch_vmsa(Vcpu(0), first);
    // Which VMSAs are the monitor's own vCPUs is its secret here: a VMSA of any level is right.
    machine.declare_guest_level(0);
    Ok(machine)
}

struct Loader {
    machine: Machine,
    areas: BTreeMap<u32, Vec<u8>>,
    first: Option<u64>,
    vcpus: u8,
}

impl Loader {
    fn follow(&mut self, step: Step<'_>) -> Result<(), String> {
        match step {
            Step::Pages { page_type, range, contents } => {
                let kind = match page_type {
                    FilePage::Secrets => PageType::Secrets,
                    FilePage::Cpuid => PageType::Cpuid,
                    FilePage::Unmeasured => PageType::Unmeasured,
                    _ => PageType::Normal,
                };
                self.add(kind, range.start().as_u64(), range.frames(), contents)
            }
            Step::Vmsa { vp_index, frame, contents } => {
                let gpa = frame.start_address().as_u64();
                if vp_index == 0 {
                    self.first.get_or_insert(gpa);
                }
                self.page(PageType::Vmsa, gpa, contents)
            }
            Step::Area { index, bytes, contents } => {
                let pages = (0..bytes / PAGE_SIZE).flat_map(|page| *contents.page(page));
                self.areas.insert(index, pages.collect());
                Ok(())
            }
            Step::Parameter { parameter: Parameter::VpCount, area, offset } => {
                self.parameter(area, offset, &u32::from(self.vcpus).to_le_bytes())
            }
            Step::Parameter { parameter: Parameter::MemoryMap, area, offset } => {
                let ram = IGVM_VHS_MEMORY_MAP_ENTRY {
                    starting_gpa_page_number: 0,
                    number_of_pages: RAM_BYTES / PAGE_SIZE,
                    entry_type: MemoryMapEntryType::MEMORY,
                    flags: 0,
                    reserved: 0,
                };
                let end = IGVM_VHS_MEMORY_MAP_ENTRY { number_of_pages: 0, ..ram };
                self.parameter(area, offset, [ram, end].as_bytes())
            }
            // No ACPI tables, device tree, MMIO or command line: the area keeps what the file has there.
            Step::Parameter { .. } | Step::ErrorRange { .. } => Ok(()),
            Step::Insert { area, range, .. } => {
                let bytes = self.areas.remove(&area).unwrap_or_default();
                for (block, page) in range.small_blocks().zip(bytes.chunks_exact(PAGE_SIZE as usize)) {
                    let page = page.try_into().map_err(|_| "IGVM file: a parameter area of no whole pages")?;
                    self.page(PageType::Unmeasured, block.start().as_u64(), page)?;
                }
                Ok(())
            }
            Step::Shared { range, contents } => {
                for (block, index) in range.small_blocks().zip(0..) {
                    let gpa = block.start().as_u64();
                    if !self.machine.host_write(gpa, contents.page(index)) {
                        return Err(format!("IGVM file: no shared memory at {gpa:#x}"));
                    }
                }
                Ok(())
            }
            Step::Required { range } => {
                let missing = range.small_blocks().map(|block| block.start().as_u64());
                match missing.into_iter().find(|gpa| self.machine.translate(*gpa).is_none()) {
                    Some(gpa) => Err(format!("IGVM file: it needs memory at {gpa:#x}, and there is none")),
                    None => Ok(()),
                }
            }
        }
    }

    fn add(&mut self, kind: PageType, first: u64, pages: u64, contents: Contents<'_>) -> Result<(), String> {
        (0..pages).try_for_each(|index| self.page(kind, first + index * PAGE_SIZE, contents.page(index)))
    }

    fn page(&mut self, kind: PageType, gpa: u64, bytes: &[u8; PAGE_SIZE as usize]) -> Result<(), String> {
        self.machine.launch_page(gpa, kind, bytes).map_err(|error| format!("IGVM file: page {gpa:#x}: {error:?}"))
    }

    fn parameter(&mut self, area: u32, offset: u32, bytes: &[u8]) -> Result<(), String> {
        let area = self.areas.get_mut(&area).and_then(|area| area.get_mut(offset as usize..)?.get_mut(..bytes.len()));
        area.ok_or("IGVM file: a parameter does not fit its area")?.copy_from_slice(bytes);
        Ok(())
    }
}
