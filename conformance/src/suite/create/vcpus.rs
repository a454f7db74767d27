//! Further vCPUs of a guest, made step by step: what the cases about them have in common.

use coco_part_api::svsm::{CORE, CREATE_VCPU, CallId, CallResult, DELETE_VCPU, PVALIDATE, QUERY_PROTOCOL};
use coco_part_api::{CallRegs, Context, GuestLevel, GuestMemory, GuestPort, HasMemory, HostState, NewVcpu, VcpuId};
use x86_64::PhysAddr;

use crate::platform::Platform;
use crate::suite::probe::{call, list_words, put};
use crate::suite::{Check, Stop, ensure, same};
use crate::world::layout::{CALL_AREA, ENTRY_FURTHER, PAGE, STATE, frame, page, range};
use crate::world::{Gate, L2, Options};

/// A value by which the registers in a state frame are recognised.
pub(crate) const MARKER: u64 = 0x6d61_726b_6564_2121;

/// A harmless call with an answer in two registers: is there version 1 of the core protocol?
pub(crate) const fn query() -> CallRegs {
    CallRegs { r9: 0x99, ..CallRegs::call(CallId::new(CORE, QUERY_PROTOCOL), 1, 0x77, 0x88) }
}

/// Its answer.
pub(crate) const fn query_answer() -> CallRegs {
    CallRegs { rcx: 1 << 32 | 1, ..query().with_result(CallResult::SUCCESS) }
}

/// How often a case repeats a call that is answered "busy".
const PATIENCE: usize = 400;

/// A vCPU to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Which vCPU.
    pub(crate) id: u64,
    /// Its state frame.
    pub(crate) state: u64,
    /// Its call area.
    pub(crate) area: u64,
}

impl Plan {
    /// A vCPU with the frame and the area that the layout has for it.
    pub(crate) const fn of(vcpu: u64) -> Self {
        Self { id: vcpu, state: page(STATE, vcpu), area: page(CALL_AREA, vcpu) }
    }

    /// The call that creates it.
    pub(crate) const fn create(self) -> CallRegs {
        CallRegs::call(CallId::new(CORE, CREATE_VCPU), self.state, self.area, self.id)
    }

    /// The call that deletes it.
    pub(crate) const fn delete(self) -> CallRegs {
        CallRegs::call(CallId::new(CORE, DELETE_VCPU), self.state, 0, 0)
    }

    fn id(self) -> VcpuId {
        VcpuId(u32::try_from(self.id).expect("numbers of vCPUs are small"))
    }
}

/// What every further vCPU starts with.
pub(crate) fn context() -> Context {
    let mut context = Context::long_mode(ENTRY_FURTHER, 0, 0);
    // R12 is nobody's argument.
    context.gpr[12] = MARKER;
    context
}

/// Level of the guest that runs this.
pub(crate) fn own_level<P: Platform>(l2: &L2<'_, P>) -> GuestLevel {
    l2.home.options.guest_level()
}

/// Fills the state frame for a level.
pub(crate) fn fill_for<P: Platform>(l2: &mut L2<'_, P>, plan: Plan, level: GuestLevel) -> Check {
    fill_with(l2, plan, level, &context())
}

/// Fills the state frame for a level with these registers.
pub(crate) fn fill_with<P: Platform>(l2: &mut L2<'_, P>, plan: Plan, level: GuestLevel, context: &Context) -> Check {
    let new = NewVcpu { id: plan.id(), context, state: frame(plan.state), call_area: frame(plan.area) };
    l2.port.write_image(&new, level).map_err(|error| Stop::Wrong(format!("image at {:#x}: {error}", plan.state)))
}

/// Fills the state frame as it should be, and clears the marks of the call area.
pub(crate) fn fill<P: Platform>(l2: &mut L2<'_, P>, plan: Plan) -> Check {
    put(l2, &[(plan.area, 0)])?;
    let level = own_level(l2);
    fill_for(l2, plan, level)
}

/// Asks L1 to create it.
pub(crate) fn create<P: Platform>(l2: &mut L2<'_, P>, plan: Plan) -> Result<CallResult, Stop> {
    Ok(call(l2, plan.create())?.result())
}

/// Asks L1 to delete it.
pub(crate) fn delete<P: Platform>(l2: &mut L2<'_, P>, plan: Plan) -> Result<CallResult, Stop> {
    Ok(call(l2, plan.delete())?.result())
}

