//! Hosts that run the wrong VMSA, or the right one at the wrong time (SW-04 to SW-06).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use coco_part_api::svsm::CallResult;
use coco_part_api::{
    CallMonitor, CallRegs, Context, Error, ErrorKind, Exit, Grants, GuestLevel, Origin, Rights, Source, Terms, VcpuId,
};
use machine::host::Policy;
use machine::{Answer, EventKind, HostEvent, Op, Regs, Vcpu, VmrunError, msr, vmsa};

use super::super::model::SnpModel;
use super::{A_WHILE, Snp};
use crate::platform::Platform;
use crate::runner::{Body, Cpu};
use crate::suite::create::case;
use crate::suite::create::vcpus::{Plan, bring_up, meet, with_seeds};
use crate::suite::{Bench, Case, Check, Stop, ensure, same};
use crate::world::layout::{BOOT_STATE, CALL_AREA, PAGE, STATE, frame, page, range};
use crate::world::{Gate, L1, L2, Options, World};

/// Seeds per case.
const SEEDS: u64 = 8;
/// How often a caller repeats a call that was not served.
const PATIENCE: u32 = 200;
/// MSR protocol: run VMPL0.
pub(super) const RUN_VMPL0: u64 = 0x016;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "S1-run-during-service",
            "S1",
            ["SW-04"],
            HostileHost,
            "a host that runs the caller elsewhere while L1 serves it gets VMRUN refused, and every answer is right",
            run_during_service
        ),
        case!(
            "S1-caller-stands-still",
            "S1",
            ["SW-04", "VC-14"],
            Contract,
            "from the moment L1 takes a call's mark until the caller runs again, VMRUN of its VMSA fails",
            caller_stands_still
        ),
        case!(
            "S1-wrong-vcpu",
            "S1",
            ["SW-06", "SW-05"],
            HostileHost,
            "a host that runs another vCPU's part than the one asked for: every answer goes to its caller, or none is given",
            wrong_vcpu
        ),
        case!(
            "S3-wrong-level",
            "S3",
            ["SW-05"],
            HostileHost,
            "a host that runs another level than the one asked for: a call is reported for the level that made it",
            wrong_level
        ),
    ]
}

/// Options under a host that may lie and does so once [`begin_to_lie`] is called.
fn lying_later(bench: &Bench<Snp>, vcpus: u8, policy: Policy) -> Options<Snp> {
    let host = Policy::After { exits: u64::MAX, inner: Box::new(policy) };
    Options { vcpus, host, ..bench.options() }
}

fn begin_to_lie(world: &mut World<Snp>, policy: Policy) {
    world.runner.machine.0.host_state_mut().set_policy(policy);
}

/// A call that nobody else makes, repeated until it is served; the answer must be its own. False when the host never lets
/// it through.
fn own_answer(l2: &mut L2<'_, Snp>, round: u64) -> Result<bool, Stop> {
    let tag = 0x1000 * (u64::from(l2.start.vcpu) + 1) + round;
    let regs = CallRegs { rax: 77 << 32 | tag, rcx: tag << 8, rdx: tag << 16, r8: tag << 24, r9: !tag };
    let want = regs.with_result(CallResult::UNSUPPORTED_PROTOCOL);
    for _ in 0..PATIENCE {
        match l2.port.call(regs) {
            Ok(answer) => return same("an answer", answer, want).map(|()| true),
            Err(error) => same("what a caller is told", error.kind(), ErrorKind::HostMisbehaved)?,
        }
    }
    Ok(false)
}

fn run_during_service(bench: &mut Bench<Snp>) -> Check {
    let mut refused = 0;
    for options in with_seeds(&lying_later(bench, 2, Policy::RunDuringService), SEEDS / 2) {
        let mut world = bench.world(Options { trace: true, ..options });
        let up = Gate::new();
        let begin = up.clone();
        world.on_guest(0, move |mut l2| {
            l2.wait(&begin);
            for round in 0..12 {
                ensure(own_answer(&mut l2, round)?, || "the call never came through".into())?;
            }
            Ok(())
        });
        let end = world.run_to(&up);
        world.expect(end)?;
        begin_to_lie(&mut world, Policy::RunDuringService);
        up.open();
        world.finish()?;
        let is_refusal =
            |kind: &EventKind| matches!(kind, EventKind::Host(HostEvent::VmrunRefused { vmsa: BOOT_STATE }));
        refused += world.runner.machine.0.trace().iter().filter(|event| is_refusal(&event.kind)).count();
    }
    ensure(refused > 0, || "the host never tried to run the caller while L1 served it".into())
}

