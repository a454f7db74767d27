//! What a hypervisor can do to the machine: its instructions, its memory accesses, its nested map.

use alloc::vec::Vec;

use crate::memory::PageBytes;
use crate::nested::{MapSize, offset_of, page_of};
use crate::rmp::{GUEST_ASID, RmpEntry, code, perm};
use crate::run::{KeyState, Pending};
use crate::{Answer, ExitInfo, HostEvent, Machine, PAGE_SIZE, Resume, RunKey, Vcpu};

/// The vCPU that host actions outside an exit are recorded under.
const BOOT_VCPU: Vcpu = Vcpu(0);

impl Machine {
    /// RMPUPDATE of a 4 KiB or 2 MiB system page: assigns it to the guest at `assign`, or takes it back.
    ///
    /// A page that goes from host to guest or back loses its contents; one that only moves to another guest address keeps
    /// them. Every cached translation that leads to it goes, on all vCPUs. Returns a [`code`](crate::rmp::code).
    pub fn rmpupdate(&mut self, spa: u64, large: bool, assign: Option<u64>) -> u32 {
        let result = self.try_rmpupdate(spa, large, assign);
        self.note(BOOT_VCPU, HostEvent::Rmpupdate { spa, gpa: assign, large, code: result });
        result
    }

    fn try_rmpupdate(&mut self, spa: u64, large: bool, assign: Option<u64>) -> u32 {
        let count = if large { self.pages_per_large() } else { 1 };
        let size = count * PAGE_SIZE;
        let page = page_of(spa);
        let aligned = spa.is_multiple_of(size) && assign.is_none_or(|gpa| gpa.is_multiple_of(size));
        if !aligned || !self.rmp.is_covered(page, count) {
            return code::FAIL_INPUT;
        }
        let was_large = self.rmp.is_large(page);
        if (large && self.rmp.has_small_assigned(page)) || (!large && was_large) {
            return code::FAIL_OVERLAP;
        }
        let old = self.rmp.get(page);
        if old.immutable {
            return code::FAIL_PERMISSION;
        }
        if self.rule("RMP-020") && (page..page + count).any(|page| self.is_running_vmsa(page)) {
            return code::FAIL_INUSE;
        }
        let new = assign.map(|gpa| self.assigned_entry(&old, gpa, large));
        if large {
            self.rmp.set_block(page, new);
        } else {
            self.rmp.update(page, |entry| *entry = new.unwrap_or(RmpEntry::HOST));
        }
        if old.assigned != new.is_some() && self.rule("RMP-052") {
            self.memory.scramble(page, count);
            self.oracles.contents_gone(page, count);
        }
        for vcpu in &mut self.vcpus {
            vcpu.tlb.flush_system_pages(page, count);
        }
        self.oracle_rights_changed(page, count);
        code::SUCCESS
    }

    /// The entry after an assignment (RMP-005, RMP-006).
    fn assigned_entry(&self, old: &RmpEntry, gpa: u64, large: bool) -> RmpEntry {
        let lower = if self.rule("RMP-005") { 0 } else { perm::ALL };
        let kept = !self.rule("RMP-006") && old.assigned;
        RmpEntry {
            assigned: true,
            asid: GUEST_ASID,
            gpa,
            large,
            immutable: false,
            vmsa: false,
            validated: kept && old.validated,
            perms: if kept { old.perms } else { [perm::ALL, lower, lower, lower] },
        }
    }

    /// PSMASH of a 2 MiB system page; splits a 2M entry into 512 (RMP-012). Returns a [`code`](crate::rmp::code). The nested
    /// map stays as it is, and so do cached translations.
    pub fn psmash(&mut self, spa: u64) -> u32 {
        let page = page_of(spa);
        let result = if !spa.is_multiple_of(self.large_page_size()) || !self.rmp.is_large(page) {
            code::FAIL_INPUT
        } else {
            self.rmp.smash(page);
            code::SUCCESS
        };
        self.note(BOOT_VCPU, HostEvent::Psmash { spa, code: result });
        result
    }

    /// Another processor holds the entry of a system page when an access is checked next: that one gets a spurious RMP fault
    /// (RMP-039).
    pub fn hold_entry(&mut self, spa: u64) {
        self.busy.insert(page_of(spa));
    }

    /// Changes the nested map of a 4 KiB or 2 MiB guest page; `None` unmaps it. Addresses are rounded down to the size.
    /// Cached translations of the guest page go, on all vCPUs. An explicit mapping must have the size of the RMP entry
    /// (RMP-037); the identity map of the start follows it by itself.
    pub fn map(&mut self, gpa: u64, large: bool, spa: Option<u64>) {
        let count = if large { self.pages_per_large() } else { 1 };
        let first = page_of(gpa) / count * count;
        for page in first..first + count {
            if let Some((old, _)) = self.nested.get(page) {
                let entry = self.rmp.get(old);
                if entry.validated && entry.gpa == page * PAGE_SIZE {
                    self.nested.note_displaced(page, old);
                }
            }
        }
        self.nested.set(first, large, spa.map(|spa| page_of(spa) / count * count));
        for vcpu in &mut self.vcpus {
            vcpu.tlb.flush_guest_pages(first, count);
        }
        self.note(BOOT_VCPU, HostEvent::Mapped { gpa, spa, large });
    }

    /// Sets a reserved bit in the nested entry of a 4 KiB guest page, or clears it: every access is #VC then (RMP-047).
    pub fn mark_device(&mut self, gpa: u64, is_device: bool) {
        let page = page_of(gpa);
        self.nested.set_device(page, is_device);
        for vcpu in &mut self.vcpus {
            vcpu.tlb.flush_guest_pages(page, 1);
        }
        self.note(BOOT_VCPU, HostEvent::MarkedDevice { gpa, is_device });
    }

