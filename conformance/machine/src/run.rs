//! VMRUN and the exits: how a VMSA comes onto a vCPU and leaves it.
//!
//! While a VMSA runs, its registers are in the processor: a copy of the page made by VMRUN. An exit stores them back, together
//! with the exit code. The host learns code, EXITINFO and the GHCB MSR ([`ExitInfo`]), never the registers.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::exec::Flush;
use crate::memory::PageBytes;
use crate::nested::page_of;
use crate::rmp::GUEST_ASID;
use crate::tlb::Tlb;
use crate::{Answer, Entry, EventKind, Machine, PAGE_SIZE, Regs, Resume, RunKey, Vcpu, vmsa};

/// Exit codes (vc_exit_codes.csv).
pub mod exit_code {
    numbers! {
        pub u64:
        /// A physical interrupt: the operation has not happened and is repeated.
        INTR = 0x60;
        /// #VC of a VMSA with ReflectVC; its own code is in the VMSA.
        VC = 0x5d;
        /// CPUID (a #VC code).
        CPUID = 0x72;
        /// HLT. No #VC: it exits by itself.
        HLT = 0x78;
        /// IN or OUT (a #VC code).
        IOIO = 0x7b;
        /// RDMSR or WRMSR (a #VC code).
        MSR = 0x7c;
        /// Nested page fault; EXITINFO1 has the bits of [`rmp::npf`](crate::rmp::npf), EXITINFO2 the address.
        NPF = 0x400;
        /// VMGEXIT.
        VMGEXIT = 0x403;
        /// Page not validated (a #VC code).
        PAGE_NOT_VALIDATED = 0x404;
    }
    /// The program ended. Not an architectural exit: a code of the range that is left to software.
    pub const END: u64 = 0xf000_0000;
}

/// Model specific registers: those of SNP (sev_features.csv), and those of which the VMSA has a field (24593, appendix A).
pub mod msr {
    numbers! {
        pub u32:
        /// GHCB.
        GHCB = 0xc001_0130;
        /// SEV_STATUS.
        SEV_STATUS = 0xc001_0131;
        /// Limits of speculation.
        SPEC_CTRL = 0x48;
        /// Barriers of speculation; only written.
        PRED_CMD = 0x49;
        /// SYSENTER: code segment.
        SYSENTER_CS = 0x174;
        /// SYSENTER: stack pointer.
        SYSENTER_ESP = 0x175;
        /// SYSENTER: instruction pointer.
        SYSENTER_EIP = 0x176;
        /// DebugCtl.
        DEBUGCTL = 0x1d9;
        /// Page attribute table.
        PAT = 0x277;
        /// Extended state of the supervisor.
        XSS = 0xda0;
        /// EFER.
        EFER = 0xc000_0080;
        /// SYSCALL and SYSRET: segments.
        STAR = 0xc000_0081;
        /// SYSCALL: target of 64-bit code.
        LSTAR = 0xc000_0082;
        /// SYSCALL: target of compatibility mode.
        CSTAR = 0xc000_0083;
        /// SYSCALL: flags that it clears.
        SFMASK = 0xc000_0084;
        /// Base of FS.
        FS_BASE = 0xc000_0100;
        /// Base of GS.
        GS_BASE = 0xc000_0101;
        /// The base that SWAPGS swaps GS with.
        KERNEL_GS_BASE = 0xc000_0102;
        /// What RDTSCP and RDPID read.
        TSC_AUX = 0xc000_0103;
    }
}

/// What the host sees of an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitInfo {
    /// The VMSA that left.
    pub key: RunKey,
    /// Its VMPL.
    pub vmpl: u8,
    /// One of [`exit_code`].
    pub code: u64,
    /// EXITINFO1.
    pub info1: u64,
    /// EXITINFO2: the guest-physical address for a nested page fault.
    pub info2: u64,
    /// GHCB MSR of this VMSA.
    pub ghcb_msr: u64,
}

