//! TDG.MR.REPORT, MR.VERIFYREPORT and MR.RTMR.EXTEND (tdreport.csv).
//!
//! The MAC key is a test key ([`report_key`]). Hashes and MAC are real.

use alloc::boxed::Box;

use super::hash::{hmac_sha256, report_key, sha384};
use super::{Refused, success};
use crate::nested::offset_of;
use crate::tdx::exec::{Access, Actor, Stopped};
use crate::tdx::machine::Measurement;
use crate::tdx::status::{INVALID_CPUSVN, INVALID_REPORTMACSTRUCT, operand};
use crate::tdx::{Machine, Regs};

/// Bytes of a report.
const REPORT: usize = 1024;
/// Bytes of REPORTMACSTRUCT.
const MAC_STRUCT: usize = 256;
/// XFAM of the TD: x87, SSE, AVX.
pub(crate) const XFAM: u64 = 0x7;

/// Offsets in a report.
mod at {
    pub(super) const CPUSVN: usize = 16;
    pub(super) const TEE_TCB_INFO_HASH: usize = 32;
    pub(super) const TEE_INFO_HASH: usize = 80;
    pub(super) const REPORTDATA: usize = 128;
    pub(super) const MAC: usize = 224;
    pub(super) const TEE_TCB_INFO: usize = 256;
    pub(super) const TEE_TCB_INFO_END: usize = 256 + 239;
    pub(super) const TEE_TCB_SVN: usize = 264;
    pub(super) const MRSEAM: usize = 280;
    pub(super) const TDINFO: usize = 512;
    pub(super) const XFAM: usize = 520;
    pub(super) const MRTD: usize = 528;
    pub(super) const RTMR0: usize = 720;
}

