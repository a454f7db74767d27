//! Instructions of a level with ReflectVC: what L1 is told, and what completing them leaves in the VMSA.

use coco_part_api::{
    AdmitVcpu, Completion, Direction, Error, ErrorKind, Exit, FaultCause, GuestState, MsrAccess, PortAccess, Terms,
};

use super::mock::Did;
use super::*;
use crate::SnpError;
use crate::abi::exit_codes::ExitCode;

const ONE: GuestLevel = GuestLevel::ONE;
const RIP: u64 = 0x1234;

/// Offsets in a VMSA (`vmsa`).
mod at {
    pub(super) const CR4: u64 = 0x148;
    pub(super) const RIP: u64 = 0x178;
    pub(super) const RAX: u64 = 0x1f8;
    pub(super) const RCX: u64 = 0x308;
    pub(super) const RDX: u64 = 0x310;
    pub(super) const RBX: u64 = 0x318;
    pub(super) const GUEST_EXITINFO1: u64 = 0x390;
    pub(super) const GUEST_EXITINFO2: u64 = 0x398;
    pub(super) const GUEST_NRIP: u64 = 0x3a8;
    pub(super) const XCR0: u64 = 0x3e8;
}

/// L1 with a vCPU of level 1 whose #VC exceptions come to L1.
fn reflecting(bench: &Bench) -> TestL1<'_> {
    let setup = Setup { reflect: &[GuestLevel::ONE], ..bench.setup(0) };
    let mut l1 = L1::start(bench.machine.port(), setup, &bench.shared).unwrap();
    let seed = admit(&mut l1, VMSA).unwrap();
    l1.install(seed).unwrap();
    bench.machine.take_log();
    l1
}

/// The level runs, has these quadwords in its registers, and leaves with a code.
fn leaves(machine: &Machine, code: ExitCode, quads: &[(u64, u64)]) {
    machine.with(|world| {
        assert!(world.vmrun(VMSA));
        let registers = world.running.get_mut(&(VMSA >> 12)).unwrap();
        for (offset, value) in quads {
            registers[*offset as usize..][..8].copy_from_slice(&value.to_le_bytes());
        }
        world.exit(VMSA, code);
    });
}

/// Runs the level once, which leaves like that.
fn run(l1: &mut TestL1<'_>, bench: &Bench, code: ExitCode, quads: &'static [(u64, u64)]) -> Exit {
    bench.machine.on_run(move |machine| leaves(machine, code, quads));
    l1.run(ONE).unwrap()
}

fn quad(bench: &Bench, offset: u64) -> u64 {
    bench.machine.with(|world| world.quad(VMSA + offset))
}

/// Quadwords of the VMSA that differ, but for the gate and the exit code on record.
fn changed(before: &[u8; 4096], after: &[u8; 4096]) -> std::vec::Vec<u64> {
    let differs = |offset: &u64| {
        let range = *offset as usize..*offset as usize + 8;
        before[range.clone()] != after[range]
    };
    (0..4096).step_by(8).filter(differs).collect()
}

const CPUID: &[(u64, u64)] =
    &[(at::RAX, 0xffff_ffff_8000_0008), (at::RCX, 0x7_0000_0000), (at::RBX, u64::MAX), (at::GUEST_NRIP, RIP + 2)];

#[test]
fn cpuid_is_completed_in_four_registers_and_rip() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    let exit = run(&mut l1, &bench, ExitCode::CPUID, CPUID);
    assert!(matches!(exit, Exit::Cpuid { leaf: 0x8000_0008, subleaf: 0 }));
    let vouched = l1.cpuid(ONE, 0x8000_0008, 0).unwrap();
    assert_eq!(vouched, Some([0, 1 << 3, 0, 0]));
    let before = bench.machine.page(VMSA);
    l1.complete(ONE, Completion::Cpuid([0xa, 0xb, 0xc, 0xd])).unwrap();
    let after = bench.machine.page(VMSA);
    assert_eq!(changed(&before, &after), [at::RIP, at::RAX, at::RCX, at::RDX, at::RBX]);
    let registers = [at::RAX, at::RBX, at::RCX, at::RDX, at::RIP].map(|offset| quad(&bench, offset));
    assert_eq!(registers, [0xa, 0xb, 0xc, 0xd, RIP + 2]);
}

