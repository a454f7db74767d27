//! Evidence: attestation reports that name a level, under the key of VMPL0.

use coco_part_api::{Attest, AttestFor, Binding, DataForm, Evidence, GuestLevel, GuestMemory, Level, report_data};
use spin::MutexGuard;
use zeroize::Zeroize;

use super::shared::{ChannelLock, MessageKey};
use super::{L1, vmpl};
use crate::abi::secrets::Vmpck;
use crate::error::SnpError;
use crate::host::Host;
use crate::instr::{Port, Vmpl};
use crate::message::{Channel, MessagePages, REPORT_LEN, take_key};

/// How often another vCPU's message is waited for. It may take long: the host carries it.
const TRIES: u32 = 64;

impl<P: Port, M: GuestMemory> Attest for L1<'_, P, M> {
    /// A report for VMPL0 over the caller's bytes as they are: only L1's own code gets here.
    ///
    /// # Errors
    /// [`SnpError::BufferTooSmall`] before anything is sent; [`SnpError::ChannelBusy`] while another vCPU uses the key; else
    /// as [`Channel::report`].
    fn attest(&mut self, data: &[u8; 64], out: &mut [u8]) -> Result<Evidence, SnpError> {
        let len = self.report(data, Vmpl::VMPL0, out)?;
        Ok(Evidence { len, names: Level::Monitor, bound_by: Binding::Hardware, data: DataForm::Verbatim })
    }
}

impl<P: Port, M: GuestMemory> AttestFor for L1<'_, P, M> {
    /// A report for the level's VMPL; its data is a digest of L1 (A1).
    ///
    /// # Errors
    /// As [`attest`](Attest::attest); [`SnpError::NoVcpu`] for a level that is not in use.
    fn attest_for(
        &mut self,
        level: GuestLevel,
        nonce: &[u8; 64],
        manifest: &[u8],
        out: &mut [u8],
    ) -> Result<Evidence, SnpError> {
        if !self.levels.contains(&level) {
            return Err(SnpError::NoVcpu { level });
        }
        let data = report_data(level.into(), nonce, manifest);
        let len = self.report(&data, vmpl(level), out)?;
        Ok(Evidence { len, names: level.into(), bound_by: Binding::Hardware, data: DataForm::Digest })
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Speaks with the firmware under the key of VMPL0: for an extended report, a derived key, the values of the secure TSC.
    ///
    /// # Errors
    /// [`SnpError::ChannelBusy`] while another vCPU uses the key, [`SnpError::ChannelClosed`] when it is gone; those of
    /// `speak`.
    pub fn with_channel<T>(
        &mut self,
        speak: impl FnOnce(&mut Channel<M>, &mut P, &mut Host<M>) -> Result<T, SnpError>,
    ) -> Result<T, SnpError> {
        let pages = MessagePages::new(self.request, self.response)?;
        let lock = self.channel;
        let mut guard = lock_in_time(lock, &mut self.port).ok_or(SnpError::ChannelBusy)?;
        let shared = guard.as_mut().ok_or(SnpError::ChannelClosed)?;
        let memory = self.shared_memory.clone();
        let mut channel = Channel::new(&mut shared.key, Vmpl::VMPL0, shared.last, memory, pages);
        let outcome = speak(&mut channel, &mut self.port, &mut self.host);
        shared.last = channel.put_back(&mut shared.key);
        outcome
    }

    fn report(&mut self, data: &[u8; 64], vmpl: Vmpl, out: &mut [u8]) -> Result<usize, SnpError> {
        let given = out.len();
        let too_small = SnpError::BufferTooSmall { needed: REPORT_LEN, given };
        let out = out.get_mut(..REPORT_LEN).ok_or(too_small)?;
        let report = self.with_channel(|channel, port, host| channel.report(port, host, data, vmpl))?;
        out.copy_from_slice(&report);
        Ok(REPORT_LEN)
    }
}

fn lock_in_time<'a, P: Port>(lock: &'a ChannelLock, port: &mut P) -> Option<MutexGuard<'a, Option<MessageKey>>> {
    (0..TRIES).find_map(|_| {
        let guard = lock.try_lock();
        if guard.is_none() {
            port.pause();
        }
        guard
    })
}

/// Wipes the key. Another vCPU that uses it just now keeps it until it is done or stopped; it is not waited for without end.
pub(super) fn close_channel<P: Port, M: GuestMemory>(l1: &mut L1<'_, P, M>) {
    if let Some(mut guard) = lock_in_time(l1.channel, &mut l1.port)
        && let Some(shared) = guard.as_mut()
    {
        shared.key.zeroize();
    }
}

/// Takes the key of VMPL0 out of the secrets page, unless another vCPU has done so. The key in the page is zero afterwards,
/// and the channel goes on behind the message number that the page says was used last.
pub(super) fn open_channel<P: Port, M: GuestMemory>(l1: &L1<'_, P, M>) -> Result<(), SnpError> {
    let Some(mut guard) = l1.channel.try_lock() else { return Ok(()) };
    if guard.is_none() {
        // Filled where it is to stay: a move would leave a copy on the stack.
        let shared = guard.insert(MessageKey { key: Vmpck([0; 32]), last: 0 });
        match take_key(&l1.memory, l1.secrets, Vmpl::VMPL0, &mut shared.key) {
            Ok(last) => shared.last = last,
            Err(error) => {
                // The next vCPU to start tries again.
                *guard = None;
                return Err(error);
            }
        }
    }
    Ok(())
}
