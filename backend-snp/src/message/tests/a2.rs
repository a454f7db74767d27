//! Rule A2 over all that a host can answer: every exit status, host status, firmware status, valid bit and deed, in every
//! sequence of up to four exits.
//!
//! The sequences are too many to run one by one. What a sequence may still lead to depends on the state that it left: the
//! request in flight, the tries it had, what the firmware has used and what the host has recorded. So each answer is given
//! once in each state that was reached, and the sequences that lead to the same state are counted.

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;
use std::{format, println, vec};

use super::bench::{CERTIFICATE_PAGES, CERTIFICATES, GHCB, KEY, RBX, REQUEST, RESPONSE, answer, try_open};
use crate::abi::guest_messages::{KeyRequest, RootKeySelect};
use crate::abi::secrets::Vmpck;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::{GhcbPage, Host};
use crate::message::{Channel, DerivedKey, MessagePages};
use crate::testing::{BITMAP, EXIT_CODE, INFO_1, INFO_2, Memory, MockPort, frame, range};

/// Longest sequence of exits.
const LENGTH: usize = 4;
/// Sends of one request; fewer than [`LENGTH`], so that patience ends within a sequence.
const TRIES: u32 = 3;

/// What the host does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// The firmware gets it, the guest the response.
    Delivered,
    /// The firmware gets it, the guest nothing.
    Withheld,
    /// Nobody gets anything.
    Dropped,
    /// The guest gets the last response that the host has seen.
    Replayed,
    /// The firmware gets it, the guest a response with a bit flipped.
    Corrupted,
    /// The firmware gets it with a bit flipped, and refuses it.
    Garbled,
    /// The guest gets its request back.
    Echoed,
}

const DEEDS: [Deed; 7] =
    [Deed::Delivered, Deed::Withheld, Deed::Dropped, Deed::Replayed, Deed::Corrupted, Deed::Garbled, Deed::Echoed];
/// SW_EXITINFO1: success, exception, malformed, unknown.
const EXIT_STATUS: [u64; 4] = [0, 1, 2, 7];
/// SW_EXITINFO2\[63:32\]: success, INVALID_LEN, BUSY, unknown.
const HOST_STATUS: [u64; 4] = [0, 1, 2, 0xff];
/// SW_EXITINFO2\[31:0\]: SUCCESS, INVALID_LENGTH, INVALID_PARAMETER, unknown.
const FIRMWARE_STATUS: [u64; 4] = [0, 0x04, 0x16, 0xffff_ffff];

/// One answer of the host.
#[derive(Clone, Copy, Debug)]
struct Act {
    status: u64,
    detail: u64,
    /// Valid bits of SW_EXITINFO1, SW_EXITINFO2 and RBX.
    valid: [bool; 3],
    deed: Deed,
}

const HONEST: Act = Act { status: 0, detail: 0, valid: [true, true, false], deed: Deed::Delivered };

/// What the guest asks for, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Reports, derived keys and TSC information in turn.
    Plain,
    /// Reports with certificates.
    Extended,
}

impl Program {
    /// All answers that make a difference. RBX counts only where certificates were asked for.
    fn acts(self) -> Vec<Act> {
        let rbx: &[bool] = if self == Self::Extended { &[false, true] } else { &[false] };
        let mut acts = vec![];
        for status in EXIT_STATUS {
            for detail in HOST_STATUS.into_iter().flat_map(|host| FIRMWARE_STATUS.map(|firmware| host << 32 | firmware))
            {
                for valid in [[false, false], [false, true], [true, false], [true, true]] {
                    for (rbx, deed) in rbx.iter().flat_map(|rbx| DEEDS.map(|deed| (*rbx, deed))) {
                        acts.push(Act { status, detail, valid: [valid[0], valid[1], rbx], deed });
                    }
                }
            }
        }
        acts
    }
}

/// All that decides about what comes next, as seen at an exit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Which request is in flight, and for the how manieth time it is sent.
    turn: usize,
    tries: usize,
    is_extended: bool,
    /// Tag and number of the request.
    request: Vec<u8>,
    /// Last number that the firmware used.
    used: u64,
    /// Tag and number of the last response.
    recorded: Vec<u8>,
}

/// Host and firmware.
#[derive(Default)]
struct World {
    script: Vec<Act>,
    exits: usize,
    turn: usize,
    tries: usize,
    used: u64,
    recorded: Vec<u8>,
    /// What was encrypted under each number, by either side.
    met: BTreeMap<u64, Vec<u8>>,
    fault: Option<String>,
    /// At the first exit after the script.
    state: Option<State>,
}

