//! Page states as the kernel changes them: page by page before it has GHCB pages of its own, in lists afterwards.

use std::fmt;

use coco_part_api::GuestMemory;
use coco_part_api::svsm::CallResult;
use machine::Regs;
use x86_64::PhysAddr;

use super::client::{BUSY, INCOMPLETE, Kernel, Via, fault, result_name};
use crate::suite::{Stop, ensure};
use crate::world::layout::{LARGE, PAGE};

/// RAX of the PVALIDATE call.
const PVALIDATE: u64 = 1;
/// Offset of the list in the call area.
const LIST: u64 = 8;
/// Most entries of a list there.
const LIST_ENTRIES: usize = 510;

/// What a page is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The guest's own, validated.
    Private,
    /// Shared with the host.
    Shared,
}

impl State {
    /// Number of the operation in page state changes.
    pub(super) const fn operation(self) -> u64 {
        match self {
            Self::Private => 1,
            Self::Shared => 2,
        }
    }

    /// What L1 does to the pages: named, and as the bit of a list entry.
    const fn action(self) -> (&'static str, u64) {
        match self {
            Self::Private => ("validate", 1 << 2),
            Self::Shared => ("rescind", 0),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::Shared => "shared",
        })
    }
}

/// Memory by the name that the list gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) start: u64,
    pub(super) pages: u64,
    /// How the kernel has it mapped.
    pub(super) mapping: Mapping,
}

/// How the kernel has memory mapped, which decides about the size of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// The direct map: 2 MiB entries wherever they fit.
    Direct,
    /// `vmalloc`: 4 KiB entries.
    Vmalloc,
}

impl Region {
    /// One page.
    pub(super) const fn page(name: &'static str, start: u64) -> Self {
        Self { name, start, pages: 1, mapping: Mapping::Direct }
    }

    /// Entries for all of it, as `__set_pages_state` makes them.
    fn blocks(&self) -> Vec<Block> {
        let (mut at, end) = (self.start, self.start + self.pages * PAGE);
        let mut blocks = Vec::new();
        while at < end {
            let large = self.mapping == Mapping::Direct && at.is_multiple_of(LARGE) && end - at >= LARGE;
            blocks.push(Block { at, large });
            at += if large { LARGE } else { PAGE };
        }
        blocks
    }
}

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    at: u64,
    large: bool,
}

impl Block {
    /// The entry in a page state change.
    pub(super) fn page_state_entry(&self, state: State) -> u64 {
        u64::from(self.large) << 56 | state.operation() << 52 | self.at
    }

    fn pvalidate_entry(&self, state: State) -> u64 {
        self.at | state.action().1 | u64::from(self.large)
    }

    fn small(&self) -> Vec<Self> {
        (0..LARGE / PAGE).map(|index| Self { at: self.at + index * PAGE, large: false }).collect()
    }
}

/// How many entries of which size.
fn sizes(blocks: &[Block]) -> String {
    let large = blocks.iter().filter(|block| block.large).count();
    match (large, blocks.len() - large) {
        (0, small) => format!("{small} x 4K"),
        (large, 0) => format!("{large} x 2M"),
        (large, small) => format!("{large} x 2M and {small} x 4K"),
    }
}

