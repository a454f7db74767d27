//! Everything that is neither a memory access nor TDCALL of L1.

use super::{Actor, Stopped};
use crate::tdx::exit::L2Exit;
use crate::tdx::guest_state::gpr;
use crate::tdx::module::fields::{CPUID_SUPERVISOR_VE, ENABLE_TDVMCALL};
use crate::tdx::status::{leaf, reason};
use crate::tdx::vcpu::{Finish, VeInfo};
use crate::tdx::vmcs::{bit, field};
use crate::tdx::{Answer, CallRegs, Machine, Regs, TdExit, Unswitched};

/// The exception of a register that may not be written like this.
const GP: Stopped = Stopped::GENERAL_PROTECTION;
const EFER: u32 = 0xc000_0080;

/// An MSR that the module does not switch.
fn unswitched_msr(state: &mut Unswitched, number: u32) -> Option<&mut u64> {
    match number {
        0xc000_0081 => Some(&mut state.star),
        0xc000_0082 => Some(&mut state.lstar),
        0xc000_0084 => Some(&mut state.fmask),
        0xc000_0102 => Some(&mut state.kernel_gs_base),
        0xc000_0103 => Some(&mut state.tsc_aux),
        0xda0 => Some(&mut state.xss),
        _ => None,
    }
}

/// XSETBV takes x87 always, AVX with SSE only, and nothing that this processor lacks.
fn is_legal_xcr0(value: u64) -> bool {
    value & !7 == 0 && value & 1 != 0 && value & 6 != 4
}

/// Exit qualification of IN and OUT.
fn io_qualification(port: u16, size: u8, is_in: bool) -> u64 {
    u64::from(size.saturating_sub(1)) | u64::from(is_in) << 3 | u64::from(port) << 16
}

impl Machine {
    /// TDCALL in an L2 goes to L1; leaf 0 goes to the host where L1 allows it (TDX-48).
    pub(super) fn tdcall_of_l2(&mut self, actor: Actor, regs: &Regs, cpl: u8) -> Result<Answer, Stopped> {
        let allowed = self.l2_ctls(actor.vcpu, actor.level) & ENABLE_TDVMCALL != 0 || !self.rule("TDX-48");
        if let Some(guest) = self.guest_mut(actor.vcpu, actor.level) {
            guest.state.set_regs(regs);
        }
        if allowed && cpl == 0 && regs.rax as u16 == leaf::VP_VMCALL {
            return self.tdcall(actor, regs);
        }
        Err(Stopped::ToL1(L2Exit { cpl, ..L2Exit::instruction(reason::TDCALL, 4, Finish::Regs) }))
    }

    pub(super) fn vmcall(&mut self, actor: Actor, regs: &CallRegs, cpl: u8) -> Result<Answer, Stopped> {
        if actor.level == 0 {
            return Err(Stopped::INVALID_OPCODE);
        }
        let CallRegs { rax, rcx, rdx, r8, r9 } = *regs;
        self.load_gprs(actor, &[(gpr::RAX, rax), (gpr::RCX, rcx), (gpr::RDX, rdx), (gpr::R8, r8), (gpr::R9, r9)]);
        Err(Stopped::ToL1(L2Exit { cpl: cpl & 3, ..L2Exit::instruction(reason::VMCALL, 3, Finish::Call) }))
    }

    /// In L1 the module answers a few leaves; the others are #VE.
    pub(super) fn cpuid(&mut self, actor: Actor, leaf: u32, subleaf: u32) -> Result<Answer, Stopped> {
        if actor.level > 0 {
            self.load_gprs(actor, &[(gpr::RAX, leaf.into()), (gpr::RCX, subleaf.into())]);
            return Err(Stopped::ToL1(L2Exit::instruction(reason::CPUID, 2, Finish::Cpuid)));
        }
        let trapped = self.vp_plain(actor.vcpu, CPUID_SUPERVISOR_VE) & 1 != 0;
        match leaf {
            _ if trapped => {}
            0 => return Ok(Answer::Cpuid([0x21, 0x756e_6547, 0x6c65_746e, 0x4965_6e69])),
            // "IntelTDX    "
            0x21 => return Ok(Answer::Cpuid([0, 0x6574_6e49, 0x2020_2020, 0x5844_546c])),
            _ => {}
        }
        Err(self.raise_ve(actor, VeInfo { reason: reason::CPUID, qualification: 0, gla: 0, gpa: 0, length: 2 }))
    }

    pub(super) fn rdmsr(&mut self, actor: Actor, number: u32) -> Result<Answer, Stopped> {
        if self.msr_exits(actor, number, false) {
            self.load_gprs(actor, &[(gpr::RCX, number.into())]);
            return Err(Stopped::ToL1(L2Exit::instruction(reason::RDMSR, 2, Finish::Msr)));
        }
        let efer = self.guest(actor.vcpu, actor.level).map_or(0xd01, |guest| guest.vmcs.get(field::EFER));
        let state = self.vcpu_mut(actor.vcpu).ok_or(GP)?;
        if let Some(value) = unswitched_msr(&mut state.unswitched, number) {
            return Ok(Answer::Value(*value));
        }
        match (number, actor.level) {
            (EFER, _) => Ok(Answer::Value(efer)),
            (_, 0) => Err(self.msr_ve(actor, reason::RDMSR)),
            _ => Err(GP),
        }
    }

