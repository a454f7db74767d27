//! Guests that trap instead of calling: what an instruction of theirs waits for, and who plays the computer for them.
//!
//! A guest that knows nothing of the vendor executes CPUID, RDMSR, WRMSR, IN and OUT as on any processor. Each is an
//! [`Exit`] that says what was tried. L1 completes the instruction with [`GuestState::complete`], which writes the registers
//! that the instruction defines and moves the instruction pointer behind it, or has the level take an exception instead
//! ([`GuestState::inject`]), or runs the level again: then the instruction is executed again.
//!
//! # For backend authors
//! - [`GuestState::complete`] changes the registers of [`Completion::registers`] and RIP, and nothing else (S2).
//! - An instruction is completed at most once (S1), and only with what fits it.
//! - Its length is the machine's word. Where that is not 1 to 15 bytes, `complete` fails and changes nothing.
//!
//! [`GuestState::complete`]: crate::GuestState::complete
//! [`GuestState::inject`]: crate::GuestState::inject

use crate::level::VcpuId;
use crate::switch::{Direction, Exit, MsrAccess};

/// The longest instruction, in bytes.
pub const INSTRUCTION_MAX: u64 = 15;

/// The instruction by which a level left, as far as its completion depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// CPUID.
    Cpuid,
    /// RDMSR.
    ReadMsr,
    /// IN of so many bytes: 1, 2 or 4.
    In {
        /// Bytes.
        size: u8,
    },
    /// WRMSR, OUT, or an instruction that no exit names: no register is written.
    Plain,
}

impl Trap {
    /// The trap of an exit. `None` for one that is no instruction to be completed: calls, HLT (which is over when the level
    /// runs again), memory accesses (whose operands only a decoder knows), and what happened to the level.
    pub const fn of(exit: &Exit) -> Option<Self> {
        match exit {
            Exit::Cpuid { .. } => Some(Self::Cpuid),
            Exit::Msr(MsrAccess::Read { .. }) => Some(Self::ReadMsr),
            Exit::Port(access) => Some(match access.direction {
                Direction::In => Self::In { size: access.size },
                Direction::Out => Self::Plain,
            }),
            Exit::Msr(MsrAccess::Write { .. }) | Exit::Other { .. } => Some(Self::Plain),
            Exit::Call(_)
            | Exit::MalformedCall(_)
            | Exit::HostCall(_)
            | Exit::Memory(_)
            | Exit::Halt
            | Exit::InterruptPending
            | Exit::Shutdown
            | Exit::Spurious => None,
        }
    }
}

/// What an instruction leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// CPUID: EAX, EBX, ECX, EDX.
    Cpuid([u32; 4]),
    /// RDMSR: the value for EDX:EAX.
    Msr(u64),
    /// IN: the value, of which as many bytes count as the instruction reads.
    In(u32),
    /// Nothing: the instruction is over and no register but RIP has changed.
    Plain,
}

impl Completion {
    /// New values of RAX, RCX, RDX and RBX, in encoding order; `None` for a register that stays. `rax` is the old RAX, of
    /// which IN of 1 or 2 bytes keeps the rest.
    ///
    /// `None` for a completion that does not fit the trap.
    pub const fn registers(self, trap: Trap, rax: u64) -> Option<[Option<u64>; 4]> {
        /// A 32-bit result clears the upper half.
        const fn wide(value: u32) -> Option<u64> {
            Some(value as u64)
        }
        match (self, trap) {
            (Self::Cpuid([eax, ebx, ecx, edx]), Trap::Cpuid) => Some([wide(eax), wide(ecx), wide(edx), wide(ebx)]),
            (Self::Msr(value), Trap::ReadMsr) => Some([wide(value as u32), None, wide((value >> 32) as u32), None]),
            (Self::In(value), Trap::In { size }) => {
                let kept = match size {
                    1 => rax & !0xff | value as u64 & 0xff,
                    2 => rax & !0xffff | value as u64 & 0xffff,
                    _ => value as u64,
                };
                Some([Some(kept), None, None, None])
            }
            (Self::Plain, Trap::Plain) => Some([None; 4]),
            _ => None,
        }
    }
}

/// The rest of the computer, for a guest that traps. Supplied by the integrator of a monitor, who may keep all the defaults:
/// the guest then finds the processor that the machine vouches for, no model-specific register and no device.
///
/// Every value comes from the guest. Methods must not wait for it, and what they keep has to be bounded.
pub trait Emulate {
    /// CPUID. `vouched` is what the machine vouches for ([`GuestState::cpuid`](crate::GuestState::cpuid)), `None` where it says
    /// nothing; that reads as zeros by default.
    fn cpuid(&mut self, vcpu: VcpuId, leaf: u32, subleaf: u32, vouched: Option<[u32; 4]>) -> [u32; 4] {
        let _ = (vcpu, leaf, subleaf);
        vouched.unwrap_or_default()
    }

