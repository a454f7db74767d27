//! The launch: the host adds the first pages of L1 and the module measures them.
//!
//! MRTD is SHA-384 over a 128-byte record per page addition (`MEM.PAGE.ADD`, address) and, for each 256 bytes of the
//! page, a record (`MR.EXTEND`, address) followed by the bytes. Pages come in the order of the calls.

use alloc::vec::Vec;

use super::Machine;
use super::machine::Measurement;
use super::module::hash::sha384;
use super::sept::Leaf;
use crate::PAGE_SIZE;
use crate::memory::PageBytes;
use crate::nested::page_of;

/// Bytes that one extension measures.
const CHUNK: usize = 256;

/// What was measured so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    record: Vec<u8>,
    finished: bool,
}

/// Why a page could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The address is not 4 KiB aligned, or no private one.
    BadAddress,
    /// Something is mapped there.
    Mapped,
    /// The launch is finished.
    Finished,
}

fn record(name: &[u8], gpa: u64) -> [u8; 128] {
    let mut record = [0; 128];
    record.iter_mut().zip(name).for_each(|(slot, byte)| *slot = *byte);
    record[16..24].copy_from_slice(&gpa.to_le_bytes());
    record
}

impl Machine {
    /// Adds an accepted private 4 KiB page of L1 and measures it. It need not lie in RAM.
    ///
    /// # Errors
    /// As [`LaunchError`]; nothing changes then.
    pub fn launch_page(&mut self, gpa: u64, contents: &PageBytes) -> Result<(), LaunchError> {
        if self.launch.finished {
            return Err(LaunchError::Finished);
        }
        if !gpa.is_multiple_of(PAGE_SIZE) || !self.is_private(gpa) {
            return Err(LaunchError::BadAddress);
        }
        let page = page_of(gpa);
        let leaf = Leaf { accepted: true, ..Leaf::pending(page) };
        if self.host.is_shared(page) || !self.sept.add(page, false, leaf) {
            return Err(LaunchError::Mapped);
        }
        self.in_use.fill(page, 1, &true);
        self.private.write(page, 0, contents);
        self.launch.record.extend(record(b"MEM.PAGE.ADD", gpa));
        for (offset, chunk) in (gpa..).step_by(CHUNK).zip(contents.chunks_exact(CHUNK)) {
            self.launch.record.extend(record(b"MR.EXTEND", offset));
            self.launch.record.extend(chunk);
        }
        Ok(())
    }

    /// Ends the launch: MRTD has its value.
    ///
    /// # Errors
    /// [`LaunchError::Finished`].
    pub fn launch_finish(&mut self) -> Result<(), LaunchError> {
        if self.launch.finished {
            return Err(LaunchError::Finished);
        }
        self.td.mrtd = Measurement(sha384(&[&self.launch.record]));
        self.launch.record.clear();
        self.launch.finished = true;
        Ok(())
    }
}
