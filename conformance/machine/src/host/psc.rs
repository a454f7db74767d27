//! Page state changes: the list in the GHCB page and the single page of MSR 0x014 (facts: psc).

use alloc::vec::Vec;

use super::At;
use super::ghcb::{Malformed, Reply, Request};
use super::policy::Policy;
use crate::{Machine, PAGE_SIZE};

/// Frame bits of an entry, as an address.
pub(super) const FRAME_BITS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes of the header.
pub(super) const HEADER: usize = 8;
/// SW_EXITINFO2: the header is not valid.
pub(super) const INVALID_HEADER: u64 = 1 << 32 | 1;
/// SW_EXITINFO2: an entry is not valid.
pub(super) const INVALID_ENTRY: u64 = 1 << 32 | 2;
/// SW_EXITINFO2: the change failed.
pub(super) const FAILED: u64 = 0x100 << 32;

/// What an entry asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Assign to the guest.
    Private,
    /// Take back.
    Shared,
    /// Split or join: a hint that this host skips.
    Hint,
}

/// A checked entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    operation: Operation,
    gpa: u64,
    large: bool,
    /// Pages done already.
    done: u64,
}

impl Change {
    /// Decodes an entry; `None` if it is not valid.
    fn decode(entry: u64) -> Option<Self> {
        let operation = match entry >> 52 & 0xf {
            1 => Operation::Private,
            2 => Operation::Shared,
            3 | 4 => Operation::Hint,
            _ => return None,
        };
        let change = Self { operation, gpa: entry & FRAME_BITS, large: entry >> 56 & 1 == 1, done: entry & 0xfff };
        let fits =
            entry >> 57 == 0 && change.done <= change.pages() && change.gpa.is_multiple_of(change.pages() * PAGE_SIZE);
        fits.then_some(change)
    }

    fn pages(&self) -> u64 {
        if self.large { 512 } else { 1 }
    }
}

/// A list as the host works on it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    cursor: u16,
    end: u16,
    reserved: u32,
    entries: Vec<u64>,
}

impl List {
    /// Reads header and entries. `bytes` begins at the header and ends with the shared buffer.
    fn read(bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| word.first_chunk().map_or(0, |w| u64::from_le_bytes(*w)));
        let header = words.next().unwrap_or(0);
        Self {
            // 16 bits each.
            cursor: (header & 0xffff) as u16,
            end: (header >> 16 & 0xffff) as u16,
            reserved: (header >> 32) as u32,
            entries: words.collect(),
        }
    }

    /// Header and the entries of the list, as the host writes them back.
    fn bytes(&self) -> Vec<u8> {
        let header = u64::from(self.cursor) | u64::from(self.end) << 16 | u64::from(self.reserved) << 32;
        let entries = self.entries.iter().take(usize::from(self.end) + 1);
        core::iter::once(&header).chain(entries).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Whether the header is valid; the last entry has to be inside the buffer.
    fn is_valid(&self) -> bool {
        self.reserved == 0 && usize::from(self.end) < self.entries.len()
    }

    /// The entry at the cursor, while it is in the list.
    fn next(&mut self) -> Option<&mut u64> {
        if self.cursor > self.end {
            return None;
        }
        self.entries.get_mut(usize::from(self.cursor))
    }

    /// What the liars of this kind do to a finished list.
    fn tamper(&mut self, policy: &Policy) {
        match policy {
            Policy::PscRewindsCursor => self.cursor = 0,
            Policy::PscSetsReserved => self.reserved = 1,
            // The other operation on the neighbouring frame.
            Policy::PscEditsEntries => self.entries.iter_mut().for_each(|entry| *entry ^= 3 << 52 | 1 << 12),
            Policy::PscGrowsEnd => {
                self.end = self.end.saturating_add(1);
                if let Some(entry) = self.entries.get_mut(usize::from(self.end)) {
                    *entry = 1 << 52;
                }
            }
            _ => {}
        }
    }
}

impl Machine {
    /// Serves the single page form; `None` is a request that it does not allow.
    pub(super) fn psc_one(&mut self, at: At, request: Option<(Operation, u64)>) -> bool {
        let Some((operation, gpa)) = request else { return false };
        match self.host.policy(at.vcpu) {
            Policy::PscDoesNothing | Policy::PscStopsAfter(0) => true,
            Policy::PscErrorOnlyInInfo2 => false,
            _ => self.change_page(operation, gpa),
        }
    }

    /// Serves event 0x80000010.
    pub(super) fn psc_list(&mut self, at: At, gpa: u64, request: &Request) -> Result<Reply, Malformed> {
        let offset = request.scratch(HEADER)?;
        let mut list = List::read(request.buffer(offset));
        if !list.is_valid() {
            return Ok(Reply::detail(INVALID_HEADER));
        }
        let policy = self.host.policy(at.vcpu);
        let detail = match policy {
            Policy::PscErrorOnlyInInfo2 => {
                list.cursor = list.end.saturating_add(1).max(list.cursor);
                FAILED
            }
            _ => self.work_off(&policy, &mut list),
        };
        list.tamper(&policy);
        let at = gpa + offset as u64;
        if !self.host_write(at, &list.bytes()) {
            return Err(Malformed::Scratch);
        }
        Ok(Reply::detail(detail))
    }

