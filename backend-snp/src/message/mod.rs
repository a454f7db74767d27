//! The guest message channel: encrypted requests to the firmware, carried by the host.
//!
//! Rule A2 decides everything here. The message number is the IV, so a number is spent the moment a request is encrypted
//! with it. The host may lose, repeat, delay or deny the message; whether the firmware saw it is then unknown. While the
//! host only says "busy" the same ciphertext goes out again, a bounded number of times; when it wants more room for
//! certificates, the same ciphertext goes out without asking for them. After anything else that leaves doubt the key is
//! wiped and the channel is closed for good: no number ever meets a second plaintext.
//!
//! Requests are built and encrypted in private memory and copied to the shared page; a response is copied out once and
//! checked and decrypted on the copy (GR-07, GR-08). One object uses one key (GR-11).
//!
//! What can be asked: [`Channel::report`], [`Channel::extended_report`], [`Channel::derived_key`], [`Channel::tsc_info`].
//! The other message types of the table belong to migration agents and are not spoken here.
//!
//! Source: 56860, fact table `guest_request`.

mod derived;
mod exchange;
mod key;
mod report;
mod seal;
#[cfg(test)]
mod tests;

use coco_part_api::{FrameRange, GuestMemory, RangeError};
use x86_64::structures::paging::PhysFrame;
use zeroize::Zeroize;

use crate::abi::secrets::Vmpck;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;

pub use derived::{DerivedKey, TscInfo};
pub use key::take_key;
pub use report::{Certificates, ExtendedReport, REPORT_LEN};

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

    /// Fails when one of the pages is part of `range`.
    fn keep_clear_of(&self, range: FrameRange) -> Result<(), SnpError> {
        match [self.request, self.response].into_iter().find(|page| range.overlaps(FrameRange::of(*page))) {
            Some(page) => Err(RangeError::Overlap { at: page.start_address() }.into()),
            None => Ok(()),
        }
    }
}

/// A channel under the key of one level. Not `Copy`, not `Debug`; the key is wiped when the channel closes or is dropped.
/// Moving a channel may leave a copy of the key on the stack, as any move does.
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
    /// Takes the key of `number` out of the secrets page at `secrets` in `private` memory and opens a channel with it; the
    /// key in the page is zero afterwards. A level may speak on every key that its secrets page holds. The channel goes on
    /// behind the message number that the page says was used last.
    ///
    /// # Errors
    /// [`SnpError::ChannelClosed`] when the page has no such key (any more), [`SnpError::Range`], [`SnpError::Memory`].
    pub fn open(
        private: &M,
        secrets: PhysFrame,
        number: Vmpl,
        shared: M,
        pages: MessagePages,
    ) -> Result<Self, SnpError> {
        let mut key = Vmpck([0; 32]);
        let last = take_key(private, secrets, number, &mut key)?;
        let channel = Self::new(&mut key, number, last, shared, pages);
        if channel.is_open() { Ok(channel) } else { Err(SnpError::ChannelClosed) }
    }

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
}
