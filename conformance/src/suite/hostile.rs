//! Hosts that lie: they stop progress, never integrity or confidentiality. And what both sides know of themselves in
//! spite of them.
//!
//! One case per [`Liar`]: the standard monitor and a [busy guest](busy) under it, on one vCPU and on two.

pub(crate) mod busy;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use coco_part_api::svsm::own::{ATTEST, AttestRequest};
use coco_part_api::svsm::{CORE, CREATE_VCPU, CallId, CallResult, own};
use coco_part_api::{
    AdmitVcpu, BootGuest, BootInfo, BootPage, CallMonitor, CallRegs, Context, CreateVcpu, Exit, Grant, Grants,
    GuestLevel, GuestMemory, GuestPort, HasMemory, Identify, Level, MemoryMap, NewVcpu, Origin, REPORT_DATA, Rights,
    RunLevel, Source, Terms, Validate, VcpuId, report_data,
};
use l2_guest_shim::{Limits, Shim};
use x86_64::PhysAddr;

use super::bench::{Stop, ensure, same};
use super::{Bench, Case, Check, Kind};
use crate::platform::{Liar, Platform, Property};
use crate::runner::End;
use crate::world::layout::{
    BOOT_STATE, CALL_AREA, DATA, ENTRY_FURTHER, ENTRY_GUEST, FEATURES, FREE, GUEST, MONITOR, MONITOR_BYTES,
    MONITOR_DATA, MONITOR_SECRETS, MONITOR_STATE, PAGE, SECRETS, STATE, frame, page, range,
};
use crate::world::{Gate, L2, Options};
use busy::{Beliefs, Step};

/// Turns that a world under a liar gets.
const TURNS: u64 = 16_000;

macro_rules! case {
    ($id:literal, $rule:literal, [$($threat:literal),*], $kind:ident, $text:literal, $run:expr) => {
        Case { id: $id, rule: $rule, threats: &[$($threat),*], kind: Kind::$kind, text: $text, run: $run }
    };
}

macro_rules! under {
    ($id:literal, [$($threat:literal),*], $text:literal, $liar:expr, $demand:expr) => {
        case!($id, "H2", [$($threat),*], HostileHost, $text, |bench| under(bench, $liar, $demand))
    };
}

/// The cases of this file.
pub(crate) fn cases<P: Platform>() -> Vec<Case<P>> {
    let mut all = liars();
    all.extend([
        case!(
            "H2-swaps-page",
            "H2",
            ["PG-02", "SW-16", "RQ-18"],
            HostileHost,
            "other memory under a page of either side stops progress; nobody reads it as what was there",
            swaps_page
        ),
        case!(
            "H1-attest-request-changes",
            "H1",
            ["RQ-12", "AT-08"],
            Concurrency,
            "evidence asked for by a request that changes meanwhile is over one of its nonces, in the caller's page",
            attest_request_changes
        ),
        case!(
            "V1-slot-occupied",
            "V1",
            ["VC-11"],
            Concurrency,
            "a vCPU is not created where another one still waits to be taken over: in use, nothing lost, later it succeeds",
            slot_occupied
        ),
        case!(
            "H3-own-level",
            "H3",
            ["CP-07"],
            HostileHost,
            "whatever the host says, L1 knows that it is L1, and a guest knows its level and its vCPU",
            own_level
        ),
        case!(
            "H3-altered-boot-page",
            "H3",
            ["CP-07"],
            HostileGuest,
            "a guest whose boot page names another level than the machine shows does not start",
            altered_boot_page
        ),
    ]);
    all
}