#[test]
fn a_trap_costs_one_proof_that_the_level_stands_still() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    run(&mut l1, &bench, ExitCode::CPUID, CPUID);
    l1.cpuid(ONE, 0, 0).unwrap();
    l1.complete(ONE, Completion::Cpuid([0; 4])).unwrap();
    let adjusted = bench.machine.take_log().iter().filter(|did| matches!(did, Did::Rmpadjust { .. })).count();
    assert_eq!(adjusted, 1);
    // And nobody runs it meanwhile.
    assert!(!bench.machine.with(|world| world.vmrun(VMSA)));
}

#[test]
fn rdmsr_wrmsr_in_and_out_are_completed_as_they_are() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    const READ: &[(u64, u64)] = &[(at::RCX, 0x1b), (at::GUEST_EXITINFO1, 0), (at::GUEST_NRIP, RIP + 2)];
    let exit = run(&mut l1, &bench, ExitCode::MSR, READ);
    assert!(matches!(exit, Exit::Msr(MsrAccess::Read { msr: 0x1b })));
    l1.complete(ONE, Completion::Msr(0xfee0_0000_0900)).unwrap();
    assert_eq!((quad(&bench, at::RAX), quad(&bench, at::RDX)), (0x0900, 0xfee0));

    const WRITE: &[(u64, u64)] =
        &[(at::RCX, 0x1b), (at::RAX, 1), (at::RDX, 2), (at::GUEST_EXITINFO1, 1), (at::GUEST_NRIP, RIP + 4)];
    let exit = run(&mut l1, &bench, ExitCode::MSR, WRITE);
    assert!(matches!(exit, Exit::Msr(MsrAccess::Write { msr: 0x1b, value: 0x2_0000_0001 })));
    let before = bench.machine.page(VMSA);
    l1.complete(ONE, Completion::Plain).unwrap();
    assert_eq!(changed(&before, &bench.machine.page(VMSA)), [at::RIP]);

    const IN: &[(u64, u64)] =
        &[(at::RAX, 0x1111_2222_3333_4444), (at::GUEST_EXITINFO1, 0x3fd_0011), (at::GUEST_NRIP, RIP + 5)];
    let exit = run(&mut l1, &bench, ExitCode::IOIO, IN);
    let access = PortAccess { port: 0x3fd, size: 1, direction: Direction::In, value: 0 };
    assert!(matches!(exit, Exit::Port(found) if found == access));
    l1.complete(ONE, Completion::In(0xffff_ff60)).unwrap();
    assert_eq!((quad(&bench, at::RAX), quad(&bench, at::RIP)), (0x1111_2222_3333_4460, RIP + 5));
}

#[test]
fn an_instruction_is_completed_once_and_only_with_what_fits_it() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    assert_eq!(l1.complete(ONE, Completion::Plain), Err(SnpError::NoTrap { level: ONE }));
    run(&mut l1, &bench, ExitCode::CPUID, CPUID);
    let before = bench.machine.page(VMSA);
    for wrong in [Completion::Plain, Completion::Msr(1), Completion::In(1)] {
        let error = l1.complete(ONE, wrong).unwrap_err();
        assert_eq!((error, error.kind()), (SnpError::WrongCompletion { level: ONE }, ErrorKind::InvalidArgument));
    }
    assert_eq!(changed(&before, &bench.machine.page(VMSA)), [0; 0]);
    l1.complete(ONE, Completion::Cpuid([1; 4])).unwrap();
    let before = bench.machine.page(VMSA);
    let error = l1.complete(ONE, Completion::Cpuid([2; 4])).unwrap_err();
    assert_eq!((error, error.kind()), (SnpError::NoTrap { level: ONE }, ErrorKind::InvalidArgument));
    assert_eq!(changed(&before, &bench.machine.page(VMSA)), [0; 0]);
}

