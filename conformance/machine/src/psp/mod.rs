//! The security processor of the SNP machine: launch digest, secrets page, guest messages, attestation reports.
//!
//! Its cryptography is real, so a guest's own code runs against it unchanged and a verifier accepts its reports under
//! the test chain in [`certs`]. It is deterministic: all keys come from a seed. A [`Clone`] is a snapshot.
//!
//! Its numbers come from the fact tables `guest_request`, `attestation_report`, `launch_measurement` and
//! `secrets_page`; the choice of status codes is described in [`status`].
//!
//! The host's part (pages, GHCB, throttling) is the machine's. Not modelled: messages other than report, key and TSC
//! information requests; migration, VLEK, signature of the ID block, masked chip keys, policies of lower VMPLs at
//! launch, and the contents of the CPUID page.

use alloc::{boxed::Box, string::String};
use core::fmt;

use sha2::{Digest, Sha384};

mod bytes;
pub mod certs;
mod launch;
mod message;
pub mod platform;
mod record;
mod report;
mod secrets;
mod serve;
pub mod status;

#[cfg(test)]
mod client;
#[cfg(test)]
mod tests;

pub use launch::{DEFAULT_POLICY, IdBlock, page_type};
pub use message::msg_type;
pub use record::{Direction, Record};
pub use report::{REPORT_LEN, ReportVersion, SIGNED_LEN};

use launch::Launched;
use message::Header;
use record::Records;

/// One 4 KiB page.
pub type Page = [u8; 4096];

/// The security processor as one guest sees it.
#[derive(Clone)]
pub struct SecurityProcessor {
    vmpcks: [[u8; 32]; 4],
    /// Last number used with each key, responses included.
    used: [u64; 4],
    vcek_root: [u8; 32],
    vmrk: [u8; 32],
    report_id: [u8; 32],
    report_version: ReportVersion,
    digest: [u8; 48],
    launched: Option<Launched>,
    records: Records,
}

/// What of a [`SecurityProcessor`] decides about its future answers, to compare before and after.
///
/// Holds hashes of the keys, never the keys; keep a clone of the processor to come back to a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PspState {
    /// The first half of the SHA-384 of each VMPCK.
    pub vmpck_hashes: [[u8; 24]; 4],
    /// Last message number used with each VMPCK, responses included; the next request has this plus one.
    pub used: [u64; 4],
    /// Launch digest so far.
    pub digest: [u8; 48],
    /// Launch policy, once the launch is finished.
    pub policy: Option<u64>,
    /// Version of the reports it makes.
    pub report_version: ReportVersion,
}

impl SecurityProcessor {
    /// Starts the launch of a guest. One seed gives one set of keys and one report id.
    pub fn new(seed: u64) -> Self {
        Self {
            vmpcks: [0, 1, 2, 3].map(|number| derive(b"VMPCK", &[number], seed)),
            used: [0; 4],
            // A secret of the chip: the same for every guest and seed.
            vcek_root: derive(b"VCEK root", &platform::REPORTED_TCB.to_bytes(), 0),
            vmrk: derive(b"VMRK", &[], seed),
            report_id: derive(b"report id", &[], seed),
            report_version: ReportVersion::V3,
            digest: [0; 48],
            launched: None,
            records: Records::default(),
        }
    }

    /// Measures one page of the launch: type (see [`page_type`]), address and contents as the host loads them.
    ///
    /// # Errors
    /// INVALID_GUEST_STATE after [`finish`](Self::finish), INVALID_PARAMETER for an unknown type, INVALID_ADDRESS for
    /// an unaligned address. The digest is unchanged then.
    pub fn measure(&mut self, page_type: u8, gpa: u64, contents: &Page) -> Result<(), u32> {
        if self.launched.is_some() {
            return Err(status::INVALID_GUEST_STATE);
        }
        self.digest = launch::extend(self.digest, page_type, gpa, contents)?;
        Ok(())
    }

    /// Finishes the launch with the guest policy (such as [`DEFAULT_POLICY`]), the host's data and, if the owner gave
    /// one, the ID block.
    ///
    /// # Errors
    /// INVALID_GUEST_STATE if it is finished, POLICY_FAILURE for a policy the platform does not keep or that is not
    /// the ID block's, BAD_MEASUREMENT for another digest than the ID block's. The launch goes on then.
    pub fn finish(&mut self, policy: u64, host_data: [u8; 32], id_block: Option<&IdBlock>) -> Result<(), u32> {
        if self.launched.is_some() {
            return Err(status::INVALID_GUEST_STATE);
        }
        self.launched = Some(Launched::try_new(self.digest, policy, host_data, id_block)?);
        Ok(())
    }

