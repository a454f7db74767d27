//! Protocol 2: the vTPM. Commands of a TPM are framed here and executed by the integrator's device.

use core::mem;

use coco_part_api::memory::offset;
use coco_part_api::range::SMALL;
use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::vtpm::{BUFFER, CommandHeader, ResponseHeader, SEND_COMMAND, VERSION, VTPM_CMD, VTPM_QUERY};
use coco_part_api::{CallRegs, FrameRange, Monitor as Backend, Processor};
use x86_64::PhysAddr;
use zerocopy::IntoBytes;

use super::{Service, result_of, unsupported};
use crate::call::Call;
use crate::vtpm::{Vtpm, VtpmDevice};

/// The protocol.
pub(crate) struct Tpm;

impl Service for Tpm {
    fn serve<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        number: u32,
        call: &mut Call<'_, '_, B, P, VCPUS>,
    ) -> CallRegs {
        let regs = call.regs;
        let Some(vtpm) = call.shared.vtpm() else { return unsupported(regs) };
        match number {
            VTPM_QUERY => CallRegs { rcx: 1 << SEND_COMMAND, rdx: 0, ..regs }.with_result(CallResult::SUCCESS),
            VTPM_CMD => regs.with_result(result_of(call.vtpm_command(vtpm))),
            _ => regs.with_result(CallResult::UNSUPPORTED_CALL),
        }
    }

    fn versions<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        call: &Call<'_, '_, B, P, VCPUS>,
    ) -> Option<(u32, u32)> {
        call.shared.vtpm().map(|_| (VERSION, VERSION))
    }
}

impl<B: Backend, P: Processor, const VCPUS: usize> Call<'_, '_, B, P, VCPUS> {
    /// Executes the command in the buffer at RCX; its response overwrites it.
    ///
    /// The buffer is 4 KiB of ordinary memory of the caller at any address. Head and command are copied once each (rule H1);
    /// device and response know private memory only. A response that the page does not take any more is lost.
    #[inline(never)]
    fn vtpm_command(&mut self, vtpm: &Vtpm<dyn VtpmDevice>) -> Result<(), CallResult> {
        let at = PhysAddr::try_new(self.regs.rcx).map_err(|_| CallResult::INVALID_ADDRESS)?;
        let start = at.align_down(SMALL);
        let bytes = if at == start { BUFFER } else { BUFFER + SMALL };
        let pages = FrameRange::new(start, bytes).map_err(|_| CallResult::INVALID_ADDRESS)?;
        let _kept = self.claim_own(pages)?;

        let mut header = CommandHeader::default();
        self.copy_in(at, header.as_mut_bytes())?;
        let len = header.check()?;
        let room = mem::take(&mut self.room).as_mut_bytes();
        let command = room.get_mut(..len).ok_or(CallResult::INVALID_PARAMETER)?;
        self.copy_in(behind(at, size_of::<CommandHeader>())?, command)?;
        vtpm.execute(command, |response| {
            let out_size = u32::try_from(response.len()).map_err(|_| CallResult::INVALID_REQUEST)?;
            self.copy_out(behind(at, size_of::<ResponseHeader>())?, response)?;
            self.copy_out(at, ResponseHeader { out_size: out_size.into() }.as_bytes())
        })
    }

    /// Copies bytes that may lie in two pages.
    fn copy_in(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), CallResult> {
        let (first, second) = into.split_at_mut(in_first_page(at, into.len()));
        self.read(at, first)?;
        if second.is_empty() { Ok(()) } else { self.read(behind(at, first.len())?, second) }
    }

    fn copy_out(&self, at: PhysAddr, from: &[u8]) -> Result<(), CallResult> {
        let (first, second) = from.split_at(in_first_page(at, from.len()));
        self.write(at, first)?;
        if second.is_empty() { Ok(()) } else { self.write(behind(at, first.len())?, second) }
    }
}

/// How many of `len` bytes from an address on lie in its page.
fn in_first_page(at: PhysAddr, len: usize) -> usize {
    len.min((SMALL - at.as_u64() % SMALL) as usize)
}

fn behind(at: PhysAddr, bytes: usize) -> Result<PhysAddr, CallResult> {
    offset(at, bytes as u64).ok_or(CallResult::INVALID_ADDRESS)
}
