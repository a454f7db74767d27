//! The ports of `backend-tdx-stub` on the step machine: each instruction is one operation, with its raw registers.

use backend_tdx_stub::abi::regs::Regs;
use backend_tdx_stub::abi::status::{Status, operand};
use backend_tdx_stub::abi::vp_enter::vm_index;
use backend_tdx_stub::port::{GuestCall, Port};
use coco_part_api::level::GUEST_LEVELS;
use coco_part_api::{CallRegs, GuestLevel};
use machine::tdx::{Answer, Op, Unswitched};

use super::defect::Defect;
use super::model::TdxModel;
use crate::runner::Cpu;

/// The instructions of L1 on one vCPU of the machine.
pub struct ModelPort<'y> {
    cpu: Cpu<'y, TdxModel>,
    defect: Option<Defect>,
    /// What the module does not switch, of each level while it does not run.
    guests: [Unswitched; GUEST_LEVELS],
}

impl<'y> ModelPort<'y> {
    /// The port of a program, with a deliberate defect or none.
    pub fn new(cpu: Cpu<'y, TdxModel>, defect: Option<Defect>) -> Self {
        Self { cpu, defect, guests: Default::default() }
    }

    /// Executes `op` with the registers, which TDCALL at CPL 0 always gives back.
    fn execute(&self, regs: &mut Regs, op: fn(machine::tdx::Regs) -> Op) {
        if self.defect.is_some_and(|defect| defect.swallows(regs)) {
            // Success in RAX and, for the host's answer, in R10.
            *regs = Regs { rax: Status::SUCCESS.0, r10: 0, ..*regs };
            return;
        }
        let leaf = regs.rax;
        let mut operands = *regs;
        if let Some(defect) = self.defect {
            defect.before(&mut operands);
        }
        if let Ok(Answer::Regs(after)) = self.cpu.execute(op(to_machine(operands))) {
            *regs = from_machine(after);
            if let Some(defect) = self.defect {
                defect.after(leaf, regs);
            }
        }
    }

    /// Puts this state into the processor and gives what was there.
    fn exchange(&self, state: Unswitched) -> Unswitched {
        let before = read_unswitched(self.cpu);
        let _ = self.cpu.execute(Op::WriteUnswitched(Box::new(state)));
        before
    }
}

/// What the module does not switch, as the program finds it now.
pub(super) fn read_unswitched(cpu: Cpu<'_, TdxModel>) -> Unswitched {
    match cpu.execute(Op::ReadUnswitched) {
        Ok(Answer::Unswitched(state)) => *state,
        _ => Unswitched::default(),
    }
}

fn to_machine(regs: Regs) -> machine::tdx::Regs {
    let Regs { rax, rcx, rdx, rbx, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 } = regs;
    machine::tdx::Regs { rax, rcx, rdx, rbx, rbp: 0, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 }
}

fn from_machine(regs: machine::tdx::Regs) -> Regs {
    let machine::tdx::Regs { rax, rcx, rdx, rbx, rbp: _, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 } = regs;
    Regs { rax, rcx, rdx, rbx, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 }
}

impl Port for ModelPort<'_> {
    fn tdcall(&mut self, regs: &mut Regs) {
        self.execute(regs, Op::Tdcall);
    }

    /// As the native port does it: around the instruction the states change places.
    fn enter(&mut self, regs: &mut Regs) {
        let Some(index) = usize::from(vm_index(regs.rcx)).checked_sub(1) else {
            regs.rax = Status::OPERAND_INVALID.with_details(operand::RCX).0;
            return;
        };
        if self.defect == Some(Defect::UnswitchedLeft) {
            return self.execute(regs, Op::Enter);
        }
        let own = self.exchange(self.guests[index].clone());
        self.execute(regs, Op::Enter);
        self.guests[index] = self.exchange(own);
    }

    fn reset(&mut self, level: GuestLevel) {
        if self.defect != Some(Defect::UnswitchedNotReset) {
            self.guests[level.index()] = Unswitched::default();
        }
    }

    fn pause(&mut self) {
        let _ = self.cpu.execute(Op::Pause);
    }
}

/// The instruction of a guest level on one vCPU of the machine.
#[derive(Clone, Copy)]
pub struct GuestPort<'y>(pub Cpu<'y, TdxModel>);

impl GuestCall for GuestPort<'_> {
    fn vmcall(&mut self, regs: &mut CallRegs) {
        let CallRegs { rax, rcx, rdx, r8, r9 } = *regs;
        let call = machine::tdx::CallRegs { rax, rcx, rdx, r8, r9 };
        if let Ok(Answer::Call(after)) = self.0.execute(Op::Vmcall { regs: call, cpl: 0 }) {
            *regs = CallRegs { rax: after.rax, rcx: after.rcx, rdx: after.rdx, r8: after.r8, r9: after.r9 };
        }
    }
}
