//! Cases about VMSAs and run-VMPL that only the SNP machine can play.
//!
//! | file | what |
//! |---|---|
//! | here | what creating one costs, what a guest's own RMPADJUST is worth, and what VMRUN refuses |
//! | `image` | what a VMSA must hold when a guest hands it over |
//! | `switching` | hosts that run the wrong VMSA, or the right one at the wrong time |
//! | `answers` | hosts that answer run-VMPL wrong |
//! | `reflect` | guests under ReflectVC |
//! | `levels` | four levels on one vCPU |

mod answers;
mod image;
mod levels;
mod reflect;
mod switching;

use std::cell::Cell;
use std::rc::Rc;

use coco_part_api::svsm::CallResult;
use coco_part_api::{CallMonitor, GuestPort, VcpuId};
use machine::rmp::code;
use machine::{Answer, Op, Vcpu, VmrunError};

use super::model::SnpModel;
use super::platform::Snp;
use crate::platform::Platform;
use crate::runner::Cpu;
use crate::suite::create::case;
use crate::suite::create::vcpus::{
    Plan, bring_up, call_while, create, delete, fill, fill_for, own_level, query, query_answer, start, stop, wait_for,
};
use crate::suite::probe::call;
use crate::suite::{Bench, Case, Check, Stop, ensure, same};
use crate::world::layout::{BOOT_STATE, DATA, MONITOR_STATE, STATE, frame, page};
use crate::world::{Gate, L2, Options};

/// Where cases put lists of their own.
const LIST: u64 = DATA + 0x1_0000;
/// Turns in which whoever can still do something has done it.
const A_WHILE: u64 = 6_000;
/// RDX of RMPADJUST: VMSA attribute.
const RDX_VMSA: u64 = 1 << 16;
/// RDX of RMPADJUST: every right.
const RDX_ALL: u64 = 0xf << 8;

/// The cases of this file and of those below it.
pub(super) fn cases() -> Vec<Case<Snp>> {
    let mut all = vec![
        case!(
            "V1-instructions",
            "V1",
            [],
            Bounds,
            "creating costs two RMPADJUST and one flush, deleting two RMPADJUST and none, beside what every call costs",
            instructions
        ),
        case!(
            "V3-guest-makes-no-vmsa",
            "V3",
            ["VC-19"],
            HostileGuest,
            "RMPADJUST with the VMSA bit makes no VMSA in a guest's hands, and the host cannot run the page",
            guest_makes_no_vmsa
        ),
        case!(
            "V3-guest-raises-nobody",
            "V3",
            ["PG-25"],
            HostileGuest,
            "RMPADJUST in a guest changes no rights of its own level or of one above it",
            guest_raises_nobody
        ),
        case!(
            "V3-guest-names-vmsa-of-l1",
            "V3",
            ["VC-19"],
            HostileGuest,
            "a guest that tells the host to run a VMSA of L1 as its own gains nothing",
            guest_names_vmsa_of_l1
        ),
        case!(
            "V4-vmrun-of-retired",
            "V4",
            ["VC-12", "VC-14"],
            Contract,
            "VMRUN fails on a VMSA that was deleted, and on an older one that was replaced",
            vmrun_of_retired
        ),
    ];
    all.extend(image::cases());
    all.extend(switching::cases());
    all.extend(answers::cases());
    all.extend(reflect::cases());
    all.extend(levels::cases());
    all
}

fn with_vcpus(bench: &Bench<Snp>, vcpus: u8) -> Options<Snp> {
    Options { vcpus, ..bench.options() }
}

/// RMPADJUST, INVLPGB, TLBSYNC, PVALIDATE and VMGEXIT of L1 on the boot vCPU.
fn counted(model: &SnpModel) -> [u64; 5] {
    let counters = model.0.counters(Vcpu(0), 0);
    [counters.rmpadjust, counters.invlpgb, counters.tlbsync, counters.pvalidate, counters.vmgexit]
}

