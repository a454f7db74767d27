//! A bed on the step machine.

use std::cell::{Cell, RefCell};
use std::fmt;

use backend_snp::SnpError;
use backend_snp::host::{GhcbPage, PortAccess, PortSize};
use coco_part_api::{Context, PageSize};
use image_cases::{Bed, Found, Instruction, View};
use image_layout::{MARK_PORT, NO_PORT};
use machine::{Answer, Fault, Op};

use crate::runner::Cpu;
use crate::snp::{ModelPort, SnpModel, Window};
use crate::world::layout::{CHANNEL, ENTRY_FURTHER, frame};

/// What the programs of a world write down.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Lines, as the console of the emulator has them.
    pub(super) lines: RefCell<Vec<String>>,
    /// A mark whose counts have not been written down yet: its number and its vCPU.
    pub(super) mark: Cell<Option<(u8, u8)>>,
    /// The first vCPU's program has ended.
    pub(super) is_over: Cell<bool>,
}

/// One vCPU of a guest on the step machine.
pub(super) struct ModelBed<'y> {
    cpu: Cpu<'y, SnpModel>,
    log: &'y Log,
    /// The way to the host's ports; a further vCPU has none.
    link: Option<(ModelPort<'y>, GhcbPage<Window<'y>>)>,
}

impl<'y> ModelBed<'y> {
    /// The first vCPU's, over its GHCB page.
    ///
    /// # Errors
    /// As [`GhcbPage::register`].
    pub(super) fn first(cpu: Cpu<'y, SnpModel>, log: &'y Log) -> Result<Self, SnpError> {
        let mut port = ModelPort::new(cpu, None);
        let page = GhcbPage::register(&mut port, Window::shared(cpu), frame(CHANNEL))?;
        Ok(Self { cpu, log, link: Some((port, page)) })
    }

    /// A further vCPU's.
    pub(super) fn further(cpu: Cpu<'y, SnpModel>, log: &'y Log) -> Self {
        Self { cpu, log, link: None }
    }
}

impl Bed for ModelBed<'_> {
    fn execute(&mut self, instruction: Instruction) -> Found {
        match self.cpu.execute(op(instruction)) {
            Ok(Answer::Bytes(bytes)) => Found::Value(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))),
            Ok(Answer::Value(value)) => Found::Value(value),
            Ok(Answer::Pvalidate { eax, .. } | Answer::Rmpadjust { eax } | Answer::Rmpquery { eax, .. }) => {
                Found::Status(eax)
            }
            Ok(Answer::None | Answer::Cpuid(_) | Answer::Regs(_)) => Found::Done,
            Err(Fault::GeneralProtection) => Found::GeneralProtection,
            Err(Fault::InvalidOpcode) => Found::InvalidOpcode,
            Err(Fault::Vc { code, .. }) => Found::Vc(code),
        }
    }

    fn say(&mut self, line: fmt::Arguments<'_>) {
        let level = self.cpu.start().level;
        self.log.lines.borrow_mut().push(format!("vmpl{level}: {line}"));
    }

    fn mark(&mut self, number: u8) {
        let Some((port, page)) = &mut self.link else { return };
        let written = page.port_out(port, PortAccess::new(MARK_PORT, PortSize::Byte), number.into());
        if written.is_err() {
            return self.say(format_args!("no mark {number}"));
        }
        self.log.mark.set(Some((number, self.cpu.start().vcpu)));
        while self.log.mark.get().is_some() {
            self.pause();
        }
    }

    fn ask_host(&mut self) -> bool {
        let Some((port, page)) = &mut self.link else { return false };
        page.port_in(port, PortAccess::new(NO_PORT, PortSize::Byte)).is_ok()
    }

    fn pause(&mut self) {
        let _ = self.cpu.execute(Op::Pause);
    }

    fn further(&self) -> Context {
        Context::long_mode(ENTRY_FURTHER, 0, 0)
    }
}

/// The instruction as the step machine has it.
fn op(instruction: Instruction) -> Op {
    let is_private = |view| view == View::Private;
    let intercepted = |code, length| Op::Intercepted { code, info1: 0, length };
    match instruction {
        Instruction::Load { at, view } => Op::Read { gpa: at, len: 8, private: is_private(view) },
        Instruction::Store { at, view, value } => {
            Op::Write { gpa: at, bytes: value.to_le_bytes().to_vec(), private: is_private(view) }
        }
        Instruction::Fetch { at } => Op::Fetch { gpa: at, user: false },
        Instruction::Pvalidate { at, size, validate } => {
            Op::Pvalidate { gpa: at, ecx: u32::from(size == PageSize::Large), edx: validate.into() }
        }
        Instruction::Rmpadjust { at, rdx } => Op::Rmpadjust { gpa: at, rcx: 0, rdx },
        Instruction::Rmpquery { at, target } => Op::Rmpquery { gpa: at, rdx: target },
        Instruction::Cpuid { leaf, subleaf } => Op::Cpuid { leaf, subleaf },
        Instruction::ReadMsr(number) => Op::Rdmsr(number),
        Instruction::WriteMsr(number, value) => Op::Wrmsr(number, value),
        Instruction::In(port) => Op::In { port, size: 1 },
        Instruction::Out(port, value) => Op::Out { port, size: 1, value: value.into() },
        Instruction::Wbinvd => intercepted(0x89, 2),
        Instruction::Invd => intercepted(0x76, 2),
        Instruction::Rdpmc => intercepted(0x6f, 2),
        Instruction::Monitor => intercepted(0x8a, 3),
        Instruction::Mwait => intercepted(0x8b, 3),
        Instruction::Vmmcall => intercepted(0x81, 3),
    }
}