/// A case for every [`Liar`] that the standard monitor and guest can meet.
fn liars<P: Platform>() -> Vec<Case<P>> {
    vec![
        under!(
            "H2-never-switches",
            ["SW-01", "SW-15"],
            "a host that never runs the guest, but says so, gets nothing done and nothing told",
            Liar::NeverSwitches,
            nothing_done
        ),
        under!(
            "H2-fakes-completion",
            ["SW-07"],
            "a guest takes no answer from a host that says L1 answered",
            Liar::FakesCompletion,
            nothing_by_l1
        ),
        under!(
            "H2-switches-again",
            ["SW-03"],
            "each call is served once, however often the host comes back for it",
            Liar::SwitchesAgain,
            everything_done
        ),
        under!(
            "H2-returns-for-nothing",
            ["SW-02"],
            "a return without a call is no call, and loses none",
            Liar::ReturnsForNothing,
            everything_done
        ),
        under!(
            "H2-wrong-level",
            ["SW-05"],
            "a host that would run another level finds none to run",
            Liar::WrongLevel,
            everything_done
        ),
        under!(
            "H2-page-state-nothing",
            ["PG-14"],
            "a host that agrees page states in words only makes no page valid",
            Liar::PageStateNothing,
            nothing_done
        ),
        under!(
            "H2-page-state-edits",
            ["PG-16"],
            "a host that rewrites page state lists has no say in what is validated",
            Liar::PageStateEdits,
            everything_done
        ),
        under!(
            "H2-moves-page",
            ["PG-06"],
            "memory of L1 that the host puts under the guest's next page reads zero there",
            Liar::MovesPage { from: MONITOR_DATA, to: FREE },
            everything_done
        ),
        under!(
            "H2-replays-message",
            ["GR-01"],
            "an old answer of the firmware is no evidence",
            Liar::ReplaysMessage,
            all_but_second_evidence
        ),
        under!(
            "H2-corrupts-message",
            ["GR-02"],
            "a changed answer of the firmware is no evidence",
            Liar::CorruptsMessage,
            all_but_evidence
        ),
        under!(
            "H2-loses-request",
            ["GR-03"],
            "a request that the host keeps brings no evidence",
            Liar::LosesRequest,
            all_but_evidence
        ),
        under!(
            "H2-loses-answer",
            ["GR-03"],
            "an answer that the host keeps is no evidence",
            Liar::LosesAnswer,
            all_but_evidence
        ),
        under!(
            "H2-says-busy",
            ["GR-03", "GH-20"],
            "a busy firmware gets the same request again",
            Liar::SaysBusy { times: 3 },
            everything_done
        ),
        under!(
            "H2-features",
            ["GH-07"],
            "L1 does not start on a host that denies what it needs",
            Liar::Features,
            nothing_done
        ),
        under!(
            "H2-withholds-kick",
            ["EV-12"],
            "a host that wakes nobody stops nothing that can be done without",
            Liar::WithholdsKick,
            everything_done
        ),
    ]
}

/// What must have come of a run: steps done on so many vCPUs.
type Demand = fn(&Beliefs, u8) -> Check;

/// Runs a busy guest under a liar, on one vCPU and on two, with seeds of both parities.
fn under<P: Platform>(bench: &mut Bench<P>, liar: Liar, demand: Demand) -> Check {
    for vcpus in [1, 2] {
        for more in 0..2 {
            let options = bench.under(liar)?;
            let options = Options { vcpus, seed: options.seed + more, ..options };
            let mut world = bench.world(options);
            let (end, told) = busy::run(&mut world, vcpus, TURNS);
            busy::check(&world, &end, &told)?;
            demand(&told, vcpus).map_err(|stop| Stop::Wrong(format!("on {vcpus} vCPUs: {stop:?}; {told:x?}")))?;
        }
    }
    Ok(())
}

/// All steps of all vCPUs but these succeeded, and these failed.
fn all_but(told: &Beliefs, vcpus: u8, lost: &[Step]) -> Check {
    use Step::{Attest, AttestAgain, Large, Negotiate, Share, Unshare, Validate, Vcpu};
    for vcpu in 0..vcpus {
        for step in [Negotiate, Validate, Share, Unshare, Large, Attest, AttestAgain] {
            let is_done = told.done.contains(&(vcpu, step));
            ensure(is_done != lost.contains(&step), || format!("{step:?} of vCPU {vcpu}: done is {is_done}"))?;
        }
    }
    ensure(vcpus == 1 || told.done.contains(&(0, Vcpu)), || "no vCPU was created".into())
}

pub(crate) fn everything_done(told: &Beliefs, vcpus: u8) -> Check {
    all_but(told, vcpus, &[])
}

fn all_but_evidence(told: &Beliefs, vcpus: u8) -> Check {
    all_but(told, vcpus, &[Step::Attest, Step::AttestAgain])
}

/// The first answer under a key has none before it.
fn all_but_second_evidence(told: &Beliefs, vcpus: u8) -> Check {
    all_but(told, vcpus, &[Step::AttestAgain])
}

fn nothing_done(told: &Beliefs, _: u8) -> Check {
    same("done", told.done.as_slice(), &[][..])
}

