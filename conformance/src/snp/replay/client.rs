//! One CPU of the client: its instructions, and how it asks the host and L1 for something.
//!
//! What ends a real kernel (`sev_es_terminate`, `panic`) ends the program here with an error that says so.

use coco_part_api::GuestMemory;
use coco_part_api::svsm::CallResult;
use machine::{Answer, Fault, Op, Regs};
use x86_64::PhysAddr;

use super::record::Log;
use crate::runner::Cpu;
use crate::snp::model::SnpModel;
use crate::snp::window::Window;
use crate::suite::{Stop, ensure, same};
use crate::world::Gate;

/// GHCB MSR.
const MSR_GHCB: u32 = 0xc001_0130;
/// SEV_STATUS MSR.
const MSR_SEV_STATUS: u32 = 0xc001_0131;
/// Exit code of the #VC of CPUID.
const VC_CPUID: u64 = 0x72;
/// RDX of the RMPADJUST by which the kernel finds out whether it runs at VMPL0: VMPL1, no rights.
const PROBE: u64 = 1;

/// How a call of L1 by the GHCB MSR is named in the list.
pub(super) const RUN_VMPL_MSR: &str = "MSR 016";
/// How a call of L1 by the GHCB page is named in the list.
pub(super) const RUN_VMPL_PAGE: &str = "GHCB 80000018";

/// RAX of an answer: done in part, the same call is made again.
pub(super) const INCOMPLETE: u64 = CallResult::INCOMPLETE.0 as u64;
/// RAX of an answer: nothing was done, the same call is made again.
pub(super) const BUSY: u64 = CallResult::BUSY.0 as u64;

/// By which protocol the kernel asks L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// GHCB MSR 0x016: early code, whether there is a GHCB page or not.
    Msr,
    /// Event 0x80000018 of the GHCB page.
    Page,
}

/// One CPU of the kernel.
pub(super) struct Kernel<'y> {
    pub(super) cpu: Cpu<'y, SnpModel>,
    pub(super) private: Window<'y>,
    pub(super) shared: Window<'y>,
    pub(super) log: Log,
    /// Call area in use.
    pub(super) area: u64,
    /// GHCB page in use, 0 before there is one.
    pub(super) ghcb: u64,
    /// VMPL by the secrets page.
    pub(super) vmpl: u8,
}

impl<'y> Kernel<'y> {
    /// A CPU that knows nothing yet.
    pub(super) fn new(cpu: Cpu<'y, SnpModel>, log: Log) -> Self {
        let (private, shared) = (Window::private(cpu, None), Window::shared(cpu));
        Self { cpu, private, shared, log, area: 0, ghcb: 0, vmpl: 0 }
    }

    fn execute(&self, op: Op) -> Result<Answer, Stop> {
        let step = self.cpu.steps();
        self.cpu.execute(op).map_err(|fault| Stop::Wrong(format!("instruction {step} raised {fault:x?}")))
    }

    /// PAUSE, by which a kernel waits for another CPU.
    pub(super) fn pause(&self) -> Result<(), Stop> {
        self.execute(Op::Pause).map(|_| ())
    }

    /// HLT.
    pub(super) fn halt(&self) -> Result<(), Stop> {
        self.execute(Op::Hlt).map(|_| ())
    }

    /// Waits until another CPU is at a gate.
    pub(super) fn wait_for(&self, gate: &Gate) -> Result<(), Stop> {
        while !gate.is_reached() {
            self.pause()?;
        }
        Ok(())
    }

    fn rdmsr(&self, number: u32) -> Result<u64, Stop> {
        match self.execute(Op::Rdmsr(number))? {
            Answer::Value(value) => Ok(value),
            other => Err(Stop::Wrong(format!("RDMSR gave {other:x?}"))),
        }
    }

    pub(super) fn ghcb_msr(&self) -> Result<u64, Stop> {
        self.rdmsr(MSR_GHCB)
    }

    pub(super) fn set_ghcb_msr(&self, value: u64) -> Result<(), Stop> {
        self.execute(Op::Wrmsr(MSR_GHCB, value)).map(|_| ())
    }

    pub(super) fn sev_status(&self) -> Result<u64, Stop> {
        self.rdmsr(MSR_SEV_STATUS)
    }