impl World {
    fn serve(&mut self, memory: &Memory) {
        let is_extended = memory.word(GHCB as usize + EXIT_CODE) == 0x8000_0012;
        let page = memory.bytes()[REQUEST as usize..][..0x1000].to_vec();
        self.meet(&page);
        if self.exits == self.script.len() {
            self.state = Some(State {
                turn: self.turn,
                tries: self.tries,
                is_extended,
                request: page[..0x28].to_vec(),
                used: self.used,
                recorded: self.recorded.iter().take(0x28).copied().collect(),
            });
        }
        let act = self.script.get(self.exits).copied().unwrap_or(HONEST);
        self.exits += 1;
        self.tries += 1;
        let old = self.recorded.clone();
        let mut flipped = page.clone();
        flipped[0x60] ^= 1;
        let response = match act.deed {
            Deed::Delivered => self.deliver(&page),
            Deed::Withheld => self.deliver(&page).map(|_| vec![0; 0x1000]),
            Deed::Corrupted => self.deliver(&page).map(|mut response| {
                response[0x60] ^= 1;
                response
            }),
            Deed::Garbled => self.deliver(&flipped),
            Deed::Replayed => Some(old).filter(|old| !old.is_empty()),
            Deed::Echoed => Some(page),
            Deed::Dropped => None,
        };
        if let Some(response) = response {
            memory.bytes()[RESPONSE as usize..][..0x1000].copy_from_slice(&response);
        }
        let ghcb = GHCB as usize;
        memory.set_word(ghcb + INFO_1, act.status);
        memory.set_word(ghcb + INFO_2, act.detail);
        memory.set_word(ghcb + RBX, 3);
        let mut bitmap = [0; 16];
        for (bit, is_valid) in [115, 116, 99].into_iter().zip(act.valid) {
            bitmap[bit / 8] |= u8::from(is_valid) << (bit % 8);
        }
        memory.bytes()[ghcb + BITMAP..][..16].copy_from_slice(&bitmap);
    }

    /// The firmware: answers the next number, and nothing else.
    fn deliver(&mut self, page: &[u8]) -> Option<Vec<u8>> {
        let number = u64::from_le_bytes(*page[0x20..].first_chunk().unwrap());
        let len = usize::from(u16::from_le_bytes([page[0x36], page[0x37]]));
        if number != self.used + 1 || try_open(page, len).is_none() {
            return None;
        }
        let response = answer(page, super::bench::Fate::Answered);
        self.used = number + 1;
        self.meet(&response);
        self.recorded.clone_from(&response);
        Some(response)
    }

    /// Takes note of a message and its number.
    fn meet(&mut self, page: &[u8]) {
        let number = u64::from_le_bytes(*page[0x20..].first_chunk().unwrap());
        let len = usize::from(u16::from_le_bytes([page[0x36], page[0x37]]));
        let message = page[..0x60 + len].to_vec();
        match self.met.get(&number) {
            Some(old) if *old != message => self.fault = Some(format!("number {number} met two messages")),
            Some(_) => {}
            None => drop(self.met.insert(number, message)),
        }
    }
}

/// A guest under one script, after which the host is honest.
struct Run {
    world: Rc<RefCell<World>>,
    port: MockPort,
    host: Host<Memory>,
    channel: Channel<Memory>,
    program: Program,
}

impl Run {
    fn new(program: Program, script: &[Act]) -> Self {
        let memory = Memory::new();
        let world = Rc::new(RefCell::new(World { script: script.to_vec(), ..World::default() }));
        let (view, served) = (memory.clone(), Rc::clone(&world));
        let mut port = MockPort::new(move |exit| {
            if *exit.msr == GHCB | 0x012 {
                *exit.msr = GHCB | 0x013;
            } else {
                served.borrow_mut().serve(&view);
            }
        });
        let host = Host::Page(GhcbPage::register(&mut port, memory.clone(), frame(GHCB)).unwrap());
        let channel = channel(memory);
        Self { world, port, host, channel, program }
    }

