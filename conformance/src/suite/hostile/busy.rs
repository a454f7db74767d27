//! A guest that uses everything L1 offers and remembers what it was told.
//!
//! It is the shim over the backend's guest port, so the whole stack is under the lying host: shim, backend, monitor. A step
//! that fails is remembered and the next one tried. What it was told SUCCESS for has to be true afterwards ([`check`]).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use coco_part_api::{
    Attest, Context, CreateVcpu, DataForm, Error, ErrorKind, FrameRange, GuestMemory, HasMemory, Identify, Level,
    MemoryMap, NewVcpu, REPORT_DATA, Stopped, Validate, VcpuId, report_data,
};
use l2_guest_shim::{Limits, Shim};
use x86_64::PhysAddr;

use crate::platform::Platform;
use crate::runner::End;
use crate::suite::{Bench, Check, Stop, ensure, same};
use crate::world::layout::{CALL_AREA, DATA, ENTRY_FURTHER, FREE, LARGE, PAGE, STATE, frame, page, range};
use crate::world::{L2, Options, World};

/// A thing that the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// To find out who it is and what L1 speaks.
    Negotiate,
    /// Small pages of its own.
    Validate,
    /// A page to be shared with the host.
    Share,
    /// The page back.
    Unshare,
    /// A large page.
    Large,
    /// Another vCPU.
    Vcpu,
    /// Evidence.
    Attest,
    /// Evidence once more.
    AttestAgain,
}

/// What a guest was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beliefs {
    /// Pages that are its own, with the word it wrote there.
    pub(crate) own: BTreeMap<u64, u64>,
    /// Steps that succeeded, by vCPU.
    pub(crate) done: Vec<(u8, Step)>,
    /// Steps that failed, by vCPU.
    pub(crate) failed: Vec<(u8, Step, ErrorKind)>,
    /// Programs that came to their end.
    pub(crate) ended: u8,
    /// What it found to be untrue.
    pub(crate) untrue: Vec<String>,
}

/// The same beliefs, for programs and case.
pub(crate) type Told = Rc<RefCell<Beliefs>>;

/// A hostile host is not waited for: tries of a call, answers without progress.
const LIMITS: Limits = Limits { unserved_tries: 4, idle_rounds: 32 };

/// What the guest wants evidence over.
const NONCE: [u8; REPORT_DATA] = [0x5a; REPORT_DATA];

/// Starts a busy guest on so many vCPUs, and runs it to its end or for so many turns.
pub(crate) fn run<P: Platform>(world: &mut World<P>, vcpus: u8, turns: u64) -> (End, Beliefs) {
    run_watched(world, vcpus, turns, &[Step::Attest, Step::AttestAgain], |_| ())
}

/// As [`run`], with these steps for evidence (signing takes long), and with a look at the machine before every turn.
pub(crate) fn run_watched<P: Platform>(
    world: &mut World<P>,
    vcpus: u8,
    turns: u64,
    evidence: &'static [Step],
    mut look: impl FnMut(&P::Model),
) -> (End, Beliefs) {
    let told = Told::default();
    for vcpu in 0..vcpus {
        let told = Rc::clone(&told);
        world.on_guest(vcpu, move |l2| {
            program(l2, evidence, &told);
            told.borrow_mut().ended += 1;
            Ok(())
        });
    }
    let watched = Rc::clone(&told);
    let end = world.run_for(turns, move |model| {
        look(model);
        watched.borrow().ended == vcpus
    });
    let beliefs = told.borrow().clone();
    (end, beliefs)
}

/// Demands that the guest was told nothing but the truth, and that the run ended without a crash.
pub(crate) fn check<P: Platform>(world: &World<P>, end: &End, told: &Beliefs) -> Check {
    ensure(!matches!(end, End::Panicked { .. } | End::NoProgram(_)), || format!("the run ended with {end:?}"))?;
    same("found untrue", told.untrue.as_slice(), &[][..])?;
    let level = world.guest_level().number();
    for (&at, word) in &told.own {
        let bytes = word.to_le_bytes();
        // A host may take the page away; then it is nobody's.
        let seen = world.peek(at, 8, Some(level));
        ensure(seen.as_deref().is_none_or(|seen| seen == bytes), || {
            format!("the guest's page {at:#x} reads {seen:x?}")
        })?;
        for other in (1..=3).filter(|other| *other != level) {
            same(&format!("level {other} reads the guest's page {at:#x}"), world.peek(at, 8, Some(other)), None)?;
        }
        let host = world.peek(at, 8, None);
        ensure(*word == 0 || host.as_deref() != Some(&bytes), || format!("the host reads the guest's page {at:#x}"))?;
    }
    Ok(())
}