fn caller_stands_still(bench: &mut Bench<Snp>) -> Check {
    let mut world = bench.world(Options { vcpus: 3, ..bench.options() });
    let up = Gate::new();
    let begin = up.clone();
    world.on_guest(0, move |mut l2| {
        l2.wait(&begin);
        for round in 0..6 {
            ensure(own_answer(&mut l2, round)?, || "the call never came through".into())?;
        }
        Ok(())
    });
    let end = world.run_to(&up);
    world.expect(end)?;
    up.open();
    // In each moment in which the mark is gone and the caller is not running, with a vCPU to spare.
    let seen = Rc::new(Cell::new(0_u32));
    let wrong = Rc::new(RefCell::new(Vec::new()));
    let (count, log, pending) = (Rc::clone(&seen), Rc::clone(&wrong), Cell::new(false));
    world.run_for(3 * A_WHILE, move |model: &SnpModel| {
        let machine = &model.0;
        let mark = machine.peek(CALL_AREA, 1, Some(0)) == Some(vec![1]);
        let caller_runs = machine.vmsa_running_on(BOOT_STATE).is_some();
        // Called and taken: the mark went while the caller was out.
        let served = pending.get() && !mark && !caller_runs;
        pending.set(!caller_runs && (mark || pending.get()));
        let asked_again = machine.running(Vcpu(0)).is_none();
        if served && !asked_again && machine.running(Vcpu(2)).is_none() {
            let quad = |offset: usize| {
                let bytes = machine.peek(BOOT_STATE + offset as u64, 8, Some(0));
                bytes.map_or(0, |bytes| vmsa::read_u64(&bytes, 0))
            };
            // The gate opens when the answer is there: the last store before L1 runs the caller again.
            let is_open = quad(vmsa::EFER) & vmsa::EFER_SVME != 0;
            let is_answered = quad(vmsa::RAX) == u64::from(CallResult::UNSUPPORTED_PROTOCOL.0);
            if is_open && is_answered {
                return false;
            }
            count.set(count.get() + 1);
            let run = machine.clone().vmrun(Vcpu(2), BOOT_STATE);
            if is_open || run.err() != Some(VmrunError::Invalid("RMP-023")) {
                log.borrow_mut().push(format!("at step {}", machine.steps()));
            }
        }
        false
    });
    ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    ensure(seen.get() > 20, || format!("the caller was seen standing still {} times only", seen.get()))?;
    same("VMRUN of a caller that is served", wrong.borrow().clone(), Vec::new())
}

fn wrong_vcpu(bench: &mut Bench<Snp>) -> Check {
    let answers = Rc::new(Cell::new(0_u32));
    for options in with_seeds(&lying_later(bench, 2, Policy::WrongVcpu), SEEDS) {
        let mut world = bench.world(options);
        let (up, gates) = (Gate::new(), [Gate::new(), Gate::new()]);
        for vcpu in [0_u8, 1] {
            let (mine, other) = (gates[usize::from(vcpu)].clone(), gates[usize::from(1 - vcpu)].clone());
            let (begin, count) = (up.clone(), Rc::clone(&answers));
            world.on_guest(vcpu, move |mut l2| {
                if vcpu == 0 {
                    bring_up(&mut l2, Plan::of(1))?;
                }
                meet(&l2, &mine, &other);
                l2.wait(&begin);
                for round in 0..8 {
                    if own_answer(&mut l2, round)? {
                        count.set(count.get() + 1);
                    }
                }
                Ok(())
            });
        }
        let end = world.run_to(&up);
        world.expect(end)?;
        begin_to_lie(&mut world, Policy::WrongVcpu);
        up.open();
        // Such a host may stop everybody.
        world.run_for(3 * A_WHILE, |_| false);
        ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    }
    ensure(answers.get() > 0, || "nobody ever got an answer".into())
}

/// Call area and entry address of a level whose program is a few instructions.
pub(super) const fn place_of(level: GuestLevel) -> (u64, u64) {
    (page(CALL_AREA, level.index() as u64), 0x6000 + PAGE * level.index() as u64)
}

/// Calls L1 for ever with a tag of its own in RAX, and counts the calls that were served with it.
pub(super) fn call_for_ever(
    cpu: Cpu<'_, SnpModel>,
    level: GuestLevel,
    served: &Cell<u64>,
    wrong: &RefCell<Vec<String>>,
) {
    let (area, _) = place_of(level);
    let tag = u64::from(level.number()) << 32;
    let certain = |op: Op| cpu.execute(op).unwrap_or(Answer::None);
    loop {
        let rax = tag | served.get();
        certain(Op::Swap8 { gpa: area, value: 1 });
        certain(Op::Wrmsr(msr::GHCB, RUN_VMPL0));
        let answer = certain(Op::Vmgexit(Regs { rax, ..Regs::default() }));
        if let (Answer::Value(0), Answer::Regs(after)) = (certain(Op::Swap8 { gpa: area, value: 0 }), answer) {
            if after.rax != !rax {
                wrong.borrow_mut().push(format!("{level:?} called {rax:#x} and was answered {:#x}", after.rax));
            }
            served.set(served.get() + 1);
        }
    }
}