#[test]
fn an_instruction_that_is_not_completed_is_executed_again() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    run(&mut l1, &bench, ExitCode::CPUID, CPUID);
    assert!(matches!(run(&mut l1, &bench, ExitCode::CPUID, CPUID), Exit::Cpuid { .. }));
    bench.machine.on_run(|_| ());
    assert!(matches!(l1.run(ONE), Ok(Exit::Spurious)), "an exit is told once");
    assert_eq!(l1.complete(ONE, Completion::Cpuid([0; 4])), Err(SnpError::NoTrap { level: ONE }));
}

#[test]
fn a_next_rip_that_is_none_is_refused_and_changes_nothing() {
    for next in [RIP, RIP - 1, RIP + 16, 0, u64::MAX, RIP.wrapping_add(1 << 63)] {
        let bench = Bench::new();
        let mut l1 = reflecting(&bench);
        bench.machine.on_run(move |machine| leaves(machine, ExitCode::CPUID, &[(at::GUEST_NRIP, next)]));
        assert!(matches!(l1.run(ONE), Ok(Exit::Cpuid { .. })));
        let before = bench.machine.page(VMSA);
        let error = l1.complete(ONE, Completion::Cpuid([0; 4])).unwrap_err();
        assert_eq!((error, error.kind()), (SnpError::NextRip { rip: RIP, next }, ErrorKind::Refused));
        assert_eq!(changed(&before, &bench.machine.page(VMSA)), [0; 0]);
    }
    // The address space wraps.
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    let last = [(at::RIP, u64::MAX), (at::GUEST_NRIP, 1)];
    bench.machine.on_run(move |machine| leaves(machine, ExitCode::CPUID, &last));
    l1.run(ONE).unwrap();
    l1.complete(ONE, Completion::Cpuid([0; 4])).unwrap();
    assert_eq!(quad(&bench, at::RIP), 1);
}

#[test]
fn exits_of_the_host_are_nothing_to_complete_and_no_news() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    for code in [0x52, 0x5d, 0x60, 0x61, 0x62, 0x63, 0x64, 0x77, 0x8f, 0x90, 0x9f, 0xa5, 0x400, u64::MAX] {
        bench.machine.on_run(move |machine| leaves(machine, ExitCode(code), CPUID));
        assert!(matches!(l1.run(ONE), Ok(Exit::Spurious)), "{code:#x}");
        assert_eq!(l1.complete(ONE, Completion::Plain), Err(SnpError::NoTrap { level: ONE }));
    }
}

#[test]
fn hlt_is_over_and_a_memory_exit_has_no_instruction_that_is_known() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    let exit = run(&mut l1, &bench, ExitCode::HLT, &[(at::RIP, RIP + 1), (at::GUEST_NRIP, RIP + 1)]);
    assert!(matches!(exit, Exit::Halt));
    assert_eq!(l1.complete(ONE, Completion::Plain), Err(SnpError::NoTrap { level: ONE }));
    const MMIO: &[(u64, u64)] = &[(at::GUEST_EXITINFO1, 1 << 3 | 1 << 1), (at::GUEST_EXITINFO2, 0xfee0_0020)];
    let Exit::Memory(fault) = run(&mut l1, &bench, ExitCode::NPF, MMIO) else { panic!("no memory exit") };
    assert_eq!((fault.at.as_u64(), fault.cause), (0xfee0_0020, FaultCause::NotMapped));
    assert_eq!(l1.complete(ONE, Completion::Plain), Err(SnpError::NoTrap { level: ONE }));
}