    /// The launch digest so far.
    pub fn digest(&self) -> [u8; 48] {
        self.digest
    }

    /// The secrets page as the firmware writes it into the guest at launch.
    pub fn secrets_page(&self) -> Box<Page> {
        secrets::page(&self.vmpcks)
    }

    /// Serves the message page of a guest request and returns the page of the response.
    ///
    /// The message is [observed](Self::observe) first, whatever becomes of it.
    ///
    /// # Errors
    /// A firmware status (see [`status`]); the message is not consumed and its number stays the expected one.
    pub fn guest_request(&mut self, request: &Page) -> Result<Box<Page>, u32> {
        self.observe(request);
        let guest = self.launched.as_ref().ok_or(status::INVALID_GUEST_STATE)?;
        let header = Header::parse(request)?;
        let slot = usize::from(header.vmpck);
        let used = self.used[slot];
        let answer_seqno = used.checked_add(2).ok_or(status::AEAD_OVERFLOW)?;
        if header.seqno != answer_seqno - 1 {
            return Err(status::INVALID_PARAMETER);
        }
        let key = &self.vmpcks[slot];
        let payload = message::open(key, request).ok_or(status::BAD_MEASUREMENT)?;
        let answer = self.serve(guest, header, &payload)?;
        let answer_header = Header { seqno: answer_seqno, msg_type: header.msg_type + 1, ..header };
        let response = message::seal(key, answer_header, &answer);
        self.used[slot] = answer_seqno;
        self.records.note((header.vmpck, answer_seqno), Direction::Response, message::aad(&response), &answer);
        Ok(response)
    }

    /// Takes note of a page that the host can see, delivered or not.
    ///
    /// If it holds an authentic message under one of the VMPCKs, the message counts for
    /// [`nonce_reuse`](Self::nonce_reuse). Any other page is ignored.
    pub fn observe(&mut self, request: &Page) {
        let Some(vmpck) = message::vmpck(request) else {
            return;
        };
        if let Some(payload) = message::open(&self.vmpcks[usize::from(vmpck)], request) {
            let iv = (vmpck, message::seqno(request));
            self.records.note(iv, Direction::Request, message::aad(request), &payload);
        }
    }

    /// Says which key and number protect two different messages, if any do.
    ///
    /// A message repeated unchanged is none; a request under the number of a response is one.
    pub fn nonce_reuse(&self) -> Option<String> {
        self.records.nonce_reuse()
    }

    /// All different messages seen and made, by key and number.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// What decides about future answers, to compare.
    pub fn state(&self) -> PspState {
        PspState {
            vmpck_hashes: self.vmpcks.map(|key| bytes::take(&Sha384::digest(key), 0)),
            used: self.used,
            digest: self.digest,
            policy: self.launched.as_ref().map(|guest| guest.policy),
            report_version: self.report_version,
        }
    }

    /// A VMPCK, so that an oracle can look for it where it must not be. `None` for a number above 3.
    pub fn vmpck(&self, number: u8) -> Option<&[u8; 32]> {
        self.vmpcks.get(usize::from(number))
    }

    /// Sets the version of the reports made from now on.
    pub fn set_report_version(&mut self, version: ReportVersion) {
        self.report_version = version;
    }

    /// Sets the last message number used with a VMPCK, to try the end of the numbers without a long way there.
    ///
    /// # Panics
    /// If `vmpck` is above 3.
    pub fn set_used(&mut self, vmpck: u8, used: u64) {
        self.used[usize::from(vmpck)] = used;
    }
}

impl fmt::Debug for SecurityProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecurityProcessor").field(&self.state()).finish()
    }
}

/// 32 bytes from seed, purpose and part.
fn derive(purpose: &[u8], part: &[u8], seed: u64) -> [u8; 32] {
    let digest = Sha384::new()
        .chain_update(b"coco-part model: ")
        .chain_update((purpose.len() as u64).to_le_bytes())
        .chain_update(purpose)
        .chain_update(part)
        .chain_update(seed.to_le_bytes())
        .finalize();
    bytes::take(&digest, 0)
}
