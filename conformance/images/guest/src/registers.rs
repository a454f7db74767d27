//! Registers that no call and no interrupt may change: MSRs of the guest's own, and vector registers.

use image_runtime::probe::with_registers::{rdmsr, rdtscp, wrmsr};
use image_runtime::probe::{Caught, Registers};
use image_runtime::{println, vector};

use crate::interrupts;
use crate::program::{GENERAL_PROTECTION, demand, expect, visit_l1};
use crate::start::{Guest, Machine, Stop};

const PRED_CMD: u32 = 0x49;
const PAT: u32 = 0x277;
const TSC_AUX: u32 = 0xc000_0103;
/// One that is the host's: the base of the interrupt controller.
const INTERCEPTED: u32 = 0x1b;
const MSR: Caught = Caught { vector: 29, error: 0x7c };

/// MSRs that belong to the guest alone, with values that do no harm for a while. Numbers and bits: 24593.
const OWN: [(u32, u64); 16] = [
    // SPEC_CTRL: SSBD.
    (0x48, 1 << 2),
    // SYSENTER_CS, _ESP, _EIP.
    (0x174, 8),
    (0x175, 0x1234_5000),
    (0x176, 0x2345_6000),
    // DEBUGCTL: LBR.
    (0x1d9, 1),
    // The last type of the default becomes WC.
    (PAT, 0x0107_0406_0007_0406),
    // XSS: shadow stacks of user code.
    (0xda0, 1 << 11),
    // EFER: the default of a vCPU, SVME, and TCE.
    (0xc000_0080, 0x9d01),
    // STAR, LSTAR, CSTAR, SFMASK.
    (0xc000_0081, 0x0013_0008_0000_0000),
    (0xc000_0082, 0xffff_ffff_8100_0000),
    (0xc000_0083, 0xffff_ffff_8200_0000),
    (0xc000_0084, 0x4_7700),
    // FS_BASE, GS_BASE, KERNEL_GS_BASE.
    (0xc000_0100, 0x7fff_0000_1000),
    (0xc000_0101, 0xffff_8880_0000_0000),
    (0xc000_0102, 0x7fff_0000_2000),
    (TSC_AUX, 0x8765_4321),
];

/// MSRs first, then vector registers.
pub(crate) fn show(machine: &mut Machine, guest: &mut Guest) -> Result<(), Stop> {
    let mut before = [0; OWN.len()];
    for (old, (number, value)) in before.iter_mut().zip(OWN) {
        *old = read(number)?;
        write(number, value)?;
    }
    visit_l1(machine, guest)?;
    let mut are_kept = true;
    for (number, value) in OWN {
        are_kept &= read(number)? == value;
    }
    let mut clock = Registers::default();
    demand(rdtscp(&mut clock).is_none() && clock.rcx == read(TSC_AUX)?, "RDTSCP does not give TSC_AUX")?;
    for (old, (number, _)) in before.into_iter().zip(OWN) {
        write(number, old)?;
    }
    demand(are_kept, "an MSR is not what was written to it")?;
    write(PRED_CMD, 1)?;
    println!("MSRs: {} keep their values over calls to L1, without an exception", OWN.len());
    expect("PAT with a type that there is not", try_write(PAT, 2), GENERAL_PROTECTION)?;
    expect("RDMSR of the host's", rdmsr(&mut operands(INTERCEPTED, 0)), MSR)?;
    vectors(machine, guest)
}

fn vectors(machine: &mut Machine, guest: &mut Guest) -> Result<(), Stop> {
    vector::enable();
    let ymm = core::array::from_fn(|register| {
        core::array::from_fn(|word| 0x0123_4567_89ab_cdef_u64.rotate_left(4 * register as u32 + word as u32))
    });
    // Exceptions masked, rounding towards zero.
    let registers = vector::Registers { ymm, mxcsr: 0x7f80 };
    vector::load(&registers);
    visit_l1(machine, guest)?;
    demand(vector::store() == registers, "vector registers change over a call to L1")?;
    interrupts::soon()?.wait()?;
    demand(vector::store() == registers, "vector registers change over an interrupt")?;
    demand(vector::xcr0() == vector::XCR0, "XCR0 changes")?;
    println!("AVX: 16 registers are the same after calls to L1 and an interrupt");
    Ok(())
}

/// RCX, and EDX:EAX.
fn operands(number: u32, value: u64) -> Registers {
    Registers { rcx: number.into(), rax: value & 0xffff_ffff, rdx: value >> 32, rdi: 0 }
}

fn try_write(number: u32, value: u64) -> Option<Caught> {
    wrmsr(&mut operands(number, value))
}

fn write(number: u32, value: u64) -> Result<(), Stop> {
    demand(try_write(number, value).is_none(), "writing an MSR of the guest's own raises an exception")
}

fn read(number: u32) -> Result<u64, Stop> {
    let mut registers = operands(number, 0);
    demand(rdmsr(&mut registers).is_none(), "reading an MSR of the guest's own raises an exception")?;
    Ok(registers.rdx << 32 | registers.rax)
}
