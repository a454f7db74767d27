//! Verb 4: attest.
//!
//! TDG.MR.REPORT makes a **local** report: its MAC is checked on the same platform. A remote verifier needs a quote,
//! which a quoting enclave of the host makes from it; asking for one is not part of this crate. No field of a report
//! names a level (TDX-65), so the level goes into the report data, for every report and for L1's own too (rule A1): a
//! report with other report data was not made by this code, and L2 cannot make one at all (TDX-64).

use coco_part_api::memory::offset;
use coco_part_api::{
    Attest, AttestFor, Binding, DataForm, Evidence, GuestLevel, GuestMemory, Level, REPORT_DATA, report_data,
};
use x86_64::PhysAddr;

use super::L1;
use crate::abi::leaves::Leaf;
use crate::abi::regs::Regs;
use crate::abi::report::{REPORT, TYPE_TDX, TdReport};
use crate::error::Error;
use crate::port::Port;

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    fn report(
        &mut self,
        names: Level,
        nonce: &[u8; REPORT_DATA],
        manifest: &[u8],
        out: &mut [u8],
    ) -> Result<Evidence, Error<M::Fault>> {
        let given = out.len();
        let Some(out) = out.get_mut(..REPORT) else {
            return Err(Error::BufferTooSmall { needed: REPORT, given });
        };
        let data = report_data(names, nonce, manifest);
        let report_at = self.pages.scratch.start_address();
        // Behind the report, in the same page; aligned to 64 bytes as the leaf wants it.
        let data_at = offset(report_at, REPORT as u64).unwrap_or(report_at);
        let memory = |at: PhysAddr| move |fault| Error::Memory { at, fault };
        self.memory.write(data_at, &data).map_err(memory(data_at))?;
        let operands = Regs { rcx: report_at.as_u64(), rdx: data_at.as_u64(), r8: 0, ..Regs::default() };
        self.call(Leaf::MR_REPORT, operands)?;
        let report: TdReport = self.memory.read_value(report_at).map_err(memory(report_at))?;
        if report.mac.report_type != TYPE_TDX || report.mac.reportdata != data {
            return Err(Error::BadAnswer { leaf: Leaf::MR_REPORT, value: report.mac.report_type.into() });
        }
        out.copy_from_slice(zerocopy::IntoBytes::as_bytes(&report));
        Ok(Evidence { len: REPORT, names, bound_by: Binding::Monitor, data: DataForm::Digest })
    }
}

impl<P: Port, M: GuestMemory> Attest for L1<'_, P, M> {
    /// A local report of 1024 bytes over the digest of [`Level::Monitor`], the 64 bytes and an empty manifest.
    fn attest(&mut self, data: &[u8; REPORT_DATA], out: &mut [u8]) -> Result<Evidence, Self::Error> {
        self.report(Level::Monitor, data, &[], out)
    }
}

impl<P: Port, M: GuestMemory> AttestFor for L1<'_, P, M> {
    /// A local report of 1024 bytes over the digest of level, nonce and manifest.
    fn attest_for(
        &mut self,
        level: GuestLevel,
        nonce: &[u8; REPORT_DATA],
        manifest: &[u8],
        out: &mut [u8],
    ) -> Result<Evidence, Self::Error> {
        self.level_pages(level)?;
        self.report(level.into(), nonce, manifest, out)
    }
}
