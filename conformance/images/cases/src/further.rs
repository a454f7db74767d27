//! The program of a further vCPU: it does what the first one writes into the mailbox.
//!
//! All words are private memory of the guest that both write and read whole. The first vCPU writes the arguments, then the
//! task; the further one writes the result, then counts the task as done.

use coco_part_api::svsm::own::{ATTEST, AttestRequest, PROTOCOL};
use coco_part_api::svsm::{CORE, CallId, CallResult, DELETE_VCPU, PVALIDATE};
use coco_part_api::vcpu::frame_at;
use coco_part_api::{CallRegs, GuestMemory, GuestPort, REPORT_DATA};

use crate::bed::{Bed, Found, Instruction, Places, View};
use crate::calls::{query, query_answer};
use crate::guest::{address, own_page};

/// Words of the mailbox, by their number.
pub(crate) mod word {
    /// The task that is to be done, 0 for none.
    pub(crate) const TASK: u64 = 0;
    /// The first of four arguments.
    pub(crate) const ARGUMENTS: u64 = 1;
    /// What the last task led to.
    pub(crate) const RESULT: u64 = 5;
    /// Tasks done since the vCPU began.
    pub(crate) const DONE: u64 = 6;
    /// 1 from when the vCPU runs.
    pub(crate) const RUNS: u64 = 7;
    /// 1 to end a task that goes on until then.
    pub(crate) const STOP: u64 = 8;
    /// How many there are.
    pub(crate) const COUNT: u64 = 9;
}

/// What a further vCPU can be asked to do, with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Makes so many calls. Result: how many answers were right.
    Call(u64),
    /// Has a list with one entry done. Result: RAX.
    Entry {
        /// Where the list goes.
        list: u64,
        /// The entry.
        entry: u64,
    },
    /// Stores into a page once. Result: code of the #VC, 0 if there was none.
    Store(u64),
    /// Has a vCPU deleted. Result: RAX.
    Delete(u64),
    /// Asks L1 for evidence. Result: RAX.
    Attest {
        /// Where the request goes.
        at: u64,
        /// Where the evidence goes.
        out: u64,
    },
    /// Rewrites header and first entry of a list in turn, until the stop word is set. Result: how often.
    Rewrite {
        /// The list.
        list: u64,
        /// Two headers.
        headers: [u64; 2],
        /// The first of two entries that differ in their page: this one and the next.
        entry: u64,
    },
    /// Ends the program.
    End,
}

const CALL: u64 = 1;
const ENTRY: u64 = 2;
const STORE: u64 = 3;
const DELETE: u64 = 4;
const EVIDENCE: u64 = 5;
const REWRITE: u64 = 6;
const END: u64 = 7;

impl Task {
    /// As it stands in the mailbox: task and arguments.
    pub(crate) const fn words(self) -> (u64, [u64; 4]) {
        match self {
            Self::Call(times) => (CALL, [times, 0, 0, 0]),
            Self::Entry { list, entry } => (ENTRY, [list, entry, 0, 0]),
            Self::Store(at) => (STORE, [at, 0, 0, 0]),
            Self::Delete(state) => (DELETE, [state, 0, 0, 0]),
            Self::Attest { at, out } => (EVIDENCE, [at, out, 0, 0]),
            Self::Rewrite { list, headers, entry } => (REWRITE, [list, headers[0], headers[1], entry]),
            Self::End => (END, [0; 4]),
        }
    }
}

/// Which of the case's own pages is the call area of the further vCPU.
pub(crate) const AREA: u64 = 17;

/// What a further vCPU stores.
pub(crate) const STORED: u64 = 0x7374_6f72_6564_2121;

/// What a further vCPU asks evidence over.
pub(crate) const FURTHER_NONCE: [u8; REPORT_DATA] = [0x22; REPORT_DATA];

/// How often a call is made until it is served and not busy.
const ROUNDS: u32 = 100_000;

