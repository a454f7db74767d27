//! A bed on real instructions.

use core::fmt;

use coco_part_api::{Context, PageSize};
use image_cases::{Bed, Found, Instruction, View};
use image_runtime::link::{LINKS, Link};
use image_runtime::println;
use image_runtime::probe::with_registers as execute;
use image_runtime::probe::{Caught, Registers};
use image_runtime::space::{PRIVATE, SHARED};
use x86_64::VirtAddr;

use crate::program::CODE_WINDOW;

/// Vectors of exceptions.
const INVALID_OPCODE: u64 = 6;
const GENERAL_PROTECTION: u64 = 13;
const VMM_COMMUNICATION: u64 = 29;

/// One vCPU. Its registers for a further one are those of [`Native::new`].
pub(crate) struct Native {
    further: Context,
}

impl Native {
    /// A bed whose further vCPU begins so.
    pub(crate) const fn new(further: Context) -> Self {
        Self { further }
    }
}

/// The linear address of an access.
fn window(at: u64, base: VirtAddr) -> Registers {
    Registers { rdi: base.as_u64().wrapping_add(at), ..Registers::default() }
}

fn of_view(at: u64, view: View) -> Registers {
    window(at, if view == View::Private { PRIVATE } else { SHARED })
}

/// Where an instruction finds the page that it names: linear, in the private window.
fn page(at: u64) -> Registers {
    Registers { rax: PRIVATE.as_u64().wrapping_add(at), ..Registers::default() }
}

/// What an exception was, or else what `done` makes of the registers.
fn found(caught: Option<Caught>, done: impl FnOnce() -> Found) -> Found {
    match caught {
        None => done(),
        Some(Caught { vector: INVALID_OPCODE, .. }) => Found::InvalidOpcode,
        Some(Caught { vector: GENERAL_PROTECTION, .. }) => Found::GeneralProtection,
        Some(Caught { vector: VMM_COMMUNICATION, error }) => Found::Vc(error),
        // Vectors are below 256.
        Some(Caught { vector, .. }) => Found::Exception(vector as u8),
    }
}

impl Bed for Native {
    fn execute(&mut self, instruction: Instruction) -> Found {
        // Lower halves are the operands of 32-bit registers.
        let of = |registers: Registers, run: fn(&mut Registers) -> Option<Caught>, done: fn(Registers) -> Found| {
            let mut registers = registers;
            let caught = run(&mut registers);
            found(caught, || done(registers))
        };
        let nothing: fn(Registers) -> Found = |_| Found::Done;
        let status: fn(Registers) -> Found = |registers| Found::Status(registers.rax as u32);
        let both: fn(Registers) -> Found = |registers| Found::Value(registers.rdx << 32 | registers.rax & 0xffff_ffff);
        let none = Registers::default();
        match instruction {
            Instruction::Load { at, view } => {
                of(of_view(at, view), execute::load, |registers| Found::Value(registers.rax))
            }
            Instruction::Store { at, view, value } => {
                of(Registers { rax: value, ..of_view(at, view) }, execute::store, nothing)
            }
            Instruction::Fetch { at } => of(window(at, CODE_WINDOW), execute::call, nothing),
            Instruction::Pvalidate { at, size, validate } => {
                let size = u64::from(size == PageSize::Large);
                of(Registers { rcx: size, rdx: validate.into(), ..page(at) }, execute::pvalidate, status)
            }
            Instruction::Rmpadjust { at, rdx } => of(Registers { rdx, ..page(at) }, execute::rmpadjust, status),
            Instruction::Rmpquery { at, target } => {
                of(Registers { rdx: target, ..page(at) }, execute::rmpquery, status)
            }
            Instruction::Cpuid { leaf, subleaf } => {
                of(Registers { rax: leaf.into(), rcx: subleaf.into(), ..none }, execute::cpuid, nothing)
            }
            Instruction::ReadMsr(number) => of(Registers { rcx: number.into(), ..none }, execute::rdmsr, both),
            Instruction::WriteMsr(number, value) => {
                let registers = Registers { rcx: number.into(), rax: value & 0xffff_ffff, rdx: value >> 32, ..none };
                of(registers, execute::wrmsr, nothing)
            }
            Instruction::In(port) => {
                let value: fn(Registers) -> Found = |registers| Found::Value(registers.rax & 0xff);
                of(Registers { rdx: port.into(), ..none }, execute::in_byte, value)
            }
            Instruction::Out(port, value) => {
                of(Registers { rdx: port.into(), rax: value.into(), ..none }, execute::out_byte, nothing)
            }
            Instruction::Wbinvd => of(none, execute::wbinvd, nothing),
            Instruction::Invd => of(none, execute::invd, nothing),
            Instruction::Rdpmc => of(none, execute::rdpmc, both),
            Instruction::Monitor => of(page(0), execute::monitor, nothing),
            Instruction::Mwait => of(none, execute::mwait, nothing),
            Instruction::Vmmcall => of(none, execute::vmmcall, nothing),
        }
    }

    fn say(&mut self, line: fmt::Arguments<'_>) {
        println!("{line}");
    }

    fn mark(&mut self, number: u8) {
        // A mark that is missing is found by whoever compares.
        let _ = LINKS.with(|link: &mut Link| link.mark(number));
    }

    fn ask_host(&mut self) -> bool {
        LINKS.with(|link: &mut Link| link.ask()).is_some_and(|asked| asked.is_ok())
    }

    fn pause(&mut self) {
        core::hint::spin_loop();
    }

    fn further(&self) -> Context {
        self.further
    }
}