impl Kernel<'_> {
    /// `early_set_pages_state`: page by page, by the MSR protocol.
    pub(super) fn early_set_memory(&self, region: Region, state: State) -> Result<(), Stop> {
        for index in 0..region.pages {
            let page = region.start + index * PAGE;
            let block = [Block { at: page, large: false }];
            match state {
                State::Shared => {
                    self.pvalidate_all(Via::Msr, &block, state, region.name)?;
                    self.page_state_by_msr(page, state, region.name)?;
                }
                State::Private => {
                    self.page_state_by_msr(page, state, region.name)?;
                    self.pvalidate_all(Via::Msr, &block, state, region.name)?;
                }
            }
            self.touch(&block, state)?;
        }
        Ok(())
    }

    /// `set_pages_state`: as many entries per exit as the kernel's descriptor has.
    pub(super) fn set_memory(&self, region: Region, state: State, entries: usize) -> Result<(), Stop> {
        for blocks in region.blocks().chunks(entries) {
            let request = format!("{state} {}, {}", sizes(blocks), region.name);
            match state {
                State::Shared => {
                    self.pvalidate_pages(blocks, state, region.name)?;
                    self.page_state_by_page(blocks, state, &request)?;
                }
                State::Private => {
                    self.page_state_by_page(blocks, state, &request)?;
                    self.pvalidate_pages(blocks, state, region.name)?;
                }
            }
            self.touch(blocks, state)?;
        }
        Ok(())
    }

    /// `svsm_pval_pages`: a 2 MiB entry whose size does not fit is left for later, and the list goes on behind it.
    fn pvalidate_pages(&self, blocks: &[Block], state: State, name: &str) -> Result<(), Stop> {
        let mut later = Vec::new();
        for list in blocks.chunks(LIST_ENTRIES) {
            self.write_list(list, state)?;
            let mut text = sizes(list);
            loop {
                let (result, cursor) = self.pvalidate(Via::Page, state, &text, name)?;
                let stopped_at = list.get(usize::from(cursor));
                match stopped_at {
                    _ if result == 0 => break,
                    Some(block) if block.large && result == u64::from(CallResult::FAIL_SIZE_MISMATCH.0) => {
                        later.push(*block);
                    }
                    _ => return Err(refused(result, cursor)),
                }
                // The kernel steps over the entry itself.
                let next = cursor + 1;
                if usize::from(next) == list.len() {
                    break;
                }
                self.write(self.area + LIST + 2, &next.to_le_bytes())?;
                text = "behind that".to_owned();
            }
        }
        for block in later {
            for list in block.small().chunks(LIST_ENTRIES) {
                self.pvalidate_all(Via::Page, list, state, name)?;
            }
        }
        Ok(())
    }

    /// A list all of which must be done.
    fn pvalidate_all(&self, via: Via, list: &[Block], state: State, name: &str) -> Result<(), Stop> {
        self.write_list(list, state)?;
        match self.pvalidate(via, state, &sizes(list), name)? {
            (0, _) => Ok(()),
            (result, cursor) => Err(refused(result, cursor)),
        }
    }

    fn write_list(&self, list: &[Block], state: State) -> Result<(), Stop> {
        let entries = list.iter().map(|block| block.pvalidate_entry(state));
        let words = std::iter::once(list.len() as u64).chain(entries);
        self.write(self.area + LIST, &words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
    }

    /// Calls L1 with the list in the call area until the answer is neither INCOMPLETE nor BUSY. RAX and the list's cursor.
    fn pvalidate(&self, via: Via, state: State, what: &str, name: &str) -> Result<(u64, u16), Stop> {
        let list = self.area + LIST;
        let mut what = what.to_owned();
        let mut before = self.read_u16(list + 2)?;
        loop {
            let answer = self.call_once(via, Regs { rax: PVALIDATE, rcx: list, ..Regs::default() })?;
            if answer.rax == BUSY {
                self.log.busy();
                continue;
            }
            let cursor = self.read_u16(list + 2)?;
            let done = cursor.wrapping_sub(before);
            let request = format!("PVALIDATE {} {what}, {name}", state.action().0);
            self.log.vmgexit(via.code(), &request, &format!("{}, {done} done", result_name(answer.rax)));
            if answer.rax != INCOMPLETE {
                return Ok((answer.rax, cursor));
            }
            before = cursor;
            what = "from there".to_owned();
        }
    }

    /// Uses first and last page as what they are now.
    fn touch(&self, blocks: &[Block], state: State) -> Result<(), Stop> {
        let window = if state == State::Private { &self.private } else { &self.shared };
        let last = |block: &Block| block.at + if block.large { LARGE } else { PAGE } - 8;
        let ends = [blocks.first().map(|block| block.at), blocks.last().map(last)];
        ends.into_iter().flatten().try_for_each(|at| window.write(PhysAddr::new(at), &at.to_le_bytes()).map_err(fault))
    }
}

/// `svsm_pval_terminate`.
fn refused(result: u64, cursor: u16) -> Stop {
    Stop::Wrong(format!("PVALIDATE was answered {} at entry {cursor}: sev_es_terminate(1, 2)", result_name(result)))
}

/// Fails unless the machine has all of a region as the guest's own, validated, with rights for its level.
pub(super) fn expect_private(machine: &machine::Machine, region: &Region, vmpl: u8) -> Result<(), Stop> {
    (0..region.pages).map(|index| region.start + index * PAGE).try_for_each(|page| {
        let entry = machine.rmp_entry(page);
        let rights = entry.map_or(0, |entry| entry.perms[usize::from(vmpl)]);
        let is_private = entry.is_some_and(|entry| entry.assigned && entry.validated && entry.gpa == page);
        ensure(is_private && rights == 0xf, || format!("{page:#x} of {} ended as {entry:x?}", region.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_large_where_the_kernel_makes_them_so() {
        let region = Region { name: "", start: LARGE - PAGE, pages: 514, mapping: Mapping::Direct };
        let small = |at| Block { at, large: false };
        let large = Block { at: LARGE, large: true };
        assert_eq!(region.blocks(), [small(LARGE - PAGE), large, small(2 * LARGE)]);
        assert_eq!(sizes(&region.blocks()), "1 x 2M and 2 x 4K");
        let region = Region { mapping: Mapping::Vmalloc, ..region };
        assert_eq!(region.blocks().len(), 514);
    }

    #[test]
    fn entries_are_as_the_two_protocols_want_them() {
        let block = Block { at: LARGE, large: true };
        assert_eq!(block.page_state_entry(State::Shared), 0x0120_0000_0020_0000);
        assert_eq!(block.pvalidate_entry(State::Private), 0x20_0005);
        assert_eq!(block.small()[511].pvalidate_entry(State::Shared), 0x3f_f000);
    }
}
