//! The guest message channel: encrypted requests to the firmware, carried by the host.
//!
//! Rule A2 decides everything here. The message number is the IV, so a number is spent the moment a request is encrypted
//! with it. The host may lose, repeat, delay or deny the message; whether the firmware saw it is then unknown. While the
//! host only says "busy" the same ciphertext goes out again, a bounded number of times. After anything else that leaves
//! doubt the key is wiped and the channel is closed for good: no number ever meets a second plaintext.
//!
//! Requests are built and encrypted in private memory and copied to the shared page; a response is copied out once and
//! checked and decrypted on the copy (GR-07, GR-08). One object uses one key (GR-11).
//!
//! Source: 56860, fact table `guest_request`.

mod seal;
#[cfg(test)]
mod tests;

use coco_part_api::{FrameRange, GuestMemory, RangeError};
use x86_64::structures::paging::PhysFrame;
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroize;

use crate::abi::firmware_status::{FirmwareStatus, GuestRequestStatus, VmmError};
use crate::abi::guest_messages::{KeySelect, ReportRequest, ReportResponse};
use crate::abi::guest_request::{GuestMessage, MessageType};
use crate::abi::report::AttestationReport;
use crate::abi::secrets::Vmpck;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::Host;
use crate::instr::Port;
use seal::Numbers;

/// Bytes of an attestation report.
pub const REPORT_LEN: usize = size_of::<AttestationReport>();

/// How often a request is sent when the host says "busy" and nothing else was asked for.
pub const BUSY_TRIES: u32 = 64;

/// Two pages that are shared with the host: one for requests, one for responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessagePages {
    request: PhysFrame,
    response: PhysFrame,
}

impl MessagePages {
    /// Two different pages, both shared with the host already.
    ///
    /// # Errors
    /// [`SnpError::Range`] when they are the same.
    pub fn new(request: PhysFrame, response: PhysFrame) -> Result<Self, SnpError> {
        if request == response {
            return Err(RangeError::Overlap { at: response.start_address() }.into());
        }
        Ok(Self { request, response })
    }
}

/// A channel under the key of one level. Not `Copy`, not `Debug`; the key is wiped when the channel closes or is dropped.
///
/// `M` is the handle to memory that is shared with the host.
pub struct Channel<M: GuestMemory> {
    key: Vmpck,
    is_open: bool,
    number: Vmpl,
    /// Last message number in use; requests have the next one, responses the one after that.
    last: u64,
    memory: M,
    pages: MessagePages,
    busy_tries: u32,
}

impl<M: GuestMemory> Channel<M> {
    /// Takes the key of `number` for a channel; `key` is zero afterwards, so that there is no second user. `last` is the
    /// last message number that was used with it, 0 for a fresh key.
    ///
    /// A key of zeros is one that is disabled: the channel is closed from the start.
    pub fn new(key: &mut Vmpck, number: Vmpl, last: u64, memory: M, pages: MessagePages) -> Self {
        let is_open = key.0.iter().any(|&byte| byte != 0);
        let channel = Self { key: Vmpck(key.0), is_open, number, last, memory, pages, busy_tries: BUSY_TRIES };
        key.zeroize();
        channel
    }

    /// The same with another bound on sending one request while the host says "busy"; 0 counts as 1.
    ///
    /// The port's pause is between two tries. A host that throttles does so for seconds: on silicon choose a bound to match.
    #[must_use]
    pub fn with_busy_tries(mut self, tries: u32) -> Self {
        self.busy_tries = tries.max(1);
        self
    }

    /// False when the key is gone.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// The level whose key this is.
    pub const fn number(&self) -> Vmpl {
        self.number
    }

    /// Wipes the key. Every later request fails.
    pub fn close(&mut self) {
        self.key.zeroize();
        self.is_open = false;
    }

    /// Ends this user of the key: writes the key to `key`, zeros when the channel is closed, and gives the last message
    /// number. For vCPUs that share one key and have memory handles and pages of their own.
    pub fn put_back(self, key: &mut Vmpck) -> u64 {
        key.0.copy_from_slice(&self.key.0);
        self.last
    }

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
        host.page()?;
        let request = ReportRequest::new(*data, vmpl, KeySelect::ANY);
        let mut response = ReportResponse::new_zeroed();
        let len = self.exchange(port, host, MessageType::REPORT_REQ, request.as_bytes(), response.as_mut_bytes())?;
        if response.status != FirmwareStatus::SUCCESS {
            return Err(SnpError::Firmware { status: response.status.0 });
        }
        let checks = [
            (len == size_of::<ReportResponse>(), "msg_size"),
            (usize::try_from(response.report_size) == Ok(REPORT_LEN), "report_size"),
            (response.report.report_data == *data, "report_data"),
            (response.report.vmpl == u32::from(vmpl.number()), "vmpl"),
        ];
        if let Some((_, field)) = checks.into_iter().find(|(sound, _)| !sound) {
            self.close();
            return Err(SnpError::BadResponse { field });
        }
        let mut report = [0; REPORT_LEN];
        report.copy_from_slice(response.report.as_bytes());
        Ok(report)
    }

    /// One request and its response; gives the bytes of the response's payload. Any error closes the channel.
    fn exchange<P: Port>(
        &mut self,
        port: &mut P,
        host: &mut Host<M>,
        kind: MessageType,
        request: &[u8],
        response: &mut [u8],
    ) -> Result<usize, SnpError> {
        let outcome = self.try_exchange(port, host, kind, request, response);
        if outcome.is_err() {
            self.close();
        }
        outcome
    }

    fn try_exchange<P: Port>(
        &mut self,
        port: &mut P,
        host: &mut Host<M>,
        kind: MessageType,
        request: &[u8],
        response: &mut [u8],
    ) -> Result<usize, SnpError> {
        if !self.is_open {
            return Err(SnpError::ChannelClosed);
        }
        // Both numbers have to exist before the first is used (GR-06).
        let numbers = Numbers::after(self.last, self.number).ok_or(SnpError::ChannelClosed)?;
        let mut page = GuestMessage::new_zeroed();
        seal::encrypt(&self.key, &numbers, kind, request, &mut page)?;
        // Spent from here on, whatever happens.
        self.last = numbers.response;
        self.send(port, host, &page)?;
        let at = self.pages.response.start_address();
        self.memory.read(at, page.as_mut_bytes()).map_err(SnpError::memory(at))?;
        seal::decrypt(&self.key, &numbers, kind, &mut page, response)
    }

    /// Has the host carry the message until it says something else than "busy". The bytes are the same every time.
    fn send<P: Port>(&mut self, port: &mut P, host: &mut Host<M>, page: &GuestMessage) -> Result<(), SnpError> {
        let MessagePages { request, response } = self.pages;
        let mut status = GuestRequestStatus::from_bits_retain(0);
        for _ in 0..self.busy_tries {
            let at = response.start_address();
            self.memory.zero(FrameRange::of(response)).map_err(SnpError::memory(at))?;
            let at = request.start_address();
            self.memory.write(at, page.as_bytes()).map_err(SnpError::memory(at))?;
            status = host.guest_request(port, request, response)?;
            match (status.vmm(), status.firmware()) {
                (VmmError::SUCCESS, FirmwareStatus::SUCCESS) => return Ok(()),
                (VmmError::BUSY, _) => port.pause(),
                _ => break,
            }
        }
        Err(SnpError::GuestRequest { host: status.vmm().0, firmware: status.firmware().0 })
    }
}