    /// Does the entries from the cursor on and returns SW_EXITINFO2. The cursor and the page count of an entry say how
    /// far it came.
    fn work_off(&mut self, policy: &Policy, list: &mut List) -> u64 {
        let first = list.cursor;
        loop {
            let done = list.cursor.saturating_sub(first);
            let Some(entry) = list.next() else { return 0 };
            let Some(mut change) = Change::decode(*entry) else { return INVALID_ENTRY };
            match policy {
                Policy::PscPartial(most) if done >= *most => return 0,
                Policy::PscDoesNothing => change.done = change.pages(),
                Policy::PscStopsAfter(most) if done >= *most => change.done = change.pages(),
                _ => {}
            }
            let worked = change.operation == Operation::Hint || self.do_entry(&mut change);
            if change.operation != Operation::Hint {
                *entry = *entry & !0xfff | change.done;
            }
            if !worked {
                return FAILED;
            }
            list.cursor += 1;
        }
    }

    /// Does the pages of an entry that are not done yet; counts them in it.
    fn do_entry(&mut self, change: &mut Change) -> bool {
        if change.large && change.done == 0 {
            let whole = match change.operation {
                Operation::Private => self.make_private_large(change.gpa),
                _ => self.make_shared_large(change.gpa),
            };
            if whole {
                change.done = change.pages();
            }
        }
        while change.done < change.pages() {
            // Entries are aligned to their size and end below 2^52.
            if !self.change_page(change.operation, change.gpa + change.done * PAGE_SIZE) {
                return false;
            }
            change.done += 1;
        }
        true
    }

    fn change_page(&mut self, operation: Operation, gpa: u64) -> bool {
        match operation {
            Operation::Private => self.make_private(gpa),
            Operation::Shared => self.make_shared(gpa),
            Operation::Hint => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const PRIVATE: u64 = 1 << 52;
    const SHARED: u64 = 2 << 52;
    const LARGE: u64 = 1 << 56;

    #[test]
    fn decodes_entries() {
        let small = Change { operation: Operation::Private, gpa: 0x5000, large: false, done: 0 };
        assert_eq!(Change::decode(PRIVATE | 0x5000), Some(small));
        let large = Change { operation: Operation::Shared, gpa: 0x60_0000, large: true, done: 512 };
        assert_eq!(Change::decode(SHARED | LARGE | 0x60_0200), Some(large));
    }

    #[test]
    fn refuses_bad_entries() {
        let bad = [
            0x5000,                      // no operation
            5 << 52 | 0x5000,            // unknown operation
            PRIVATE | 0x5002,            // more pages done than there are
            PRIVATE | LARGE | 0x60_0201, // the same for 2M
            PRIVATE | LARGE | 0x60_1000, // 2M, not aligned
            PRIVATE | 1 << 57 | 0x5000,  // reserved bit
        ];
        for entry in bad {
            assert_eq!(Change::decode(entry), None, "{entry:#x}");
        }
    }

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn reads_the_header() {
        let list = List::read(&bytes(&[0x0000_0001_0002_0001, 7, 8, 9]));
        assert_eq!(list, List { cursor: 1, end: 2, reserved: 1, entries: vec![7, 8, 9] });
        assert!(!list.is_valid());
        let list = List { reserved: 0, ..list };
        assert!(list.is_valid());
        assert_eq!(list.bytes(), bytes(&[0x0002_0001, 7, 8, 9]));
        assert!(!List { end: 3, ..list }.is_valid());
    }

    #[test]
    fn the_shared_buffer_holds_253_entries() {
        let list = List::read(&[0; 0xff0 - 0x800]);
        assert_eq!(list.entries.len(), 253);
    }

    #[test]
    fn liars_edit_what_they_say() {
        let done = List { cursor: 2, end: 1, reserved: 0, entries: vec![PRIVATE | 0x5001, PRIVATE | 0x6001, 0] };
        let tampered = |policy| {
            let mut list = done.clone();
            list.tamper(&policy);
            list
        };
        assert_eq!(tampered(Policy::Honest), done);
        assert_eq!(tampered(Policy::PscRewindsCursor).cursor, 0);
        assert_eq!(tampered(Policy::PscSetsReserved).reserved, 1);
        assert_eq!(tampered(Policy::PscEditsEntries).entries[..2], [SHARED | 0x4001, SHARED | 0x7001]);
        let grown = tampered(Policy::PscGrowsEnd);
        assert_eq!((grown.end, grown.entries[2]), (2, PRIVATE));
    }
}
