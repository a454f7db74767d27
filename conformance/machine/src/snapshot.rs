//! The guest's state as a value, to show that something did not change, and looks into memory that leave no trace.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::exec::Access;
use crate::memory::Content;
use crate::nested::{offset_of, page_of};
use crate::rmp::RmpEntry;
use crate::{Machine, PAGE_SIZE, psp, vmsa};

/// RMP entries, the contents of all assigned pages (VMSAs among them), and the security processor's state.
///
/// Not in it: shared memory, GHCB MSRs, TLBs, the host's own state and nested map, counters, traces, oracles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// First system page to entry; a 2M entry once.
    entries: BTreeMap<u64, RmpEntry>,
    /// Contents of assigned pages by system page; zero pages are left out.
    contents: BTreeMap<u64, Content>,
    psp: psp::PspState,
}

impl Machine {
    /// The guest's state now.
    pub fn snapshot(&self) -> Snapshot {
        let mut entries = BTreeMap::new();
        let mut contents = BTreeMap::new();
        for (first, count, entry) in self.rmp.assigned() {
            entries.insert(first, *entry);
            for page in first..first + count {
                let content = self.memory.content(page);
                if !is_zero(content) {
                    contents.insert(page, content.clone());
                }
            }
        }
        Snapshot { entries, contents, psp: self.psp.state() }
    }

    /// Reads guest memory as a VMPL would through a private mapping with fresh translations, or as the host (`None`), without
    /// any effect. `None` if any byte may not be read. The host can read only what is its own.
    pub fn peek(&self, gpa: u64, len: usize, as_vmpl: Option<u8>) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let at = gpa.checked_add(done as u64)?;
            let part = (PAGE_SIZE as usize - offset_of(at)).min(len - done);
            let out = bytes.get_mut(done..done + part)?;
            let page = match as_vmpl {
                None => {
                    let (page, _) = self.nested.get(page_of(at))?;
                    (!self.rmp.get(page).assigned).then_some(page)?
                }
                Some(vmpl) => {
                    let found = self.walk(vmpl, at, true, Access::Read).ok()?;
                    found.spa + (page_of(at) - found.gpa)
                }
            };
            self.load(page, offset_of(at), as_vmpl.is_some(), out);
            done += part;
        }
        Some(bytes)
    }
}

fn is_zero(content: &Content) -> bool {
    match content {
        Content::Zero => true,
        Content::Garbage(_) => false,
        Content::Data(bytes) => bytes.iter().all(|byte| *byte == 0),
    }
}

impl Snapshot {
    /// What is different in `other`, one short line each, in the order of system addresses. No page contents but register
    /// values of VMSAs.
    pub fn diff(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for page in union(&self.entries, &other.entries) {
            let (before, after) = (self.entries.get(page), other.entries.get(page));
            if before != after {
                lines.push(format!("rmp {:#x}: {} -> {}", page * PAGE_SIZE, entry_line(before), entry_line(after)));
            }
        }
        for page in union(&self.contents, &other.contents) {
            let (before, after) = (self.contents.get(page), other.contents.get(page));
            if !same_content(before, after) {
                let is_vmsa = other.entries.get(page).is_some_and(|entry| entry.vmsa);
                lines.push(content_line(*page, is_vmsa, before, after));
            }
        }
        if self.psp != other.psp {
            lines.push(format!("security processor: {:?} -> {:?}", self.psp.used, other.psp.used));
        }
        lines
    }
}

fn union<'a, T>(a: &'a BTreeMap<u64, T>, b: &'a BTreeMap<u64, T>) -> impl Iterator<Item = &'a u64> {
    let mut keys: Vec<&u64> = a.keys().chain(b.keys().filter(|key| !a.contains_key(key))).collect();
    keys.sort_unstable();
    keys.into_iter()
}

fn same_content(a: Option<&Content>, b: Option<&Content>) -> bool {
    a.unwrap_or(&Content::Zero) == b.unwrap_or(&Content::Zero)
}

fn entry_line(entry: Option<&RmpEntry>) -> String {
    let Some(entry) = entry else { return String::from("host") };
    let size = if entry.large { "2M" } else { "4K" };
    let [_, a, b, c] = entry.perms;
    let validated = if entry.validated { " valid" } else { "" };
    let vmsa = if entry.vmsa { " vmsa" } else { "" };
    format!("{size} gpa {:#x}{validated}{vmsa} rights {a:x}/{b:x}/{c:x}", entry.gpa)
}

fn content_line(page: u64, is_vmsa: bool, before: Option<&Content>, after: Option<&Content>) -> String {
    let address = page * PAGE_SIZE;
    let bytes = |content: Option<&Content>| match content {
        None | Some(Content::Zero) => Some([0; PAGE_SIZE as usize]),
        Some(Content::Data(bytes)) => Some(**bytes),
        Some(Content::Garbage(_)) => None,
    };
    let (Some(old), Some(new)) = (bytes(before), bytes(after)) else {
        return format!("page {address:#x}: changed hands");
    };
    let changed: Vec<usize> = (0..PAGE_SIZE as usize).filter(|offset| old[*offset] != new[*offset]).collect();
    let first = changed.first().copied().unwrap_or(0);
    if is_vmsa {
        let at = first & !7;
        let (from, to) = (vmsa::read_u64(&old, at), vmsa::read_u64(&new, at));
        return format!("vmsa {address:#x}: {} bytes differ, first {at:#x}: {from:#x} -> {to:#x}", changed.len());
    }
    format!("page {address:#x}: {} bytes differ from {first:#x} on", changed.len())
}