/// The host lies from early on: nothing that takes L1 is done. Evidence under the own key may take none.
fn nothing_by_l1(told: &Beliefs, _: u8) -> Check {
    let late = told.done.iter().find(|(_, step)| (Step::Validate..=Step::Vcpu).contains(step));
    ensure(late.is_none(), || format!("{late:?} was done without L1"))?;
    same("pages the guest believes in", told.own.len(), 0)
}

fn swaps_page<P: Platform>(bench: &mut Bench<P>) -> Check {
    // Plain pages of both sides, and those that L1 and guest cannot do without.
    let victims = [DATA, FREE, CALL_AREA, BOOT_STATE, SECRETS, MONITOR_DATA, MONITOR_SECRETS, MONITOR_STATE];
    // While L1 starts, when the guest has just begun, and in the middle of its work.
    for (at, steps) in victims.into_iter().flat_map(|at| [200, 1200, 1500, 1800].map(|steps| (at, steps))) {
        let options = bench.under(Liar::SwapsPageLate { at, steps })?;
        let mut world = bench.world(options);
        let (end, told) = busy::run(&mut world, 1, TURNS);
        let checked = busy::check(&world, &end, &told);
        checked.map_err(|stop| Stop::Wrong(format!("page {at:#x} after {steps} steps: {stop:?}")))?;
    }
    Ok(())
}

/// Creates vCPU 1 and gives the port back.
fn second_vcpu<P: Platform, T>(
    l2: L2<'_, P>,
    then: impl for<'p> FnOnce(&mut P::Guest<'p>) -> Result<T, Stop>,
) -> Result<T, Stop> {
    let map = MemoryMap::new(&l2.home.guest_ram).map_err(|error| error.to_string())?;
    let mut shim = Shim::negotiate(l2.port, map, Limits::default()).map_err(|error| error.to_string())?;
    let new = NewVcpu {
        id: VcpuId(1),
        context: &Context::long_mode(ENTRY_FURTHER, 0, 0),
        state: frame(page(STATE, 1)),
        call_area: frame(page(CALL_AREA, 1)),
    };
    shim.create_vcpu(new).map_err(|error| error.to_string())?;
    then(shim.port_mut())
}

fn attest_request_changes<P: Platform>(bench: &mut Bench<P>) -> Check {
    const REQUEST: u64 = DATA + 0x1_0000;
    const OUT: [u64; 2] = [DATA + 0x1_1000, DATA + 0x1_2000];
    const NONCES: [[u8; REPORT_DATA]; 2] = [[0x11; REPORT_DATA], [0x22; REPORT_DATA]];
    let request = |which: usize| AttestRequest { out: OUT[which], nonce: NONCES[which] };
    for more in 0..4 {
        let options = bench.options();
        let level = Level::Guest(options.guest_level());
        let mut world = bench.world(Options { vcpus: 2, seed: options.seed + more, ..options });
        let over = Rc::new(Cell::new(false));
        let flag = Rc::clone(&over);
        world.on_guest(0, move |l2| {
            let outcome = second_vcpu(l2, |port| {
                let memory = port.memory();
                for _ in 0..3 {
                    memory.write_value(PhysAddr::new(REQUEST), &request(0)).map_err(|error| error.to_string())?;
                    let answer = port.call(CallRegs::call(CallId::new(own::PROTOCOL, ATTEST), REQUEST, 0, 0));
                    let answer = answer.map_err(|error| error.to_string())?;
                    same("result", answer.result(), CallResult::SUCCESS)?;
                    let len = usize::try_from(answer.rcx).unwrap_or(0).min(PAGE as usize);
                    // Address and nonce come from the same copy.
                    let fits = OUT.iter().zip(NONCES).any(|(out, nonce)| {
                        let mut bytes = vec![0; len];
                        let wanted = report_data(level, &nonce, &[]);
                        memory.read(PhysAddr::new(*out), &mut bytes).is_ok()
                            && bytes.windows(REPORT_DATA).any(|window| window == wanted)
                    });
                    ensure(fits, || "evidence mixes two requests".into())?;
                    for out in OUT {
                        memory.zero(range(out, PAGE)).map_err(|error| error.to_string())?;
                    }
                }
                Ok(())
            });
            flag.set(true);
            outcome
        });
        let flag = Rc::clone(&over);
        world.on_guest(1, move |l2| {
            let memory = l2.port.memory();
            let mut which = 0;
            while !flag.get() {
                which ^= 1;
                memory.write_value(PhysAddr::new(REQUEST), &request(which)).map_err(|error| error.to_string())?;
            }
            Ok(())
        });
        world.finish()?;
    }
    Ok(())
}

