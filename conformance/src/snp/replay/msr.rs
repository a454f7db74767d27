//! The GHCB MSR protocol as the kernel speaks it.

use machine::Regs;

use super::client::Kernel;
use super::memory::State;
use crate::suite::{Stop, ensure, same};
use crate::world::layout::PAGE;

/// The request to run VMPL0.
pub(super) const RUN_VMPL0: u64 = 0x016;
/// The answer to it with no error.
pub(super) const RUN_VMPL_DONE: u64 = 0x017;
/// Versions of the GHCB protocol that the kernel speaks.
const VERSIONS: std::ops::RangeInclusive<u64> = 1..=2;
/// Hypervisor features without which the kernel does not go on under an SVSM: SNP, several VMPLs.
const NEEDED_FEATURES: u64 = 1 << 0 | 1 << 5;
/// The one without which no further CPU is started.
const AP_CREATION: u64 = 1 << 1;
/// Registers of CPUID in the order of their numbers.
const CPUID_REGISTERS: [&str; 4] = ["EAX", "EBX", "ECX", "EDX"];

impl Kernel<'_> {
    /// A request and its answer, whose code must be the next one.
    fn msr_request(&self, request: u64) -> Result<u64, Stop> {
        self.set_ghcb_msr(request)?;
        self.vmgexit(Regs::default())?;
        let answer = self.ghcb_msr()?;
        let wanted = if request & 0xfff == 0x002 { 0x001 } else { (request & 0xfff) + 1 };
        same("code of the host's answer", answer & 0xfff, wanted)?;
        Ok(answer)
    }

    /// `sev_es_negotiate_protocol`.
    pub(super) fn negotiate(&self) -> Result<(), Stop> {
        let answer = self.msr_request(0x002)?;
        let (max, min, c_bit) = (answer >> 48, answer >> 32 & 0xffff, answer >> 24 & 0xff);
        self.log.vmgexit("MSR 002", "SEV information", &format!("versions {min} to {max}, C-bit {c_bit}"));
        ensure(max >= *VERSIONS.start() && min <= *VERSIONS.end(), || "no version in common".to_owned())?;
        same("version of the GHCB protocol", max.min(*VERSIONS.end()), 2)
    }

    /// `get_hv_features` and what the kernel demands of them.
    pub(super) fn features(&self) -> Result<(), Stop> {
        let features = self.msr_request(0x080)? >> 12;
        self.log.vmgexit("MSR 080", "hypervisor features", &format!("{features:#x}"));
        let needed = NEEDED_FEATURES | AP_CREATION;
        ensure(features & needed == needed, || format!("features {features:#x} lack some of {needed:#x}"))
    }

    /// CPUID before the kernel has found its table: four requests (`__sev_cpuid_hv_msr`).
    pub(super) fn cpuid_by_msr(&self, leaf: u32) -> Result<[u32; 4], Stop> {
        self.cpuid_traps(leaf)?;
        let mut values = [0; 4];
        for (number, value) in (0_u64..).zip(&mut values) {
            let answer = self.msr_request(u64::from(leaf) << 32 | number << 30 | 0x004)?;
            *value = (answer >> 32) as u32;
            let register = CPUID_REGISTERS[number as usize];
            self.log.vmgexit("MSR 004", &format!("CPUID {leaf:#x} {register}"), &format!("{value:#x}"));
        }
        Ok(values)
    }

    /// `snp_register_ghcb_early`.
    pub(super) fn register_ghcb(&self, page: u64, name: &str) -> Result<(), Stop> {
        let answer = self.msr_request(page | 0x012)?;
        same("registered page", answer >> 12, page / PAGE)?;
        self.log.vmgexit("MSR 012", &format!("register {name}"), "the same page");
        Ok(())
    }

    /// The host's part of `__page_state_change` for one page.
    pub(super) fn page_state_by_msr(&self, page: u64, state: State, name: &str) -> Result<(), Stop> {
        let saved = self.ghcb_msr()?;
        let answer = self.msr_request(state.operation() << 52 | page | 0x014)?;
        self.set_ghcb_msr(saved)?;
        same("error of the page state change", answer >> 32, 0)?;
        self.log.vmgexit("MSR 014", &format!("{state} 1 x 4K, {name}"), "done");
        Ok(())
    }
}