fn instructions(bench: &mut Bench<Snp>) -> Check {
    let plan = Plan::of(1);
    let mut world = bench.world(with_vcpus(bench, 2));
    // Any call, then create, then delete of one that has ended; each between two gates.
    let gates: Vec<Gate> = (0..5).map(|_| Gate::new()).collect();
    let (list, ended) = (gates.clone(), Gate::new());
    let over = ended.clone();
    world.on_guest(1, move |_| {
        over.pass();
        Ok(())
    });
    world.on_guest(0, move |mut l2| {
        fill(&mut l2, plan)?;
        l2.wait(&list[0]);
        same("query", call(&mut l2, query())?, query_answer())?;
        l2.wait(&list[1]);
        same("create", create(&mut l2, plan)?, CallResult::SUCCESS)?;
        l2.wait(&list[2]);
        start(&mut l2, plan)?;
        wait_for(&l2, &ended);
        l2.wait(&list[3]);
        same("delete", delete(&mut l2, plan)?, CallResult::SUCCESS)?;
        l2.wait(&list[4]);
        Ok(())
    });
    let mut counts = Vec::new();
    for gate in &gates {
        let end = world.run_to(gate);
        world.expect(end)?;
        counts.push(counted(&world.runner.machine));
        gate.open();
    }
    world.finish()?;
    let cost = |index: usize| -> Vec<u64> {
        counts[index + 1].iter().zip(&counts[index]).map(|(after, before)| after - before).collect()
    };
    // One RMPADJUST proves that the caller stands still; one VMGEXIT runs it again.
    same("RMPADJUST, INVLPGB, TLBSYNC, PVALIDATE, VMGEXIT of any call", cost(0), vec![1, 0, 0, 0, 1])?;
    same("the same of a create", cost(1), vec![1 + 2, 1, 1, 0, 1])?;
    same("the same of a delete", cost(3), vec![1 + 2, 0, 0, 0, 1])
}

/// RMPADJUST by the guest itself.
fn rmpadjust(l2: &L2<'_, Snp>, gpa: u64, rdx: u64) -> Result<u32, Stop> {
    rmpadjust_of(l2.cpu, gpa, rdx).map_err(Stop::Wrong)
}

/// RMPADJUST of a 4 KiB page by whoever runs.
fn rmpadjust_of(cpu: Cpu<'_, SnpModel>, gpa: u64, rdx: u64) -> Result<u32, String> {
    match cpu.execute(Op::Rmpadjust { gpa, rcx: 0, rdx }) {
        Ok(Answer::Rmpadjust { eax }) => Ok(eax),
        other => Err(format!("RMPADJUST: {other:x?}")),
    }
}

fn guest_makes_no_vmsa(bench: &mut Bench<Snp>) -> Check {
    let plan = Plan::of(1);
    let mut world = bench.world(with_vcpus(bench, 2));
    let (told, ran) = (Gate::new(), Gate::new());
    let (done, flag) = (told.clone(), ran.clone());
    world.on_guest(0, move |mut l2| {
        fill(&mut l2, plan)?;
        let below = u64::from(own_level(&l2).number()) + 1;
        // It may take rights of a lower level away; the bit is ignored.
        same("RMPADJUST", rmpadjust(&l2, plan.state, below | RDX_VMSA)?, code::SUCCESS)?;
        // The host refuses, or finds out at VMRUN.
        let _ = start(&mut l2, plan);
        l2.wait(&done);
        Ok(())
    });
    world.on_guest(1, move |_| {
        flag.pass();
        Ok(())
    });
    let end = world.run_to(&told);
    world.expect(end)?;
    world.run_for(A_WHILE, |_| false);
    let machine = &world.runner.machine.0;
    same("VMSA flag", machine.rmp_entry(plan.state).map(|entry| entry.vmsa), Some(false))?;
    ensure(!ran.is_reached(), || "the host ran a page that the guest made a VMSA".into())?;
    let mut copy = machine.clone();
    let free = (0..2).map(Vcpu).find(|vcpu| copy.running(*vcpu).is_none());
    let Some(free) = free else { return Err("both vCPUs run".into()) };
    same("VMRUN", copy.vmrun(free, plan.state).err(), Some(VmrunError::Invalid("RMP-022")))
}

fn guest_raises_nobody(bench: &mut Bench<Snp>) -> Check {
    let mut world = bench.world(bench.options());
    let done = Gate::new();
    let gate = done.clone();
    world.on_guest(0, move |l2| {
        let own = u64::from(own_level(&l2).number());
        for target in 0..=own {
            for rdx in [target, target | RDX_ALL, target | RDX_ALL | RDX_VMSA] {
                same(&format!("RMPADJUST {rdx:#x}"), rmpadjust(&l2, DATA, rdx)?, code::FAIL_PERMISSION)?;
            }
        }
        l2.wait(&gate);
        Ok(())
    });
    let end = world.run_to(&done);
    world.expect(end)?;
    let entry = world.runner.machine.0.rmp_entry(DATA);
    let rights = entry.map(|entry| entry.perms);
    same("rights", rights.map(|[_, lower @ ..]| lower), Some([0, 0xf, 0]))?;
    same("VMSA flag", entry.map(|entry| entry.vmsa), Some(false))?;
    done.open();
    world.finish()
}