fn slot_occupied<P: Platform>(bench: &mut Bench<P>) -> Check {
    if !P::PROPERTIES.contains(&Property::RunsThroughKick) {
        return Err(Stop::NotApplicable);
    }
    let options = bench.options();
    let level = options.guest_level();
    let mut world = bench.world(Options { vcpus: 2, ..options });
    let (up, go, done) = (Gate::new(), Gate::new(), Gate::new());
    let gates = (up.clone(), go.clone(), done.clone());
    world.on_guest(0, move |mut l2| {
        let (up, go, done) = gates;
        let cpu = l2.cpu;
        let context = Context::long_mode(ENTRY_FURTHER, 0, 0);
        let create = |l2: &mut L2<'_, P>, index: u64| -> Result<(CallRegs, CallRegs), Stop> {
            let (state, call_area) = (page(STATE, index), page(CALL_AREA, index));
            let new = NewVcpu { id: VcpuId(1), context: &context, state: frame(state), call_area: frame(call_area) };
            l2.port.write_image(&new, level).map_err(|error| error.to_string())?;
            let regs = CallRegs::call(CallId::new(CORE, CREATE_VCPU), state, call_area, 1);
            Ok((regs, super::probe::call(l2, regs)?))
        };
        same("the first", create(&mut l2, 1)?.1.result(), CallResult::SUCCESS)?;
        l2.port.start(VcpuId(1), frame(page(STATE, 1)), level).map_err(|error| error.to_string())?;
        up.wait(|| P::pause(cpu));
        // It runs and asks L1 nothing, so L1 there does not take over what is posted.
        same("the second", create(&mut l2, 2)?.1.result(), CallResult::SUCCESS)?;
        for _ in 0..3 {
            let (asked, answer) = create(&mut l2, 3)?;
            same("while the second waits", answer, asked.with_result(CallResult::FAIL_INUSE))?;
        }
        go.open();
        // Its next call ends it. Then the second takes over, and there is room again.
        while create(&mut l2, 3)?.1.result() != CallResult::SUCCESS {}
        done.pass();
        Ok(())
    });
    let (is_up, may_go) = (up, go);
    world.on_guest(1, move |mut l2| {
        is_up.open();
        l2.wait(&may_go);
        super::probe::call(&mut l2, CallRegs::call(CallId::new(own::PROTOCOL, own::IDENTIFY), 0, 0, 0)).map(|_| ())
    });
    let end = world.run_to(&done);
    world.expect(end)
}

fn own_level<P: Platform>(bench: &mut Bench<P>) -> Check {
    let liars = [
        Liar::Features,
        Liar::PageStateNothing,
        Liar::PageStateEdits,
        Liar::ReturnsForNothing,
        Liar::WrongLevel,
        Liar::CorruptsMessage,
    ];
    for liar in liars {
        // Some hosts cannot tell some lies.
        let Ok(options) = bench.under(liar) else { continue };
        let mut world = bench.world(options);
        let seen = Rc::new(RefCell::new(None));
        let log = Rc::clone(&seen);
        world.on_l1(move |l1| {
            *log.borrow_mut() = Some((l1.backend.level(), l1.backend.vcpu()));
            Ok(())
        });
        let end = world.run_for(TURNS, |_| false);
        ensure(!matches!(end, End::Panicked { .. }), || format!("{liar:?}: {end:?}"))?;
        let seen = *seen.borrow();
        match seen {
            Some(who) => same(&format!("{liar:?}: L1 is"), who, (Level::Monitor, VcpuId(0)))?,
            None => {
                let refused = world.complaints().iter().any(|text| text.contains("L1 does not start"));
                let is_stopped = !world.runner.stops().is_empty();
                ensure(refused || is_stopped, || format!("{liar:?}: L1 neither starts nor says why"))?;
            }
        }
    }
    // The guest's side: what it finds out by itself and what L1 says.
    for level in [GuestLevel::ONE, GuestLevel::TWO, GuestLevel::THREE] {
        let options = bench.under(Liar::ReturnsForNothing)?;
        let mut world = bench.world(Options { levels: vec![level], ..options });
        world.on_guest(0, move |mut l2| {
            ensure(l2.port.level().is_none_or(|own| own == level), || format!("the port says {:?}", l2.port.level()))?;
            let answer =
                super::probe::call(&mut l2, CallRegs::call(CallId::new(own::PROTOCOL, own::IDENTIFY), 0, 0, 0))?;
            same("level and vCPU as L1 says", (answer.rcx, answer.rdx), (u64::from(level.number()), 0))
        });
        world.finish()?;
    }
    Ok(())
}

