//! O1: secrets stay with L1.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::Oracles;
use crate::memory::{Content, Memory};
use crate::nested::{offset_of, page_of};
use crate::tdx::exec::Actor;
use crate::tdx::sept::attr;
use crate::tdx::{Machine, Regs};
use crate::{PAGE_SIZE, PAGES_PER_LARGE};

impl Oracles {
    pub(super) fn drop_labels(&mut self, page: u64, count: u64) {
        let end = page.saturating_add(count);
        let gone: Vec<u64> = self.labels.range(page..end).copied().collect();
        for page in gone {
            self.labels.remove(&page);
        }
    }

    /// Where in a page a secret may stand of which a byte was just written.
    fn around(&self, offset: usize, len: usize) -> Range<usize> {
        let longest = self.secrets.iter().map(Vec::len).max().unwrap_or(0);
        let end = offset.saturating_add(len).saturating_add(longest).min(PAGE_SIZE as usize);
        offset.saturating_sub(longest)..end
    }

    fn holds_secret(&self, bytes: &[u8]) -> bool {
        self.secrets.iter().any(|secret| contains(bytes, secret))
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    haystack.windows(needle.len()).any(|window| window.first() == Some(first) && window == needle)
}

impl Machine {
    /// The lowest VM that can use a right on a private page: by its alias, or by a cached translation.
    pub(super) fn vm_with(&self, page: u64, right: u16) -> Option<(u8, &'static str)> {
        let found = self.sept.get(page)?;
        if found.leaf.accepted
            && let Some(vm) = (1..=3).find(|vm| found.leaf.alias(*vm) & right == right)
        {
            return Some((vm, "by its alias"));
        }
        let spa = found.spa_of(page);
        let cached = |vm: u8| {
            let index = usize::from(vm - 1);
            let tlbs = self.vcpus.iter().filter_map(|vcpu| vcpu.guests.get(index));
            tlbs.into_iter().any(|guest| guest.tlb.leads_to(page, spa, right).is_some())
        };
        (1..=3).find(|vm| cached(*vm)).map(|vm| (vm, "by a cached translation"))
    }

    fn reader(&self, page: u64) -> Option<String> {
        self.vm_with(page, attr::READ).map(|(vm, how)| format!("VM{vm} {how}"))
    }

    pub(super) fn check_secrecy(&mut self, page: u64, count: u64) {
        let end = page.saturating_add(count);
        let labelled: Vec<u64> = self.oracles.labels.range(page..end).copied().collect();
        for page in labelled {
            if let Some(reader) = self.reader(page) {
                self.violation("O1", format!("secret page at {:#x} is readable: {reader}", page * PAGE_SIZE));
            }
        }
        if !self.oracles.secrets.is_empty() {
            (page..end).for_each(|page| self.check_part(page, 0..PAGE_SIZE as usize));
        }
    }

    /// Looks for secret bytes in a part of a private page that an L2 can read.
    fn check_part(&mut self, page: u64, part: Range<usize>) {
        let Some(found) = self.sept.get(page) else { return };
        let Content::Data(bytes) = self.private.content(found.spa_of(page)) else { return };
        if let Some(reader) = self.reader(page)
            && bytes.get(part).is_some_and(|bytes| self.oracles.holds_secret(bytes))
        {
            self.violation("O1", format!("secret bytes at {:#x} are readable: {reader}", page * PAGE_SIZE));
        }
    }

    pub(super) fn check_labels(&mut self) {
        let labelled: Vec<u64> = self.oracles.labels.iter().copied().collect();
        labelled.into_iter().for_each(|page| self.check_secrecy(page, 1));
    }

    /// After a store to private memory: labels, and what the store itself may have given away.
    pub(super) fn label_written(&mut self, actor: Actor, gpa: u64, bytes: &[u8]) {
        let page = page_of(gpa);
        if bytes.len() as u64 == PAGE_SIZE {
            self.oracles.drop_labels(page, 1);
        }
        let secret = actor.level == 0 && bytes.iter().any(|byte| *byte != 0);
        if secret && self.oracles.monitor.contains(page) && self.oracles.labels.insert(page) {
            self.check_secrecy(page, 1);
        }
        if !self.oracles.secrets.is_empty() && self.reader(page).is_some() {
            let around = self.oracles.around(offset_of(gpa), bytes.len());
            self.check_part(page, around);
        }
    }

    /// A shared page was written by the TD.
    pub(crate) fn oracle_shared_written(&mut self, page: u64, offset: usize, len: usize) {
        if self.oracles.secrets.is_empty() {
            return;
        }
        let around = self.oracles.around(offset, len);
        let Content::Data(bytes) = self.shared.content(page) else { return };
        if bytes.get(around).is_some_and(|bytes| self.oracles.holds_secret(bytes)) {
            self.violation("O1", format!("secret bytes in shared memory at {:#x}", page * PAGE_SIZE));
        }
    }

    pub(super) fn check_shared(&mut self) {
        if self.oracles.secrets.is_empty() {
            return;
        }
        let written: Vec<u64> = self
            .shared
            .blocks()
            .flat_map(|(number, block)| {
                (number * PAGES_PER_LARGE..)
                    .zip(Memory::block_pages(block))
                    .filter(|(_, content)| matches!(content, Content::Data(_)))
                    .map(|(page, _)| page)
            })
            .collect();
        written.into_iter().for_each(|page| self.oracle_shared_written(page, 0, PAGE_SIZE as usize));
    }

    /// Registers that the host sees, in encoding order; vector registers if the mask names one.
    pub(super) fn check_shown(&mut self, actor: Actor, shown: &Regs) {
        if shown.rcx >> 16 & 0xffff != 0 {
            self.check_vector_shown(actor.vcpu);
        }
        let Regs { rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, .. } = *shown;
        let bytes: Vec<u8> = [rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect();
        if self.oracles.holds_secret(&bytes) {
            self.violation("O1", format!("a TDVMCALL of level {} shows secret bytes", actor.level));
        }
    }
}
