//! A second RMP, written from the tables in `backend-snp/facts` alone and as plainly as it goes: one entry for each small
//! page, in a list, and every rule where the table has it. It shares no line and no number with the machine's.
//!
//! Where the tables give no order between two refusals the model allows each of them; the machine has to choose one.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Rights (vmpl_perms, perm_mask).
pub(super) const READ: u8 = 0x01;
pub(super) const WRITE: u8 = 0x02;
pub(super) const EXECUTE_USER: u8 = 0x04;
pub(super) const EXECUTE_SUPERVISOR: u8 = 0x08;
pub(super) const EVERY_RIGHT: u8 = 0x1f;

/// Return codes (instructions).
pub(super) const SUCCESS: u32 = 0;
pub(super) const FAIL_INPUT: u32 = 1;
pub(super) const FAIL_PERMISSION: u32 = 2;
pub(super) const FAIL_INUSE: u32 = 3;
pub(super) const FAIL_OVERLAP: u32 = 4;
pub(super) const FAIL_SIZEMISMATCH: u32 = 6;

/// Bits of EXITINFO1 (RMP-040 to RMP-045).
const NPF_PRESENT: u64 = 1 << 0;
const NPF_WRITE: u64 = 1 << 1;
const NPF_USER: u64 = 1 << 2;
const NPF_FETCH: u64 = 1 << 4;
const NPF_RMP: u64 = 1 << 31;
const NPF_FINAL: u64 = 1 << 32;
const NPF_ENC: u64 = 1 << 34;
const NPF_SIZEM: u64 = 1 << 35;
const NPF_VMPL: u64 = 1 << 36;

/// Bytes of a small page.
const SMALL: u64 = 0x1000;

/// The ASID of the guest that executes.
pub(super) const GUEST: u32 = 1;

/// RMP-001, with the guest address as a page number. The entries of a 2M page are equal but for the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) assigned: bool,
    pub(super) asid: u32,
    pub(super) guest_page: u64,
    pub(super) large: bool,
    pub(super) immutable: bool,
    pub(super) vmsa: bool,
    pub(super) validated: bool,
    pub(super) rights: [u8; 4],
}

/// What a page holds, as far as it decides an outcome. `None` where nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) first_byte: Option<u8>,
    pub(super) save_area: Option<SaveArea>,
}

/// The fields of a VMSA that VMRUN looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SaveArea {
    pub(super) vmpl: u8,
    pub(super) svme: bool,
}

impl Content {
    pub(super) const ZERO: Self = Self { first_byte: Some(0), save_area: Some(SaveArea { vmpl: 0, svme: false }) };
    const UNDEFINED: Self = Self { first_byte: None, save_area: None };
}

/// Where a guest page leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nested {
    pub(super) page: u64,
    /// Size of the mapping; `None` if it takes whatever size the entry has.
    pub(super) large: Option<bool>,
}

/// How an access touches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    FetchUser,
    FetchSupervisor,
}

/// RDX of RMPADJUST, the reserved bits 63:17 being zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rdx {
    pub(super) target: u8,
    /// All of bits 15:8.
    pub(super) mask: u8,
    pub(super) vmsa: bool,
}

/// What an operation gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// RMPUPDATE, PSMASH, RMPADJUST.
    Code(u32),
    Validated {
        code: u32,
        carry: bool,
    },
    /// RMPQUERY: EAX, then size and mask with VMSA bit if it is 0.
    Queried {
        code: u32,
        large: bool,
        rights: u8,
        vmsa: bool,
    },
    /// The access retired; the byte read, if it was a read of a known byte.
    Accessed(Option<u8>),
    /// #GP(0).
    GeneralProtection,
    /// #VC 0x404 and the address.
    NotValidated(u64),
    /// Nested fault to the hypervisor: EXITINFO1 and the address.
    NestedFault(u64, u64),
    /// The store waits for a VMSA that runs.
    Waits,
    /// VMRUN entered at this VMPL.
    Entered(u8),
    /// VMRUN failed.
    NotEntered,
    /// The host may write, or not.
    HostWrote(bool),
}

/// The whole model. Pages are numbers from 0; a page outside `entries` is not covered by the table.
#[derive(Clone, Debug)]
pub(super) struct SecondRmp {
    /// Small pages in a large one.
    pub(super) factor: u64,
    pub(super) vmpls: u8,
    pub(super) entries: Vec<Entry>,
    /// By guest page.
    pub(super) nested: Vec<Option<Nested>>,
    pub(super) contents: Vec<Content>,
    /// The page whose VMSA the other vCPU runs.
    pub(super) running: Option<u64>,
}

