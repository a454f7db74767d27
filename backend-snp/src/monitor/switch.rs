//! Running a level below, and its calls.
//!
//! The host carries the switch out and may do anything meanwhile. What happened is read from the VMSA and the call area,
//! never from the host's answer:
//!
//! 1. The word of the current frame goes from `Ready` to `Held` (see `frames`); who does not get it touches nothing.
//! 2. A look without the gate: is there an exit that concerns L1 on record, and for a VMGEXIT a mark in the call area? If
//!    not, nothing was written and nothing has to be undone. A mark that another VMSA may have set, one with the same call
//!    area that is admitted and has run but waits to be installed, is left alone: when it is installed, it is served.
//! 3. The gate is closed and the VMSA proved to stand still (see `gate`).
//! 4. Exit code and registers are read, once. The mark is exchanged for 0: whoever exchanges a 1 serves the call, and a
//!    second return finds none (S1). The exit code on record is spent too, so that one exit is reported once.
//! 5. The gate stays closed until the level runs again: a call is answered in a VMSA that cannot run. The word stays in
//!    `Held` until the answer; after an exit that is no call it is `Ready` again at once. An instruction that traps (ReflectVC)
//!    can be completed until then, see `trap`.
//!
//! [`L1::run`] looks before it enters as well. The host may have run the level by itself, which it must when a guest starts
//! a vCPU that L1 has not installed yet; entering then would lose the caller a call.

use core::mem::offset_of;

use coco_part_api::memory::offset;
use coco_part_api::svsm::CALL_PENDING;
use coco_part_api::{CallRegs, Completion, Exit, GuestLevel, GuestMemory, PendingCall};
use x86_64::structures::paging::PhysFrame;

use super::frames::{Phase, Place};
use super::gate::{EXIT_CODE, Still};
use super::setup::SwitchBy;
use super::trap::{Trapped, reads_call_area};
use super::{L1, exit, vmpl};
use crate::abi::exit_codes::ExitCode;
use crate::abi::sev_features::SevFeatures;
use crate::abi::vmsa::Vmsa;
use crate::error::SnpError;
use crate::host::{HostChannel, MsrProtocol};
use crate::instr::Port;

/// The VMSA that runs for a level on this vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current<'a> {
    place: Place<'a>,
    call_area: PhysFrame,
    /// A call was reported and is not answered.
    waiting: bool,
    /// Another exit was reported, and the gate has been closed since.
    still: bool,
}

impl<'a> Current<'a> {
    pub(super) const fn new(place: Place<'a>, call_area: PhysFrame) -> Self {
        Self { place, call_area, waiting: false, still: false }
    }

    pub(super) const fn place(&self) -> Place<'a> {
        self.place
    }

    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting
    }

    pub(super) const fn is_still(&self) -> bool {
        self.still
    }

    pub(super) fn is(&self, place: &Place<'_>) -> bool {
        self.place.index() == place.index()
    }
}

/// Whether this vCPU has a frame for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The word is in `Held`.
    Ours,
    /// Another vCPU is about to retire it.
    Contested,
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Runs the level, unless something it did already waits for L1.
    ///
    /// # Errors
    /// [`SnpError::NoVcpu`], [`SnpError::CallUnanswered`]; [`SnpError::RunVmpl`] and the answer errors of the host channel
    /// when the host refuses or misbehaves; [`SnpError::Memory`], [`SnpError::Fault`] when the VMSA is not accessible any
    /// more. Running again is possible after each of them.
    pub fn run(&mut self, level: GuestLevel) -> Result<Exit, SnpError> {
        if self.current(level)?.waiting {
            return Err(SnpError::CallUnanswered { level });
        }
        if self.hold(level)? == Hold::Contested {
            return Ok(Exit::Spurious);
        }
        if let Some(exit) = self.look(level)? {
            return Ok(exit);
        }
        let frame = self.current(level)?.place.frame();
        if let Some(current) = self.current_mut(level) {
            current.still = false;
        }
        let opened = self.gate(frame).open();
        self.release(level);
        opened?;
        match self.switch_by {
            SwitchBy::Page => self.host.run_vmpl(&mut self.port, vmpl(level))?,
            SwitchBy::Msr => MsrProtocol.run_vmpl(&mut self.port, vmpl(level))?,
        }
        if self.hold(level)? == Hold::Contested {
            return Ok(Exit::Spurious);
        }
        if let Some(exit) = self.look(level)? {
            return Ok(exit);
        }
        self.release(level);
        Ok(Exit::Spurious)
    }

    /// Writes RAX, RCX, RDX, R8 and R9 of the VMSA and nothing else (S2). It can run from the next [`run`](Self::run) on.
    ///
    /// # Errors
    /// [`SnpError::NoVcpu`] for a call that this vCPU did not report; [`SnpError::Memory`], and the level stays stopped.
    pub fn answer(&mut self, call: PendingCall, regs: CallRegs) -> Result<(), SnpError> {
        let level = call.level();
        let current = self.current(level)?;
        if !current.waiting {
            return Err(SnpError::NoVcpu { level });
        }
        let gate = self.gate(current.place.frame());
        for (field, value) in REGISTERS.into_iter().zip([regs.rax, regs.rcx, regs.rdx, regs.r8, regs.r9]) {
            gate.write(field, &value)?;
        }
        if let Some(current) = self.current_mut(level) {
            current.waiting = false;
        }
        self.release(level);
        Ok(())
    }

    /// Moves the call area of this vCPU's part of the level.
    ///
    /// # Errors
    /// [`SnpError::NoVcpu`].
    pub fn set_call_area(&mut self, level: GuestLevel, at: PhysFrame) -> Result<(), SnpError> {
        self.current(level)?;
        if let Some(current) = self.current_mut(level) {
            current.call_area = at;
        }
        Ok(())
    }
}

