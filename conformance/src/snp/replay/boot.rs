//! From the decompressor's first question to the per-CPU GHCB pages, in the kernel's own order.

use machine::Regs;

use super::client::{Kernel, Via};
use super::memory::{Mapping, Region, State};
use super::places;
use crate::suite::{Stop, ensure, same};
use crate::world::layout::{LARGE, PAGE, SECRETS};

/// SVSM_SIZE of the secrets page (`secrets_page`).
const SVSM_SIZE: u64 = SECRETS + 0x148;
/// SVSM_CAA.
const SVSM_CAA: u64 = SECRETS + 0x150;
/// SVSM_GUEST_VMPL, in the low byte.
const SVSM_GUEST_VMPL: u64 = SECRETS + 0x15c;
/// SEV, SEV-ES and SNP: the only bits of SEV_STATUS that may be set here.
const SEV_STATUS: u64 = 0x7;
/// RAX of REMAP_CA.
const REMAP_CA: u64 = 0;

/// `.bss..decrypted`: the kernel shares whole 2 MiB pages of it.
pub(super) const BSS_DECRYPTED: Region =
    Region { name: "bss_decrypted", start: places::BSS_DECRYPTED, pages: LARGE / PAGE, mapping: Mapping::Direct };
/// Pages at its start that are in use; the others are given back after the boot. How many depends on the kernel.
const BSS_USED: u64 = 16;

/// Its part in use.
pub(super) const fn bss_used() -> Region {
    Region { pages: BSS_USED, ..BSS_DECRYPTED }
}

/// Its part that is never used.
pub(super) const fn bss_unused() -> Region {
    let used = BSS_USED * PAGE;
    Region {
        name: "bss_decrypted, unused",
        start: BSS_DECRYPTED.start + used,
        pages: BSS_DECRYPTED.pages - BSS_USED,
        ..BSS_DECRYPTED
    }
}

/// The decompressor: `sev_enable`, its GHCB page, and the end of it.
pub(super) fn decompressor(kernel: &mut Kernel<'_>) -> Result<(), Stop> {
    let page = Region::page("decompressor's GHCB", places::DECOMPRESSOR_GHCB);
    kernel.log.heading("decompressor, sev_enable");
    // sev_check_cpu_support, when the table is not found yet.
    let highest = kernel.cpuid_by_msr(0x8000_0000)?[0];
    ensure(highest >= 0x8000_001f, || format!("highest CPUID leaf is {highest:#x}: no SEV"))?;
    let features = kernel.cpuid_by_msr(0x8000_001f)?[0];
    ensure(features & 1 << 1 != 0, || format!("CPUID 0x8000001f says {features:#x}: no SEV"))?;
    // early_snp_init.
    find_svsm(kernel, page)?;
    same("SEV_STATUS", kernel.sev_status()?, SEV_STATUS)?;
    kernel.negotiate()?;
    kernel.features()?;
    kernel.probe_vmpl0(page.start, page.name)?;

    kernel.log.heading("decompressor, early_setup_ghcb at its first #VC");
    kernel.early_set_memory(page, State::Shared)?;
    kernel.clear_ghcb(page.start)?;
    kernel.register_ghcb(page.start, page.name)?;
    kernel.ghcb = page.start;
    // sev_es_check_cpu_features; what else traps here depends on console and configuration.
    kernel.cpuid_by_page(1)?;

    kernel.log.heading("decompressor, sev_es_shutdown_ghcb");
    kernel.ghcb = 0;
    kernel.early_set_memory(page, State::Private)
}

/// `svsm_setup_ca`: what the kernel wants of a secrets page.
fn find_svsm(kernel: &mut Kernel<'_>, probe: Region) -> Result<(), Stop> {
    kernel.probe_vmpl0(probe.start, probe.name)?;
    ensure(kernel.read_u64(SVSM_SIZE)? != 0, || "no SVSM in the secrets page: sev_es_terminate(1, 7)".to_owned())?;
    kernel.vmpl = kernel.read_u64(SVSM_GUEST_VMPL & !7)?.to_le_bytes()[(SVSM_GUEST_VMPL & 7) as usize];
    ensure(kernel.vmpl != 0, || "SVSM_GUEST_VMPL is 0: sev_es_terminate(1, 8)".to_owned())?;
    kernel.area = kernel.read_u64(SVSM_CAA)?;
    ensure(kernel.area.is_multiple_of(PAGE), || "the call area is not aligned: sev_es_terminate(1, 9)".to_owned())
}

fn remap(kernel: &mut Kernel<'_>, via: Via, area: u64, name: &str, else_what: &str) -> Result<(), Stop> {
    let regs = Regs { rax: REMAP_CA, rcx: area, ..Regs::default() };
    kernel.must_call(via, &format!("REMAP_CA to {name}"), regs, else_what)?;
    kernel.area = area;
    Ok(())
}

/// The kernel proper, still on the identity map: `snp_init` and `sme_postprocess_startup`.
pub(super) fn startup(kernel: &mut Kernel<'_>) -> Result<(), Stop> {
    kernel.log.heading("kernel, snp_init");
    let area = Region::page("boot call area", places::BOOT_AREA);
    find_svsm(kernel, area)?;
    remap(kernel, Via::Msr, area.start, area.name, "sev_es_terminate(1, 11)")?;
    same("SEV_STATUS", kernel.sev_status()?, SEV_STATUS)?;
    kernel.log.heading("kernel, sme_postprocess_startup");
    kernel.early_set_memory(BSS_DECRYPTED, State::Shared)
}

/// The kernel at its own addresses: `setup_ghcb`, then `sev_es_init_vc_handling` for so many CPUs.
pub(super) fn handlers(kernel: &mut Kernel<'_>, cpus: u64) -> Result<(), Stop> {
    kernel.log.heading("kernel, setup_ghcb");
    kernel.negotiate()?;
    let boot = Region::page("boot GHCB", BSS_DECRYPTED.start);
    kernel.clear_ghcb(boot.start)?;
    kernel.ghcb = boot.start;
    kernel.register_ghcb(boot.start, boot.name)?;

    kernel.log.heading("kernel, sev_es_init_vc_handling");
    kernel.features()?;
    for cpu in 0..cpus {
        let page = Region::page("a CPU's GHCB", places::ghcb(cpu));
        // __set_clr_pte_enc: copies the contents through a shared mapping first, then changes the page for good.
        kernel.early_set_memory(page, State::Shared)?;
        kernel.early_set_memory(page, State::Private)?;
        kernel.early_set_memory(page, State::Shared)?;
        kernel.clear_ghcb(page.start)?;
    }
    remap(kernel, Via::Page, places::area(0), "CPU 0's call area", "panic")?;
    use_own_ghcb(kernel, 0)
}

/// `setup_ghcb` once the handlers are there.
pub(super) fn use_own_ghcb(kernel: &mut Kernel<'_>, cpu: u64) -> Result<(), Stop> {
    kernel.ghcb = places::ghcb(cpu);
    kernel.register_ghcb(kernel.ghcb, "its own GHCB")
}
