//! O3 and O7: the pages through which an L2 runs.

use alloc::format;

use crate::Vcpu;
use crate::nested::page_of;
use crate::tdx::Machine;
use crate::tdx::exit::L2Exit;
use crate::tdx::guest_state::{GuestState, gpr};
use crate::tdx::sept::attr;
use crate::tdx::status::reason;

/// An L2 after an exit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    state: GuestState,
    reason: u32,
    /// RIPs that mean the same program.
    retry: Option<u64>,
    done: Option<u64>,
}

/// General registers that L1 may change after an exit, one bit each in encoding order.
fn may_change(basic: u32) -> u16 {
    let bits = |registers: &[usize]| registers.iter().fold(0, |bits, register| bits | 1 << register);
    match basic {
        reason::VMCALL => bits(&[gpr::RAX, gpr::RCX, gpr::RDX, gpr::R8, gpr::R9]),
        reason::CPUID => bits(&[gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX]),
        reason::RDMSR => bits(&[gpr::RAX, gpr::RDX]),
        reason::IO | reason::EPT_VIOLATION => bits(&[gpr::RAX]),
        reason::TDCALL => !bits(&[gpr::RSP]),
        _ => 0,
    }
}

impl Machine {
    /// O3: no L2 can write a page through which one runs.
    pub(super) fn check_frame(&mut self, vm: u8, gpa: u64, what: &str) {
        if let Some((writer, how)) = self.vm_with(page_of(gpa), attr::WRITE) {
            self.violation("O3", format!("VM{writer} can write the {what} of VM{vm} at {gpa:#x} {how}"));
        }
    }

    pub(super) fn remember_registers(&mut self, vcpu: Vcpu, vm: u8, exit: &L2Exit) {
        let Some(guest) = self.guest(vcpu, vm) else { return };
        let (retry, done) = guest.program.map_or((None, None), |program| (program.retry, program.done));
        let left = Left { state: guest.state, reason: exit.reason, retry, done };
        self.oracles.left.insert((vcpu.0, vm), left);
    }

    /// O7: of the same program only the registers changed that may.
    pub(super) fn check_registers(&mut self, vcpu: Vcpu, vm: u8, state: &GuestState) {
        let Some(left) = self.oracles.left.get(&(vcpu.0, vm)).copied() else { return };
        let same = [left.retry, left.done].contains(&Some(state.rip));
        if !same {
            return;
        }
        let allowed = may_change(left.reason);
        let changed = |index: usize| left.state.gpr.get(index) != state.gpr.get(index);
        let general = (0..16).find(|index| allowed >> index & 1 == 0 && changed(*index));
        let name = match general {
            Some(index) => Some(format!("general register {index}")),
            None if left.state.rflags != state.rflags => Some("RFLAGS".into()),
            None if left.state.ssp != state.ssp => Some("SSP".into()),
            None => None,
        };
        if let Some(name) = name {
            self.violation("O7", format!("L1 changed {name} of VM{vm} on vCPU {} after exit {}", vcpu.0, left.reason));
        }
    }
}
