//! The port of `backend-snp` on the step machine: each method is one operation, with the raw operands of the instruction.

use backend_snp::abi::page::PageSize;
use backend_snp::instr::{
    CallFrame, Fault, Invlpgb, Page, Port, PvalidateCode, PvalidateOp, PvalidateResult, RmpAttributes, RmpCode,
    RmpQueryResult, Vmpl,
};
use machine::{Answer, Op, Regs};
use x86_64::PhysAddr;

use super::defect::Defect;
use super::model::SnpModel;
use crate::runner::Cpu;

/// GHCB MSR (`ghcb_msr`).
const MSR_GHCB: u32 = 0xc001_0130;
/// SEV_STATUS MSR (`sev_features`).
const MSR_SEV_STATUS: u32 = 0xc001_0131;

/// The instructions of one vCPU at one level of the machine.
#[derive(Clone, Copy)]
pub struct ModelPort<'y> {
    cpu: Cpu<'y, SnpModel>,
    defect: Option<Defect>,
}

impl<'y> ModelPort<'y> {
    /// The port of a program, with a deliberate defect or none.
    pub fn new(cpu: Cpu<'y, SnpModel>, defect: Option<Defect>) -> Self {
        Self { cpu, defect }
    }

    /// An instruction that raises no exception in an SNP guest at CPL 0.
    fn certain(&self, op: Op) -> Answer {
        self.cpu.execute(op).unwrap_or(Answer::None)
    }
}

fn fault(fault: machine::Fault) -> Fault {
    match fault {
        machine::Fault::GeneralProtection => Fault::GeneralProtection,
        machine::Fault::InvalidOpcode => Fault::InvalidOpcode,
        machine::Fault::Vc { code, .. } => Fault::Vc { code },
    }
}

impl Port for ModelPort<'_> {
    fn pvalidate(&mut self, page: Page, op: PvalidateOp) -> Result<PvalidateResult, Fault> {
        let edx = match op {
            PvalidateOp::Validate => 1,
            PvalidateOp::Rescind => 0,
        };
        let op = Op::Pvalidate { gpa: page.at().as_u64(), ecx: u32::from(page.size().number()), edx };
        match self.cpu.execute(op).map_err(fault)? {
            Answer::Pvalidate { eax, carry } => {
                let carry = carry && self.defect != Some(Defect::CarryHidden);
                Ok(PvalidateResult { code: PvalidateCode(eax), carry })
            }
            _ => Err(Fault::InvalidOpcode),
        }
    }

    fn rmpadjust(&mut self, page: Page, attributes: RmpAttributes) -> Result<RmpCode, Fault> {
        if let Some(defect) = self.defect
            && defect.swallows(attributes)
        {
            return Ok(RmpCode::SUCCESS);
        }
        let rdx = match self.defect {
            Some(Defect::RightsForEverybody) if !attributes.is_vmsa() && !attributes.permissions().is_empty() => {
                // The same rights to the level below the one that was meant.
                let mut wider = *self;
                wider.defect = None;
                let target = Vmpl::VMPL3;
                wider.rmpadjust(page, RmpAttributes::new(target, attributes.permissions()))?;
                attributes.bits()
            }
            _ => attributes.bits(),
        };
        let op = Op::Rmpadjust { gpa: page.at().as_u64(), rcx: u64::from(page.size().number()), rdx };
        match self.cpu.execute(op).map_err(fault)? {
            Answer::Rmpadjust { eax } => Ok(RmpCode(eax)),
            _ => Err(Fault::InvalidOpcode),
        }
    }

    fn rmpquery(&mut self, at: PhysAddr, target: Vmpl) -> Result<RmpQueryResult, Fault> {
        let op = Op::Rmpquery { gpa: at.as_u64(), rdx: u64::from(target.number()) };
        match self.cpu.execute(op).map_err(fault)? {
            Answer::Rmpquery { eax, rcx, rdx } => Ok(RmpQueryResult {
                code: RmpCode(eax),
                attributes: RmpAttributes::from_bits_retain(rdx),
                size: PageSize::from_bit(rcx),
            }),
            _ => Err(Fault::InvalidOpcode),
        }
    }

    fn vmgexit(&mut self) {
        self.certain(Op::Vmgexit(Regs::default()));
    }

    fn vmgexit_call(&mut self, regs: &mut CallFrame) {
        let CallFrame { rax, rcx, rdx, r8, r9 } = *regs;
        if let Answer::Regs(after) = self.certain(Op::Vmgexit(Regs { rax, rcx, rdx, r8, r9 })) {
            *regs = CallFrame { rax: after.rax, rcx: after.rcx, rdx: after.rdx, r8: after.r8, r9: after.r9 };
        }
    }

    fn read_ghcb_msr(&mut self) -> u64 {
        match self.certain(Op::Rdmsr(MSR_GHCB)) {
            Answer::Value(value) => value,
            _ => 0,
        }
    }

    fn write_ghcb_msr(&mut self, value: u64) {
        self.certain(Op::Wrmsr(MSR_GHCB, value));
    }

    fn read_sev_status(&mut self) -> u64 {
        match self.certain(Op::Rdmsr(MSR_SEV_STATUS)) {
            Answer::Value(value) => value,
            _ => 0,
        }
    }

    fn invlpgb(&mut self, request: Invlpgb) {
        if self.defect != Some(Defect::FlushDropped) {
            let (rax, ecx, edx) = (request.rax().bits(), request.ecx().bits(), request.edx().bits());
            self.certain(Op::Invlpgb { rax, ecx, edx });
        }
    }

    fn tlbsync(&mut self) {
        if self.defect != Some(Defect::FlushDropped) {
            self.certain(Op::Tlbsync);
        }
    }

    fn pause(&mut self) {
        self.certain(Op::Pause);
    }

    fn halt(&mut self) {
        self.certain(Op::Hlt);
    }
}