#[test]
fn an_instruction_that_no_exit_names_can_be_skipped() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    let exit = run(&mut l1, &bench, ExitCode::WBINVD, &[(at::GUEST_NRIP, RIP + 2)]);
    assert!(matches!(exit, Exit::Other { code: 0x89 }));
    let before = bench.machine.page(VMSA);
    l1.complete(ONE, Completion::Plain).unwrap();
    assert_eq!(changed(&before, &bench.machine.page(VMSA)), [at::RIP]);
}

#[test]
fn the_register_of_the_call_area_is_read_without_the_monitor() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    const READ: &[(u64, u64)] = &[(at::RCX, 0xc001_f000), (at::RDX, u64::MAX), (at::GUEST_NRIP, RIP + 2)];
    assert!(matches!(run(&mut l1, &bench, ExitCode::MSR, READ), Exit::Spurious));
    assert_eq!([at::RAX, at::RDX, at::RIP].map(|offset| quad(&bench, offset)), [CALL_AREA, 0, RIP + 2]);
    // A write of it, and a read whose end is not known, are the monitor's.
    const WRITE: &[(u64, u64)] = &[(at::RCX, 0xc001_f000), (at::GUEST_EXITINFO1, 1), (at::GUEST_NRIP, RIP + 4)];
    assert!(matches!(run(&mut l1, &bench, ExitCode::MSR, WRITE), Exit::Msr(MsrAccess::Write { .. })));
    const LOST: &[(u64, u64)] = &[(at::RCX, 0xc001_f000), (at::GUEST_EXITINFO1, 0), (at::GUEST_NRIP, 0)];
    assert!(matches!(run(&mut l1, &bench, ExitCode::MSR, LOST), Exit::Msr(MsrAccess::Read { .. })));
}

#[test]
fn cpuid_is_that_of_the_level_as_its_vmsa_is() {
    let bench = Bench::new();
    // Leaf 0, leaf 0xd and its component 2.
    for (index, entry) in (1..).zip([[0_u32, 0, 0x10, 0], [0xd, 2, 0x100, 0x240], [1, 0, 7, 0]]) {
        let start = super::CPUID + 0x10 + index * 48;
        for (offset, word) in [0, 4, 0x18, 0x1c].into_iter().zip(entry) {
            bench.machine.poke(start + offset, &word.to_le_bytes());
        }
    }
    bench.machine.poke(super::CPUID, &4_u32.to_le_bytes());
    let mut l1 = reflecting(&bench);
    const STATE: &[(u64, u64)] = &[(at::CR4, 1 << 18), (at::XCR0, 7), (at::RAX, 0xd), (at::GUEST_NRIP, RIP + 2)];
    run(&mut l1, &bench, ExitCode::CPUID, STATE);
    assert_eq!(l1.cpuid(ONE, 0xd, 0).unwrap(), Some([0, 0x340, 0, 0]));
    assert_eq!(l1.cpuid(ONE, 1, 0).unwrap(), Some([7, 0, 1 << 27, 0]));
    assert_eq!(l1.cpuid(ONE, 0x4000_0000, 0).unwrap(), None);
    assert_eq!(l1.cpuid(GuestLevel::TWO, 1, 0), Err(SnpError::NoVcpu { level: GuestLevel::TWO }));
    // A page that counts too much.
    bench.machine.poke(super::CPUID, &65_u32.to_le_bytes());
    assert_eq!(l1.cpuid(ONE, 1, 0).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn what_trapped_in_an_older_vmsa_is_not_completed_in_its_successor() {
    let bench = Bench::new();
    let mut l1 = reflecting(&bench);
    run(&mut l1, &bench, ExitCode::CPUID, CPUID);
    let seed = admit(&mut l1, VMSA + 0x1000).unwrap();
    l1.install(seed).unwrap();
    assert_eq!(l1.complete(ONE, Completion::Cpuid([0; 4])), Err(SnpError::NoTrap { level: ONE }));
    let terms: Terms = terms(0);
    AdmitVcpu::retire(&mut l1, frame(VMSA), &terms).unwrap();
}
