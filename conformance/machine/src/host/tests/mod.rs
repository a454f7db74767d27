//! The host against small guests. Each test plays the guest by hand: one operation at a time.

mod events;
mod facts;
mod liars;
mod memory;
mod messages;
mod protocol;
mod switching;

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::ghcb::{SW_EXIT_CODE, SW_EXIT_INFO_1, SW_EXIT_INFO_2, VALID_BITMAP, VERSION};
use super::policy::Policy;
use crate::op::{Answer, Entry, HostStep, Op, Outcome, Regs, Vcpu};
use crate::{Config, Machine, PageType, msr, vmsa};

const BOOT: Vcpu = Vcpu(0);
/// VMSAs of the boot vCPU at VMPL0 and VMPL2, known to the host from the launch and to be created.
const VMSA_0: u64 = 0x10_1000;
const VMSA_2: u64 = 0x10_2000;
/// A second VMPL2 VMSA and a VMPL0 one, for other vCPUs.
const OTHER_VMSA_2: u64 = 0x10_3000;
const OTHER_VMSA_0: u64 = 0x10_4000;
/// GHCB pages of VMPL0 and of the others.
const GHCB: u64 = 0x20_3000;
const GHCB_2: u64 = 0x20_4000;
/// A 4 KiB page and a 2 MiB page to convert; the first one is private at launch.
const PRIVATE_PAGE: u64 = 0x30_5000;
const PAGE: u64 = 0x30_6000;
const LARGE: u64 = 0x40_0000;

/// A machine with an entered VMPL0 on the boot vCPU.
struct Bench {
    machine: Machine,
}

fn vmsa_page(vmpl: u8) -> Box<[u8; 4096]> {
    let mut page = Box::new([0; 4096]);
    page[vmsa::VMPL] = vmpl;
    vmsa::write_u64(&mut page[..], vmsa::EFER, vmsa::EFER_SVME);
    vmsa::write_u64(&mut page[..], vmsa::SEV_FEATURES, vmsa::features::SNP_ACTIVE);
    vmsa::write_u64(&mut page[..], vmsa::RIP, 0x1000);
    page
}

/// Fields of a GHCB request beside the three of every event.
type Fields<'a> = &'a [(usize, u64)];

impl Bench {
    fn new(policy: Policy) -> Self {
        Self::with_vcpus(policy, 1)
    }

    fn with_vcpus(policy: Policy, vcpus: u8) -> Self {
        let config = Config { ram: alloc::vec![(0, 16 << 20)], vcpus, policy, ..Config::default() };
        let mut machine = Machine::new(config);
        for (gpa, vmpl) in [(VMSA_0, 0), (VMSA_2, 2), (OTHER_VMSA_2, 2), (OTHER_VMSA_0, 0)] {
            machine.launch_page(gpa, PageType::Vmsa, &vmsa_page(vmpl)).unwrap();
        }
        machine.launch_page(PRIVATE_PAGE, PageType::Zero, &[0; 4096]).unwrap();
        machine.launch_finish().unwrap();
        machine.host_set_launch_vmsa(BOOT, VMSA_0);
        let mut bench = Self { machine };
        assert_eq!(bench.enter(BOOT).run.vmsa, VMSA_0);
        bench
    }

    /// As [`new`](Self::new), with a registered GHCB and a VMPL2 that the host knows.
    fn with_guest(policy: Policy) -> Self {
        Self::with_guest_and_vcpus(policy, 1)
    }

    fn with_guest_and_vcpus(policy: Policy, vcpus: u8) -> Self {
        let mut bench = Self::with_vcpus(Policy::Honest, vcpus);
        bench.register(GHCB);
        assert_eq!(bench.create(BOOT, 2, 0, VMSA_2), (0, 0));
        bench.machine.host_state_mut().set_policy(policy);
        bench
    }

    /// Lets the host run a vCPU, which has to end in an entry.
    fn enter(&mut self, vcpu: Vcpu) -> Entry {
        match self.machine.host(vcpu) {
            HostStep::Entered(entry) => entry,
            other => panic!("no entry but {other:?}"),
        }
    }

    fn step(&mut self, vcpu: Vcpu, op: Op) -> Answer {
        match self.machine.step(vcpu, op) {
            Outcome::Done(answer) => answer,
            other => panic!("not done but {other:?}"),
        }
    }

    /// VMGEXIT; the exit is left to the host.
    fn vmgexit(&mut self, vcpu: Vcpu) {
        assert_eq!(self.machine.step(vcpu, Op::Vmgexit(Regs::default())), Outcome::Exit);
    }

