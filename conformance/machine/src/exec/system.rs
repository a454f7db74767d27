//! TLB invalidation.

use alloc::vec;
use alloc::vec::Vec;

use super::{Actor, Stopped};
use crate::nested::page_of;
use crate::{Answer, Machine};

/// INVLPGB RAX: bit 0, the VA is valid.
const VA_VALID: u64 = 1 << 0;
/// INVLPGB RAX: bit 3, global translations too.
const INCLUDE_GLOBAL: u64 = 1 << 3;
/// INVLPGB RAX: bits 11:6 are reserved.
const FLAGS_RESERVED: u64 = 0xfc0;
/// INVLPGB ECX: 2M stride.
const STRIDE_2M: u32 = 1 << 31;
/// Most additional pages per INVLPGB (CPUID 80000008 EDX[15:0]) of this machine.
const MAX_COUNT: u32 = 7;

/// What an INVLPGB drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Everything of the guest.
    All,
    /// Everything of one VMPL: the global translations of the others stay.
    Vmpl(u8),
    /// Guest pages, as one VMPL maps them.
    Pages { vmpl: u8, pages: Vec<u64> },
}

impl Machine {
    /// INVLPGB: takes effect here at once, on the other vCPUs at TLBSYNC.
    ///
    /// By VA it drops only what the executing VMPL maps there: its linear addresses are its own. Without a VA and without
    /// the global flag the translations of other VMPLs, which may be global, stay. ASID, PCID and nested flags change nothing.
    pub(super) fn invlpgb(&mut self, actor: Actor, rax: u64, ecx: u32) -> Result<Answer, Stopped> {
        if !self.config.invlpgb {
            return Err(Stopped::INVALID_OPCODE);
        }
        let count = ecx & 0xffff;
        if rax & FLAGS_RESERVED != 0 || count > MAX_COUNT {
            return Err(Stopped::GENERAL_PROTECTION);
        }
        let flush = if rax & VA_VALID != 0 {
            let stride = if ecx & STRIDE_2M != 0 { self.pages_per_large() } else { 1 };
            let first = page_of(rax);
            let pages = (0..=u64::from(count)).map(|index| first.wrapping_add(index * stride)).collect();
            Flush::Pages { vmpl: actor.vmpl, pages }
        } else if rax & INCLUDE_GLOBAL != 0 {
            Flush::All
        } else {
            Flush::Vmpl(actor.vmpl)
        };
        self.flush(usize::from(actor.vcpu.0), &flush);
        if let Some(state) = self.vcpus.get_mut(usize::from(actor.vcpu.0)) {
            // Dropping everything includes whatever was to be dropped before.
            if flush == Flush::All {
                state.unsynced = vec![flush];
            } else if !state.unsynced.contains(&flush) {
                state.unsynced.push(flush);
            }
        }
        Ok(Answer::None)
    }

    pub(super) fn tlbsync(&mut self, actor: Actor) -> Result<Answer, Stopped> {
        if !self.config.invlpgb {
            return Err(Stopped::INVALID_OPCODE);
        }
        let here = usize::from(actor.vcpu.0);
        let flushes = self.vcpus.get_mut(here).map(|state| core::mem::take(&mut state.unsynced));
        for flush in flushes.iter().flatten() {
            for index in 0..self.vcpus.len() {
                if index != here {
                    self.flush(index, flush);
                }
            }
        }
        Ok(Answer::None)
    }

    fn flush(&mut self, index: usize, flush: &Flush) {
        let Some(state) = self.vcpus.get_mut(index) else { return };
        match flush {
            Flush::All => state.tlb.flush_all(),
            Flush::Vmpl(vmpl) => state.tlb.flush_vmpl(*vmpl),
            Flush::Pages { vmpl, pages } => pages.iter().for_each(|page| state.tlb.flush_page(*vmpl, *page)),
        }
    }
}
