//! #VC: in the level itself, or with ReflectVC as an exit for a more privileged one.
//!
//! With ReflectVC the host sees `VMEXIT_VC` and no detail. The VMSA gets what #VC would have told: the intercept's own code,
//! EXITINFO1 and 2, the registers, and in GUEST_NRIP the next instruction. A nested page fault gives no GUEST_NRIP.

use super::Actor;
use crate::rmp::npf;
use crate::run::{Leave, Pending, exit_code};
use crate::{Fault, Machine, Op, Outcome, Regs, vmsa};

/// EXITINFO1 of IOIO: IN.
const IOIO_IN: u64 = 1 << 0;
/// 64-bit addresses.
const IOIO_A64: u64 = 1 << 9;

/// What the processor saves of an intercepted instruction.
struct Intercepted {
    regs: Regs,
    info1: u64,
    pending: Pending,
    /// Bytes, where the processor tells the next instruction.
    length: Option<u64>,
}

/// EXITINFO1 of IOIO: the size in bits 6:4 one-hot, the port in 31:16.
fn ioio(port: u16, size: u8, direction: u64) -> u64 {
    u64::from(port) << 16 | IOIO_A64 | u64::from(size & 7) << 4 | direction
}

fn intercepted(op: &Op, code: u64, old: Regs) -> Intercepted {
    let quiet = |pending, length| Intercepted { regs: old, info1: 0, pending, length };
    match op {
        Op::Cpuid { leaf, subleaf } => {
            let regs = Regs { rax: u64::from(*leaf), rcx: u64::from(*subleaf), ..old };
            Intercepted { regs, ..quiet(Pending::Cpuid, Some(2)) }
        }
        Op::Rdmsr(number) => {
            Intercepted { regs: Regs { rcx: u64::from(*number), ..old }, ..quiet(Pending::MsrValue, Some(2)) }
        }
        Op::Wrmsr(number, value) => {
            let regs = Regs { rcx: u64::from(*number), rax: value & 0xffff_ffff, rdx: value >> 32, ..old };
            Intercepted { regs, info1: 1, ..quiet(Pending::Nothing, Some(2)) }
        }
        Op::In { port, size } => {
            let regs = Regs { rdx: u64::from(*port), ..old };
            Intercepted { regs, info1: ioio(*port, *size, IOIO_IN), ..quiet(Pending::Port(*size), Some(1)) }
        }
        Op::Out { port, size, value } => {
            let regs = Regs { rdx: u64::from(*port), rax: u64::from(*value), ..old };
            Intercepted { regs, info1: ioio(*port, *size, 0), ..quiet(Pending::Nothing, Some(1)) }
        }
        Op::Intercepted { info1, length, .. } => {
            Intercepted { info1: *info1, ..quiet(Pending::Nothing, Some(u64::from(*length))) }
        }
        // Which access it was; the processor has not looked at the instruction.
        _ if code == exit_code::NPF => {
            let write = match op {
                Op::Write { .. } | Op::Zero { .. } | Op::Swap8 { .. } | Op::CompareExchange64 { .. } => npf::WRITE,
                Op::Fetch { .. } => npf::FETCH,
                _ => 0,
            };
            Intercepted { info1: npf::PRESENT | npf::RESERVED | npf::FINAL | write, ..quiet(Pending::Retry, None) }
        }
        _ => quiet(Pending::Retry, Some(0)),
    }
}

impl Machine {
    /// An exception goes to the program, or with ReflectVC, if it is a #VC, to the host and the level above.
    pub(crate) fn deliver(&mut self, actor: Actor, op: &Op, fault: Fault) -> Outcome {
        let Fault::Vc { code, gpa } = fault else { return Outcome::Fault(fault) };
        let Some(running) = self.vcpus.get(usize::from(actor.vcpu.0)).and_then(|state| state.running.as_ref()) else {
            return Outcome::Exit;
        };
        let features = vmsa::read_u64(&running.registers[..], vmsa::SEV_FEATURES);
        if features & vmsa::features::REFLECT_VC == 0 || actor.vmpl == 0 {
            return Outcome::Fault(fault);
        }
        let Intercepted { regs, info1, pending, length } = intercepted(op, code, vmsa::regs(&running.registers));
        let leave = Leave {
            guest_code: code,
            info1,
            info2: gpa,
            // An embedder's registers are in place, whole; an operation names only what it uses of them.
            regs: (!self.is_embedded()).then_some(regs),
            length: length.unwrap_or(0),
            ..Leave::plain(exit_code::VC, pending)
        };
        self.leave(actor.vcpu, &leave);
        Outcome::Exit
    }
}