/// As L1, without the monitor crate: starts a guest at level 2 whose boot page says `told`, lets `alter` change that page
/// before it is handed over, and answers every call with "unsupported". `called` says whether there was one.
pub(crate) fn guest_by_hand<P: Platform>(
    l1: &mut P::Monitor<'_>,
    told: GuestLevel,
    alter: impl FnOnce(&<P::Monitor<'_> as HasMemory>::Memory) -> Check,
    called: &Cell<bool>,
) -> Check {
    const OWN: GuestLevel = GuestLevel::TWO;
    let text = |error: &dyn std::fmt::Display| Stop::Wrong(error.to_string());
    let grants = Grants::one(OWN, Rights::RAM);
    l1.validate(range(GUEST, CALL_AREA - GUEST)).map_err(|stopped| text(&stopped.cause))?;
    let rest = range(CALL_AREA, FREE - CALL_AREA);
    l1.validate_for(rest, &grants, Origin::Monitor).map_err(|stopped| text(&stopped.cause))?;
    let info = BootInfo { level: told, call_area: frame(CALL_AREA), monitor: range(MONITOR, MONITOR_BYTES) };
    for (page, at) in [(BootPage::Secrets, SECRETS), (BootPage::Features, FEATURES)] {
        l1.fill(page, frame(at), &info).map_err(|error| text(&error))?;
    }
    alter(&l1.memory())?;
    for at in [SECRETS, FEATURES] {
        l1.publish(range(at, PAGE), &grants).map_err(|stopped| text(&stopped.cause))?;
    }
    let proof = l1.redeem(Default::default()).map_err(|_| "a cut of nothing is not redeemed")?;
    let terms = Terms { level: OWN, target: VcpuId(0), call_area: frame(CALL_AREA) };
    let context = Context::long_mode(ENTRY_GUEST, 0, 0);
    let seed = l1.admit(frame(BOOT_STATE), Source::Context(&context), &terms, &proof);
    l1.install(seed.map_err(|error| text(&error))?).map_err(|(_, error)| text(&error))?;
    // A guest that believes its page calls L1; one that does not ends, and L1 never runs again.
    while let Exit::Call(call) = l1.run(OWN).map_err(|error| text(&error))? {
        called.set(true);
        let answer = call.regs().with_result(CallResult::UNSUPPORTED_CALL);
        l1.answer(call, answer).map_err(|error| text(&error))?;
    }
    Ok(())
}

fn altered_boot_page<P: Platform>(bench: &mut Bench<P>) -> Check {
    if !<P::Monitor<'static> as BootGuest>::PAGES.contains(&BootPage::Secrets) {
        return Err(Stop::NotApplicable);
    }
    for (told, calls) in [(GuestLevel::ONE, false), (GuestLevel::THREE, false), (GuestLevel::TWO, true)] {
        let options = bench.options();
        let mut world = bench.world(Options { levels: GuestLevel::ALL.to_vec(), ..options });
        let called = Rc::new(Cell::new(false));
        let flag = Rc::clone(&called);
        world.on_guest(0, |_| Err("the guest started, though nothing that it asks for is done".into()));
        world.on_l1(move |mut l1| guest_by_hand::<P>(&mut l1.backend, told, |_| Ok(()), &flag));
        let end = world.run_for(TURNS, |_| false);
        ensure(!matches!(end, End::Panicked { .. } | End::NoProgram(_)), || format!("told {told:?}: {end:?}"))?;
        let complaints = world.complaints();
        ensure(!complaints.iter().any(|text| text.starts_with("L1")), || format!("told {told:?}: {complaints:?}"))?;
        let refused = complaints.iter().any(|text| text.contains("the guest does not start"));
        same(&format!("told {told:?}: the guest does not start"), refused, true)?;
        same(&format!("told {told:?}: the guest called L1 first"), called.get(), calls)?;
    }
    Ok(())
}