/// Why VMRUN did not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmrunError {
    /// VMEXIT_INVALID, with the id of the rule.
    Invalid(&'static str),
    /// VMEXIT_BUSY: the guest-busy bit of the VMSA is set.
    Busy,
    /// The VMSA runs on another vCPU.
    InUse,
    /// The program of this VMSA has ended.
    Ended,
    /// There is no such vCPU, or it runs already.
    NoVcpu,
}

/// How a program that left goes on at its next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// It never ran.
    Start,
    /// VMGEXIT: it completes with the registers of the VMSA.
    Regs,
    /// A reflected CPUID: EAX, EBX, ECX and EDX of the VMSA.
    Cpuid,
    /// It completes with nothing.
    Nothing,
    /// A reflected RDMSR: EDX:EAX of the VMSA.
    MsrValue,
    /// A reflected IN of so many bytes: AL, AX or EAX of the VMSA.
    Port(u8),
    /// The operation is executed again.
    Retry,
}

/// What is kept per incarnation of a VMSA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyState {
    pub(crate) pending: Pending,
    pub(crate) ghcb_msr: u64,
    pub(crate) ended: bool,
    /// It has been entered.
    pub(crate) started: bool,
    /// The last exit was a reflected #VC.
    pub(crate) reflected: bool,
    /// Where RIP has to be for the instruction of a reflected #VC to be over.
    pub(crate) next_rip: u64,
}

impl KeyState {
    pub(crate) const NEW: Self =
        Self { pending: Pending::Start, ghcb_msr: 0, ended: false, started: false, reflected: false, next_rip: 0 };
}

/// A VMSA on a processor.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) key: RunKey,
    pub(crate) vmpl: u8,
    pub(crate) spa_page: u64,
    /// The registers, in the layout of the page.
    pub(crate) registers: Box<PageBytes>,
}

/// A vCPU, which is a processor too.
#[derive(Clone, Debug)]
pub(crate) struct VcpuState {
    pub(crate) running: Option<Running>,
    pub(crate) tlb: Tlb,
    /// INVLPGBs that no TLBSYNC of this vCPU has completed yet.
    pub(crate) unsynced: Vec<Flush>,
    pub(crate) exit: Option<ExitInfo>,
}

impl VcpuState {
    pub(crate) fn new(pages_per_large: u64) -> Self {
        Self { running: None, tlb: Tlb::new(pages_per_large), unsynced: Vec::new(), exit: None }
    }
}

/// An exit on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    /// Code for the host.
    pub(crate) code: u64,
    /// Code for the VMSA.
    pub(crate) guest_code: u64,
    /// For the VMSA, and but for #VC for the host too.
    pub(crate) info1: u64,
    pub(crate) info2: u64,
    /// Bytes from RIP to GUEST_NRIP.
    pub(crate) length: u64,
    /// Bytes that RIP has moved already.
    pub(crate) advance: u64,
    pub(crate) regs: Option<Regs>,
    pub(crate) pending: Pending,
}

impl Leave {
    pub(crate) const fn plain(code: u64, pending: Pending) -> Self {
        Self { code, guest_code: code, info1: 0, info2: 0, length: 0, advance: 0, regs: None, pending }
    }
}