impl SecondRmp {
    /// All pages are the hypervisor's, and guest pages lead to the system pages of the same number. One large page of guest
    /// addresses more leads nowhere yet.
    pub(super) fn new(factor: u64, vmpls: u8, pages: u64) -> Self {
        Self {
            factor,
            vmpls,
            entries: vec![Entry::default(); pages as usize],
            nested: (0..pages + factor).map(|page| (page < pages).then_some(Nested { page, large: None })).collect(),
            contents: vec![Content::ZERO; pages as usize],
            running: None,
        }
    }

    fn entry(&self, page: u64) -> Option<Entry> {
        self.entries.get(page as usize).copied()
    }

    fn nested(&self, guest_page: u64) -> Option<Nested> {
        self.nested.get(guest_page as usize).copied().flatten()
    }

    fn bytes(&self, large: bool) -> u64 {
        if large { self.factor * SMALL } else { SMALL }
    }

    /// The small pages of the page of this size around `page`.
    fn all_of(&self, page: u64, large: bool) -> Range<u64> {
        let first = if large { page - page % self.factor } else { page };
        first..first + if large { self.factor } else { 1 }
    }

    /// RMPUPDATE by the host. `to` is the guest address, or the page becomes the hypervisor's.
    pub(super) fn rmpupdate(&mut self, address: u64, large: bool, to: Option<u64>) -> Vec<Given> {
        let size = self.bytes(large);
        let mut refusals = Vec::new();
        if !address.is_multiple_of(size) || to.is_some_and(|to| !to.is_multiple_of(size)) {
            return vec![Given::Code(FAIL_INPUT)];
        }
        let page = address / SMALL;
        let pages = self.all_of(page, large);
        // RMP-003: not covered is a hypervisor page for ever.
        if pages.clone().any(|page| self.entry(page).is_none()) {
            return vec![Given::Code(FAIL_INPUT)];
        }
        for page in pages.clone() {
            let entry = self.entries[page as usize];
            // instructions, RMPUPDATE: 4K and 2M entries collide.
            if entry.assigned && entry.large != large {
                refusals.push(Given::Code(FAIL_OVERLAP));
            }
            if entry.immutable {
                refusals.push(Given::Code(FAIL_PERMISSION));
            }
            // RMP-020.
            if self.running == Some(page) {
                refusals.push(Given::Code(FAIL_INUSE));
            }
        }
        if !refusals.is_empty() {
            return refusals;
        }
        for (index, page) in pages.enumerate() {
            let was_assigned = self.entries[page as usize].assigned;
            // RMP-005 and RMP-006: nothing of the former entry stays.
            self.entries[page as usize] = match to {
                None => Entry::default(),
                Some(to) => Entry {
                    assigned: true,
                    asid: GUEST,
                    guest_page: to / SMALL + index as u64,
                    large,
                    immutable: false,
                    vmsa: false,
                    validated: false,
                    rights: [EVERY_RIGHT, 0, 0, 0],
                },
            };
            // RMP-052: a conversion does not preserve contents.
            if was_assigned != to.is_some() {
                self.contents[page as usize] = Content::UNDEFINED;
            }
        }
        vec![Given::Code(SUCCESS)]
    }

    /// PSMASH by the host.
    pub(super) fn psmash(&mut self, address: u64) -> Vec<Given> {
        let page = address / SMALL;
        let is_large = self.entry(page).is_some_and(|entry| entry.assigned && entry.large);
        if !address.is_multiple_of(self.bytes(true)) || !is_large {
            return vec![Given::Code(FAIL_INPUT)];
        }
        // RMP-012: everything is kept; the guest addresses count up already.
        for page in self.all_of(page, true) {
            self.entries[page as usize].large = false;
        }
        vec![Given::Code(SUCCESS)]
    }

    /// The host writes a page (RMP-036).
    pub(super) fn host_write(&mut self, guest_page: u64, value: u8) -> Vec<Given> {
        let Some(nested) = self.nested(guest_page) else { return vec![Given::HostWrote(false)] };
        let allowed = self.entry(nested.page).is_none_or(|entry| !entry.assigned);
        if allowed {
            self.store(nested.page, value);
        }
        vec![Given::HostWrote(allowed)]
    }

    fn store(&mut self, page: u64, value: u8) {
        if let Some(content) = self.contents.get_mut(page as usize) {
            content.first_byte = Some(value);
        }
    }

    /// The common second step of PVALIDATE and RMPADJUST (instructions, check order): what the guest's page is, or the fault.
    fn guest_page(&self, address: u64) -> Result<(u64, Entry), Given> {
        let guest_page = address / SMALL;
        // RMP-030: nested page tables come first. RMP-041: the C-bit is 1. RMP-045: the final address.
        let Some(nested) = self.nested(guest_page) else {
            return Err(Given::NestedFault(NPF_ENC | NPF_FINAL, address));
        };
        let fault = Given::NestedFault(NPF_RMP | NPF_ENC | NPF_FINAL | NPF_PRESENT, address);
        let entry = self.entry(nested.page).ok_or(fault)?;
        let is_ours = entry.assigned && entry.asid == GUEST && !entry.immutable && entry.guest_page == guest_page;
        if is_ours { Ok((nested.page, entry)) } else { Err(fault) }
    }

