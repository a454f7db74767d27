//! Registers, counters and instructions of the processor that the host emulates.

use super::At;
use super::apic::Apic;
use super::ghcb::{self, Malformed, Reply, Request};
use super::policy::Policy;
use crate::Machine;
use crate::op::Vcpu;

/// x2APIC interrupt command register. Can only be written.
const X2APIC_ICR: u64 = 0x830;
/// Time stamp counter. Can only be read.
const TSC: u64 = 0x10;
/// What RDTSCP returns in ECX.
const TSC_AUX: u64 = 0xc000_0103;
/// Performance counters that RDPMC knows.
const COUNTERS: u64 = 6;
/// RAX of a VMMCALL that this host does not know.
const UNKNOWN_CALL: u64 = -1000_i64 as u64;
/// RAX of a VMMCALL by user code.
const NOT_PERMITTED: u64 = -1_i64 as u64;

/// MSRs that hold what was written to them, and with what they begin: APIC base, page attributes, TSC_AUX.
const STORED: [(u64, u64); 3] = [(0x1b, 0xfee0_0d00), (0x277, 0x0007_0406_0007_0406), (TSC_AUX, 0)];

/// Registers of one vCPU as the host emulates them.
#[derive(Clone, Debug)]
pub(super) struct Registers {
    dr7: u64,
    msrs: [u64; STORED.len()],
}

impl Default for Registers {
    fn default() -> Self {
        Self { dr7: 0x400, msrs: STORED.map(|(_, first)| first) }
    }
}

impl Registers {
    fn msr(&mut self, number: u64) -> Option<&mut u64> {
        self.msrs.iter_mut().zip(STORED).find(|(_, (known, _))| *known == number).map(|(value, _)| value)
    }
}

/// EAX and EDX.
fn halves(value: u64) -> Reply {
    Reply { rax: Some(value & 0xffff_ffff), rdx: Some(value >> 32), ..Reply::default() }
}

impl Machine {
    /// Event 0x7c. An MSR that this host does not have is #GP, as for the instruction.
    pub(super) fn msr_event(&mut self, at: At, request: &Request, info1: u64) -> Result<Reply, Malformed> {
        let number = request.input(ghcb::RCX)?;
        match info1 {
            0 if self.host.policy(at.vcpu) == Policy::LieMsr => Ok(halves(u64::MAX)),
            0 if number == TSC => Ok(self.clock()),
            0 if Apic::has(number) => Ok(self.read_apic(at, number).map_or_else(Reply::general_protection, halves)),
            0 => Ok(self.emulated(at.vcpu).msr(number).map_or_else(Reply::general_protection, |value| halves(*value))),
            1 => {
                let (low, high) = (request.input(ghcb::RAX)?, request.input(ghcb::RDX)?);
                let value = high << 32 | low & 0xffff_ffff;
                if number == X2APIC_ICR {
                    self.send_ipi(at, value);
                    return Ok(Reply::default());
                }
                if Apic::has(number) {
                    let written = self.write_apic(at, number, value);
                    return Ok(written.map_or_else(Reply::general_protection, |()| Reply::default()));
                }
                Ok(match self.emulated(at.vcpu).msr(number) {
                    Some(register) => {
                        *register = value;
                        Reply::default()
                    }
                    None => Reply::general_protection(),
                })
            }
            _ => Err(Malformed::InvalidInput),
        }
    }

    /// Event 0x27.
    pub(super) fn dr7_read(&mut self, at: At) -> Reply {
        Reply { rax: Some(self.emulated(at.vcpu).dr7), ..Reply::default() }
    }

    /// Event 0x37.
    pub(super) fn dr7_write(&mut self, at: At, request: &Request) -> Result<Reply, Malformed> {
        self.emulated(at.vcpu).dr7 = request.input(ghcb::RAX)?;
        Ok(Reply::default())
    }

    /// Event 0x6e: a clock that counts guest steps, unless an embedder has a better one.
    pub(super) fn clock(&self) -> Reply {
        halves(self.ticks())
    }

    /// Event 0x87.
    pub(super) fn clock_and_aux(&mut self, at: At) -> Reply {
        let aux = self.emulated(at.vcpu).msr(TSC_AUX).map(|value| *value & 0xffff_ffff);
        Reply { rcx: aux, ..self.clock() }
    }

    /// Event 0x6f: the counters count guest steps, too. One that does not exist is #GP.
    pub(super) fn counter(&self, request: &Request) -> Result<Reply, Malformed> {
        let exists = request.input(ghcb::RCX)? < COUNTERS;
        Ok(if exists { self.clock() } else { Reply::general_protection() })
    }

    /// Event 0x81: knows no call.
    pub(super) fn vmmcall(request: &Request) -> Result<Reply, Malformed> {
        request.input(ghcb::RAX)?;
        let rax = if request.cpl()? == 0 { UNKNOWN_CALL } else { NOT_PERMITTED };
        Ok(Reply { rax: Some(rax), ..Reply::default() })
    }

    fn emulated(&mut self, vcpu: Vcpu) -> &mut Registers {
        &mut self.host.vcpu_mut(vcpu).registers
    }
}