    /// Whether the nested mapping of a guest address was made as a 2 MiB one.
    pub fn is_mapped_large(&self, gpa: u64) -> bool {
        self.nested.get(page_of(gpa)).is_some_and(|(_, size)| size == MapSize::Large)
    }

    /// First guest address of every 2M RMP entry.
    pub fn host_large_pages(&self) -> Vec<u64> {
        self.rmp.assigned().filter(|(_, _, entry)| entry.large).map(|(_, _, entry)| entry.gpa).collect()
    }

    /// The RMP entry of a system page, as RMPREAD tells it.
    pub fn rmp_entry_at(&self, spa: u64) -> RmpEntry {
        self.rmp.get(page_of(spa))
    }

    /// System address that a guest address is mapped to.
    pub fn translate(&self, gpa: u64) -> Option<u64> {
        let (page, _) = self.nested.get(page_of(gpa))?;
        Some(page * PAGE_SIZE + gpa % PAGE_SIZE)
    }

    /// Reads guest memory as the host. Pages of the guest read as ciphertext, unmapped ones as 0xff. May cross pages.
    pub fn host_read(&self, gpa: u64, buf: &mut [u8]) {
        self.for_each_page(gpa, buf.len(), |at, offset, range| {
            let Some(out) = buf.get_mut(range) else { return };
            match at {
                None => out.fill(0xff),
                Some(page) if self.rmp.get(page).assigned => {
                    let cipher: PageBytes = self.memory.ciphertext(page);
                    out.copy_from_slice(&cipher[offset..offset + out.len()]);
                }
                Some(page) => self.memory.read(page, offset, out),
            }
        });
    }

    /// Writes guest memory as the host; false, and nothing written, if any page is unmapped or the guest's (RMP-036).
    pub fn host_write(&mut self, gpa: u64, bytes: &[u8]) -> bool {
        let mut pages = Vec::new();
        self.for_each_page(gpa, bytes.len(), |at, offset, range| pages.push((at, offset, range)));
        let checked = self.rule("RMP-036");
        if pages.iter().any(|(at, ..)| at.is_none_or(|page| checked && self.rmp.get(page).assigned)) {
            return false;
        }
        for (at, offset, range) in pages {
            if let (Some(page), Some(part)) = (at, bytes.get(range)) {
                self.memory.write(page, offset, part);
            }
        }
        true
    }

    /// Calls `visit(system page, offset in it, range of the buffer)` for each page of a guest range.
    fn for_each_page(&self, gpa: u64, len: usize, mut visit: impl FnMut(Option<u64>, usize, core::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let address = gpa.wrapping_add(done as u64);
            let offset = offset_of(address);
            let part = (PAGE_SIZE as usize - offset).min(len - done);
            visit(self.nested.get(page_of(address)).map(|(page, _)| page), offset, done..done + part);
            done += part;
        }
    }

    /// The last exit of a vCPU, until it is entered again.
    pub fn exit_info(&self, vcpu: Vcpu) -> Option<ExitInfo> {
        let mut exit = self.vcpus.get(usize::from(vcpu.0))?.exit?;
        if let Some(key) = self.keys.get(&exit.key) {
            exit.ghcb_msr = key.ghcb_msr;
        }
        Some(exit)
    }

    /// The VMSA that a vCPU runs.
    pub fn running(&self, vcpu: Vcpu) -> Option<RunKey> {
        Some(self.vcpus.get(usize::from(vcpu.0))?.running.as_ref()?.key)
    }

    /// The VMPL that a vCPU runs.
    pub fn running_vmpl(&self, vcpu: Vcpu) -> Option<u8> {
        Some(self.vcpus.get(usize::from(vcpu.0))?.running.as_ref()?.vmpl)
    }

    /// The vCPU that runs a VMSA page.
    pub fn vmsa_running_on(&self, vmsa_gpa: u64) -> Option<Vcpu> {
        let runs = |state: &crate::run::VcpuState| state.running.as_ref().is_some_and(|r| r.key.vmsa == vmsa_gpa);
        let index = self.vcpus.iter().position(runs)?;
        u8::try_from(index).ok().map(Vcpu)
    }

    /// Sets the GHCB MSR of a VMSA, as the answer to an MSR protocol request.
    pub fn set_ghcb_msr(&mut self, key: RunKey, value: u64) {
        self.keys.entry(key).or_insert(KeyState::NEW).ghcb_msr = value;
    }

    /// The GHCB MSR of a VMSA.
    pub fn ghcb_msr(&self, key: RunKey) -> u64 {
        self.keys.get(&key).map_or(0, |state| state.ghcb_msr)
    }

    /// Says how the operation that left goes on at the next entry: [`Resume::Complete`] or [`Resume::Retry`]. The host cannot
    /// choose an answer: after VMGEXIT it is always what the VMSA holds then. It cannot restart a program either.
    pub fn complete(&mut self, key: RunKey, resume: Resume) {
        let state = self.keys.entry(key).or_insert(KeyState::NEW);
        state.pending = match (resume, state.pending) {
            (_, Pending::Start) => Pending::Start,
            (Resume::Retry, _) => Pending::Retry,
            (Resume::Complete(Answer::None), Pending::Retry) => Pending::Nothing,
            (Resume::Start { .. } | Resume::Complete(_), pending) => pending,
        };
    }
}