impl Machine {
    /// VMRUN: enters a VMSA on a vCPU.
    ///
    /// # Errors
    /// As [`VmrunError`]; nothing changes then.
    pub fn vmrun(&mut self, vcpu: Vcpu, vmsa_gpa: u64) -> Result<Entry, VmrunError> {
        let index = usize::from(vcpu.0);
        if self.vcpus.get(index).is_none_or(|state| state.running.is_some()) {
            return Err(VmrunError::NoVcpu);
        }
        let (spa_page, mut image) = self.runnable_vmsa(vmsa_gpa)?;
        let key = self.run_key(vmsa_gpa);
        let mut state = self.keys.get(&key).copied().unwrap_or(KeyState::NEW);
        if state.ended {
            return Err(VmrunError::Ended);
        }
        let vmpl = image[vmsa::VMPL];

        let here = u64::from(vcpu.0) + 1;
        if vmsa::read_u64(&image[..], vmsa::PCPU_ID) != here {
            if self.rule("RMP-056") {
                self.vcpus[index].tlb.flush_all();
            }
            vmsa::write_u64(&mut image[..], vmsa::PCPU_ID, here);
            self.memory.write(spa_page, vmsa::PCPU_ID, &here.to_le_bytes());
            self.oracle_hardware_wrote(vmsa_gpa);
        }
        let resume = resume_of(&mut state, &image);
        state.started = true;
        self.keys.insert(key, state);
        let running = Running { key, vmpl, spa_page, registers: image };
        self.vcpus[index].running = Some(running);
        // Whoever has it mapped for writing meets a fault from now on.
        self.nested.note(page_of(vmsa_gpa), 1);
        self.vcpus[index].exit = None;
        self.counters.change(vcpu, vmpl, |c| c.vmruns += 1);
        self.trace.push(self.steps, vcpu, None, EventKind::Entered { vmsa: vmsa_gpa, vmpl });
        self.oracle_entered(vcpu, key, vmpl);
        Ok(Entry { run: key, vmpl, resume })
    }

    /// The checks of VMRUN on a VMSA page (RMP-022, RMP-023, RMP-025, sev_features.csv).
    fn runnable_vmsa(&self, gpa: u64) -> Result<(u64, Box<PageBytes>), VmrunError> {
        if !gpa.is_multiple_of(PAGE_SIZE) {
            return Err(VmrunError::Invalid("RMP-022"));
        }
        if self.rule("RMP-025") && gpa.is_multiple_of(self.large_page_size()) {
            return Err(VmrunError::Invalid("RMP-025"));
        }
        let (spa_page, _) = self.nested.get(page_of(gpa)).ok_or(VmrunError::Invalid("RMP-022"))?;
        let entry = self.rmp.get(spa_page);
        let owned = entry.assigned && entry.asid == GUEST_ASID && entry.gpa == gpa && !entry.immutable;
        if self.rule("RMP-022") && !(owned && entry.vmsa) {
            return Err(VmrunError::Invalid("RMP-022"));
        }
        if self.rule("VMRUN-IN-USE") && self.is_running_vmsa(spa_page) {
            return Err(VmrunError::InUse);
        }
        let image = Box::new(self.memory.page(spa_page));
        if image[vmsa::VMPL] >= self.config.vmpls.min(4) {
            return Err(VmrunError::Invalid("vmpl"));
        }
        if self.rule("VMRUN-BUSY") && vmsa::read_u64(&image[..], vmsa::VINTR_CTRL) & vmsa::VINTR_CTRL_BUSY != 0 {
            return Err(VmrunError::Busy);
        }
        if self.rule("RMP-023") && vmsa::read_u64(&image[..], vmsa::EFER) & vmsa::EFER_SVME == 0 {
            return Err(VmrunError::Invalid("RMP-023"));
        }
        if self.rule("VMRUN-FEATURES") && !features_are_valid(vmsa::read_u64(&image[..], vmsa::SEV_FEATURES)) {
            return Err(VmrunError::Invalid("VMRUN-FEATURES"));
        }
        Ok((spa_page, image))
    }

    /// The incarnation of a VMSA page now.
    pub(crate) fn run_key(&self, vmsa_gpa: u64) -> RunKey {
        RunKey { vmsa: vmsa_gpa, generation: self.generations.get(&vmsa_gpa).copied().unwrap_or(0) }
    }

