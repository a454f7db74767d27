//! One request and its response, and the patience that goes with it.

use coco_part_api::{FrameRange, GuestMemory};
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroize;

use super::seal::{self, Numbers};
use super::{Channel, MessagePages};
use crate::abi::firmware_status::{FirmwareStatus, VmmError};
use crate::abi::guest_request::{GuestMessage, MessageType};
use crate::error::SnpError;
use crate::host::{Host, Paged};
use crate::instr::Port;

/// Version of the payloads in use, but for those that have a newer one.
pub(super) const MSG_VERSION: u8 = 1;

/// What to ask for.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) kind: MessageType,
    pub(super) version: u8,
    pub(super) payload: &'a [u8],
    /// Shared pages for the certificates; without them the request is a plain one.
    pub(super) certificates: Option<FrameRange>,
}

impl<'a> Request<'a> {
    pub(super) const fn new(kind: MessageType, payload: &'a [u8]) -> Self {
        Self { kind, version: MSG_VERSION, payload, certificates: None }
    }
}

/// What came back.
pub(super) struct Reply {
    /// Bytes of the payload.
    pub(super) len: usize,
    /// Pages that the host wants for the certificates; they were not asked for then.
    pub(super) pages_wanted: Option<u64>,
}

impl Reply {
    /// Fails unless the payload has the length of `T`.
    pub(super) fn expect<T>(&self) -> Result<(), SnpError> {
        if self.len == size_of::<T>() { Ok(()) } else { Err(SnpError::BadResponse { field: "msg_size" }) }
    }
}

impl<M: GuestMemory> Channel<M> {
    /// One request and its response, whose payload goes to `response`. Any error closes the channel.
    pub(super) fn exchange<P: Port>(
        &mut self,
        port: &mut P,
        host: &mut Host<M>,
        request: &Request<'_>,
        response: &mut [u8],
    ) -> Result<Reply, SnpError> {
        let outcome = self.try_exchange(port, host, request, response);
        if outcome.is_err() {
            self.close();
        }
        outcome
    }

    /// Closes the channel when an authentic response does not fit its request: somebody is out of step.
    pub(super) fn insist<T>(&mut self, checked: Result<T, SnpError>) -> Result<T, SnpError> {
        if checked.is_err() {
            self.close();
        }
        checked
    }

    fn try_exchange<P: Port>(
        &mut self,
        port: &mut P,
        host: &mut Host<M>,
        request: &Request<'_>,
        response: &mut [u8],
    ) -> Result<Reply, SnpError> {
        if !self.is_open {
            return Err(SnpError::ChannelClosed);
        }
        // Both numbers have to exist before the first is used (GR-06).
        let numbers = Numbers::after(self.last, self.number).ok_or(SnpError::ChannelClosed)?;
        let mut page = GuestMessage::new_zeroed();
        seal::encrypt(&self.key, &numbers, request, &mut page)?;
        // Spent from here on, whatever happens.
        self.last = numbers.response;
        let pages_wanted = self.send(port, host, &page, request.certificates)?;
        let at = self.pages.response.start_address();
        self.memory.read(at, page.as_mut_bytes()).map_err(SnpError::memory(at))?;
        let len = seal::decrypt(&self.key, &numbers, request, &mut page, response);
        // It was decrypted in place, and may be a key.
        page.payload.zeroize();
        Ok(Reply { len: len?, pages_wanted })
    }

    /// Has the host carry the message until it says something else than "busy". The bytes are the same every time, also
    /// when they go out once more without a wish for certificates because there is no room for these. Gives the number of
    /// pages that the host wants for them in that case.
    fn send<P: Port>(
        &mut self,
        port: &mut P,
        host: &mut Host<M>,
        page: &GuestMessage,
        mut certificates: Option<FrameRange>,
    ) -> Result<Option<u64>, SnpError> {
        let MessagePages { request, response } = self.pages;
        let mut pages_wanted = None;
        let mut tries = self.busy_tries;
        loop {
            for range in [Some(FrameRange::of(response)), certificates].into_iter().flatten() {
                self.memory.zero(range).map_err(SnpError::memory(range.start()))?;
            }
            let at = request.start_address();
            self.memory.write(at, page.as_bytes()).map_err(SnpError::memory(at))?;
            let answer = match certificates {
                Some(data) => host.extended_guest_request(port, request, response, Some(data))?,
                None => Paged::Done(host.guest_request(port, request, response)?),
            };
            let status = match answer {
                Paged::Done(status) => status,
                // At most once: there is nothing to ask for without room afterwards.
                Paged::PagesNeeded(pages) => {
                    certificates = None;
                    pages_wanted = Some(pages);
                    continue;
                }
            };
            match (status.vmm(), status.firmware()) {
                (VmmError::SUCCESS, FirmwareStatus::SUCCESS) => return Ok(pages_wanted),
                (VmmError::BUSY, _) if tries > 1 => {
                    tries -= 1;
                    port.pause();
                }
                (host, firmware) => return Err(SnpError::GuestRequest { host: host.0, firmware: firmware.0 }),
            }
        }
    }
}

/// Fails unless the firmware did it. Its word is authentic, so the channel goes on in any case.
pub(super) fn accepted(status: FirmwareStatus) -> Result<(), SnpError> {
    if status == FirmwareStatus::SUCCESS { Ok(()) } else { Err(SnpError::Firmware { status: status.0 }) }
}