/// Offsets of RAX, RCX, RDX, R8 and R9.
const REGISTERS: [usize; 5] =
    [offset_of!(Vmsa, rax), offset_of!(Vmsa, rcx), offset_of!(Vmsa, rdx), offset_of!(Vmsa, r8), offset_of!(Vmsa, r9)];

impl<'a, P: Port, M: GuestMemory> L1<'a, P, M> {
    /// The current VMSA of a level, if it has not been retired.
    pub(super) fn current(&mut self, level: GuestLevel) -> Result<Current<'a>, SnpError> {
        let slot = self.current_mut(level);
        if slot.is_some_and(|current| matches!(current.place.phase(), None | Some(Phase::Admitted))) {
            *slot = None;
        }
        slot.ok_or(SnpError::NoVcpu { level })
    }

    pub(super) fn current_mut(&mut self, level: GuestLevel) -> &mut Option<Current<'a>> {
        let [one, two, three] = &mut self.current;
        match level.number() {
            1 => one,
            2 => two,
            _ => three,
        }
    }

    pub(super) fn trapped_mut(&mut self, level: GuestLevel) -> &mut Option<Trapped> {
        let [one, two, three] = &mut self.trapped;
        match level.number() {
            1 => one,
            2 => two,
            _ => three,
        }
    }

    /// Takes the current frame of a level for this vCPU.
    pub(super) fn hold(&mut self, level: GuestLevel) -> Result<Hold, SnpError> {
        let place = self.current(level)?.place;
        if place.shift(Phase::Ready, Phase::Held) {
            return Ok(Hold::Ours);
        }
        match place.phase() {
            // Nobody else moves a word there.
            Some(Phase::Held) => Ok(Hold::Ours),
            Some(_) => {
                self.port.pause();
                Ok(Hold::Contested)
            }
            None => {
                *self.current_mut(level) = None;
                Err(SnpError::NoVcpu { level })
            }
        }
    }

    pub(super) fn release(&mut self, level: GuestLevel) {
        if let Some(current) = self.current_mut(level) {
            current.place.shift(Phase::Held, Phase::Ready);
        }
    }

    /// What the level left for L1, if anything. The frame is held, and stays so for a call and if there is nothing.
    fn look(&mut self, level: GuestLevel) -> Result<Option<Exit>, SnpError> {
        let outcome = self.look_at(level);
        if !matches!(outcome, Ok(None | Some(Exit::Call(_) | Exit::MalformedCall(_)))) {
            self.release(level);
        }
        outcome
    }

    fn look_at(&mut self, level: GuestLevel) -> Result<Option<Exit>, SnpError> {
        let current = self.current(level)?;
        let frame = current.place.frame();
        let code: ExitCode = self.gate(frame).read(EXIT_CODE)?;
        let reflects = self.features_of(level).contains(SevFeatures::REFLECT_VC);
        let concerns_l1 = match code {
            ExitCode::VMGEXIT => self.has_mark(&current),
            ExitCode::INVALID => false,
            _ => reflects && exit::is_reflected(code, self.gate(frame).read(EXIT_INFO_1)?),
        };
        if !concerns_l1 {
            return Ok(None);
        }
        if code == ExitCode::VMGEXIT && self.has_rival(&current)? {
            log::debug!("level {} of {}: a VMSA that is not installed yet has run", level.number(), self.vcpu);
            self.port.pause();
            return Ok(Some(Exit::Spurious));
        }
        if self.gate(frame).close()? == Still::No {
            log::debug!("level {} of {} runs elsewhere", level.number(), self.vcpu);
            self.port.pause();
            return Ok(None);
        }
        let gate = self.gate(frame);
        // The same VMSA may have run between the look and the gate.
        if gate.read::<ExitCode>(EXIT_CODE)? != code {
            return Ok(None);
        }
        let exit = if code == ExitCode::VMGEXIT {
            let mut values = [0; 5];
            for (value, field) in values.iter_mut().zip(REGISTERS) {
                *value = gate.read(field)?;
            }
            let [rax, rcx, rdx, r8, r9] = values;
            let call = || PendingCall::new(level, CallRegs { rax, rcx, rdx, r8, r9 });
            match self.take_mark(&current) {
                0 => return Ok(None),
                CALLED => Exit::Call(call()),
                _ => Exit::MalformedCall(call()),
            }
        } else {
            let vmsa: Vmsa = gate.read(0)?;
            if !exit::is_reflected(code, vmsa.guest_exitinfo1) {
                return Ok(None);
            }
            self.trap(level, &current, &vmsa)
        };
        self.gate(frame).write(EXIT_CODE, &ExitCode::INVALID)?;
        if let Some(current) = self.current_mut(level) {
            current.waiting = matches!(exit, Exit::Call(_) | Exit::MalformedCall(_));
            current.still = !current.waiting;
        }
        Ok(Some(exit))
    }

    /// The exit of a level that needs help with an instruction, which is kept until it is completed. One that names the call
    /// area is completed at once.
    fn trap(&mut self, level: GuestLevel, current: &Current<'_>, vmsa: &Vmsa) -> Exit {
        let exit = exit::decode(vmsa);
        let trapped = Trapped::of(&exit, vmsa);
        let is_done = reads_call_area(&exit)
            && trapped.is_some_and(|read| {
                let area = Completion::Msr(current.call_area.start_address().as_u64());
                read.complete(&self.gate(current.place.frame()), level, area).is_ok()
            });
        *self.trapped_mut(level) = if is_done { None } else { trapped };
        if is_done { Exit::Spurious } else { exit }
    }

    /// Whether another VMSA of the same level and vCPU may have set the mark: one with an open gate that is not installed yet
    /// and has run, as the host may do before L1 on this vCPU comes to install it.
    fn has_rival(&mut self, current: &Current<'_>) -> Result<bool, SnpError> {
        let own = current.place.index();
        let frames = self.frames;
        for place in frames.of(own.vcpu, own.vmpl).filter(|place| place.index() != own) {
            // Not while another vCPU retires it: then it is only read.
            let held = place.shift(Phase::Admitted, Phase::Held);
            if held || place.phase().is_some() {
                let mut gate = self.gate(place.frame());
                let has_run = match (gate.is_open(), gate.has_left()) {
                    (Ok(true), Ok(false)) if held => gate.runs(),
                    (Ok(open), Ok(left)) => Ok(open && left),
                    // Given up meanwhile.
                    _ => Ok(false),
                };
                if held {
                    place.shift(Phase::Held, Phase::Admitted);
                }
                if has_run? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether the call area has a mark. An area that is not accessible has none: the guest harms itself (RQ-18).
    pub(super) fn has_mark(&self, current: &Current<'_>) -> bool {
        let mut mark = [0];
        let at = offset(current.call_area.start_address(), CALL_PENDING);
        at.is_some_and(|at| self.memory.read(at, &mut mark).is_ok()) && mark != [0]
    }

    /// Takes the mark away and says what it was.
    pub(super) fn take_mark(&self, current: &Current<'_>) -> u8 {
        let at = offset(current.call_area.start_address(), CALL_PENDING);
        at.and_then(|at| self.memory.swap_u8(at, 0).ok()).unwrap_or(0)
    }
}

/// Mark of a call that waits.
const CALLED: u8 = 1;

const EXIT_INFO_1: usize = offset_of!(Vmsa, guest_exitinfo1);