    /// VMGEXIT with these registers; those that come back.
    pub(super) fn vmgexit(&self, regs: Regs) -> Result<Regs, Stop> {
        match self.execute(Op::Vmgexit(regs))? {
            Answer::Regs(regs) => Ok(regs),
            other => Err(Stop::Wrong(format!("VMGEXIT gave {other:x?}"))),
        }
    }

    /// `rmpadjust(page, 4K, 1)`: must fail, or the kernel takes itself for VMPL0 and validates by itself.
    pub(super) fn probe_vmpl0(&self, page: u64, name: &str) -> Result<(), Stop> {
        let Answer::Rmpadjust { eax } = self.execute(Op::Rmpadjust { gpa: page, rcx: 0, rdx: PROBE })? else {
            return Err("RMPADJUST gave no code".into());
        };
        self.log.instruction("RMPADJUST", &format!("VMPL1, 4K, {name}"), &format!("{eax}, not VMPL0"));
        ensure(eax != 0, || format!("RMPADJUST on {name} succeeded: the kernel takes itself for VMPL0"))
    }

    /// CPUID, which traps.
    pub(super) fn cpuid_traps(&self, leaf: u32) -> Result<(), Stop> {
        let fault = self.cpu.execute(Op::Cpuid { leaf, subleaf: 0 }).err();
        same("CPUID raises", fault, Some(Fault::Vc { code: VC_CPUID, gpa: 0 }))?;
        self.log.instruction("CPUID", &format!("{leaf:#x}"), "#VC 0x72");
        Ok(())
    }

    pub(super) fn read_u64(&self, at: u64) -> Result<u64, Stop> {
        self.private.read_value(PhysAddr::new(at)).map_err(fault)
    }

    pub(super) fn read_u16(&self, at: u64) -> Result<u16, Stop> {
        self.private.read_value(PhysAddr::new(at)).map_err(fault)
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Stop> {
        self.private.write(PhysAddr::new(at), bytes).map_err(fault)
    }

    /// Calls L1 once: marks the call area, exits, takes the mark back (`svsm_issue_call`).
    pub(super) fn call_once(&self, via: Via, regs: Regs) -> Result<Regs, Stop> {
        let saved = match via {
            Via::Msr => {
                let saved = self.ghcb_msr()?;
                self.set_ghcb_msr(super::msr::RUN_VMPL0)?;
                saved
            }
            Via::Page => {
                self.prepare_run_vmpl0()?;
                0
            }
        };
        self.write(self.area, &[1])?;
        let answer = self.vmgexit(regs)?;
        let pending = self.private.swap_u8(PhysAddr::new(self.area), 0).map_err(fault)?;
        match via {
            Via::Msr => {
                let response = self.ghcb_msr()?;
                self.set_ghcb_msr(saved)?;
                same("the host's answer to MSR 0x016", response, super::msr::RUN_VMPL_DONE)?;
            }
            Via::Page => self.expect_no_exception()?,
        }
        ensure(pending == 0, || "L1 did not run: the call is still pending".to_owned())?;
        Ok(answer)
    }

    /// Calls L1 until the answer is neither INCOMPLETE nor BUSY (`svsm_perform_call_protocol`).
    pub(super) fn call(&self, via: Via, request: &str, regs: Regs) -> Result<Regs, Stop> {
        loop {
            let answer = self.call_once(via, regs)?;
            if answer.rax == BUSY {
                self.log.busy();
                continue;
            }
            self.log.vmgexit(via.code(), request, &result_name(answer.rax));
            if answer.rax != INCOMPLETE {
                return Ok(answer);
            }
        }
    }

    /// A call whose failure would end the kernel.
    pub(super) fn must_call(&self, via: Via, request: &str, regs: Regs, else_what: &str) -> Result<(), Stop> {
        let answer = self.call(via, request, regs)?;
        ensure(answer.rax == 0, || format!("{request} was answered {}: {else_what}", result_name(answer.rax)))
    }
}

impl Via {
    /// Its name in the list.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Msr => RUN_VMPL_MSR,
            Self::Page => RUN_VMPL_PAGE,
        }
    }
}

/// RAX of an answer by name. The kernel compares all 64 bits.
pub(super) fn result_name(rax: u64) -> String {
    u32::try_from(rax).map_or_else(|_| format!("{rax:#x}"), |low| CallResult(low).to_string())
}

/// An access that a kernel would not survive.
pub(super) fn fault(fault: crate::snp::window::MemoryFault) -> Stop {
    Stop::Wrong(fault.to_string())
}