    /// An MSR request without letting the host act.
    fn send_msr(&mut self, vcpu: Vcpu, request: u64) {
        self.step(vcpu, Op::Wrmsr(msr::GHCB, request));
        self.vmgexit(vcpu);
    }

    fn ghcb_msr(&mut self, vcpu: Vcpu) -> u64 {
        match self.step(vcpu, Op::Rdmsr(msr::GHCB)) {
            Answer::Value(value) => value,
            other => panic!("no value but {other:?}"),
        }
    }

    /// An MSR request that comes back to the boot vCPU at once.
    fn msr(&mut self, request: u64) -> u64 {
        self.send_msr(BOOT, request);
        self.enter(BOOT);
        self.ghcb_msr(BOOT)
    }

    fn register(&mut self, gpa: u64) {
        assert_eq!(self.msr(gpa | 0x012), gpa | 0x013);
    }

    fn write(&mut self, vcpu: Vcpu, gpa: u64, bytes: &[u8]) {
        self.step(vcpu, Op::Write { gpa, bytes: bytes.to_vec(), private: false });
    }

    fn read(&mut self, vcpu: Vcpu, gpa: u64, len: usize) -> Vec<u8> {
        match self.step(vcpu, Op::Read { gpa, len, private: false }) {
            Answer::Bytes(bytes) => bytes,
            other => panic!("no bytes but {other:?}"),
        }
    }

    fn read_u64(&mut self, vcpu: Vcpu, gpa: u64) -> u64 {
        u64::from_le_bytes(self.read(vcpu, gpa, 8).try_into().unwrap())
    }

    /// Fills a GHCB page, header and valid bits included; the shared buffer stays.
    fn fill(&mut self, vcpu: Vcpu, ghcb: u64, event: (u64, u64, u64), fields: Fields<'_>) {
        let header = [(SW_EXIT_CODE, event.0), (SW_EXIT_INFO_1, event.1), (SW_EXIT_INFO_2, event.2)];
        let mut valid = [0; 16];
        for (offset, value) in header.iter().chain(fields) {
            self.write(vcpu, ghcb + *offset as u64, &value.to_le_bytes());
            valid[offset / 64] |= 1 << (offset / 8 % 8);
        }
        self.write(vcpu, ghcb + VALID_BITMAP as u64, &valid);
        self.write(vcpu, ghcb + VERSION as u64, &[2, 0]);
        self.step(vcpu, Op::Wrmsr(msr::GHCB, ghcb));
    }

    /// A request in the GHCB page of the boot vCPU that comes back at once: SW_EXITINFO1 and SW_EXITINFO2.
    fn event(&mut self, event: (u64, u64, u64), fields: Fields<'_>) -> (u64, u64) {
        self.fill(BOOT, GHCB, event, fields);
        self.vmgexit(BOOT);
        self.enter(BOOT);
        self.status()
    }

    fn status(&mut self) -> (u64, u64) {
        let at = |offset: usize| GHCB + offset as u64;
        (self.read_u64(BOOT, at(SW_EXIT_INFO_1)), self.read_u64(BOOT, at(SW_EXIT_INFO_2)))
    }

    /// The quadword of a field in the GHCB of the boot vCPU, if its valid bit is set.
    fn field(&mut self, offset: usize) -> Option<u64> {
        let bitmap = self.read(BOOT, GHCB + VALID_BITMAP as u64, 16);
        let valid = bitmap[offset / 64] >> (offset / 8 % 8) & 1 == 1;
        valid.then(|| self.read_u64(BOOT, GHCB + offset as u64))
    }

    /// AP creation by the boot vCPU.
    fn create(&mut self, vcpu: Vcpu, vmpl: u8, kind: u64, vmsa: u64) -> (u64, u64) {
        let info1 = u64::from(vcpu.0) << 32 | u64::from(vmpl) << 16 | kind;
        self.event((0x8000_0013, info1, vmsa), &[(super::ghcb::RAX, 1)])
    }

    /// VMPL0 of the boot vCPU asks for VMPL2 by MSR and the host enters what it enters.
    fn run_guest(&mut self) -> Entry {
        self.send_msr(BOOT, 2 << 32 | 0x016);
        self.enter(BOOT)
    }

    /// Whatever runs on the boot vCPU asks for VMPL0 by MSR.
    fn call(&mut self) -> Entry {
        self.send_msr(BOOT, 0x016);
        self.enter(BOOT)
    }
}