/// REPORT_TYPE: TDX.
const TYPE_TDX: u8 = 0x81;
/// TEE_TCB_INFO: which fields are valid.
const VALID_FIELDS: u64 = 0x3_01ff;
const CPUSVN: [u8; 16] = [3; 16];
const TEE_TCB_SVN: [u8; 16] = [5, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn put(report: &mut [u8; REPORT], offset: usize, bytes: &[u8]) {
    if let Some(slot) = report.get_mut(offset..offset + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

impl Machine {
    /// A local report over 64 bytes.
    pub(crate) fn report(&self, data: &[u8; 64]) -> Box<[u8; REPORT]> {
        let mut report = Box::new([0; REPORT]);
        put(&mut report, 0, &[TYPE_TDX]);
        put(&mut report, at::CPUSVN, &CPUSVN);
        put(&mut report, at::REPORTDATA, data);
        put(&mut report, at::TEE_TCB_INFO, &VALID_FIELDS.to_le_bytes());
        put(&mut report, at::TEE_TCB_SVN, &TEE_TCB_SVN);
        put(&mut report, at::MRSEAM, &sha384(&[b"TEST MODULE of a TDX machine model"]));
        put(&mut report, at::TDINFO, &self.config.attributes.to_le_bytes());
        put(&mut report, at::XFAM, &XFAM.to_le_bytes());
        put(&mut report, at::MRTD, &self.td.mrtd.0);
        for (index, rtmr) in (0..).zip(&self.td.rtmr) {
            put(&mut report, at::RTMR0 + index * 48, &rtmr.0);
        }
        let tcb = sha384(&[&report[at::TEE_TCB_INFO..at::TEE_TCB_INFO_END]]);
        let info = sha384(&[&report[at::TDINFO..]]);
        put(&mut report, at::TEE_TCB_INFO_HASH, &tcb);
        put(&mut report, at::TEE_INFO_HASH, &info);
        let mac = hmac_sha256(&report_key(self.config.seed), &report[..at::MAC]);
        put(&mut report, at::MAC, &mac);
        report
    }

    /// Whether a report was made by this platform: its MAC and both hashes.
    pub fn report_is_genuine(&self, report: &[u8; 1024]) -> bool {
        let hash = |offset: usize, of: &[u8]| report.get(offset..offset + 48) == Some(&sha384(&[of]));
        let mac = hmac_sha256(&report_key(self.config.seed), &report[..at::MAC]);
        report[at::MAC..MAC_STRUCT] == mac
            && hash(at::TEE_TCB_INFO_HASH, &report[at::TEE_TCB_INFO..at::TEE_TCB_INFO_END])
            && hash(at::TEE_INFO_HASH, &report[at::TDINFO..])
    }

    /// In this order: alignments, REPORTDATA, subtype, busy, memory for the report.
    pub(super) fn mr_report(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        if !regs.rcx.is_multiple_of(REPORT as u64) {
            return Err(Refused::operand(operand::RCX));
        }
        if !regs.rdx.is_multiple_of(64) || !self.is_address(regs.rdx) {
            return Err(Refused::operand(operand::RDX));
        }
        let mut data = [0; 64];
        self.read_operand(actor, regs.rdx, &mut data)?;
        if regs.r8 != 0 {
            return Err(Refused::operand(operand::R8));
        }
        self.busy(actor, operand::RTMR)?;
        if !self.is_address(regs.rcx) {
            return Err(Refused::operand(operand::RCX));
        }
        let report = self.report(&data);
        let target = self.memory_operand(actor, regs.rcx, Access::Write)?;
        if target.shared {
            self.shared.write(target.page, offset_of(regs.rcx), &report[..]);
        } else {
            self.private.write(target.page, offset_of(regs.rcx), &report[..]);
            self.oracle_module_wrote(regs.rcx, REPORT);
        }
        Ok(success(*regs))
    }

    pub(super) fn verify_report(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        if !regs.rcx.is_multiple_of(MAC_STRUCT as u64) || !self.is_private(regs.rcx) {
            return Err(Refused::operand(operand::RCX));
        }
        let mut structure = [0; MAC_STRUCT];
        self.read_operand(actor, regs.rcx, &mut structure)?;
        if structure[at::CPUSVN..at::TEE_TCB_INFO_HASH] != CPUSVN {
            return Err(INVALID_CPUSVN.into());
        }
        let mac = hmac_sha256(&report_key(self.config.seed), &structure[..at::MAC]);
        if self.rule("REPORT-MAC") && (structure[at::MAC..] != mac || structure[0] != TYPE_TDX) {
            return Err(INVALID_REPORTMACSTRUCT.into());
        }
        Ok(success(*regs))
    }

    /// New value = SHA384(old || value). In this order: address, value, index, busy.
    pub(super) fn rtmr_extend(&mut self, actor: Actor, regs: &Regs) -> Result<Regs, Refused> {
        if !regs.rcx.is_multiple_of(64) || !self.is_private(regs.rcx) {
            return Err(Refused::operand(operand::RCX));
        }
        let mut value = [0; 48];
        self.read_operand(actor, regs.rcx, &mut value)?;
        if regs.rdx > 3 {
            return Err(Refused::operand(operand::RDX));
        }
        self.busy(actor, operand::RTMR)?;
        if let Some(rtmr) = self.td.rtmr.get_mut(regs.rdx as usize) {
            *rtmr = Measurement(sha384(&[&rtmr.0, &value]));
        }
        Ok(success(*regs))
    }

    /// Inside of the address width, private or shared.
    fn is_address(&self, gpa: u64) -> bool {
        gpa & !self.shared_bit() < self.shared_bit()
    }

    /// Reads memory of L1 that an operand names; it crosses no page.
    fn read_operand(&mut self, actor: Actor, gpa: u64, out: &mut [u8]) -> Result<(), Stopped> {
        let target = self.memory_operand(actor, gpa, Access::Read)?;
        let memory = if target.shared { &self.shared } else { &self.private };
        memory.read(target.page, offset_of(gpa), out);
        Ok(())
    }
}
