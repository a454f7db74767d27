//! Protocol 1, attestation: evidence over the monitor's services, at its own level.

use core::mem;

use coco_part_api::memory::offset;
use coco_part_api::range::SMALL;
use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::attest::{
    ATTEST_SERVICES, ATTEST_SINGLE_SERVICE, Guid, ReportData, ServicesRequest, SingleRequest, VERSION, VTPM_MANIFEST,
    VTPM_SERVICE, write_manifest,
};
use coco_part_api::{
    Binding, CallRegs, DataForm, Error, ErrorKind, FrameRange, Level, Monitor as Backend, Processor, REPORT_DATA,
};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};
use zerocopy::IntoBytes;

use super::{Service, unsupported};
use crate::call::{Call, frame};
use crate::ledger::Claim;

/// The protocol.
pub(crate) struct Attestation;

impl Service for Attestation {
    fn serve<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        number: u32,
        call: &mut Call<'_, '_, B, P, VCPUS>,
    ) -> CallRegs {
        let regs = call.regs;
        if !is_spoken(call) {
            return unsupported(regs);
        }
        let outcome = match number {
            ATTEST_SERVICES => call.attest_services(),
            ATTEST_SINGLE_SERVICE => call.attest_single(),
            _ => Err(CallResult::UNSUPPORTED_CALL),
        };
        match outcome {
            // Certificates are the host's word, which this monitor does not ask for.
            Ok(Lengths { manifest, report, result }) => {
                CallRegs { rcx: manifest as u64, rdx: 0, r8: report as u64, ..regs }.with_result(result)
            }
            Err(result) => regs.with_result(result),
        }
    }

    fn versions<B: Backend, P: Processor, const VCPUS: usize>(
        &self,
        call: &Call<'_, '_, B, P, VCPUS>,
    ) -> Option<(u32, u32)> {
        is_spoken(call).then_some((VERSION, VERSION))
    }
}

/// Only where the hardware signs the level: the report data is a guest's choice, and elsewhere nothing but report data would
/// tell evidence of L1 from that of a guest (rule A1).
fn is_spoken<B: Backend, P: Processor, const VCPUS: usize>(call: &Call<'_, '_, B, P, VCPUS>) -> bool {
    call.backend.capabilities().binding == Binding::Hardware
}

/// Lengths of what there is, whether it was written or the buffers are too small.
struct Lengths {
    manifest: usize,
    report: usize,
    result: CallResult,
}

/// A page-aligned buffer of the caller, `None` for one of no bytes.
type Buffer = Option<FrameRange>;

