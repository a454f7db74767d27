//! The transitions of a vCPU between L1, the L2 VMs and the host.
//!
//! - **TD exit**: whoever runs leaves to the host (TDCALL VMCALL, an EPT violation that is the host's, an interrupt).
//!   The host resumes the same program, or, if it was an L2's, resumes L1 (TDX-15).
//! - **VP.ENTER** and **exit to L1**: the module moves the vCPU. The host sees nothing (TDX-13).

use alloc::boxed::Box;

use super::exit::{GLA_VALID, L2Exit, MEMORY_LENGTH, access_bits, exit_regs, record_exit};
use super::status::{self, reason};
use super::vcpu::{Finish, Now};
use super::{Answer, BOOT_ENTRY, Entry, EventKind, Machine, OTHER_ENTRY, Regs, Resume, RunKey, TdExit};
use crate::Vcpu;

impl Machine {
    /// The level that runs on a vCPU, 0 for L1. `None` while the host has it, or nobody was told yet.
    pub fn running_level(&self, vcpu: Vcpu) -> Option<u8> {
        self.running(vcpu).map(|key| key.level)
    }

    /// The program that runs on a vCPU.
    pub fn running(&self, vcpu: Vcpu) -> Option<RunKey> {
        match &self.vcpu(vcpu)?.now {
            Now::Running(key) => Some(*key),
            _ => None,
        }
    }

    /// The last TD exit of a vCPU, until the host resumes it.
    pub fn td_exit_info(&self, vcpu: Vcpu) -> Option<&TdExit> {
        match &self.vcpu(vcpu)?.now {
            Now::Host(exit) => exit.as_ref(),
            _ => None,
        }
    }

    /// The vCPU leaves to the host. A TDVMCALL that the host does not answer changes no register but RAX.
    pub(crate) fn td_exit(&mut self, vcpu: Vcpu, exit: TdExit) {
        let Some(state) = self.vcpu_mut(vcpu) else { return };
        let resume = match (&exit, &state.call) {
            (TdExit::Vmcall { .. }, Some(call)) => {
                Resume::Complete(Answer::Regs(Regs { rax: status::SUCCESS, ..call.regs }))
            }
            _ => Resume::Retry,
        };
        let level = state.inside.map_or(0, |inside| inside.vm);
        match state.guests.get_mut(usize::from(level).wrapping_sub(1)) {
            Some(guest) => guest.resume = resume,
            None => state.l1 = resume,
        }
        state.now = Now::Host(Some(exit.clone()));
        let in_call = u64::from(state.serving && level == 0);
        self.counters.change(vcpu, level, |c| {
            c.td_exits += 1;
            c.td_exits_in_calls += in_call;
        });
        self.trace.push(self.steps, vcpu, Some(level), EventKind::TdExit(exit.clone()));
        self.oracle_td_exit(vcpu, &exit);
    }

    /// TDH.VP.ENTER: the host resumes who left, or starts L1. `None`, and nothing happens, if the host does not have
    /// the vCPU.
    pub fn td_enter(&mut self, vcpu: Vcpu) -> Option<Entry> {
        let state = self.vcpu_mut(vcpu)?;
        let Now::Host(exit) = &state.now else { return None };
        if exit.is_none() {
            let rip = if vcpu.0 == 0 { BOOT_ENTRY } else { OTHER_ENTRY };
            state.l1 = Resume::Start { rip, regs: Box::default() };
        }
        if let Some(exit) = state.unstored.take() {
            self.leave_l2(vcpu, exit);
            return self.take_switch(vcpu);
        }
        let level = state.inside.map_or(0, |inside| inside.vm);
        let (resume, generation) = match state.guests.get_mut(usize::from(level).wrapping_sub(1)) {
            Some(guest) => (core::mem::replace(&mut guest.resume, Resume::Retry), guest.generations),
            None => (core::mem::replace(&mut state.l1, Resume::Retry), 0),
        };
        let key = RunKey { vcpu, level, generation };
        Some(self.set_running(vcpu, Entry { key, level, resume }))
    }

