//! Exits of an L2 that have no operation of their own, and where they go (vmx_exit_reasons.csv).

use super::{Actor, Stopped};
use crate::tdx::exit::L2Exit;
use crate::tdx::status::reason;
use crate::tdx::vcpu::{Finish, VeInfo};
use crate::tdx::vmcs::{Vmcs, bit, field};
use crate::tdx::{Answer, Machine, TdExit};

/// Where an exit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To L1.
    ToL1,
    /// To L1 with this bit of the primary controls, else there is no exit.
    Primary(u8),
    /// To L1 with this bit of the secondary controls, else there is no exit.
    Secondary(u8),
    /// To L1 if INVLPG exits and INVPCID is enabled, else there is no exit.
    Invpcid,
    /// To L1 if it owns the bits of the control register, or wants accesses of it to exit.
    ControlRegister,
    /// To L1 with a TPR threshold.
    TprThreshold,
    /// To L1 if the EOI-exit bitmap has the vector.
    EoiBitmap,
    /// To the host, which resumes the L2 as if nothing had happened.
    Host,
}

/// Route of a basic exit reason. `None` for what has an operation of its own or comes about by itself, for what ends the
/// TD (not modelled), and for what does not exist.
pub(crate) fn route(basic: u32) -> Option<Route> {
    Some(match basic {
        9 | 11 | 13 | 17 | 19..=27 | 36 | 39 | 50 | 51 | 53 | 54 | 56 | 59 | 60 | 63..=65 | 67..=73 | 76 => Route::ToL1,
        14 => Route::Primary(9),
        15 => Route::Primary(11),
        16 => Route::Primary(12),
        29 => Route::Primary(23),
        28 => Route::ControlRegister,
        43 => Route::TprThreshold,
        45 => Route::EoiBitmap,
        46 | 47 => Route::Secondary(2),
        57 => Route::Secondary(11),
        58 => Route::Invpcid,
        61 => Route::Secondary(16),
        3 | 5 | 6 | 42 | 49 | 74 | 75 => Route::Host,
        _ => return None,
    })
}

impl Route {
    fn reaches_l1(self, vmcs: &Vmcs, qualification: u64) -> bool {
        let primary = |number: u8| vmcs.has(field::PRIMARY_CONTROLS, 1 << number);
        let secondary = |number: u8| vmcs.has(field::SECONDARY_CONTROLS, 1 << number);
        match self {
            Self::ToL1 => true,
            Self::Primary(number) => primary(number),
            Self::Secondary(number) => secondary(number),
            Self::Invpcid => primary(9) && secondary(12),
            // Number of the register in 3:0, a load is 0 in 5:4.
            Self::ControlRegister => match (qualification & 0xf, qualification >> 4 & 3) {
                (0, _) => vmcs.get(field::CR0_MASK) != 0,
                (4, _) => vmcs.get(field::CR4_MASK) != 0,
                (3, 0) => primary(15),
                (3, _) => primary(16),
                (8, 0) => primary(19),
                (8, _) => primary(20),
                _ => true,
            },
            Self::TprThreshold => vmcs.get(field::TPR_THRESHOLD) != 0,
            Self::EoiBitmap => {
                let vector = qualification as u8;
                let word = field::EOI_EXIT_BITMAP + 2 * u32::from(vector / 64);
                vmcs.has(word, 1 << (vector % 64))
            }
            Self::Host => false,
        }
    }
}

/// VM-exit interruption information of an exception: vector, type in 10:8, error code valid, valid.
fn interruption(vector: u8, has_error: bool) -> u64 {
    const HARDWARE: u64 = 3;
    const SOFTWARE: u64 = 6;
    let kind = if matches!(vector, 3 | 4) { SOFTWARE } else { HARDWARE };
    u64::from(vector) | kind << 8 | u64::from(has_error) << 11 | bit::EVENT_VALID
}

impl Machine {
    pub(super) fn other(
        &mut self,
        actor: Actor,
        basic: u32,
        qualification: u64,
        length: u32,
    ) -> Result<Answer, Stopped> {
        let route = route(basic).ok_or(Stopped::INVALID_OPCODE)?;
        if route == Route::Host {
            return Err(Stopped::Td(TdExit::Interrupt { level: actor.level }));
        }
        match self.guest(actor.vcpu, actor.level) {
            Some(guest) if route.reaches_l1(&guest.vmcs, qualification) => {
                let exit =
                    if length == 0 { L2Exit::of(basic) } else { L2Exit::instruction(basic, length, Finish::Nothing) };
                Err(Stopped::ToL1(L2Exit { qualification, ..exit }))
            }
            None if matches!(basic, reason::MWAIT | reason::MONITOR | reason::WBINVD | reason::PCONFIG) => {
                Err(self.raise_ve(actor, VeInfo { reason: basic, qualification, gla: 0, gpa: 0, length }))
            }
            None if route == Route::ToL1 => Err(Stopped::INVALID_OPCODE),
            _ => Ok(Answer::None),
        }
    }

    /// An exception goes to L1 where its exception bitmap says so, else to a handler of the program itself.
    pub(super) fn raise(&mut self, actor: Actor, vector: u8, error: Option<u32>) -> Result<Answer, Stopped> {
        if matches!(vector, 2 | 18 | 32..) {
            return Err(Stopped::INVALID_OPCODE);
        }
        let Some(guest) = self.guest(actor.vcpu, actor.level) else { return Ok(Answer::None) };
        let vmcs = |encoding| guest.vmcs.get(encoding);
        let code = u64::from(error.unwrap_or(0));
        let selected = vmcs(field::EXCEPTION_BITMAP) >> vector & 1 == 1;
        let matches = code & vmcs(field::PAGE_FAULT_MASK) == vmcs(field::PAGE_FAULT_MATCH);
        if selected == (vector != 14 || matches) {
            let event = interruption(vector, error.is_some()) | code << 32;
            return Err(Stopped::ToL1(L2Exit { event, ..L2Exit::of(reason::EXCEPTION) }));
        }
        Ok(Answer::None)
    }

    /// What makes an L2 exit to L1 by itself before its next instruction: its deadline has passed (TDX-46), or it can
    /// take an interrupt or NMI for which L1 waits (TDX-43).
    pub(super) fn due_exit(&self, actor: Actor) -> Option<L2Exit> {
        let guest = self.guest(actor.vcpu, actor.level)?;
        if self.deadline(actor.vcpu, actor.level) <= self.virtual_tsc() {
            return Some(L2Exit::of(reason::PREEMPTION_TIMER));
        }
        let waits = |bits| guest.vmcs.has(field::PRIMARY_CONTROLS, bits);
        if waits(bit::INTERRUPT_WINDOW) && guest.vmcs.takes_interrupt(&guest.state) {
            return Some(L2Exit::of(reason::INTERRUPT_WINDOW));
        }
        (waits(bit::NMI_WINDOW) && guest.vmcs.takes_nmi()).then_some(L2Exit::of(reason::NMI_WINDOW))
    }
}
