//! TDG.VP.ENTER (l2_vp_enter.csv).

use crate::nested::offset_of;
use crate::tdx::exec::{Actor, Stopped};
use crate::tdx::exit::{L2Exit, exit_regs, record_exit};
use crate::tdx::guest_state::{ALIGN, GuestState, SIZE};
use crate::tdx::status::{OPERAND_INVALID, PENDING_INTERRUPT, operand, reason};
use crate::tdx::vcpu::{Inside, Now, Program};
use crate::tdx::vmcs::{bit, field};
use crate::tdx::{Answer, Entry, Fault, Machine, Regs, Resume, RunKey};

/// RCX: INVEPT of the VM before it runs. 2 and 3 are INVVPID, which drops nothing here.
const INVEPT: u64 = 1;

impl Machine {
    /// The checks in the order of the table, then the switch. `Err(Switched)`: the L2 has the vCPU.
    pub(super) fn vp_enter(&mut self, actor: Actor, regs: &Regs) -> Result<Answer, Stopped> {
        let refuse = |rax| Ok(Answer::Regs(Regs { rax, ..*regs }));
        let (vm, page) = ((regs.rcx >> 52 & 3) as u8, regs.rdx);
        if self.rule("ENTER-PAGE") && (!page.is_multiple_of(ALIGN) || !self.is_private(page)) {
            return refuse(OPERAND_INVALID | operand::RDX);
        }
        if regs.rcx & !(3 << 52 | 3) != 0 || !self.vms().contains(&vm) {
            return refuse(OPERAND_INVALID | operand::RCX);
        }
        let Some(guest) = self.guest(actor.vcpu, vm) else { return refuse(OPERAND_INVALID | operand::RCX) };
        let (has_vapic, vapic) = (guest.has_vapic, guest.vmcs.get(field::VIRTUAL_APIC));
        if !has_vapic && self.rule("TDX-11") {
            return refuse(OPERAND_INVALID | operand::L2_VAPIC_GPA);
        }
        self.post_if_due(actor.vcpu);
        if self.take_posted(actor.vcpu) && self.rule("TDX-14") {
            return refuse(PENDING_INTERRUPT);
        }
        let spa = self.operand_page(page).map_err(Stopped::Td)?;
        if has_vapic {
            self.operand_page(vapic).map_err(Stopped::Td)?;
        }
        if regs.rcx & 3 == INVEPT {
            self.invalidate(actor.vcpu, vm);
        }
        let mut bytes = [0; SIZE];
        self.private.read(spa, offset_of(page), &mut bytes);
        let state = GuestState::from_bytes(&bytes);
        self.oracle_entering(actor.vcpu, vm, page, vapic, &state);
        self.switch_to(actor, Inside { vm, page }, state)
    }

    fn switch_to(&mut self, actor: Actor, inside: Inside, state: GuestState) -> Result<Answer, Stopped> {
        let checked = self.rule("TDX-60");
        let Some(guest) = self.guest_mut(actor.vcpu, inside.vm) else { return Err(Stopped::Switched) };
        guest.state = state;
        if checked && !guest.vmcs.can_enter(&state) {
            let exit = L2Exit::of(reason::ENTRY_FAIL_GUEST_STATE | reason::ENTRY_FAILED);
            record_exit(guest, &exit);
            return Ok(Answer::Regs(exit_regs(guest, &exit)));
        }
        let resume = match &mut guest.program {
            Some(program) if program.retry == Some(state.rip) => Resume::Retry,
            Some(program) if program.done == Some(state.rip) => Resume::Complete(program.finish.answer(&state)),
            program => {
                *program = Some(Program::at(state.rip));
                guest.generations += 1;
                guest.inject = None;
                Resume::Start { rip: state.rip, regs: alloc::boxed::Box::new(state.regs()) }
            }
        };
        if guest.program.is_some_and(|program| program.ended) {
            // Nobody is there to be entered: it shuts down again.
            return Ok(Answer::Regs(exit_regs(guest, &L2Exit::of(reason::TRIPLE_FAULT))));
        }
        let event = guest.vmcs.get(field::ENTRY_EVENT);
        if event & bit::EVENT_VALID != 0 {
            guest.vmcs.set(field::ENTRY_EVENT, event & !bit::EVENT_VALID);
            guest.delivered.push(event as u32);
            guest.inject = match (event >> 8 & 7, event & 0xff) {
                (3, 13) => Some(Fault::GeneralProtection),
                (3, 6) => Some(Fault::InvalidOpcode),
                _ => guest.inject,
            };
        }
        let key = RunKey { vcpu: actor.vcpu, level: inside.vm, generation: guest.generations };
        if let Some(vcpu) = self.vcpu_mut(actor.vcpu) {
            vcpu.inside = Some(inside);
            vcpu.serving = false;
            vcpu.now = Now::Switching(Entry { key, level: inside.vm, resume });
        }
        self.counters.change(actor.vcpu, inside.vm, |c| c.entered += 1);
        Err(Stopped::Switched)
    }

    /// Whether an interrupt waits for L1. L1 takes it as soon as it is told, so that it waits no more.
    fn take_posted(&mut self, vcpu: crate::Vcpu) -> bool {
        self.vcpu_mut(vcpu).is_some_and(|state| core::mem::take(&mut state.posted))
    }
}
