//! Other vCPUs: who they are, and which VMSA the host runs.

use coco_part_api::{FrameRange, GuestMemory};
use zerocopy::IntoBytes;

use super::Paged;
use crate::abi::ap::ApCreation;
use crate::abi::nae::NaeCode;
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::host::request::{Fields, Request};
use crate::instr::Port;

/// Bytes of the count in front of the list, and of each number in it.
const WORD: u64 = 4;

impl<M: GuestMemory> GhcbPage<M> {
    /// Gives the host a VMSA to run, or takes it back. Whether the host does it shows later.
    ///
    /// # Errors
    /// The answer errors: [`SnpError::MalformedRequest`], [`SnpError::Exception`] for a refusal, and those of a host that
    /// misbehaves.
    pub fn ap_creation<P: Port>(&mut self, port: &mut P, request: &ApCreation) -> Result<(), SnpError> {
        let event = Request::new(NaeCode::AP_CREATION, request.exit_info_1().bits(), request.exit_info_2());
        self.ask(port, &event.with(Fields { rax: request.rax(), ..Fields::default() }))
    }

    /// Lists the interrupt controller numbers of all vCPUs, as the host tells them: into `pages`, which are shared, and from
    /// there into `ids`, once. Gives how many there are. `None` for pages asks how many it takes.
    ///
    /// # Errors
    /// [`SnpError::PagesNeeded`] for a demand that cannot be, [`SnpError::ListTooLong`] for a count beyond the pages;
    /// [`SnpError::BufferTooSmall`] for a list longer than `ids`, with lengths in bytes; else the answer errors.
    pub fn apic_ids<P: Port>(
        &mut self,
        port: &mut P,
        pages: Option<FrameRange>,
        ids: &mut [u32],
    ) -> Result<Paged<usize>, SnpError> {
        let (at, given) = pages.map_or((0, 0), |pages| (pages.start().as_u64(), pages.frames()));
        let event = Request::new(NaeCode::APIC_ID_LIST, at, 0);
        let event = event.with(Fields { rax: Some(given), ..Fields::default() });
        let needed = self.ask_for_registers(port, &event)?.rax()?;
        match pages {
            Some(pages) if needed <= given => self.take_ids(pages, ids).map(Paged::Done),
            _ => Paged::demanded(given, needed),
        }
    }

    /// Copies the list out: the count, then as many numbers.
    fn take_ids(&self, pages: FrameRange, ids: &mut [u32]) -> Result<usize, SnpError> {
        let at = pages.start();
        let count: u32 = self.memory().read_value(at).map_err(SnpError::memory(at))?;
        let most = pages.bytes() / WORD - 1;
        if u64::from(count) > most {
            return Err(SnpError::ListTooLong { count: count.into(), most });
        }
        // Not more than the pages hold.
        let (count, room) = (count as usize, ids.len());
        let Some(ids) = ids.get_mut(..count) else {
            return Err(SnpError::BufferTooSmall { needed: count * size_of::<u32>(), given: room * size_of::<u32>() });
        };
        let first = coco_part_api::memory::offset(at, WORD).unwrap_or(at);
        self.memory().read(first, ids.as_mut_bytes()).map_err(SnpError::memory(first))?;
        Ok(count)
    }
}