/// Does tasks until it is told to end, or an access to the mailbox faults. The port gets the call area that the cases create
/// the vCPU with.
pub fn further<P: GuestPort, B: Bed>(mut port: P, bed: B, places: &Places) {
    if let Some(area) = frame_at(own_page(places, AREA)) {
        port.set_call_area(area);
    }
    let mut vcpu = Further { port, bed, mailbox: places.mailbox };
    vcpu.put(word::RUNS, 1);
    while let Some(task) = vcpu.get(word::TASK) {
        if task == 0 {
            vcpu.bed.pause();
            continue;
        }
        let mut arguments = [0; 4];
        for (index, argument) in (word::ARGUMENTS..).zip(&mut arguments) {
            *argument = vcpu.get(index).unwrap_or(0);
        }
        let result = vcpu.task(task, arguments);
        let done = vcpu.get(word::DONE).unwrap_or(0).wrapping_add(1);
        vcpu.put(word::RESULT, result);
        vcpu.put(word::TASK, 0);
        vcpu.put(word::DONE, done);
        if task == END {
            break;
        }
    }
}

struct Further<P: GuestPort, B: Bed> {
    port: P,
    bed: B,
    mailbox: u64,
}

impl<P: GuestPort, B: Bed> Further<P, B> {
    fn task(&mut self, task: u64, [first, second, third, fourth]: [u64; 4]) -> u64 {
        match task {
            CALL => (0..first).filter(|tag| self.call(query(!tag)) == Some(query_answer(!tag))).count() as u64,
            ENTRY => {
                self.store(first, 1);
                self.store(first.wrapping_add(8), second);
                self.core(PVALIDATE, first)
            }
            STORE => self.try_store(first),
            DELETE => self.core(DELETE_VCPU, first),
            EVIDENCE => self.attest(first, second),
            REWRITE => self.rewrite(first, [second, third], fourth),
            _ => 0,
        }
    }

    /// Calls until the call is served and not busy.
    fn call(&mut self, regs: CallRegs) -> Option<CallRegs> {
        for _ in 0..ROUNDS {
            match self.port.call(regs) {
                Ok(answer) if !answer.result().is_again() => return Some(answer),
                _ => self.bed.pause(),
            }
        }
        None
    }

    fn core(&mut self, number: u32, rcx: u64) -> u64 {
        let answer = self.call(CallRegs::call(CallId::new(CORE, number), rcx, 0, 0));
        answer.map_or(u64::from(CallResult::BUSY.0), |answer| answer.rax)
    }

    fn try_store(&mut self, at: u64) -> u64 {
        match self.bed.execute(Instruction::Store { at, view: View::Private, value: STORED }) {
            Found::Done => 0,
            Found::Vc(code) => code,
            _ => u64::MAX,
        }
    }

    fn attest(&mut self, at: u64, out: u64) -> u64 {
        let request = AttestRequest { out, nonce: FURTHER_NONCE };
        if let Ok(at) = address(at) {
            let _ = self.port.memory().write_value(at, &request);
        }
        let answer = self.call(CallRegs::call(CallId::new(PROTOCOL, ATTEST), at, 0, 0));
        answer.map_or(u64::from(CallResult::BUSY.0), |answer| answer.rax)
    }

    fn rewrite(&mut self, list: u64, headers: [u64; 2], entry: u64) -> u64 {
        let mut rounds = 0_u64;
        while self.get(word::STOP) == Some(0) {
            let [header, other] = headers;
            self.store(list.wrapping_add(8), entry.wrapping_add(rounds % 2 * 0x1000));
            self.store(list, if (rounds / 2).is_multiple_of(2) { header } else { other });
            rounds = rounds.wrapping_add(1);
        }
        rounds
    }

    fn get(&self, word: u64) -> Option<u64> {
        self.port.memory().read_value(address(self.mailbox.wrapping_add(8 * word)).ok()?).ok()
    }

    fn put(&self, word: u64, value: u64) {
        self.store(self.mailbox.wrapping_add(8 * word), value);
    }

    fn store(&self, at: u64, value: u64) {
        // Whoever waits for it finds out.
        if let Ok(at) = address(at) {
            let _ = self.port.memory().write_value(at, &value);
        }
    }
}