    /// RMP-010.
    fn size_conflict(&self, address: u64) -> Given {
        Given::NestedFault(NPF_RMP | NPF_ENC | NPF_FINAL | NPF_PRESENT | NPF_SIZEM, address)
    }

    /// PVALIDATE.
    pub(super) fn pvalidate(&mut self, vmpl: u8, address: u64, large: bool, valid: bool) -> Vec<Given> {
        let give = |code, carry| vec![Given::Validated { code, carry }];
        if vmpl != 0 {
            return vec![Given::GeneralProtection];
        }
        if !address.is_multiple_of(self.bytes(large)) {
            return give(FAIL_INPUT, false);
        }
        let (page, entry) = match self.guest_page(address) {
            Ok(found) => found,
            Err(fault) => return vec![fault],
        };
        if entry.large && !large {
            return vec![self.size_conflict(address)];
        }
        // RMP-011.
        if large && !entry.large {
            return give(FAIL_SIZEMISMATCH, false);
        }
        if entry.validated == valid {
            // RMP-008. Whether an entry in use comes before this is not said (RMP-020 is about changing it).
            let mut allowed = give(SUCCESS, true);
            if self.running == Some(page) {
                allowed.extend(give(FAIL_INUSE, false));
            }
            return allowed;
        }
        if self.running == Some(page) {
            return give(FAIL_INUSE, false);
        }
        // RMP-007: this flag only.
        for page in self.all_of(page, large) {
            self.entries[page as usize].validated = valid;
        }
        give(SUCCESS, false)
    }

    /// RMPADJUST.
    pub(super) fn rmpadjust(&mut self, vmpl: u8, address: u64, large: bool, rdx: Rdx) -> Vec<Given> {
        // RMP-025: no VMSA at a 2M boundary, so none of that size. Where the check stands is not said.
        if rdx.vmsa && large && vmpl == 0 {
            let without = Rdx { vmsa: false, ..rdx };
            let mut allowed = self.clone().rmpadjust(vmpl, address, large, without);
            allowed.retain(|given| *given != Given::Code(SUCCESS));
            allowed.push(Given::Code(FAIL_INPUT));
            return allowed;
        }
        let Rdx { target, mask, vmsa } = rdx;
        let mut early = Vec::new();
        // RMP-014, and a level that does not exist is bad input at least.
        if target <= vmpl || target >= self.vmpls {
            early.push(Given::Code(FAIL_PERMISSION));
        }
        let bad_input = !address.is_multiple_of(self.bytes(large)) || mask & !EVERY_RIGHT != 0 || target >= self.vmpls;
        if bad_input {
            early.push(Given::Code(FAIL_INPUT));
        }
        if !early.is_empty() {
            return early;
        }
        let (page, entry) = match self.guest_page(address) {
            Ok(found) => found,
            Err(fault) => return vec![fault],
        };
        if entry.large && !large {
            return vec![self.size_conflict(address)];
        }
        // RMP-017.
        if !entry.validated {
            return vec![Given::NotValidated(address)];
        }
        if large && !entry.large {
            return vec![Given::Code(FAIL_SIZEMISMATCH)];
        }
        let mut refusals = Vec::new();
        // RMP-015 and RMP-016.
        if vmpl != 0 && mask & !entry.rights[usize::from(vmpl)] != 0 {
            refusals.push(Given::Code(FAIL_PERMISSION));
        }
        // RMP-020.
        if self.running == Some(page) {
            refusals.push(Given::Code(FAIL_INUSE));
        }
        if !refusals.is_empty() {
            return refusals;
        }
        for page in self.all_of(page, large) {
            let entry = &mut self.entries[page as usize];
            entry.rights[usize::from(target)] = mask;
            // RMP-018; elsewhere the bit is ignored (instructions, RMPADJUST, quirk).
            if vmpl == 0 {
                entry.vmsa = vmsa;
            }
        }
        vec![Given::Code(SUCCESS)]
    }

    /// RMPQUERY.
    pub(super) fn rmpquery(&self, vmpl: u8, address: u64, target: u8) -> Vec<Given> {
        let refused = |code| Given::Queried { code, large: false, rights: 0, vmsa: false };
        if target >= self.vmpls {
            return vec![refused(FAIL_PERMISSION), refused(FAIL_INPUT)];
        }
        if target < vmpl {
            return vec![refused(FAIL_PERMISSION)];
        }
        let (_, entry) = match self.guest_page(address) {
            Ok(found) => found,
            Err(fault) => return vec![fault],
        };
        if !entry.validated {
            return vec![Given::NotValidated(address)];
        }
        let rights = entry.rights[usize::from(target)];
        vec![Given::Queried { code: SUCCESS, large: entry.large, rights, vmsa: entry.vmsa }]
    }

