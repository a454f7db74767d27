//! TDVMCALL: what the host answers (vmcall.csv).

use super::policy::Policy;
use super::{Machine, Next};
use crate::Vcpu;
use crate::tdx::status::vmcall;
use crate::tdx::{HostEvent, Regs, Stop};

/// x2APIC ICR.
const MSR_ICR: u64 = 0x830;
/// APIC base, and its value: x2APIC on.
const MSR_APIC_BASE: (u64, u64) = (0x1b, 0xfee0_0d00);

/// An answer that carries a status alone.
fn status(r10: u64) -> Regs {
    Regs { r10, ..Regs::default() }
}

/// All ones of so many bytes, for devices that are not there.
fn open_bus(size: u64) -> Option<u64> {
    match size {
        1 => Some(0xff),
        2 => Some(0xffff),
        4 => Some(0xffff_ffff),
        8 => Some(u64::MAX),
        _ => None,
    }
}

impl Machine {
    /// Handles the call of L1, or of an L2 that may call the host.
    pub(super) fn host_call(&mut self, vcpu: Vcpu, level: u8, call: &Regs) -> Next {
        if call.r10 == 0 && call.r11 == vmcall::FATAL_ERROR {
            return self.fatal_error(vcpu, call);
        }
        let mut answer = if call.r10 == 0 { self.answer_to(vcpu, call) } else { status(vmcall::SUBFUNC_UNSUPPORTED) };
        if let Policy::VmcallStatus(r10) = self.host.policy(vcpu) {
            answer.r10 = r10;
        }
        self.note(vcpu, HostEvent::Answered { sub_function: call.r11, status: answer.r10 });
        self.answer_call(vcpu, &answer);
        if call.r10 == 0 && call.r11 == vmcall::HLT && self.config.hlt_waits {
            self.host.vcpu_mut(vcpu).halted = true;
            return self.wait_for_wake_up(vcpu);
        }
        match self.host.policy(vcpu) {
            Policy::ResumeL1 { .. } if level > 0 => self.resume_l1(vcpu),
            _ => Next::Same,
        }
    }

    fn answer_to(&mut self, vcpu: Vcpu, call: &Regs) -> Regs {
        match call.r11 {
            vmcall::CPUID => self.answer_cpuid(vcpu, call),
            vmcall::HLT | vmcall::WBINVD => status(0),
            vmcall::IO | vmcall::MMIO => {
                let known = call.r13 <= 1 && !(call.r11 == vmcall::IO && call.r12 == 8);
                match open_bus(call.r12).filter(|_| known) {
                    Some(ones) => Regs { r11: if call.r13 == 0 { ones } else { 0 }, ..status(0) },
                    None => status(vmcall::INVALID_OPERAND),
                }
            }
            vmcall::RDMSR => match (self.host.policy(vcpu), call.r12) {
                (Policy::LieMsr, _) => Regs { r11: u64::MAX, ..status(0) },
                (_, number) if number == MSR_APIC_BASE.0 => Regs { r11: MSR_APIC_BASE.1, ..status(0) },
                _ => status(vmcall::INVALID_OPERAND),
            },
            vmcall::WRMSR if call.r12 == MSR_ICR => {
                self.send_ipi(vcpu, call.r13);
                status(0)
            }
            vmcall::WRMSR => status(vmcall::INVALID_OPERAND),
            vmcall::INFO => status(if call.r12 <= 1 { 0 } else { vmcall::INVALID_OPERAND }),
            vmcall::MAP_GPA => {
                let (r10, r11) = self.map_gpa(vcpu, call.r12, call.r13);
                Regs { r11, ..status(r10) }
            }
            vmcall::GET_QUOTE => status(self.get_quote(vcpu, call.r12, call.r13)),
            _ => status(vmcall::SUBFUNC_UNSUPPORTED),
        }
    }

    /// A hypervisor without features: the signature leaf, the others zero.
    fn answer_cpuid(&self, vcpu: Vcpu, call: &Regs) -> Regs {
        let [r12, r13, r14, r15]: [u32; 4] = match call.r12 {
            0x4000_0000 => [0x4000_0000, 0x4556_454c, 0x4c45_564c, 0x4556_4c45],
            _ => [0; 4],
        };
        let lie = if self.host.policy(vcpu) == Policy::LieCpuid { u32::MAX } else { 0 };
        let value = |register: u32| u64::from(register ^ lie);
        Regs { r12: value(r12), r13: value(r13), r14: value(r14), r15: value(r15), ..status(0) }
    }

    fn fatal_error(&mut self, vcpu: Vcpu, call: &Regs) -> Next {
        self.note(vcpu, HostEvent::Text("fatal error reported"));
        let stop = Stop::FatalError(call.r12);
        match self.host.policy(vcpu) {
            Policy::IgnoreFatalError => {
                self.answer_call(vcpu, &status(0));
                Next::Same
            }
            Policy::StopOneOnly => Next::Stop(stop),
            _ => {
                self.host.dead = Some(stop);
                Next::Stop(stop)
            }
        }
    }
}