impl<'a, B: Backend, P: Processor, const VCPUS: usize> Call<'_, 'a, B, P, VCPUS> {
    fn attest_services(&mut self) -> Result<Lengths, CallResult> {
        let request: ServicesRequest = self.request()?;
        let room = mem::take(&mut self.room).as_mut_bytes();
        let written = match self.shared.vtpm() {
            None => write_manifest(&[], room),
            Some(vtpm) => vtpm.with_key(|key| match key {
                Some(key) => write_manifest(&[(VTPM_SERVICE, key)], room),
                None => write_manifest(&[], room),
            })?,
        };
        let len = written.map_err(|_| CallResult::INVALID_REQUEST)?;
        self.evidence_over(&request, room.get(..len).unwrap_or_default())
    }

    fn attest_single(&mut self) -> Result<Lengths, CallResult> {
        let SingleRequest { common, service_guid, manifest_version, reserved_0x54 } = self.request()?;
        if reserved_0x54 != 0 {
            return Err(CallResult::INVALID_PARAMETER);
        }
        let room = mem::take(&mut self.room).as_mut_bytes();
        let len = self.key_of(service_guid, room)?;
        if manifest_version != VTPM_MANIFEST {
            return Err(CallResult::INVALID_PARAMETER);
        }
        self.evidence_over(&common, room.get(..len).unwrap_or_default())
    }

    /// Copies the manifest of a service: the vTPM's key, if there is one. Others are unknown.
    fn key_of(&self, service: Guid, room: &mut [u8]) -> Result<usize, CallResult> {
        let vtpm = self.shared.vtpm().filter(|_| service == VTPM_SERVICE).ok_or(CallResult::UNSUPPORTED_PROTOCOL)?;
        vtpm.with_key(|key| {
            let key = key.ok_or(CallResult::UNSUPPORTED_PROTOCOL)?;
            room.get_mut(..key.len()).ok_or(CallResult::INVALID_REQUEST)?.copy_from_slice(key);
            Ok(key.len())
        })?
    }

    /// Evidence of L1's own level over nonce and manifest, and the manifest, into the caller's buffers.
    ///
    /// All arguments are checked and the pages that are written are claimed before the backend is asked.
    #[inline(never)]
    fn evidence_over(&mut self, request: &ServicesRequest, manifest: &[u8]) -> Result<Lengths, CallResult> {
        let data = self.digest(request, manifest)?;
        let [report_at, manifest_at, _] = self.buffers(request)?;
        let _kept = [self.claim_first(report_at)?, self.claim_first(manifest_at)?];
        let mut buffer = [0; SMALL as usize];
        let evidence = self.backend.attest(&data, &mut buffer).map_err(|error| CallResult::from(error.kind()))?;
        let is_ours = evidence.names == Level::Monitor && evidence.data == DataForm::Verbatim;
        let report = buffer.get(..evidence.len).filter(|_| is_ours).ok_or(CallResult::INVALID_REQUEST)?;
        let lengths = |result| Lengths { manifest: manifest.len(), report: report.len(), result };
        let fits = report.len() <= request.report_size as usize && manifest.len() <= request.manifest_size as usize;
        let (Some(report_at), Some(manifest_at), true) = (report_at, manifest_at, fits) else {
            return Ok(lengths(CallResult::INVALID_PARAMETER));
        };
        self.write(report_at.start(), report)?;
        self.write(manifest_at.start(), manifest)?;
        Ok(lengths(CallResult::SUCCESS))
    }

    /// Report data over the nonce, each byte of which is read once, and the manifest.
    fn digest(&self, request: &ServicesRequest, manifest: &[u8]) -> Result<[u8; REPORT_DATA], CallResult> {
        let mut data = ReportData::new();
        if let Some((at, len)) = nonce(request)? {
            let _kept = self.keep(at)?;
            let mut piece = [0; REPORT_DATA];
            let mut done = 0;
            while done < len {
                let bytes = piece.get_mut(..REPORT_DATA.min((len - done) as usize)).unwrap_or_default();
                self.read(offset(at, done).ok_or(CallResult::INVALID_ADDRESS)?, bytes)?;
                data.update(bytes);
                done += bytes.len() as u64;
            }
        }
        data.update(manifest);
        Ok(data.finish()?)
    }

    /// The three buffers: in memory that guests may name, apart from each other, from the request and from the nonce.
    fn buffers(&self, request: &ServicesRequest) -> Result<[Buffer; 3], CallResult> {
        if !request.is_reserved_zero() {
            return Err(CallResult::INVALID_PARAMETER);
        }
        let buffers = [
            self.buffer(request.report_gpa, request.report_size)?,
            self.buffer(request.manifest_gpa, request.manifest_size)?,
            self.buffer(request.certificates_gpa, request.certificates_size)?,
        ];
        let asked = frame_of(PhysAddr::new_truncate(self.regs.rcx));
        let taken = [Some(asked), nonce(request)?.map(|(at, _)| frame_of(at))].map(|page| page.map(FrameRange::of));
        let [report, manifest, certificates] = buffers;
        let pairs = [(report, manifest), (report, certificates), (manifest, certificates)];
        let with_taken = buffers.iter().flat_map(|buffer| taken.map(|page| (*buffer, page)));
        let overlaps = |(one, other): (Buffer, Buffer)| one.zip(other).is_some_and(|(one, other)| one.overlaps(other));
        if pairs.into_iter().chain(with_taken).any(overlaps) {
            return Err(CallResult::INVALID_PARAMETER);
        }
        Ok(buffers)
    }

    fn buffer(&self, at: u64, bytes: u32) -> Result<Buffer, CallResult> {
        if bytes == 0 {
            return Ok(None);
        }
        let start = frame(at)?.start_address();
        let range = FrameRange::new(start, u64::from(bytes).next_multiple_of(SMALL)).map_err(ErrorKind::from)?;
        self.shared.memory.check(range).map_err(|_| CallResult::INVALID_ADDRESS)?;
        Ok(Some(range))
    }

    /// Claims the page of a buffer that is written: nothing that is written is longer.
    fn claim_first(&self, buffer: Buffer) -> Result<Option<Claim<'a>>, CallResult> {
        buffer.map(|range| self.claim_own(FrameRange::of(range.first()))).transpose()
    }
}

/// Address and length of the nonce, `None` for one of no bytes.
fn nonce(request: &ServicesRequest) -> Result<Option<(PhysAddr, u64)>, CallResult> {
    let len = u64::from(request.nonce_size);
    if len == 0 {
        return Ok(None);
    }
    let at = PhysAddr::try_new(request.nonce_gpa).map_err(|_| CallResult::INVALID_ADDRESS)?;
    let fits = len <= SMALL - at.as_u64() % SMALL;
    if fits { Ok(Some((at, len))) } else { Err(CallResult::INVALID_PARAMETER) }
}

fn frame_of(at: PhysAddr) -> PhysFrame<Size4KiB> {
    PhysFrame::containing_address(at)
}
