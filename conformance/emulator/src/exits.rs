//! What an exit of a guest means.

use machine::vmsa::{self, read_u64, write_u64};
use machine::{Answer, Fault, Op, Outcome, Reach, Reached, Regs, Vcpu, msr};

use crate::cpu::{Cpu, Exit, INVALID, now};
use crate::ending::{Ending, end};
use crate::guest::insn::{Bytes, Cr0Write, Unknown, is_invd, is_vmgexit, plain_length};
use crate::guest::{self, EFER_LMA, EFER_LME, GuestAddress, WalkError, field, general, is_long};
use crate::nested::C_BIT;
use crate::run::watch;
use crate::world::World;

/// Exit codes (vc_exit_codes.csv, and what SVM has beyond).
mod code {
    pub(super) const CR0_WRITE: u64 = 0x10;
    pub(super) const INVALID_OPCODE: u64 = 0x46;
    pub(super) const INTR: u64 = 0x60;
    pub(super) const NMI: u64 = 0x61;
    pub(super) const VINTR: u64 = 0x64;
    pub(super) const CPUID: u64 = 0x72;
    pub(super) const INVD: u64 = 0x76;
    pub(super) const HLT: u64 = 0x78;
    pub(super) const IOIO: u64 = 0x7b;
    pub(super) const MSR: u64 = 0x7c;
    pub(super) const SHUTDOWN: u64 = 0x7f;
    pub(super) const VMRUN: u64 = 0x80;
    pub(super) const VMMCALL: u64 = 0x81;
    pub(super) const VMLOAD: u64 = 0x82;
    pub(super) const SKINIT: u64 = 0x86;
    pub(super) const WBINVD: u64 = 0x89;
    pub(super) const NPF: u64 = 0x400;
}

/// EVENTINJ: valid, an exception with this vector.
const fn exception(vector: u64) -> u64 {
    1 << 31 | 3 << 8 | vector
}

/// EVENTINJ: with an error code.
const ERROR: u64 = 1 << 11;
/// EXITINFO1 of a nested fault: on an entry of the guest's page tables.
const TABLE_WALK: u64 = 1 << 33;
const INVALID_OPCODE: u64 = exception(6);
const GENERAL_PROTECTION: u64 = exception(13) | ERROR;
const PAGE_FAULT: u64 = exception(14) | ERROR;

/// One exit being handled.
struct Exited<'a> {
    world: &'a mut World,
    cpu: &'a mut Cpu,
    vmpl: u8,
    /// The registers at the exit.
    registers: guest::Registers,
}

/// Does what an exit asks for. Afterwards the vCPU runs on, or has left for the host.
pub(crate) fn handle(world: &mut World, cpu: &mut Cpu, vmpl: u8, exit: Exit) {
    let vcpu = Vcpu(cpu.id);
    if exit.code & INVALID == INVALID {
        world.flush();
        let rip = world.machine.registers(vcpu).map_or(0, |registers| read_u64(registers, vmsa::RIP));
        end(Ending::Ended, format_args!("vCPU {} at VMPL{vmpl}: VMRUN does not take its state, RIP {rip:#x}", vcpu.0));
    }
    let Some(registers) = world.machine.registers_mut(vcpu) else { return };
    cpu.save(registers);
    let registers = *registers;
    // An exception happens again by itself; an interrupt does not. The type is in bits 10:8, 0 for an interrupt.
    if exit.interrupted >> 31 & 1 == 1 && exit.interrupted >> 8 & 7 == 0 {
        world.machine.give_interrupt_back(vcpu, exit.interrupted as u8);
    }
    if !matches!(exit.code, code::INTR | code::NMI) {
        cpu.last_exit = now();
    }
    Exited { world, cpu, vmpl, registers }.dispatch(exit);
}

