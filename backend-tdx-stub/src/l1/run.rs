//! Verb 3: running a level.
//!
//! The module carries the switch out; the host can delay it and have L1 resumed, nothing else (TDX-12, TDX-15). So an exit
//! is what the registers say, and a call cannot come back twice: VMCALL is one exit.

use coco_part_api::{
    CallRegs, Error as _, ErrorKind, Event, Exit, GuestLevel, GuestMemory, GuestState, PendingCall, RunLevel, Trap,
};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use super::call::repeat;
use super::exit::{Decoded, Outcome, call_regs, decode, decode_host_resumed, set_call_regs};
use super::{L1, LevelPages};
use crate::abi::fields::{VmcsField, interruption};
use crate::abi::guest_state::EnterGuestState;
use crate::abi::leaves::Leaf;
use crate::abi::regs::Regs;
use crate::abi::vp_enter::{ExitInfo, Invalidate, operand};
use crate::error::Error;
use crate::port::Port;

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// One TDG.VP.ENTER with everything the other vCPUs have to know around it; see [`crate::shared`].
    fn enter(&mut self, level: GuestLevel, pages: LevelPages) -> (Outcome, ExitInfo) {
        let epoch = self.shared.go_inside(self.slot);
        let state = &mut self.levels[level.index()];
        let invalidate = if epoch == state.flushed { Invalidate::Nothing } else { Invalidate::All };
        let operands = Regs {
            rax: Leaf::VP_ENTER.to_rax(),
            rcx: operand(level, invalidate),
            rdx: pages.registers.as_u64(),
            ..Regs::default()
        };
        let (_, regs) = repeat(&mut self.port, |port| {
            let mut regs = operands;
            port.enter(&mut regs);
            regs
        });
        self.shared.go_outside(self.slot);
        let info = ExitInfo(regs);
        let outcome = Outcome::of(&info);
        if outcome.entered() {
            state.flushed = epoch;
        }
        (outcome, info)
    }

    /// Runs a level that is marked as running.
    fn run_once(&mut self, level: GuestLevel, pages: LevelPages) -> Result<Exit, Error<M::Fault>> {
        let (outcome, info) = self.enter(level, pages);
        if outcome.entered() {
            self.requeue(level, &info)?;
        }
        match outcome {
            Outcome::Left => self.left(level, pages, &info),
            Outcome::HostResumed => Ok(decode_host_resumed(&info)),
            Outcome::Interrupted | Outcome::NotEntered => Ok(Exit::InterruptPending),
            Outcome::CannotEnter => Ok(Exit::Shutdown),
            Outcome::Refused(status) => Err(Error::from_status(Leaf::VP_ENTER, status)),
        }
    }

    /// The level left by itself.
    fn left(&mut self, level: GuestLevel, pages: LevelPages, info: &ExitInfo) -> Result<Exit, Error<M::Fault>> {
        let mut state = self.registers(pages.registers)?;
        let unknown = Exit::Other { code: info.reason().0.into() };
        match decode(info, &state) {
            Decoded::Report(exit) => {
                self.levels[level.index()].trapped = Trap::of(&exit).map(|trap| (trap, info.instruction_length()));
                Ok(exit)
            }
            Decoded::Call => Ok(self.await_answer(level, &state, info).map_or(unknown, Exit::Call)),
            Decoded::HostCall => Ok(self.await_answer(level, &state, info).map_or(unknown, Exit::HostCall)),
            Decoded::Halt => {
                let Some(length) = info.instruction_length() else { return Ok(unknown) };
                // HLT is over when the level runs again.
                self.step_over(level, pages, &mut state, length)?;
                Ok(Exit::Halt)
            }
            Decoded::UserCall => match self.inject(level, Event::GeneralProtection(0)) {
                // Another event comes first; the instruction will be executed again after it.
                Err(error) if error.kind() != ErrorKind::Busy => Err(error),
                _ => Ok(Exit::Spurious),
            },
        }
    }

    /// Ends an instruction of the level. "STI; HLT" must not find itself blocked by the STI (TDX-45), nor any other instruction
    /// that follows the one behind STI or MOV SS.
    pub(super) fn step_over(
        &mut self,
        level: GuestLevel,
        pages: LevelPages,
        state: &mut EnterGuestState,
        length: u8,
    ) -> Result<(), Error<M::Fault>> {
        let blocked = interruption::BLOCKED_BY_STI | interruption::BLOCKED_BY_MOV_SS;
        self.vmcs_write(level, VmcsField::INTERRUPTIBILITY, 0, blocked)?;
        state.rip = state.rip.wrapping_add(length.into());
        self.set_registers(pages.registers, state)
    }

    /// Notes that a call waits. `None` for an instruction length that cannot be.
    fn await_answer(&mut self, level: GuestLevel, state: &EnterGuestState, info: &ExitInfo) -> Option<PendingCall> {
        let length = info.instruction_length()?;
        self.levels[level.index()].awaiting = Some(length);
        Some(PendingCall::new(level, call_regs(state)))
    }

    /// Has an event delivered again whose delivery the exit broke off: after an exit to L1 the module does not (TDX-16).
    fn requeue(&mut self, level: GuestLevel, info: &ExitInfo) -> Result<(), Error<M::Fault>> {
        let event = info.idt_vectoring() & interruption::ENTRY;
        if event & interruption::VALID == 0 {
            return Ok(());
        }
        if event & interruption::TYPE == interruption::NMI {
            // It was not delivered, so it does not block the next one.
            self.vmcs_write(level, VmcsField::INTERRUPTIBILITY, 0, interruption::BLOCKED_BY_NMI)?;
        }
        if event & interruption::TYPE >= interruption::SOFTWARE {
            let length = info.instruction_length().unwrap_or(0);
            self.vmcs_write(level, VmcsField::ENTRY_LENGTH, length.into(), u64::MAX)?;
        }
        if event & interruption::ERROR_CODE != 0 {
            self.vmcs_write(level, VmcsField::ENTRY_ERROR_CODE, info.idt_vectoring_error().into(), u64::MAX)?;
        }
        self.vmcs_write(level, VmcsField::ENTRY_INTERRUPTION, event.into(), u64::MAX)
    }
}