    /// RDMSR. `None` is #GP, by default for every register.
    fn read_msr(&mut self, vcpu: VcpuId, msr: u32) -> Option<u64> {
        let _ = (vcpu, msr);
        None
    }

    /// WRMSR. `None` is #GP, by default for every register.
    fn write_msr(&mut self, vcpu: VcpuId, msr: u32, value: u64) -> Option<()> {
        let _ = (vcpu, msr, value);
        None
    }

    /// IN of 1, 2 or 4 bytes. All ones by default, as where no device answers.
    fn read_port(&mut self, vcpu: VcpuId, port: u16, size: u8) -> u32 {
        let _ = (vcpu, port, size);
        u32::MAX
    }

    /// OUT of 1, 2 or 4 bytes. Lost by default.
    fn write_port(&mut self, vcpu: VcpuId, port: u16, size: u8, value: u32) {
        let _ = (vcpu, port, size, value);
    }
}

impl<T: Emulate + ?Sized> Emulate for &mut T {
    fn cpuid(&mut self, vcpu: VcpuId, leaf: u32, subleaf: u32, vouched: Option<[u32; 4]>) -> [u32; 4] {
        (**self).cpuid(vcpu, leaf, subleaf, vouched)
    }

    fn read_msr(&mut self, vcpu: VcpuId, msr: u32) -> Option<u64> {
        (**self).read_msr(vcpu, msr)
    }

    fn write_msr(&mut self, vcpu: VcpuId, msr: u32, value: u64) -> Option<()> {
        (**self).write_msr(vcpu, msr, value)
    }

    fn read_port(&mut self, vcpu: VcpuId, port: u16, size: u8) -> u32 {
        (**self).read_port(vcpu, port, size)
    }

    fn write_port(&mut self, vcpu: VcpuId, port: u16, size: u8, value: u32) {
        (**self).write_port(vcpu, port, size, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::PortAccess;

    const RAX: u64 = 0x1111_2222_3333_4444;

    #[test]
    fn a_completion_writes_what_its_instruction_defines_and_clears_upper_halves() {
        let cpuid = Completion::Cpuid([0xa, 0xb, 0xc, u32::MAX]).registers(Trap::Cpuid, RAX);
        assert_eq!(cpuid, Some([Some(0xa), Some(0xc), Some(0xffff_ffff), Some(0xb)]));
        let msr = Completion::Msr(0x8000_0001_ffff_fffe).registers(Trap::ReadMsr, RAX);
        assert_eq!(msr, Some([Some(0xffff_fffe), None, Some(0x8000_0001), None]));
        assert_eq!(Completion::Plain.registers(Trap::Plain, RAX), Some([None; 4]));
    }

    #[test]
    fn in_keeps_what_it_does_not_read() {
        for (size, rax) in [(1, 0x1111_2222_3333_44dd), (2, 0x1111_2222_3333_ccdd), (4, 0xaabb_ccdd)] {
            let read = Completion::In(0xaabb_ccdd).registers(Trap::In { size }, RAX);
            assert_eq!(read, Some([Some(rax), None, None, None]), "{size}");
        }
    }

    #[test]
    fn what_does_not_fit_is_no_completion() {
        let completions = [Completion::Cpuid([0; 4]), Completion::Msr(0), Completion::In(0), Completion::Plain];
        let traps = [Trap::Cpuid, Trap::ReadMsr, Trap::In { size: 1 }, Trap::Plain];
        for (row, completion) in completions.into_iter().enumerate() {
            for (column, trap) in traps.into_iter().enumerate() {
                assert_eq!(completion.registers(trap, RAX).is_some(), row == column, "{completion:?} for {trap:?}");
            }
        }
    }

    #[test]
    fn only_exits_of_an_instruction_are_traps() {
        let port = |direction| Exit::Port(PortAccess { port: 1, size: 2, direction, value: 0 });
        assert_eq!(Trap::of(&Exit::Cpuid { leaf: 0, subleaf: 0 }), Some(Trap::Cpuid));
        assert_eq!(Trap::of(&Exit::Msr(MsrAccess::Read { msr: 1 })), Some(Trap::ReadMsr));
        assert_eq!(Trap::of(&Exit::Msr(MsrAccess::Write { msr: 1, value: 2 })), Some(Trap::Plain));
        assert_eq!(Trap::of(&port(Direction::In)), Some(Trap::In { size: 2 }));
        assert_eq!(Trap::of(&port(Direction::Out)), Some(Trap::Plain));
        assert_eq!(Trap::of(&Exit::Other { code: 3 }), Some(Trap::Plain));
        for none in [Exit::Halt, Exit::Spurious, Exit::Shutdown, Exit::InterruptPending] {
            assert_eq!(Trap::of(&none), None);
        }
    }
}
