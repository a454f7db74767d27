//! Page states by list: up to 253 pages of either size per exit (fact table `psc`).
//!
//! The entries stay in private memory and are written out again for every exit, so an entry that the host rewrites is
//! never used (PG-16). From the shared list only the head is read back, once, and it may say one thing: that the cursor
//! moved forward (PG-15).

use coco_part_api::range::{Blocks, PageSize};
use coco_part_api::{FrameRange, GuestMemory, HostState, Stopped};
use zerocopy::IntoBytes;

use super::GhcbPage;
use super::answer::Answer;
use super::request::Request;
use crate::abi::nae::NaeCode;
use crate::abi::psc::{MAX_ENTRIES, PscDescriptor, PscEntry, PscError, PscHeader, PscOperation};
use crate::error::SnpError;
use crate::instr::Port;

/// Agrees the state of a whole range, list by list.
pub(super) fn change<P: Port, M: GuestMemory>(
    page: &mut GhcbPage<M>,
    port: &mut P,
    range: FrameRange,
    to: HostState,
) -> Result<(), Stopped<SnpError>> {
    let operation = match to {
        HostState::Private => PscOperation::PRIVATE,
        HostState::Shared => PscOperation::SHARED,
    };
    let mut blocks = range.blocks();
    let mut done = 0;
    while let Some(mut list) = List::take(&mut blocks, operation) {
        list.run(page, port).map_err(|stopped| Stopped { done: done + stopped.done, ..stopped })?;
        done += list.frames_before(list.count);
    }
    Ok(())
}

/// A list in private memory.
struct List {
    descriptor: PscDescriptor,
    /// Entries that count, at least 1.
    count: u16,
}

impl List {
    /// A list of the next blocks; `None` when there are none left.
    fn take(blocks: &mut Blocks, operation: PscOperation) -> Option<Self> {
        let mut entries = [PscEntry::default(); MAX_ENTRIES];
        let mut count = 0;
        for (entry, block) in entries.iter_mut().zip(blocks) {
            let large = block.size() == PageSize::Large;
            *entry = PscEntry::default()
                .with_gfn(block.range().first_number())
                .with_operation_bits(u64::from(operation.0))
                .with_page_size_bit(u64::from(large));
            count += 1;
        }
        let end = u16::checked_sub(count, 1)?;
        Some(Self { descriptor: PscDescriptor { header: PscHeader::new(end), entries }, count })
    }

    /// Sends the list until the host says that all of it is done.
    fn run<P: Port, M: GuestMemory>(&mut self, page: &mut GhcbPage<M>, port: &mut P) -> Result<(), Stopped<SnpError>> {
        let mut cursor = 0;
        for _ in 0..=self.count {
            self.descriptor.header.cur_entry = cursor;
            let outcome = self.round(page, port, cursor);
            cursor = outcome.map_err(|(cursor, cause)| Stopped { done: self.frames_before(cursor), cause })?;
            if cursor == self.count {
                return Ok(());
            }
        }
        let exits = u32::from(self.count) + 1;
        Err(Stopped { done: self.frames_before(cursor), cause: SnpError::PageStateStalled { exits } })
    }

    /// One exit: the cursor after it, or the entry it stopped at and why.
    fn round<P: Port, M: GuestMemory>(
        &self,
        page: &mut GhcbPage<M>,
        port: &mut P,
        cursor: u16,
    ) -> Result<u16, (u16, SnpError)> {
        let stopped = |cause| (cursor, cause);
        let request = Request::plain(NaeCode::PAGE_STATE_CHANGE).with_buffer(self.bytes());
        let answer: Answer = page.send(port, &request).map_err(stopped)?;
        let mut header = PscHeader::default();
        page.take_buffer(header.as_mut_bytes()).map_err(stopped)?;
        let now = header.cur_entry;
        let sound = header.is_reserved_zero()
            && header.end_entry == self.descriptor.header.end_entry
            && (cursor..=self.count).contains(&now);
        if !sound {
            return Err(stopped(bad_header(cursor, &header)));
        }
        answer.check().map_err(stopped)?;
        match PscError(answer.detail().map_err(stopped)?) {
            PscError::SUCCESS => Ok(now),
            // A failure behind the last entry is no place to stop at.
            code => Err((if now < self.count { now } else { cursor }, SnpError::PageState { code: code.0 })),
        }
    }

    /// 4 KiB frames of the entries before `index`.
    fn frames_before(&self, index: u16) -> u64 {
        let entries = self.descriptor.entries.iter().take(usize::from(index));
        entries.map(|entry| entry.page_size().bytes() / coco_part_api::range::SMALL).sum()
    }

    /// Head and the entries that count.
    fn bytes(&self) -> &[u8] {
        let bytes = self.descriptor.as_bytes();
        bytes.get(..size_of::<PscHeader>() + size_of::<PscEntry>() * usize::from(self.count)).unwrap_or(bytes)
    }
}

fn bad_header(was: u16, header: &PscHeader) -> SnpError {
    let [_, _, _, _, a, b, c, d] = *header.as_bytes() else {
        return SnpError::PageStateHeader { was, now: header.cur_entry, end: header.end_entry, reserved: 0 };
    };
    let reserved = u32::from_le_bytes([a, b, c, d]);
    SnpError::PageStateHeader { was, now: header.cur_entry, end: header.end_entry, reserved }
}