impl<P: Port, M: GuestMemory> RunLevel for L1<'_, P, M> {
    /// TDG.VP.ENTER.
    ///
    /// VMCALL at CPL 0 is [`Exit::Call`], TDCALL at CPL 0 [`Exit::HostCall`]; either waits for [`answer`](Self::answer).
    /// At CPL 3 both raise #GP in the level, as an instruction of the kernel does, and come back as [`Exit::Spurious`]:
    /// L1 serves no user code. A level whose state the processor does not take is [`Exit::Shutdown`]. RIP stands at the
    /// instruction in every exit but [`Exit::Halt`], where it stands behind it.
    ///
    /// # Errors
    /// As the trait says; `Refused` with the raw status for whatever the module says beyond what TDG.VP.ENTER says,
    /// `Busy` for an operand that stayed busy: nothing has run then.
    fn run(&mut self, level: GuestLevel) -> Result<Exit, Self::Error> {
        let pages = self.level_pages(level)?;
        if self.levels[level.index()].awaiting.is_some() {
            return Err(Error::CallPending { level });
        }
        if !self.slot.start(level) {
            return Err(Error::NoVcpu { level });
        }
        self.levels[level.index()].trapped = None;
        let result = self.run_once(level, pages);
        if self.levels[level.index()].awaiting.is_none() {
            self.slot.stop(level);
        }
        result
    }

    /// Writes the answer into the register page and moves RIP behind the calling instruction.
    fn answer(&mut self, call: PendingCall, regs: CallRegs) -> Result<(), Self::Error> {
        let level = call.level();
        let pages = self.level_pages(level)?;
        let Some(length) = self.levels[level.index()].awaiting else {
            return Err(Error::NoCall { level });
        };
        let mut state = self.registers(pages.registers)?;
        set_call_regs(&mut state, regs);
        state.rip = state.rip.wrapping_add(length.into());
        self.set_registers(pages.registers, &state)?;
        self.levels[level.index()].awaiting = None;
        self.slot.stop(level);
        Ok(())
    }

    /// Nothing to move: on TDX the exit is the proof of a call, and the page is the argument buffer only.
    fn set_call_area(&mut self, level: GuestLevel, _at: PhysFrame<Size4KiB>) -> Result<(), Self::Error> {
        if self.slot.is_installed(level) { Ok(()) } else { Err(Error::NoVcpu { level }) }
    }
}
