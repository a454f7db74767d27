//! Attestation reports, with and without the host's certificates.

use coco_part_api::{FrameRange, GuestMemory};
use zerocopy::{FromZeros, IntoBytes};

use super::Channel;
use super::exchange::{Reply, Request, accepted};
use crate::abi::certificates::CertTableEntry;
use crate::abi::guest_messages::{KeySelect, ReportRequest, ReportResponse};
use crate::abi::guest_request::MessageType;
use crate::abi::report::AttestationReport;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::Host;
use crate::instr::Port;

/// Bytes of an attestation report.
pub const REPORT_LEN: usize = size_of::<AttestationReport>();

/// A report, and what became of the certificates.
#[derive(Clone, Debug)]
pub struct ExtendedReport {
    /// The report.
    pub report: [u8; REPORT_LEN],
    /// The certificates.
    pub certificates: Certificates,
}

/// What the host did about certificates. It may have made them up: each proves itself to a verifier or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// The buffer holds a table, see [`certificates::entries`](crate::certificates::entries).
    Table,
    /// There are none.
    None,
    /// They were not asked for in the end: the host says that they take this many pages, more than were given and at most
    /// [`MAX_PAGES_NEEDED`](crate::host::MAX_PAGES_NEEDED).
    TooLong {
        /// The host's number of pages.
        pages: u64,
    },
}

impl<M: GuestMemory> Channel<M> {
    /// Gets an attestation report over `data` that names `vmpl`: the channel's own level or a less privileged one.
    ///
    /// The report is the firmware's, proved by the key, and its report data and VMPL are those asked for (GR-14). Its
    /// signature is for the verifier to check.
    ///
    /// # Errors
    /// [`SnpError::NoGhcbPage`]: nothing was sent. [`SnpError::Firmware`]: the firmware refused, and the channel goes on.
    /// Everything else closes the channel: [`SnpError::GuestRequest`], [`SnpError::BadResponse`],
    /// [`SnpError::NotAuthentic`], [`SnpError::Memory`], the answer errors of the host channel; then
    /// [`SnpError::ChannelClosed`].
    pub fn report<P: Port>(
        &mut self,
        port: &mut P,
        host: &mut Host<M>,
        data: &[u8; 64],
        vmpl: Vmpl,
    ) -> Result<[u8; REPORT_LEN], SnpError> {
        Ok(self.ask_for_report(port, host, data, vmpl, None)?.0)
    }

    /// Gets a report as [`report`](Self::report) does, and the certificates that the host has for it.
    ///
    /// `shared` are pages that are shared with the host already and that the host writes a certificate table to. It is
    /// copied to `table`, which has room for all of them: opaque bytes from the host. When the host asks for more room the
    /// report comes without certificates; asking again takes a new message.
    ///
    /// # Errors
    /// As [`report`](Self::report). [`SnpError::BufferTooSmall`], and [`SnpError::Range`] for pages that the messages use:
    /// nothing was sent. [`SnpError::Memory`] for pages of the table alone: the report is lost, and the channel goes on.
    pub fn extended_report<P: Port>(
        &mut self,
        port: &mut P,
        host: &mut Host<M>,
        data: &[u8; 64],
        vmpl: Vmpl,
        shared: FrameRange,
        table: &mut [u8],
    ) -> Result<ExtendedReport, SnpError> {
        self.pages.keep_clear_of(shared)?;
        let (needed, given) = (usize::try_from(shared.bytes()).unwrap_or(usize::MAX), table.len());
        let table = table.get_mut(..needed).ok_or(SnpError::BufferTooSmall { needed, given })?;
        let (report, reply) = self.ask_for_report(port, host, data, vmpl, Some(shared))?;
        let certificates = match reply.pages_wanted {
            Some(pages) => Certificates::TooLong { pages },
            None => {
                self.memory.read(shared.start(), table).map_err(SnpError::memory(shared.start()))?;
                let first = table.get(..size_of::<CertTableEntry>()).unwrap_or_default();
                if first.iter().all(|&byte| byte == 0) { Certificates::None } else { Certificates::Table }
            }
        };
        Ok(ExtendedReport { report, certificates })
    }

    fn ask_for_report<P: Port>(
        &mut self,
        port: &mut P,
        host: &mut Host<M>,
        data: &[u8; 64],
        vmpl: Vmpl,
        certificates: Option<FrameRange>,
    ) -> Result<([u8; REPORT_LEN], Reply), SnpError> {
        host.page()?;
        let payload = ReportRequest::new(*data, vmpl, KeySelect::ANY);
        let request = Request { certificates, ..Request::new(MessageType::REPORT_REQ, payload.as_bytes()) };
        let mut response = ReportResponse::new_zeroed();
        let reply = self.exchange(port, host, &request, response.as_mut_bytes())?;
        accepted(response.status)?;
        let checks = [
            (usize::try_from(response.report_size) == Ok(REPORT_LEN), "report_size"),
            (response.report.report_data == *data, "report_data"),
            (response.report.vmpl == u32::from(vmpl.number()), "vmpl"),
        ];
        let wrong = checks.into_iter().find(|(sound, _)| !sound);
        let checked = wrong.map_or(Ok(()), |(_, field)| Err(SnpError::BadResponse { field }));
        self.insist(reply.expect::<ReportResponse>().and(checked))?;
        let mut report = [0; REPORT_LEN];
        report.copy_from_slice(response.report.as_bytes());
        Ok((report, reply))
    }
}