    /// TDH.VP.ENTER with RESUME_L1 (TDX-15). `None`, and nothing happens, unless an L2 left last.
    pub fn td_enter_l1(&mut self, vcpu: Vcpu) -> Option<Entry> {
        let state = self.vcpu(vcpu)?;
        let Now::Host(Some(exit)) = &state.now else { return None };
        state.inside?;
        if state.unstored.is_some() {
            return self.td_enter(vcpu);
        }
        let exit = match exit {
            TdExit::Vmcall { .. } => L2Exit {
                status: status::L2_EXIT_HOST_ROUTED_TDVMCALL,
                finish: Finish::Regs,
                advance: Some(4),
                length: 4,
                retired: true,
                ..L2Exit::of(reason::TDCALL)
            },
            TdExit::EptViolation { gpa, cause, .. } => L2Exit {
                status: status::L2_EXIT_HOST_ROUTED_ASYNC,
                qualification: access_bits(*cause) | GLA_VALID,
                gla: *gpa,
                gpa: *gpa,
                finish: self.interrupted(vcpu),
                advance: Some(MEMORY_LENGTH),
                ..L2Exit::of(reason::EPT_VIOLATION)
            },
            _ => L2Exit { status: status::L2_EXIT_HOST_ROUTED_ASYNC, ..L2Exit::of(reason::EXTERNAL_INTERRUPT) },
        };
        self.leave_l2(vcpu, exit);
        self.take_switch(vcpu)
    }

    /// What the operation of the L2 that left would have done.
    fn interrupted(&self, vcpu: Vcpu) -> Finish {
        let vm = self.vcpu(vcpu).and_then(|state| state.inside).map_or(0, |inside| inside.vm);
        self.guest(vcpu, vm).and_then(|guest| guest.program).map_or(Finish::Nothing, |program| program.finish)
    }

    /// The program that the module has moved the vCPU to, if it has.
    pub(crate) fn take_switch(&mut self, vcpu: Vcpu) -> Option<Entry> {
        match &self.vcpu(vcpu)?.now {
            Now::Switching(entry) => {
                let entry = entry.clone();
                Some(self.set_running(vcpu, entry))
            }
            _ => None,
        }
    }

    fn set_running(&mut self, vcpu: Vcpu, entry: Entry) -> Entry {
        if let Some(state) = self.vcpu_mut(vcpu) {
            state.now = Now::Running(entry.key);
        }
        self.trace.push(self.steps, vcpu, None, EventKind::Entered { level: entry.level });
        self.oracle_entered(vcpu, entry.level);
        entry
    }

    /// An L2 leaves to L1: its registers go to the register page, the exit information to L1's registers.
    pub(crate) fn leave_l2(&mut self, vcpu: Vcpu, exit: L2Exit) {
        let Some(inside) = self.vcpu(vcpu).and_then(|state| state.inside) else { return };
        let page = match self.operand_page(inside.page) {
            Ok(page) => page,
            Err(cause) => {
                // The host took the register page away meanwhile (l2_vp_enter.csv, entry check 6 in reverse).
                if let Some(state) = self.vcpu_mut(vcpu) {
                    state.unstored = Some(exit);
                }
                self.td_exit(vcpu, cause);
                return;
            }
        };
        let Some(guest) = self.guest_mut(vcpu, inside.vm) else { return };
        if let Some(program) = &mut guest.program {
            let behind = exit.advance.map(|length| program.rip.wrapping_add(length));
            guest.state.rip = if exit.retired { behind.unwrap_or(program.rip) } else { program.rip };
            program.retry = (!exit.retired).then_some(program.rip);
            program.done = behind;
            program.finish = exit.finish;
        }
        let state = guest.state;
        record_exit(guest, &exit);
        let regs = exit_regs(guest, &exit);
        let offset = crate::nested::offset_of(inside.page);
        self.private.write(page, offset, &state.to_bytes());
        self.oracle_module_wrote(inside.page, super::guest_state::SIZE);
        self.counters.change(vcpu, inside.vm, |c| c.l2_exits += 1);
        let rax = regs.rax;
        self.trace.push(self.steps, vcpu, Some(inside.vm), EventKind::L2Exit { status: rax, gpa: exit.gpa });
        self.oracle_l2_left(vcpu, inside.vm, &exit);
        if let Some(vcpu_state) = self.vcpu_mut(vcpu) {
            vcpu_state.inside = None;
            vcpu_state.call = None;
            vcpu_state.serving = exit.reason == reason::VMCALL;
            let key = RunKey { vcpu, level: 0, generation: 0 };
            let resume = Resume::Complete(Answer::Regs(regs));
            vcpu_state.now = Now::Switching(Entry { key, level: 0, resume });
        }
    }
}
