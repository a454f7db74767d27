//! Events of the GHCB page as the kernel raises them.

use coco_part_api::GuestMemory;
use machine::Regs;
use x86_64::PhysAddr;

use super::client::{Kernel, fault};
use super::memory::{Block, State};
use crate::suite::{Stop, ensure, same};

/// Offsets in the page (`ghcb_page`).
const RAX: u64 = 0x1f8;
const RCX: u64 = 0x308;
const RDX: u64 = 0x310;
const RBX: u64 = 0x318;
const SW_EXIT_CODE: u64 = 0x390;
const SW_EXIT_INFO_1: u64 = 0x398;
const SW_EXIT_INFO_2: u64 = 0x3a0;
const SW_SCRATCH: u64 = 0x3a8;
const VALID_BITMAP: u64 = 0x3f0;
const SHARED_BUFFER: u64 = 0x800;
const VERSION: u64 = 0xffa;
const USAGE: u64 = 0xffc;

/// Most entries of one page state change: what the shared buffer holds.
pub(super) const BUFFER_ENTRIES: usize = 253;

/// Which registers an event needs, by their offsets.
type Fields<'f> = &'f [(u64, u64)];

/// What an event of AP creation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ap {
    /// Run this VMSA, whose SEV_FEATURES are these, now.
    Create { sev_features: u64 },
    /// Run it no more.
    Destroy,
}

impl Kernel<'_> {
    fn ghcb_write(&self, offset: u64, bytes: &[u8]) -> Result<(), Stop> {
        self.shared.write(PhysAddr::new(self.ghcb + offset), bytes).map_err(fault)
    }

    fn ghcb_u64(&self, offset: u64) -> Result<u64, Stop> {
        self.shared.read_value(PhysAddr::new(self.ghcb + offset)).map_err(fault)
    }

    fn ghcb_is_valid(&self, offset: u64) -> Result<bool, Stop> {
        let bit = offset / 8;
        let word = self.ghcb_u64(VALID_BITMAP + bit / 64 * 8)?;
        Ok(word >> (bit % 64) & 1 == 1)
    }

    /// Zeroes the page, as every kernel does with a GHCB it is about to use for the first time.
    pub(super) fn clear_ghcb(&self, page: u64) -> Result<(), Stop> {
        self.shared.write(PhysAddr::new(page), &[0; 0x1000]).map_err(fault)
    }

    /// Fills in exit code, its two arguments and registers; nothing else is valid.
    fn fill_event(&self, code: u64, info: [u64; 2], registers: Fields<'_>) -> Result<(), Stop> {
        let fixed = [(SW_EXIT_CODE, code), (SW_EXIT_INFO_1, info[0]), (SW_EXIT_INFO_2, info[1])];
        let mut valid = [0_u64; 2];
        for (offset, value) in fixed.iter().chain(registers) {
            valid[(offset / 512) as usize] |= 1 << (offset / 8 % 64);
            self.ghcb_write(*offset, &value.to_le_bytes())?;
        }
        let [low, high] = valid.map(u64::to_le_bytes);
        self.ghcb_write(VALID_BITMAP, &[low, high].concat())
    }

    /// Protocol version and usage, which stay in the page.
    fn fill_version(&self) -> Result<(), Stop> {
        self.ghcb_write(VERSION, &2_u16.to_le_bytes())?;
        self.ghcb_write(USAGE, &0_u32.to_le_bytes())
    }

    /// `verify_exception_info`: the host asks for no exception and names no error.
    pub(super) fn expect_no_exception(&self) -> Result<(), Stop> {
        same("SW_EXITINFO1 of the host", self.ghcb_u64(SW_EXIT_INFO_1)? & 0xffff_ffff, 0)
    }

    fn raise(&self) -> Result<(), Stop> {
        self.set_ghcb_msr(self.ghcb)?;
        self.vmgexit(Regs::default()).map(|_| ())
    }

    /// `sev_es_ghcb_hv_call`.
    fn event(&self, code: u64, info: [u64; 2], registers: Fields<'_>) -> Result<(), Stop> {
        self.fill_version()?;
        self.fill_event(code, info, registers)?;
        self.raise()?;
        self.expect_no_exception()
    }

    /// Makes the page ready for a call of L1; VMGEXIT follows.
    pub(super) fn prepare_run_vmpl0(&self) -> Result<(), Stop> {
        self.fill_version()?;
        self.fill_event(0x8000_0018, [0, 0], &[])?;
        self.set_ghcb_msr(self.ghcb)
    }

    /// What the host is asked for a leaf that the table leaves to it.
    pub(super) fn cpuid_by_page(&self, leaf: u32) -> Result<(), Stop> {
        self.cpuid_traps(leaf)?;
        self.event(0x72, [0, 0], &[(RAX, u64::from(leaf)), (RCX, 0)])?;
        for register in [RAX, RBX, RCX, RDX] {
            ensure(self.ghcb_is_valid(register)?, || format!("register at {register:#x} of the GHCB is not valid"))?;
        }
        self.log.vmgexit("GHCB 72", &format!("CPUID {leaf:#x}"), "four registers");
        Ok(())
    }

    /// `vmgexit_psc`: exits until the host has done all entries.
    pub(super) fn page_state_by_page(&self, blocks: &[Block], state: State, request: &str) -> Result<(), Stop> {
        let last = blocks.len() as u64 - 1;
        let words = std::iter::once(last << 16).chain(blocks.iter().map(|block| block.page_state_entry(state)));
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        self.ghcb_write(SHARED_BUFFER, &bytes)?;
        let (mut current, mut end) = (0, last);
        while current <= end {
            self.event(0x8000_0010, [0, 0], &[(SW_SCRATCH, self.ghcb + SHARED_BUFFER)])?;
            same("SW_EXITINFO2 of the page state change", self.ghcb_u64(SW_EXIT_INFO_2)?, 0)?;
            let header = self.ghcb_u64(SHARED_BUFFER)?;
            let now = header & 0xffff;
            end = header >> 16 & 0xffff;
            self.log.vmgexit("GHCB 80000010", request, &format!("{} done", now.wrapping_sub(current)));
            same("reserved bits of the list", header >> 32, 0)?;
            ensure(end <= last && now >= current, || format!("page state changes went backward: {header:#x}"))?;
            current = now;
        }
        Ok(())
    }

    /// `vmgexit_ap_control`: does not state the protocol version again.
    pub(super) fn ap_creation(&self, apic_id: u64, ap: Ap, vmsa: u64, request: &str) -> Result<(), Stop> {
        let info = |event: u64| [apic_id << 32 | u64::from(self.vmpl) << 16 | event, vmsa];
        match ap {
            Ap::Create { sev_features } => self.fill_event(0x8000_0013, info(1), &[(RAX, sev_features)])?,
            Ap::Destroy => self.fill_event(0x8000_0013, info(2), &[])?,
        }
        self.raise()?;
        ensure(self.ghcb_is_valid(SW_EXIT_INFO_1)?, || "SW_EXITINFO1 is not valid".to_owned())?;
        self.expect_no_exception()?;
        self.log.vmgexit("GHCB 80000013", request, "done");
        Ok(())
    }

    /// `sev_es_ap_hlt_loop`: the CPU is offline; it comes back only if somebody starts it with this very state.
    pub(super) fn ap_reset_hold(&self) -> Result<(), Stop> {
        self.fill_event(0x8000_0004, [0, 0], &[])?;
        self.log.vmgexit("GHCB 80000004", "AP reset hold", "never");
        self.raise()
    }
}
