//! The TD's state as a value, to show that something did not change, and looks into memory that leave no trace.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::machine::Td;
use super::module::fields::{L2_CTLS, TSC_DEADLINE};
use super::sept::{Found, attr};
use super::{Machine, SeptEntry};
use crate::memory::Content;
use crate::nested::{offset_of, page_of};
use crate::{PAGE_SIZE, Vcpu};

/// Secure EPT entries with their aliases, the contents of all private pages, the VMCS fields and bitmaps of the L2
/// VMs, and what belongs to the TD (RTMRs, controls).
///
/// Not in it: shared memory, registers, TLBs, table pages of the L2 VMs, exit information in the VMCSs, the host's own
/// state, counters, traces, oracles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// First guest page to entry; a 2M entry once.
    entries: BTreeMap<u64, SeptEntry>,
    /// Contents by guest page; zero pages are left out.
    contents: BTreeMap<u64, Content>,
    /// By vCPU, VM and name of the field.
    fields: BTreeMap<(u8, u8, Name), u64>,
    td: Td,
}

/// A vCPU field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Vmcs(u32),
    Bitmap(u16),
    Plain(u8, u32),
}

/// Read-only data of the last exit, and registers that are in the register page.
fn is_exit_data(encoding: u32) -> bool {
    matches!(encoding, 0x810 | 0x2400 | 0x4400..0x4800 | 0x6400..0x6800 | 0x681c..=0x6820 | 0x682a)
}

impl Machine {
    /// The TD's state now.
    pub fn snapshot(&self) -> Snapshot {
        let mut entries = BTreeMap::new();
        let mut contents = BTreeMap::new();
        for found in self.sept.leaves() {
            let Found { leaf, large, first } = found;
            let entry = SeptEntry { large, accepted: leaf.accepted, blocked: leaf.blocked, aliases: leaf.aliases };
            entries.insert(first, entry);
            for page in first..first + found.pages() {
                let content = self.private.content(found.spa_of(page));
                if !is_zero(content) {
                    contents.insert(page, content.clone());
                }
            }
        }
        Snapshot { entries, contents, fields: self.snapshot_fields(), td: self.td.clone() }
    }

    fn snapshot_fields(&self) -> BTreeMap<(u8, u8, Name), u64> {
        let mut fields = BTreeMap::new();
        for vcpu in (0..self.config.vcpus).map(Vcpu) {
            for vm in self.vms() {
                let Some(guest) = self.guest(vcpu, vm) else { continue };
                let vmcs = guest.vmcs.values().filter(|(encoding, _)| !is_exit_data(*encoding));
                fields.extend(vmcs.map(|(encoding, value)| ((vcpu.0, vm, Name::Vmcs(encoding)), value)));
                let words = guest.msr_bitmap.iter().filter(|(_, word)| **word != u64::MAX);
                fields.extend(words.map(|(word, value)| ((vcpu.0, vm, Name::Bitmap(*word)), *value)));
                for (class, first) in [L2_CTLS, TSC_DEADLINE] {
                    let code = first + u32::from(vm);
                    let value = self.vp_plain(vcpu, (class, code));
                    fields.insert((vcpu.0, vm, Name::Plain(class, code)), value);
                }
            }
        }
        fields
    }

    /// Reads memory as a level would with fresh translations (0 for L1, else the VM, private memory), or as the host
    /// (`None`, shared memory), without any effect. `None` if any byte may not be read.
    pub fn peek(&self, gpa: u64, len: usize, as_level: Option<u8>) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let at = gpa.checked_add(done as u64)?;
            let part = (PAGE_SIZE as usize - offset_of(at)).min(len - done);
            let out = bytes.get_mut(done..done + part)?;
            let page = page_of(at);
            match as_level {
                None => {
                    self.host.is_shared(page).then_some(())?;
                    self.shared.read(page, offset_of(at), out);
                }
                Some(level) => {
                    let found = self.walk(level, page, attr::READ).ok()?;
                    self.private.read(found.spa + (page - found.first), offset_of(at), out);
                }
            }
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
    /// What is different in `other`, one short line each, in the order of addresses. No page contents but field values.
    pub fn diff(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for page in union(&self.entries, &other.entries) {
            let (before, after) = (self.entries.get(&page), other.entries.get(&page));
            if before != after {
                lines.push(format!("sept {:#x}: {} -> {}", page * PAGE_SIZE, entry_line(before), entry_line(after)));
            }
        }
        for page in union(&self.contents, &other.contents) {
            let (before, after) = (self.contents.get(&page), other.contents.get(&page));
            if before.unwrap_or(&Content::Zero) != after.unwrap_or(&Content::Zero) {
                lines.push(content_line(page, before, after));
            }
        }
        for key in union(&self.fields, &other.fields) {
            let (before, after) = (self.fields.get(&key).copied(), other.fields.get(&key).copied());
            let (vcpu, vm, name) = key;
            if before != after {
                lines.push(format!("cpu{vcpu} vm{vm} {name:x?}: {before:x?} -> {after:x?}"));
            }
        }
        if self.td != other.td {
            lines.push(String::from("td: measurements or controls differ"));
        }
        lines
    }
}

fn union<K: Copy + Ord, T>(a: &BTreeMap<K, T>, b: &BTreeMap<K, T>) -> Vec<K> {
    let mut keys: Vec<K> = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).copied().collect();
    keys.sort_unstable();
    keys
}

fn entry_line(entry: Option<&SeptEntry>) -> String {
    let Some(entry) = entry else { return String::from("not mapped") };
    let size = if entry.large { "2M" } else { "4K" };
    let state = if entry.accepted { "accepted" } else { "pending" };
    let blocked = if entry.blocked { " blocked" } else { "" };
    let [a, b, c] = entry.aliases;
    format!("{size} {state}{blocked} aliases {a:x}/{b:x}/{c:x}")
}

fn content_line(page: u64, before: Option<&Content>, after: Option<&Content>) -> String {
    let address = page * PAGE_SIZE;
    let bytes = |content: Option<&Content>| match content {
        None | Some(Content::Zero) => Some([0; PAGE_SIZE as usize]),
        Some(Content::Data(bytes)) => Some(**bytes),
        Some(Content::Garbage(_)) => None,
    };
    let (Some(old), Some(new)) = (bytes(before), bytes(after)) else {
        return format!("page {address:#x}: other memory");
    };
    let changed = (0..PAGE_SIZE as usize).filter(|offset| old.get(*offset) != new.get(*offset));
    let first = changed.clone().next().unwrap_or(0);
    format!("page {address:#x}: {} bytes differ from {first:#x} on", changed.count())
}