/// Runs a busy guest under a host and demands that it was told nothing but the truth and that no oracle found anything. True
/// when the host hindered it.
pub(crate) fn hindered_by<P: Platform>(
    bench: &mut Bench<P>,
    what: &str,
    options: Options<P>,
    turns: u64,
    evidence: &'static [Step],
) -> Result<bool, Stop> {
    let vcpus = options.vcpus;
    let mut world = bench.world(options);
    let (end, told) = run_watched(&mut world, vcpus, turns, evidence, |_| ());
    check(&world, &end, &told).map_err(|stop| Stop::Wrong(format!("{what}: {stop:?}")))?;
    let violations = bench.record().violations;
    ensure(violations.is_empty(), || format!("{what}: {}", violations.join("; ")))?;
    Ok(told.ended < vcpus || !told.failed.is_empty())
}

/// Memory that the program of a vCPU asks for.
fn base(vcpu: u8) -> u64 {
    FREE + u64::from(vcpu) * 2 * LARGE
}

/// The word that the guest writes to a page.
fn mark(at: u64) -> u64 {
    0x6775_6573_0000_0001 ^ at << 8
}

fn program<P: Platform>(l2: L2<'_, P>, evidence: &[Step], told: &Told) {
    let (vcpu, home) = (l2.start.vcpu, l2.home);
    let Ok(map) = MemoryMap::new(&home.guest_ram) else { return };
    let memory = l2.port.memory();
    let mut shim = match Shim::negotiate(l2.port, map, LIMITS) {
        Ok(shim) => shim,
        Err(error) => return told.borrow_mut().failed.push((vcpu, Step::Negotiate, error.kind())),
    };
    let own = Level::Guest(home.options.guest_level());
    if shim.level() != own {
        told.borrow_mut().untrue.push(format!("the own level is {:?}", shim.level()));
    }
    note(told, vcpu, Step::Negotiate, Ok(()));

    let small = range(base(vcpu), 3 * PAGE);
    let result = shim.validate(small);
    validated(told, &memory, small, result.as_ref().map_or_else(|stopped| stopped.done, |()| small.frames()));
    note(told, vcpu, Step::Validate, kind(result));

    if home.options.vcpus > 1 && vcpu == 0 {
        let new = NewVcpu {
            id: VcpuId(1),
            context: &Context::long_mode(ENTRY_FURTHER, 0, 0),
            state: frame(page(STATE, 1)),
            call_area: frame(page(CALL_AREA, 1)),
        };
        let result = shim.create_vcpu(new).map_err(|error| error.kind());
        note(told, vcpu, Step::Vcpu, result);
    }

    let lent = range(page(DATA, u64::from(vcpu)), PAGE);
    let result = kind(shim.share(lent));
    let is_shared = result.is_ok();
    note(told, vcpu, Step::Share, result);
    if is_shared {
        let result = shim.unshare(lent);
        validated(told, &memory, lent, u64::from(result.is_ok()));
        note(told, vcpu, Step::Unshare, kind(result));
    }

    let large = range(base(vcpu) + LARGE, LARGE);
    let result = shim.validate(large);
    if result.is_ok() {
        validated(told, &memory, range(base(vcpu) + 2 * LARGE - PAGE, PAGE), 1);
    }
    note(told, vcpu, Step::Large, kind(result));

    let evidence_page = frame(page(DATA, 0x20 + u64::from(vcpu)));
    if shim.set_evidence_page(evidence_page).is_err() {
        return;
    }
    for &step in evidence {
        let mut out = vec![0; PAGE as usize];
        let result = shim.attest(&NONCE, &mut out).map_err(|error| error.kind());
        if let Ok(evidence) = result {
            let data = match evidence.data {
                DataForm::Verbatim => NONCE,
                DataForm::Digest => report_data(own, &NONCE, &[]),
            };
            let bytes = out.get(..evidence.len).unwrap_or_default();
            if evidence.names != own || !bytes.windows(REPORT_DATA).any(|window| window == data) {
                told.borrow_mut().untrue.push(format!("evidence for {:?} is not over the nonce", evidence.names));
            }
        }
        note(told, vcpu, step, result.map(|_| ()));
    }
}

/// The first frames of a range are the guest's now: they have to read zero, and keep what is written there.
fn validated<M: GuestMemory>(told: &Told, memory: &M, range: FrameRange, frames: u64) {
    for index in 0..frames {
        let at = range.start().as_u64() + index * PAGE;
        let place = PhysAddr::new(at);
        told.borrow_mut().own.insert(at, 0);
        match memory.read_value::<u64>(place) {
            Ok(0) => {}
            Ok(word) => told.borrow_mut().untrue.push(format!("the new page {at:#x} reads {word:#x}")),
            Err(_) => continue,
        }
        if memory.write_value(place, &mark(at)).is_ok() {
            told.borrow_mut().own.insert(at, mark(at));
        }
    }
}

fn kind<E: Error>(result: Result<(), Stopped<E>>) -> Result<(), ErrorKind> {
    result.map_err(|stopped| stopped.cause.kind())
}

fn note(told: &Told, vcpu: u8, step: Step, result: Result<(), ErrorKind>) {
    let mut told = told.borrow_mut();
    match result {
        Ok(()) => told.done.push((vcpu, step)),
        Err(kind) => told.failed.push((vcpu, step, kind)),
    }
}
