//! WITHDRAW_MEM: pages that the caller's level deposited and nobody uses go back to it.

use core::mem;

use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::list::{ListPlace, WithdrawnHeader};
use coco_part_api::{Error, ErrorKind, GuestMemory, Monitor as Backend, Processor};
use zerocopy::IntoBytes;

use crate::call::{Call, failed};
use crate::ledger::{Claim, State};

impl<'a, B: Backend, P: Processor, const VCPUS: usize> Call<'_, 'a, B, P, VCPUS> {
    /// Writes the addresses of pages that go back to the list at RCX, as many as there are and fit its page.
    ///
    /// Each is zeroed and granted before its address is written (rule M3). A level gets what it deposited and no other page.
    /// Nothing at the place of the list is read: no number there counts.
    #[inline(never)]
    pub(crate) fn withdraw_mem(&mut self) -> Result<(), CallResult> {
        let place = ListPlace::new(self.regs.rcx)?;
        let first = place.entry(0).filter(|_| place.room() > 0).ok_or(CallResult::INVALID_PARAMETER)?;
        let _kept = self.keep(place.header())?;
        // A page that does not answer is found out before anything changes.
        self.write(place.header(), WithdrawnHeader::default().as_bytes())?;

        let mut looks = self.shared.looks();
        let room = mem::take(&mut self.room);
        let mut entries: u16 = 0;
        for word in room.iter_mut().take(place.room() as usize) {
            let Some(claim) = self.shared.claim_deposited(self.caller.level, &mut looks) else { break };
            match self.return_page(claim) {
                Ok(at) => *word = at.to_le(),
                // Those before it are the caller's already; it learns of this one in a call that begins with it.
                Err(_) if entries > 0 => break,
                Err(result) => {
                    // It may have been the last one.
                    self.tell_available();
                    return Err(result);
                }
            }
            entries += 1;
        }
        self.tell_available();
        let addresses = room.get(..usize::from(entries)).unwrap_or_default();
        if entries > 0 {
            self.write(first, addresses.as_bytes())?;
            self.write(place.header(), WithdrawnHeader { entries, unused: [0; 6] }.as_bytes())?;
        }
        Ok(())
    }

    /// Zeroes a deposited page and grants it to the caller. On an error it is deposited as before.
    fn return_page(&mut self, claim: Claim<'a>) -> Result<u64, CallResult> {
        let range = claim.rest().ok_or(CallResult::INVALID_REQUEST)?;
        let level = self.caller.level;
        if self.backend.memory().zero(range).is_err() {
            self.shared.restore_deposited(claim, level);
            return Err(CallResult::INVALID_REQUEST);
        }
        // Its rights were cut and flushed when it was deposited.
        match self.backend.publish(range, &self.caller.grants()) {
            Ok(()) => {
                claim.commit(self.caller.own());
                Ok(range.start().as_u64())
            }
            Err(stopped) => {
                if stopped.cause.kind() == ErrorKind::Quarantined {
                    claim.commit(State::Quarantined);
                } else {
                    self.shared.restore_deposited(claim, level);
                }
                Err(failed(&stopped))
            }
        }
    }
}