impl Exited<'_> {
    fn vcpu(&self) -> Vcpu {
        Vcpu(self.cpu.id)
    }

    fn read(&self, offset: usize) -> u64 {
        read_u64(&self.registers, offset)
    }

    /// Makes what the registers are now those of the vCPU, which still runs.
    fn put(&mut self) {
        let vcpu = self.vcpu();
        if let Some(registers) = self.world.machine.registers_mut(vcpu) {
            *registers = self.registers;
        }
    }

    fn dispatch(mut self, exit: Exit) {
        match exit.code {
            code::INTR | code::NMI => {
                let vcpu = self.vcpu();
                if !self.world.machine.poll(vcpu) {
                    watch(self.world, self.cpu, self.vmpl);
                }
            }
            // The next entry brings the interrupt.
            code::VINTR => {}
            code::NPF => self.nested_fault(exit),
            code::INVALID_OPCODE => self.unknown_instruction(),
            code::VMMCALL => self.vmmcall(),
            code::MSR => self.msr(exit.info1 & 1 != 0),
            code::CPUID => {
                let (leaf, subleaf) = (self.read(vmsa::RAX) as u32, self.read(vmsa::RCX) as u32);
                self.step(Op::Cpuid { leaf, subleaf }, 2, |_, _| {});
            }
            code::IOIO => self.port(exit),
            code::HLT => {
                self.cpu.is_idle = true;
                self.step(Op::Hlt, 0, |_, _| {});
            }
            code::CR0_WRITE => self.cr0(),
            code::VMRUN | code::VMLOAD..=code::SKINIT => self.cpu.inject(INVALID_OPCODE),
            code::SHUTDOWN => {
                self.world.flush();
                let (id, vmpl) = (self.cpu.id, self.vmpl);
                end(Ending::Ended, format_args!("vCPU {id} at VMPL{vmpl}: triple fault"))
            }
            other => {
                let bytes = self.bytes();
                // At most 15.
                let length = plain_length(&bytes) as u8;
                let code = if other == code::WBINVD && is_invd(&bytes) { code::INVD } else { other };
                self.step(Op::Intercepted { code, info1: exit.info1, length }, 0, |_, _| {});
            }
        }
    }

    fn bytes(&self) -> Bytes {
        Bytes::fetch(self.world, self.vmpl, &self.registers)
    }

    /// Executes an operation on the machine. If it retires, `done` puts the answer into the registers, and RIP moves.
    fn step(&mut self, op: Op, length: u64, done: impl FnOnce(&mut guest::Registers, Answer)) {
        let vcpu = self.vcpu();
        let outcome = self.world.machine.step(vcpu, op);
        match outcome {
            Outcome::Done(answer) => {
                // The machine may have changed registers of its own.
                if let Some(registers) = self.world.machine.registers(vcpu) {
                    self.registers = *registers;
                }
                done(&mut self.registers, answer);
                guest::advance(&mut self.registers, length);
                self.put();
            }
            other => self.stopped(other),
        }
    }

    /// An exception, or an exit to the host.
    fn stopped(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Fault(Fault::InvalidOpcode) => self.cpu.inject(INVALID_OPCODE),
            Outcome::Fault(Fault::GeneralProtection) => self.cpu.inject(GENERAL_PROTECTION),
            Outcome::Fault(Fault::Vc { code, gpa }) => self.vc(code, gpa),
            Outcome::Exit | Outcome::Done(_) => {}
        }
    }

    fn vc(&mut self, code: u64, gpa: u64) {
        let mut registers = self.registers;
        match guest::deliver_vc(self.world, self.vmpl, &mut registers, code) {
            Ok(()) => {
                self.registers = registers;
                self.put();
            }
            Err(why) => {
                self.world.flush();
                let (id, vmpl, rip) = (self.cpu.id, self.vmpl, self.read(vmsa::RIP));
                let what = why.0;
                end(
                    Ending::Ended,
                    format_args!("vCPU {id} at VMPL{vmpl}: #VC {code:#x} at {gpa:#x}, RIP {rip:#x}, and {what}"),
                );
            }
        }
    }

    fn nested_fault(&mut self, exit: Exit) {
        let is_in_private_half = exit.info2 & C_BIT != 0 || !guest::is_paged(&self.registers);
        // A walk of page tables is private whatever the address says; QEMU looks in the half that it names.
        let private = is_in_private_half || exit.info1 & TABLE_WALK != 0;
        let gpa = exit.info2 & !C_BIT;
        let reach = if exit.info1 & 1 << 4 != 0 {
            Reach::Fetch { user: self.registers[field::CPL] == 3 }
        } else if exit.info1 & 1 << 1 != 0 {
            Reach::Write
        } else {
            Reach::Read
        };
        let vcpu = self.vcpu();
        match self.world.machine.reach(vcpu, gpa, private, reach) {
            Ok(reached) => {
                // No code runs through the shared half, even where tables are looked for there.
                let reached = Reached { execute: reached.execute && is_in_private_half, ..reached };
                self.world.map(self.cpu.id, self.vmpl, gpa, is_in_private_half, reached);
            }
            Err(outcome) => self.stopped(outcome),
        }
    }

    /// The operand in RAX, translated; `None` if the guest got an exception.
    fn operand(&mut self) -> Option<u64> {
        let linear = self.read(vmsa::RAX);
        match guest::translate(self.world, self.vmpl, &self.registers, linear, false) {
            // Without the C-bit the machine meets a page that is not the guest's there, or one that is: the RMP decides.
            Ok(GuestAddress { gpa, .. }) => Some(gpa),
            Err(WalkError::PageFault { code }) => {
                write_u64(&mut self.registers, field::CR2, linear);
                self.put();
                self.cpu.inject(PAGE_FAULT | u64::from(code) << 32);
                None
            }
            Err(WalkError::Table | WalkError::Mode) => {
                self.cpu.inject(GENERAL_PROTECTION);
                None
            }
        }
    }

    fn unknown_instruction(&mut self) {
        let Some((instruction, length)) = Unknown::of(&self.bytes()) else {
            return self.cpu.inject(INVALID_OPCODE);
        };
        if self.registers[field::CPL] != 0 {
            return self.cpu.inject(GENERAL_PROTECTION);
        }
        let (rax, rcx, rdx) = (self.read(vmsa::RAX), self.read(vmsa::RCX), self.read(vmsa::RDX));
        let op = match instruction {
            // The lower halves are the operands.
            Unknown::Pvalidate => {
                let Some(gpa) = self.operand() else { return };
                Op::Pvalidate { gpa, ecx: rcx as u32, edx: rdx as u32 }
            }
            Unknown::Rmpadjust => {
                let Some(gpa) = self.operand() else { return };
                Op::Rmpadjust { gpa, rcx, rdx }
            }
            Unknown::Rmpquery => {
                let Some(gpa) = self.operand() else { return };
                Op::Rmpquery { gpa, rdx }
            }
            Unknown::Invlpgb => Op::Invlpgb { rax, ecx: rcx as u32, edx: rdx as u32 },
            Unknown::Tlbsync => Op::Tlbsync,
        };
        self.step(op, length, answer);
    }

    fn vmmcall(&mut self) {
        if is_vmgexit(&self.bytes()) {
            let regs = Regs {
                rax: self.read(vmsa::RAX),
                rcx: self.read(vmsa::RCX),
                rdx: self.read(vmsa::RDX),
                r8: self.read(vmsa::R8),
                r9: self.read(vmsa::R9),
            };
            self.step(Op::Vmgexit(regs), 0, |_, _| {});
        } else {
            self.step(Op::Intercepted { code: code::VMMCALL, info1: 0, length: 3 }, 0, |_, _| {});
        }
    }

    fn msr(&mut self, is_write: bool) {
        // The lower halves.
        let number = self.read(vmsa::RCX) as u32;
        let value = self.read(vmsa::RDX) << 32 | self.read(vmsa::RAX) & 0xffff_ffff;
        if !is_write {
            return self.step(Op::Rdmsr(number), 2, |registers, answer| {
                if let Answer::Value(value) = answer {
                    write_u64(registers, vmsa::RAX, value & 0xffff_ffff);
                    write_u64(registers, vmsa::RDX, value >> 32);
                }
            });
        }
        let value = if number == msr::EFER { value & !EFER_LMA | self.read(vmsa::EFER) & EFER_LMA } else { value };
        self.step(Op::Wrmsr(number, value), 2, |_, _| {});
    }

    fn port(&mut self, exit: Exit) {
        // EXITINFO2 is the next RIP; an instruction has at most 15 bytes.
        let length = exit.info2.wrapping_sub(self.read(vmsa::RIP)) as u8;
        self.step(Op::Intercepted { code: code::IOIO, info1: exit.info1, length }, 0, |_, _| {});
    }

    fn cr0(&mut self) {
        let Some((write, length)) = Cr0Write::of(&self.bytes(), is_long(&self.registers)) else {
            return self.cpu.inject(INVALID_OPCODE);
        };
        let old = self.read(vmsa::CR0);
        let new = match write {
            Cr0Write::Move { from } => self.read(general(from)) & 0xffff_ffff | 1 << 4,
            Cr0Write::ClearTaskSwitched => old & !(1 << 3),
        };
        let efer = self.read(vmsa::EFER);
        let is_paged = new & guest::CR0_PG != 0;
        let active = if is_paged && efer & EFER_LME != 0 { EFER_LMA } else { 0 };
        write_u64(&mut self.registers, vmsa::CR0, new);
        write_u64(&mut self.registers, vmsa::EFER, efer & !EFER_LMA | active);
        guest::advance(&mut self.registers, length);
        self.put();
    }
}

/// Puts what an instruction answers into the registers.
fn answer(registers: &mut guest::Registers, answer: Answer) {
    /// RFLAGS: CF.
    const CARRY: u64 = 1;
    match answer {
        Answer::Pvalidate { eax, carry } => {
            let flags = read_u64(registers, vmsa::RFLAGS) & !CARRY | u64::from(carry);
            write_u64(registers, vmsa::RFLAGS, flags);
            write_u64(registers, vmsa::RAX, u64::from(eax));
        }
        Answer::Rmpadjust { eax } => write_u64(registers, vmsa::RAX, u64::from(eax)),
        Answer::Rmpquery { eax, rcx, rdx } => {
            write_u64(registers, vmsa::RAX, u64::from(eax));
            write_u64(registers, vmsa::RCX, rcx);
            write_u64(registers, vmsa::RDX, rdx);
        }
        _ => {}
    }
}