    /// One request, over data that no other request has.
    fn ask(&mut self) -> Result<(), SnpError> {
        let turn = {
            let mut world = self.world.borrow_mut();
            world.turn += 1;
            world.tries = 0;
            world.turn
        };
        let Self { port, host, channel, .. } = self;
        let data = [turn as u8; 64];
        match (self.program, turn % 3) {
            (Program::Extended, _) => {
                let shared = range(CERTIFICATES, CERTIFICATE_PAGES * 0x1000);
                let table = &mut [0; 0x1000 * CERTIFICATE_PAGES as usize];
                let extended = channel.extended_report(port, host, &data, Vmpl::VMPL2, shared, table)?;
                assert_eq!(extended.report[0x50..0x90], data);
            }
            (Program::Plain, 1) => assert_eq!(channel.report(port, host, &data, Vmpl::VMPL2)?[0x50..0x90], data),
            (Program::Plain, 2) => {
                let mut request = KeyRequest::new(RootKeySelect::default(), Vmpl::VMPL2);
                request.tcb_version = turn as u64;
                let mut key = DerivedKey::empty();
                channel.derived_key(port, host, &request, &mut key)?;
                assert_eq!(key.bytes()[0x14], turn as u8);
            }
            (Program::Plain, _) => drop(channel.tsc_info(port, host)?),
        }
        Ok(())
    }

    /// Asks until the script is used up or the channel is closed, and once more. Gives the state after the script; `None`
    /// when the channel was closed by then.
    fn finish(mut self) -> Result<Option<State>, String> {
        loop {
            let is_over = self.world.borrow().exits >= self.world.borrow().script.len();
            let outcome = self.ask();
            if self.channel.is_open() != outcome.is_ok() {
                return Err(format!("open is {} after {outcome:?}", outcome.is_err()));
            }
            match outcome {
                // In step with an honest firmware again.
                Ok(()) if is_over => break,
                Ok(()) => {}
                Err(error) if is_over => return Err(format!("open, but out of step: {error:?}")),
                Err(_) => {
                    let before = self.world.borrow().exits;
                    let outcome = self.ask();
                    let is_silent = self.world.borrow().exits == before;
                    if outcome != Err(SnpError::ChannelClosed) || !is_silent || self.channel.key.0 != [0; 32] {
                        return Err(format!("a closed channel did {outcome:?}"));
                    }
                    break;
                }
            }
        }
        let mut world = self.world.borrow_mut();
        world.fault.take().map_or(Ok(world.state.take()), Err)
    }
}

fn channel(memory: Memory) -> Channel<Memory> {
    let pages = MessagePages::new(frame(REQUEST), frame(RESPONSE)).unwrap();
    Channel::new(&mut Vmpck(KEY), Vmpl::VMPL2, 0, memory, pages).with_busy_tries(TRIES)
}

#[test]
fn no_sequence_of_answers_makes_a_number_meet_two_messages() {
    let (mut sequences, mut runs) = (0_u128, 0_u64);
    for program in [Program::Plain, Program::Extended] {
        let acts = program.acts();
        // What to do to come to a state, and how many sequences come to it.
        let mut states = BTreeMap::from([(None, (vec![], 1_u128))]);
        for _ in 0..LENGTH {
            let mut next = BTreeMap::new();
            for (script, count) in states.values() {
                for act in &acts {
                    let script: Vec<Act> = script.iter().chain([act]).copied().collect();
                    let state =
                        Run::new(program, &script).finish().unwrap_or_else(|fault| panic!("{fault}: {script:?}"));
                    sequences += count;
                    runs += 1;
                    // A closed channel is asked no more: no sequence goes on from there.
                    if let Some(state) = state {
                        next.entry(Some(state)).or_insert((script, 0)).1 += count;
                    }
                }
            }
            states = next;
        }
        assert!(states.len() > 10, "{program:?}: {} states", states.len());
    }
    println!("a2_sequences {sequences}");
    println!("a2_runs {runs}");
}

#[test]
fn a_channel_that_starts_again_after_an_error_is_noticed() {
    let lost = Act { deed: Deed::Withheld, ..HONEST };
    let mut run = Run::new(Program::Plain, &[lost]);
    run.ask().unwrap_err();
    let memory = run.channel.memory.clone();
    run.channel = channel(memory);
    assert_eq!(run.finish(), Err("open, but out of step: BadResponse { field: \"algo\" }".into()));

    let mut run = Run::new(Program::Plain, &[lost]);
    run.ask().unwrap_err();
    let memory = run.channel.memory.clone();
    run.channel = channel(memory);
    run.ask().unwrap_err();
    assert_eq!(run.world.borrow().fault.as_deref(), Some("number 1 met two messages"));
}
