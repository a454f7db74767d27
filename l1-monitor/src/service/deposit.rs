//! DEPOSIT_MEM: pages of the caller become the monitor's to use.

use coco_part_api::memory::offset;
use coco_part_api::svsm::list::ListPlace;
use coco_part_api::svsm::{CallResult, MEM_AVAILABLE};
use coco_part_api::{Monitor as Backend, Processor};

use super::batch::Fate;
use crate::call::Call;

impl<B: Backend, P: Processor, const VCPUS: usize> Call<'_, '_, B, P, VCPUS> {
    /// Takes the pages of the list at RCX.
    ///
    /// Each has to be an ordinary valid page of the caller (rule M7). All lower levels lose their rights on it and a flush
    /// proves it before the ledger says that it is deposited; then its contents are nobody's business until it is zeroed. The
    /// list is copied, bounded and resumed like one of PVALIDATE.
    #[inline(never)]
    pub(crate) fn deposit_mem(&mut self) -> Result<CallResult, CallResult> {
        let place = ListPlace::new(self.regs.rcx)?;
        let _kept = self.keep(place.header())?;
        let (list, next) = self.copy_list(place)?;
        let mut budget = self.budget();
        let (end, outcome) = self.give_up_batch(&list, next, Fate::Deposit, &mut budget, &mut false);
        let result = match outcome {
            Err(result) => result,
            // What stands behind the batch waits for another call, whose flush it needs, or is refused in this one.
            Ok(()) => match list.word(end).map(|word| self.to_deposit(&list, word)) {
                None => CallResult::SUCCESS,
                Some(Ok(_)) => CallResult::INCOMPLETE,
                Some(Err(result)) => result,
            },
        };
        if end > next {
            self.tell_available();
        }
        self.write_cursor(place, end)?;
        Ok(result)
    }

    /// Says in the caller's call area whether there is something to withdraw. It is a hint in the caller's own memory: if
    /// that does not answer, nobody else is harmed.
    pub(super) fn tell_available(&self) {
        let is_available = self.shared.storage.deposited(self.caller.level) > 0;
        if let Some(at) = offset(self.caller.call_area.start_address(), MEM_AVAILABLE) {
            let _ = self.write(at, &[u8::from(is_available)]);
        }
    }
}
