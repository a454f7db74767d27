//! O1: secrets stay with VMPL0.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use super::Oracles;
use crate::exec::Actor;
use crate::memory::{Content, Memory};
use crate::nested::{offset_of, page_of};
use crate::page_map::PAGES_PER_BLOCK;
use crate::rmp::perm;
use crate::{Machine, PAGE_SIZE};

impl Oracles {
    pub(super) fn drop_labels(&mut self, spa_page: u64, count: u64) {
        let end = spa_page.saturating_add(count);
        let gone: Vec<u64> = self.labels.range(spa_page..end).copied().collect();
        for page in gone {
            self.labels.remove(&page);
        }
    }
}

impl Machine {
    /// Who below VMPL0 can read a system page.
    fn reader(&self, spa_page: u64) -> Option<alloc::string::String> {
        if !self.rmp.get(spa_page).assigned {
            return Some("the host".into());
        }
        self.lower_level_with(spa_page, perm::READ).map(|(vmpl, how)| format!("VMPL{vmpl} {how}"))
    }

    pub(super) fn check_secrecy(&mut self, spa_page: u64, count: u64) {
        let end = spa_page.saturating_add(count);
        let labelled: Vec<u64> = self.oracles.labels.range(spa_page..end).copied().collect();
        for page in labelled {
            if let Some(reader) = self.reader(page) {
                self.violation(
                    "O1",
                    format!("secret page at system address {:#x} is readable: {reader}", page * PAGE_SIZE),
                );
            }
        }
        if !self.oracles.secrets.is_empty() {
            for page in spa_page..end {
                self.check_contents(page, 0..PAGE_SIZE as usize);
            }
        }
    }

    /// Looks for secret bytes in a part of a page that others can read.
    fn check_contents(&mut self, spa_page: u64, part: Range<usize>) {
        let Content::Data(bytes) = self.memory.content(spa_page) else { return };
        let Some(bytes) = bytes.get(part) else { return };
        if self.oracles.secrets.stand_in(bytes)
            && let Some(reader) = self.reader(spa_page)
        {
            self.violation(
                "O1",
                format!("secret bytes at system page {:#x} are readable: {reader}", spa_page * PAGE_SIZE),
            );
        }
    }

    pub(super) fn check_all_secrets(&mut self) {
        let labelled: Vec<u64> = self.oracles.labels.iter().copied().collect();
        for page in labelled {
            self.check_secrecy(page, 1);
        }
        if self.oracles.secrets.is_empty() {
            return;
        }
        let written: Vec<u64> = self
            .memory
            .blocks()
            .flat_map(|(number, block)| {
                (number * PAGES_PER_BLOCK..)
                    .zip(Memory::block_pages(block))
                    .filter(|(_, content)| matches!(content, Content::Data(_)))
                    .map(|(page, _)| page)
            })
            .collect();
        for page in written {
            self.check_contents(page, 0..PAGE_SIZE as usize);
        }
    }

    pub(super) fn check_secret_read(&mut self, actor: Actor, gpa: u64, spa_page: u64) {
        if self.oracles.labels.contains(&spa_page) {
            self.violation("O1", format!("VMPL{} reads a secret page at {gpa:#x}", actor.vmpl));
        }
    }

    /// After a store: labels, and what the store itself may have given away.
    pub(super) fn label_written(&mut self, actor: Actor, gpa: u64, spa_page: u64, private: bool, bytes: &[u8]) {
        if bytes.len() as u64 == PAGE_SIZE {
            self.oracles.drop_labels(spa_page, 1);
        }
        let secret = actor.vmpl == 0 && private && bytes.iter().any(|byte| *byte != 0);
        if secret && self.oracles.monitor.contains(page_of(gpa)) && self.oracles.labels.insert(spa_page) {
            self.check_secrecy(spa_page, 1);
        }
        if !self.oracles.secrets.is_empty() {
            // A string that was not there before has one of these bytes in it.
            let (offset, around) = (offset_of(gpa), self.oracles.secrets.longest());
            let end = (offset + bytes.len()).saturating_add(around).min(PAGE_SIZE as usize);
            self.check_contents(spa_page, offset.saturating_sub(around)..end);
        }
    }
}