/// Tells the host to run it.
pub(crate) fn start<P: Platform>(l2: &mut L2<'_, P>, plan: Plan) -> Check {
    let level = own_level(l2);
    let told = l2.port.start(plan.id(), frame(plan.state), level);
    told.map_err(|error| Stop::Wrong(format!("start of vCPU {}: {error}", plan.id)))
}

/// Tells the host to run it no more.
pub(crate) fn stop<P: Platform>(l2: &mut L2<'_, P>, plan: Plan) -> Check {
    let level = own_level(l2);
    let told = l2.port.stop(plan.id(), frame(plan.state), level);
    told.map_err(|error| Stop::Wrong(format!("stop of vCPU {}: {error}", plan.id)))
}

/// Makes a vCPU and has it run.
pub(crate) fn bring_up<P: Platform>(l2: &mut L2<'_, P>, plan: Plan) -> Check {
    fill(l2, plan)?;
    same(&format!("create vCPU {}", plan.id), create(l2, plan)?, CallResult::SUCCESS)?;
    start(l2, plan)
}

/// Waits until some other program is at a gate.
pub(crate) fn wait_for<P: Platform>(l2: &L2<'_, P>, gate: &Gate) {
    let cpu = l2.cpu;
    while !gate.is_reached() {
        P::pause(cpu);
    }
}

/// Goes on when both programs are here.
pub(crate) fn meet<P: Platform>(l2: &L2<'_, P>, mine: &Gate, other: &Gate) {
    mine.pass();
    wait_for(l2, other);
}

/// Makes a call until it is answered with something else than "busy".
pub(crate) fn call_patiently<P: Platform>(l2: &mut L2<'_, P>, regs: CallRegs) -> Result<CallResult, Stop> {
    call_while(l2, regs, &[CallResult::BUSY])
}

/// Makes a call as long as its answer is one of these.
pub(crate) fn call_while<P: Platform>(
    l2: &mut L2<'_, P>,
    regs: CallRegs,
    again: &[CallResult],
) -> Result<CallResult, Stop> {
    for _ in 0..PATIENCE {
        let result = call(l2, regs)?.result();
        if !again.contains(&result) {
            return Ok(result);
        }
        P::pause(l2.cpu);
    }
    Err(Stop::Wrong(format!("{PATIENCE} calls {regs:x?} were all answered with one of {again:?}")))
}

/// Has one list entry done, with the list at `list`.
pub(crate) fn one_entry<P: Platform>(l2: &mut L2<'_, P>, list: u64, word: u64) -> Result<CallResult, Stop> {
    put(l2, &list_words(list, &[word]))?;
    call_patiently(l2, CallRegs::call(CallId::new(CORE, PVALIDATE), list, 0, 0))
}

/// Agrees with the host that pages are to be private.
pub(crate) fn agree_private<P: Platform>(l2: &mut L2<'_, P>, at: u64, pages: u64) -> Check {
    let agreed = l2.port.agree(range(at, pages * PAGE), HostState::Private);
    agreed.map_err(|stopped| Stop::Wrong(format!("page state: {}", stopped.cause)))
}

/// A quadword of the guest's memory.
pub(crate) fn peek_word<P: Platform>(l2: &L2<'_, P>, at: u64) -> Result<u64, Stop> {
    l2.port.memory().read_value(PhysAddr::new(at)).map_err(|error| Stop::Wrong(error.to_string()))
}

/// A page of the guest's memory.
pub(crate) fn read_page<P: Platform>(l2: &L2<'_, P>, at: u64) -> Result<Vec<u8>, Stop> {
    let mut bytes = vec![0; PAGE as usize];
    l2.port.memory().read(PhysAddr::new(at), &mut bytes).map_err(|error| Stop::Wrong(error.to_string()))?;
    Ok(bytes)
}

/// Whether the marker is somewhere in these bytes.
pub(crate) fn has_marker(bytes: &[u8]) -> bool {
    bytes.chunks_exact(8).any(|quad| quad == MARKER.to_le_bytes())
}

/// The options with each of some seeds that follow from theirs. Both ways to switch levels are among them.
pub(crate) fn with_seeds<P: Platform>(options: &Options<P>, count: u64) -> impl Iterator<Item = Options<P>> {
    let base = options.clone();
    (0..count).map(move |index| Options { seed: base.seed.wrapping_mul(0x1_0001).wrapping_add(index), ..base.clone() })
}

/// Fails unless a level of the VM cannot read a page.
pub(crate) fn out_of_reach(seen: Option<Vec<u8>>, who: &str, at: u64) -> Check {
    ensure(seen.is_none(), || format!("{who} reads {at:#x}"))
}
