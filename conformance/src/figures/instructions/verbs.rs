//! The verbs of one life of memory and of a vCPU, twice: by code that knows the traits alone, and by code that calls the
//! backend's own functions. The two are written once, and what they check is the same.

use coco_part_api::svsm::CallResult;
use coco_part_api::{
    After, CallRegs, Context, Error, ErrorType, Exit, FrameRange, Grants, Monitor, Origin, Rights, Source, Terms,
    VcpuId,
};

use super::counted;
use super::snp::{NullL1, NullSnp};
use super::vm::{LEVEL, NullVendor, Vm};
use crate::world::layout::{CALL_AREA, ENTRY_FURTHER, FREE, PAGE, STATE, frame, page, range};

/// What went wrong.
type Outcome = Result<(), String>;

/// Pages are validated for the guest, taken away, granted again, taken away and given up; a vCPU is admitted and retired; the
/// guest is run, and its call answered. Method calls on `$l1` are the traits' or the backend's own, by its type.
macro_rules! life {
    ($l1:ident, $pages:ident, $context:ident) => {{
        let grants = Grants::one(LEVEL, Rights::RAM);
        $l1.validate_for($pages, &grants, Origin::Request).map_err(|stop| stop.cause)?;
        let mut cut = Default::default();
        $l1.withdraw($pages, Origin::Request, &mut cut).map_err(|stop| stop.cause)?;
        let Ok(proof) = $l1.redeem(cut) else { return Ok(false) };
        $l1.regrant($pages, &grants, &proof).map_err(|stop| stop.cause)?;
        let mut cut = Default::default();
        $l1.set_rights($pages, &Grants::NONE, &mut cut).map_err(|stop| stop.cause)?;
        let Ok(proof) = $l1.redeem(cut) else { return Ok(false) };
        $l1.rescind_from($pages, After::Unassigned, Origin::Request, &proof).map_err(|stop| stop.cause)?;

        let terms = Terms { level: LEVEL, target: VcpuId(1), call_area: frame(page(CALL_AREA, 1)) };
        let state = frame(STATE);
        let _seed = $l1.admit(state, Source::Context($context), &terms, &proof)?;
        $l1.retire(state, &terms)?;

        let Exit::Call(call) = $l1.run(LEVEL)? else { return Ok(false) };
        let regs = call.regs().with_result(CallResult::SUCCESS);
        $l1.answer(call, regs)?;
        Ok(true)
    }};
}

#[inline(never)]
fn by_traits<B: Monitor>(l1: &mut B, pages: FrameRange, context: &Context) -> Result<bool, B::Error> {
    life!(l1, pages, context)
}

#[inline(never)]
fn by_functions(l1: &mut NullL1, pages: FrameRange, context: &Context) -> Result<bool, <NullL1 as ErrorType>::Error> {
    life!(l1, pages, context)
}

/// Through the traits.
pub(super) fn through_traits(vm: &mut Vm<NullSnp>, pages: u64) -> Outcome {
    count(vm, pages, by_traits::<<NullSnp as NullVendor>::Backend>)
}

/// As functions of the backend's own.
pub(super) fn inherent(vm: &mut Vm<NullSnp>, pages: u64) -> Outcome {
    count(vm, pages, by_functions)
}

fn count<E: Error>(
    vm: &mut Vm<NullSnp>,
    pages: u64,
    life: fn(&mut NullL1, FrameRange, &Context) -> Result<bool, E>,
) -> Outcome {
    vm.call(CallRegs::default())?;
    let (pages, context) = (range(FREE, pages * PAGE), Context::long_mode(ENTRY_FURTHER, 0, 0));
    let mut done = Ok(false);
    counted(&mut || done = life(vm.backend(), pages, &context));
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err("a verb came to something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
