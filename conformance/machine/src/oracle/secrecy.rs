//! O1: secrets stay with VMPL0.

use alloc::format;
use alloc::vec::Vec;

use super::Oracles;
use crate::exec::Actor;
use crate::memory::{Content, Memory};
use crate::nested::page_of;
use crate::rmp::perm;
use crate::{Machine, PAGE_SIZE, PAGES_PER_LARGE};

impl Oracles {
    pub(super) fn drop_labels(&mut self, spa_page: u64, count: u64) {
        let end = spa_page.saturating_add(count);
        let gone: Vec<u64> = self.labels.range(spa_page..end).copied().collect();
        for page in gone {
            self.labels.remove(&page);
        }
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
                self.check_contents(page);
            }
        }
    }

    /// Looks for secret bytes in a page that others can read.
    fn check_contents(&mut self, spa_page: u64) {
        let Content::Data(bytes) = self.memory.content(spa_page) else { return };
        if let Some(reader) = self.reader(spa_page)
            && self.oracles.holds_secret(&bytes[..])
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
                (number * PAGES_PER_LARGE..)
                    .zip(Memory::block_pages(block))
                    .filter(|(_, content)| matches!(content, Content::Data(_)))
                    .map(|(page, _)| page)
            })
            .collect();
        for page in written {
            self.check_contents(page);
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
            self.check_contents(spa_page);
        }
    }
}