fn guest_names_vmsa_of_l1(bench: &mut Bench<Snp>) -> Check {
    for named in [MONITOR_STATE, page(MONITOR_STATE, 1), BOOT_STATE] {
        let mut world = bench.world(with_vcpus(bench, 2));
        let answers = Rc::new(Cell::new(0_u32));
        let count = Rc::clone(&answers);
        let ran = Gate::new();
        let flag = ran.clone();
        world.on_guest(0, move |mut l2| {
            let level = own_level(&l2);
            let _ = l2.port.start(VcpuId(1), frame(named), level);
            // L1 may be elsewhere for a while; whatever it answers is right.
            for _ in 0..40 {
                if let Ok(answer) = l2.port.call(query()) {
                    same("an answer", answer, query_answer())?;
                    count.set(count.get() + 1);
                }
            }
            Ok(())
        });
        world.on_guest(1, move |_| {
            flag.pass();
            Ok(())
        });
        world.run_for(3 * A_WHILE, |_| false);
        ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
        ensure(!ran.is_reached(), || format!("a program of vCPU 1 began from the VMSA at {named:#x}"))?;
    }
    Ok(())
}

fn vmrun_of_retired(bench: &mut Bench<Snp>) -> Check {
    let (old, new) = (Plan::of(1), Plan { state: page(STATE, 2), ..Plan::of(1) });
    let mut world = bench.world(with_vcpus(bench, 3));
    let (first, ready, second, gone) = (Gate::new(), Gate::new(), Gate::new(), Gate::new());
    let (begun, waits, taken, deleted) = (first.clone(), ready.clone(), second.clone(), gone.clone());
    world.on_guest(0, move |mut l2| {
        bring_up(&mut l2, old)?;
        wait_for(&l2, &begun);
        l2.wait(&waits);
        stop(&mut l2, old)?;
        let level = own_level(&l2);
        fill_for(&mut l2, new, level)?;
        same("create", create(&mut l2, new)?, CallResult::SUCCESS)?;
        start(&mut l2, new)?;
        l2.wait(&taken);
        let result = call_while(&mut l2, old.delete(), &[CallResult::FAIL_INUSE, CallResult::BUSY])?;
        same("delete", result, CallResult::SUCCESS)?;
        l2.wait(&deleted);
        Ok(())
    });
    let program = |gate: &Gate| {
        let gate = gate.clone();
        move |mut l2: L2<'_, Snp>| {
            same("a call", call(&mut l2, query())?, query_answer())?;
            gate.pass();
            loop {
                Snp::pause(l2.cpu);
            }
        }
    };
    world.on_guest(1, program(&first));
    // The third vCPU is there to have one that is free.
    let vmrun = |model: &SnpModel, at: u64| {
        let mut copy = model.0.clone();
        copy.vmrun(Vcpu(2), at).err()
    };
    let is_free = |model: &SnpModel| model.0.running(Vcpu(2)).is_none();
    let end = world.run_to(&ready);
    world.expect(end)?;
    let end = world.run_until(is_free);
    world.expect(end)?;
    same("VMRUN of one that runs", vmrun(&world.runner.machine, old.state), Some(VmrunError::InUse))?;
    let up = Gate::new();
    world.on_guest(1, program(&up));
    ready.open();
    let end = world.run_to(&up);
    world.expect(end)?;
    let end = world.run_until(is_free);
    world.expect(end)?;
    let refused = Some(VmrunError::Invalid("RMP-023"));
    same("VMRUN of one that was replaced", vmrun(&world.runner.machine, old.state), refused)?;
    let end = world.run_to(&second);
    world.expect(end)?;
    second.open();
    let end = world.run_to(&gone);
    world.expect(end)?;
    let end = world.run_until(is_free);
    world.expect(end)?;
    let refused = Some(VmrunError::Invalid("RMP-022"));
    same("VMRUN of one that was deleted", vmrun(&world.runner.machine, old.state), refused)?;
    Ok(())
}