    pub(super) fn wrmsr(&mut self, actor: Actor, number: u32, value: u64) -> Result<Answer, Stopped> {
        if self.msr_exits(actor, number, true) {
            let regs = [(gpr::RCX, number.into()), (gpr::RAX, value & 0xffff_ffff), (gpr::RDX, value >> 32)];
            self.load_gprs(actor, &regs);
            return Err(Stopped::ToL1(L2Exit::instruction(reason::WRMSR, 2, Finish::Nothing)));
        }
        let state = self.vcpu_mut(actor.vcpu).ok_or(GP)?;
        match unswitched_msr(&mut state.unswitched, number) {
            Some(slot) => {
                *slot = value;
                Ok(Answer::None)
            }
            None if actor.level == 0 => Err(self.msr_ve(actor, reason::WRMSR)),
            None => Err(GP),
        }
    }

    fn msr_ve(&mut self, actor: Actor, reason: u32) -> Stopped {
        self.raise_ve(actor, VeInfo { reason, qualification: 0, gla: 0, gpa: 0, length: 2 })
    }

    /// Whether the bitmap of the L2 that runs sends an access to L1; MSRs outside of it always go there (TDX-53,
    /// TDX-54).
    fn msr_exits(&self, actor: Actor, number: u32, write: bool) -> bool {
        if actor.level == 0 || !self.rule("TDX-53") {
            return false;
        }
        let (half, index) = match number {
            0x480..=0x492 => return true,
            0..=0x1fff => (0, number),
            0xc000_0000..=0xc000_1fff => (0x80, number & 0x1fff),
            _ => return true,
        };
        let word = half + index / 64 + if write { 0x100 } else { 0 };
        self.msr_word(actor.vcpu, actor.level, word as u16) >> (index % 64) & 1 == 1
    }

    pub(super) fn xsetbv(&mut self, actor: Actor, value: u64) -> Result<Answer, Stopped> {
        if actor.level > 0 {
            self.load_gprs(actor, &[(gpr::RCX, 0), (gpr::RAX, value & 0xffff_ffff), (gpr::RDX, value >> 32)]);
            return Err(Stopped::ToL1(L2Exit::instruction(reason::XSETBV, 3, Finish::Nothing)));
        }
        let state = self.vcpu_mut(actor.vcpu).filter(|_| is_legal_xcr0(value)).ok_or(GP)?;
        state.unswitched.xcr0 = value;
        Ok(Answer::None)
    }

    /// IN without, OUT with a value.
    pub(super) fn port(&mut self, actor: Actor, port: u16, size: u8, out: Option<u32>) -> Result<Answer, Stopped> {
        if !matches!(size, 1 | 2 | 4) {
            return Err(GP);
        }
        let qualification = io_qualification(port, size, out.is_none());
        if actor.level == 0 {
            let info = VeInfo { reason: reason::IO, qualification, gla: 0, gpa: 0, length: 1 };
            return Err(self.raise_ve(actor, info));
        }
        let finish = match out {
            None => Finish::Port(size),
            Some(value) => {
                self.load_gprs(actor, &[(gpr::RAX, value.into())]);
                Finish::Nothing
            }
        };
        self.load_gprs(actor, &[(gpr::RDX, port.into())]);
        Err(Stopped::ToL1(L2Exit { qualification, ..L2Exit::instruction(reason::IO, 1, finish) }))
    }

    pub(super) fn hlt(&mut self, actor: Actor) -> Result<Answer, Stopped> {
        if actor.level == 0 {
            let info = VeInfo { reason: reason::HLT, qualification: 0, gla: 0, gpa: 0, length: 1 };
            return Err(self.raise_ve(actor, info));
        }
        Err(Stopped::ToL1(L2Exit::instruction(reason::HLT, 1, Finish::Nothing)))
    }

    pub(super) fn pause(&mut self, actor: Actor) -> Result<Answer, Stopped> {
        let guest = self.guest(actor.vcpu, actor.level);
        if guest.is_some_and(|guest| guest.vmcs.has(field::PRIMARY_CONTROLS, bit::PAUSE_EXITING)) {
            return Err(Stopped::ToL1(L2Exit::instruction(reason::PAUSE, 2, Finish::Nothing)));
        }
        Ok(Answer::None)
    }

    pub(super) fn end(&mut self, actor: Actor) -> Result<Answer, Stopped> {
        match self.guest_mut(actor.vcpu, actor.level) {
            None => Err(Stopped::Td(TdExit::Ended)),
            Some(guest) => {
                guest.program.iter_mut().for_each(|program| program.ended = true);
                Err(Stopped::ToL1(L2Exit::of(reason::TRIPLE_FAULT)))
            }
        }
    }

    pub(super) fn read_unswitched(&mut self, actor: Actor) -> Result<Answer, Stopped> {
        let state = self.vcpu(actor.vcpu).ok_or(GP)?;
        Ok(Answer::Unswitched(state.unswitched.clone()))
    }

    pub(super) fn write_unswitched(&mut self, actor: Actor, value: &Unswitched) -> Result<Answer, Stopped> {
        if !is_legal_xcr0(value.xcr0) {
            return Err(GP);
        }
        let state = self.vcpu_mut(actor.vcpu).ok_or(GP)?;
        let now = &mut *state.unswitched;
        let Unswitched { vector, cr2, dr, dr6, .. } = *value;
        let common = Unswitched { vector, cr2, dr, dr6, ..now.clone() };
        *now = if actor.level == 0 { value.clone() } else { common };
        Ok(Answer::None)
    }

    /// Puts what an instruction has in registers into the registers of the L2.
    fn load_gprs(&mut self, actor: Actor, values: &[(usize, u64)]) {
        let Some(guest) = self.guest_mut(actor.vcpu, actor.level) else { return };
        for (index, value) in values {
            if let Some(slot) = guest.state.gpr.get_mut(*index) {
                *slot = *value;
            }
        }
    }
}