    /// A data access or a fetch at the first byte of a page. A fetch is private whatever the C-bit says (RMP-031).
    pub(super) fn access(&mut self, vmpl: u8, guest_page: u64, access: Access, private: bool, value: u8) -> Vec<Given> {
        let address = guest_page * SMALL;
        let is_fetch = matches!(access, Access::FetchUser | Access::FetchSupervisor);
        let private = private || is_fetch;
        let kind = match access {
            Access::Read => 0,
            Access::Write => NPF_WRITE,
            Access::FetchUser => NPF_FETCH | NPF_USER,
            Access::FetchSupervisor => NPF_FETCH,
        } | NPF_FINAL
            | if private { NPF_ENC } else { 0 };
        // RMP-030.
        let Some(nested) = self.nested(guest_page) else { return vec![Given::NestedFault(kind, address)] };
        let entry = self.entry(nested.page);
        let fault = kind | NPF_PRESENT | NPF_RMP;
        if private {
            // RMP-032 and RMP-037.
            let is_ours = entry.is_some_and(|entry| {
                entry.assigned
                    && entry.asid == GUEST
                    && entry.guest_page == guest_page
                    && !entry.immutable
                    && nested.large.is_none_or(|large| large == entry.large)
            });
            let (true, Some(entry)) = (is_ours, entry) else { return vec![Given::NestedFault(fault, address)] };
            // RMP-033.
            if !entry.validated {
                return vec![Given::NotValidated(address)];
            }
            // RMP-034; vmpl_perms, Write: write without read is an illegal mask.
            let rights = entry.rights[usize::from(vmpl)];
            let allowed = match access {
                Access::Read => rights & READ != 0,
                Access::Write => rights & READ != 0 && rights & WRITE != 0,
                Access::FetchUser => rights & EXECUTE_USER != 0,
                Access::FetchSupervisor => rights & EXECUTE_SUPERVISOR != 0,
            };
            // A mask with write and without read faults any data access.
            if !allowed {
                return vec![Given::NestedFault(fault | NPF_VMPL, address)];
            }
        } else if access == Access::Write && entry.is_some_and(|entry| entry.assigned) {
            // RMP-035; a shared read is not checked.
            return vec![Given::NestedFault(fault, address)];
        }
        match access {
            Access::Write if self.running == Some(nested.page) => vec![Given::Waits],
            Access::Write => {
                self.store(nested.page, value);
                vec![Given::Accessed(None)]
            }
            Access::Read => {
                let is_readable = private || !entry.is_some_and(|entry| entry.assigned);
                let content = self.contents.get(nested.page as usize);
                vec![Given::Accessed(content.and_then(|content| content.first_byte).filter(|_| is_readable))]
            }
            Access::FetchUser | Access::FetchSupervisor => vec![Given::Accessed(None)],
        }
    }

    /// VMRUN on the vCPU that runs nothing yet. Nothing is allowed where undefined contents decide.
    pub(super) fn vmrun(&mut self, address: u64) -> Vec<Given> {
        let refused = vec![Given::NotEntered];
        let guest_page = address / SMALL;
        let Some(nested) = self.nested(guest_page) else { return refused };
        // RMP-022.
        let is_runnable = self.entry(nested.page).is_some_and(|entry| {
            entry.assigned && entry.asid == GUEST && entry.guest_page == guest_page && !entry.immutable && entry.vmsa
        });
        // RMP-025.
        if !is_runnable || address.is_multiple_of(self.bytes(true)) {
            return refused;
        }
        match self.contents[nested.page as usize].save_area {
            None => Vec::new(),
            // RMP-023.
            Some(area) if !area.svme || area.vmpl >= self.vmpls => refused,
            Some(area) => {
                self.running = Some(nested.page);
                vec![Given::Entered(area.vmpl)]
            }
        }
    }

    /// The host changes the nested map of a page of this size. A small mapping makes the large one around it small.
    pub(super) fn map(&mut self, guest_page: u64, large: bool, to: Option<u64>) {
        for page in self.all_of(guest_page, true) {
            let Some(at) = self.nested.get_mut(page as usize) else { continue };
            if !large && let Some(Nested { large: size @ Some(true), .. }) = at {
                *size = Some(false);
            }
        }
        for (index, page) in self.all_of(guest_page, large).enumerate() {
            let Some(at) = self.nested.get_mut(page as usize) else { continue };
            *at = to.map(|to| Nested { page: to + index as u64, large: Some(large) });
        }
    }
}