fn wrong_level(bench: &mut Bench<Snp>) -> Check {
    let levels = vec![GuestLevel::TWO, GuestLevel::THREE];
    let policy = Policy::WrongLevel(3);
    for options in with_seeds(&Options { levels: levels.clone(), ..lying_later(bench, 1, policy.clone()) }, 2) {
        let mut world = bench.world(options);
        let (served, wrong) = ([Rc::new(Cell::new(0)), Rc::new(Cell::new(0))], Rc::new(RefCell::new(Vec::new())));
        for (level, count) in levels.iter().copied().zip(&served) {
            let (count, log) = (Rc::clone(count), Rc::clone(&wrong));
            world.runner.at_entry(
                place_of(level).1,
                Box::new(move |_| {
                    let (count, log) = (Rc::clone(&count), Rc::clone(&log));
                    Some(Box::new(move |cpu: Cpu<'_, SnpModel>| call_for_ever(cpu, level, &count, &log))
                        as Body<SnpModel>)
                }),
            );
        }
        let (up, lied) = (Gate::new(), Gate::new());
        let (begin, truth, list) = (up.clone(), lied.clone(), levels.clone());
        world.on_l1(move |mut l1| {
            for (index, level) in list.iter().enumerate() {
                put_level(&mut l1, *level, index as u64)?;
            }
            let cpu = l1.cpu;
            begin.wait(|| Snp::pause(cpu));
            // Level 3 runs in place of level 2, and calls. That is no exit of level 2.
            let exit = l1.backend.run(GuestLevel::TWO).map_err(|error| error.to_string())?;
            ensure(matches!(exit, Exit::Spurious), || format!("exit of level 2: {exit:?}"))?;
            truth.wait(|| Snp::pause(cpu));
            loop {
                for level in &list {
                    serve_once(&mut l1, *level)?;
                }
            }
        });
        let end = world.run_to(&up);
        world.expect(end)?;
        begin_to_lie(&mut world, policy.clone());
        up.open();
        let end = world.run_to(&lied);
        world.expect(end)?;
        begin_to_lie(&mut world, Policy::Honest);
        lied.open();
        world.run_for(A_WHILE, |_| false);
        ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
        same("answers", wrong.borrow().clone(), Vec::new())?;
        for (level, count) in levels.iter().zip(&served) {
            ensure(count.get() > 2, || format!("{level:?} was served {} times", count.get()))?;
        }
    }
    Ok(())
}

/// Gives a level its call area and its vCPU.
pub(super) fn put_level(l1: &mut L1<'_, Snp>, level: GuestLevel, index: u64) -> Check {
    let wrong = |error: backend_snp::SnpError| Stop::Wrong(error.to_string());
    let (area, entry) = place_of(level);
    let state = page(STATE, index);
    let ram = Grants::one(level, Rights::RAM);
    l1.backend.validate_for(range(area, PAGE), &ram, Origin::Monitor).map_err(|stopped| wrong(stopped.cause))?;
    l1.backend.validate(range(state, PAGE)).map_err(|stopped| wrong(stopped.cause))?;
    let terms = Terms { level, target: VcpuId(0), call_area: frame(area) };
    let proof = l1.backend.redeem(Default::default()).map_err(|_| "not redeemed")?;
    let context = Context::long_mode(entry, 0, 0);
    let seed = l1.backend.admit(frame(state), Source::Context(&context), &terms, &proof).map_err(wrong)?;
    l1.backend.install(seed).map_err(|(_, error)| wrong(error))
}

/// Runs a level once and answers its call with the complement of RAX.
pub(super) fn serve_once(l1: &mut L1<'_, Snp>, level: GuestLevel) -> Check {
    match l1.backend.run(level) {
        Ok(Exit::Call(call)) => {
            let regs = call.regs();
            same("level of the call", (call.level(), regs.rax >> 32), (level, u64::from(level.number())))?;
            let answer = CallRegs { rax: !regs.rax, ..regs };
            l1.backend.answer(call, answer).map_err(|error| Stop::Wrong(error.to_string()))
        }
        Ok(Exit::Spurious) => Ok(()),
        Ok(other) => Err(Stop::Wrong(format!("exit {other:?}"))),
        Err(error) => Err(Stop::Wrong(error.to_string())),
    }
}