    /// The vCPU leaves its guest.
    pub(crate) fn leave(&mut self, vcpu: Vcpu, leave: &Leave) {
        let Some(state) = self.vcpus.get_mut(usize::from(vcpu.0)) else { return };
        let Some(mut running) = state.running.take() else { return };
        if let Some(regs) = &leave.regs {
            vmsa::set_regs(&mut running.registers, regs);
        }
        let mut page = self.memory.page(running.spa_page);
        vmsa::save_state(&mut page, &running.registers);
        vmsa::write_u64(&mut page, vmsa::GUEST_EXIT_CODE, leave.guest_code);
        vmsa::write_u64(&mut page, vmsa::GUEST_EXITINFO1, leave.info1);
        vmsa::write_u64(&mut page, vmsa::GUEST_EXITINFO2, leave.info2);
        vmsa::write_u64(&mut page, vmsa::GUEST_EXITINTINFO, 0);
        let rip = vmsa::read_u64(&page, vmsa::RIP).wrapping_add(leave.advance);
        let next_rip = rip.wrapping_add(leave.length);
        vmsa::write_u64(&mut page, vmsa::RIP, rip);
        vmsa::write_u64(&mut page, vmsa::GUEST_NRIP, next_rip);
        self.memory.write(running.spa_page, 0, &page);
        self.oracle_hardware_wrote(running.key.vmsa);

        let key = self.keys.entry(running.key).or_insert(KeyState::NEW);
        key.pending = leave.pending;
        key.reflected = leave.code == exit_code::VC;
        key.next_rip = next_rip;
        key.ended |= leave.code == exit_code::END;
        let exit = ExitInfo {
            key: running.key,
            vmpl: running.vmpl,
            code: leave.code,
            // What made the #VC is the VMSA's secret.
            info1: if key.reflected { 0 } else { leave.info1 },
            info2: if key.reflected { 0 } else { leave.info2 },
            ghcb_msr: key.ghcb_msr,
        };
        if let Some(state) = self.vcpus.get_mut(usize::from(vcpu.0)) {
            state.exit = Some(exit);
        }
        if leave.code == exit_code::NPF {
            self.counters.change(vcpu, running.vmpl, |c| c.npf += 1);
        }
        let kind = EventKind::Left { code: exit.code, info1: exit.info1, info2: exit.info2, ghcb_msr: exit.ghcb_msr };
        self.trace.push(self.steps, vcpu, Some(running.vmpl), kind);
        self.oracle_left(vcpu, &exit);
    }
}

fn features_are_valid(features: u64) -> bool {
    use vmsa::features::{ALTERNATE_INJECTION, RESERVED, RESTRICTED_INJECTION, SECURE_AVIC, SNP_ACTIVE};
    let exclusive = [RESTRICTED_INJECTION, ALTERNATE_INJECTION, SECURE_AVIC];
    features & SNP_ACTIVE != 0
        && features & RESERVED == 0
        && exclusive.iter().filter(|bit| features & **bit != 0).count() <= 1
}

/// How the program goes on. A reflected instruction completes if a higher level has moved RIP past it.
fn resume_of(state: &mut KeyState, image: &PageBytes) -> Resume {
    let regs = vmsa::regs(image);
    let rip = vmsa::read_u64(image, vmsa::RIP);
    if state.reflected && rip != state.next_rip {
        return Resume::Retry;
    }
    let low = |value: u64| value & 0xffff_ffff;
    match state.pending {
        Pending::Start => Resume::Start { rip, regs },
        Pending::Regs => Resume::Complete(Answer::Regs(regs)),
        Pending::Nothing => Resume::Complete(Answer::None),
        Pending::Cpuid => {
            let all = [regs.rax, vmsa::read_u64(image, vmsa::RBX), regs.rcx, regs.rdx];
            // The lower halves.
            Resume::Complete(Answer::Cpuid(all.map(|value| value as u32)))
        }
        Pending::MsrValue => Resume::Complete(Answer::Value(regs.rdx << 32 | low(regs.rax))),
        Pending::Port(1) => Resume::Complete(Answer::Value(regs.rax & 0xff)),
        Pending::Port(2) => Resume::Complete(Answer::Value(regs.rax & 0xffff)),
        Pending::Port(_) => Resume::Complete(Answer::Value(low(regs.rax))),
        Pending::Retry => Resume::Retry,
    }
}
