//! Companions on the step machine: their program, and L1's part at its places.

use coco_part_api::{CallRegs, Context, GuestLevel};
use image_companions::{LEVELS, Pages, answered, called, data, prepare, serve, start, task, wrong};
use l1_monitor::{Ledger, State};
use machine::{Answer, Op, Regs, msr};

use crate::platform::Platform;
use crate::runner::{Body, Cpu};
use crate::snp::{Snp, SnpModel};
use crate::world::{Beside, World};

/// Where the program begins.
const ENTRY: u64 = 0x6000;
/// MSR protocol: run VMPL0.
const RUN_VMPL0: u64 = 0x016;

/// Gives vCPU 0 of a world companions whose pages are these, in RAM that nobody else uses.
pub(super) fn install(world: &mut World<Snp>, pages: Pages) {
    world.beside_guest(Companions(pages));
    world.runner.at_entry(
        ENTRY,
        Box::new(move |_| {
            Some(Box::new(move |cpu: Cpu<'_, SnpModel>| Program::new(cpu, pages).run()) as Body<SnpModel>)
        }),
    );
}

struct Companions(Pages);

impl Beside<Snp> for Companions {
    fn start(&self, backend: &mut <Snp as Platform>::Monitor<'_>, ledger: &Ledger<'_>) -> Result<(), String> {
        let Self(pages) = *self;
        prepare(backend, pages).map_err(|stop| format!("pages of companions: {}", stop.cause))?;
        ledger
            .adopt(pages.all(), State::NotPrivate, State::Monitor)
            .map_err(|refusal| format!("pages of companions: {refusal}"))?;
        LEVELS.into_iter().try_for_each(|level| {
            let context = Context::long_mode(ENTRY, 0, 0);
            start(backend, pages, level, &context).map_err(|stop| format!("{level:?}: {}", stop.cause))
        })
    }

    fn step(&self, backend: &mut <Snp as Platform>::Monitor<'_>) {
        serve(backend, self.0);
    }
}

/// A companion.
struct Program<'y> {
    cpu: Cpu<'y, SnpModel>,
    level: GuestLevel,
    data: u64,
    task: u64,
}

impl<'y> Program<'y> {
    fn new(cpu: Cpu<'y, SnpModel>, pages: Pages) -> Self {
        let level = GuestLevel::try_from(cpu.start().level).expect("a companion has a guest's level");
        let [data, task] = [pages.data(level), pages.task()].map(|page| page.start().as_u64());
        Self { cpu, level, data, task }
    }

    fn run(&self) {
        self.put(data::LEVEL, self.level.number().into());
        loop {
            let round = self.get(data::ROUND) + 1;
            self.put(data::ROUND, round);
            self.call(round);
            self.look_for_task();
        }
    }

    fn call(&self, round: u64) {
        let sent = called(self.level, round);
        let CallRegs { rax, rcx, rdx, r8, r9 } = sent;
        self.execute(Op::Wrmsr(msr::GHCB, RUN_VMPL0));
        self.execute(Op::Swap8 { gpa: self.data, value: 1 });
        let Answer::Regs(Regs { rax, rcx, rdx, r8, r9 }) = self.execute(Op::Vmgexit(Regs { rax, rcx, rdx, r8, r9 }))
        else {
            return self.put(data::WRONG, wrong::REGISTER);
        };
        // Who takes the mark away serves the call. Without an answer there is none to look at.
        if self.execute(Op::Swap8 { gpa: self.data, value: 0 }) != Answer::Value(0) {
            self.put(data::LOST, self.get(data::LOST) + 1);
        } else if (CallRegs { rax, rcx, rdx, r8, r9 }) == answered(sent) {
            self.put(data::SERVED, self.get(data::SERVED) + 1);
        } else {
            self.put(data::WRONG, wrong::ANSWER);
        }
    }

    fn look_for_task(&self) {
        let word = |offset| self.load(self.task + offset);
        let number = word(task::NUMBER);
        if number == self.get(data::DONE) || word(task::LEVEL) != u64::from(self.level.number()) {
            return;
        }
        let (at, operand) = (word(task::AT), word(task::OPERAND));
        let result = match word(task::KIND) {
            task::STORE => {
                self.store(at, operand);
                0
            }
            task::ADJUST => match self.execute(Op::Rmpadjust { gpa: at, rcx: 0, rdx: operand }) {
                Answer::Rmpadjust { eax } => eax.into(),
                _ => u64::MAX,
            },
            _ => self.load(at),
        };
        self.put(data::RESULT, result);
        self.put(data::DONE, number);
    }

    /// An exception ends it: the image's has no handler either.
    fn execute(&self, op: Op) -> Answer {
        self.cpu.execute(op).unwrap_or_else(|fault| panic!("{:?}: {fault:x?}", self.level))
    }

    fn load(&self, at: u64) -> u64 {
        match self.execute(Op::Read { gpa: at, len: 8, private: true }) {
            Answer::Bytes(bytes) => bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word)),
            _ => 0,
        }
    }

    fn store(&self, at: u64, value: u64) {
        self.execute(Op::Write { gpa: at, bytes: value.to_le_bytes().to_vec(), private: true });
    }

    fn get(&self, word: u64) -> u64 {
        self.load(self.data + word)
    }

    fn put(&self, word: u64, value: u64) {
        self.store(self.data + word, value);
    }
}
