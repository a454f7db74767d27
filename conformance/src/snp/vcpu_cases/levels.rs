//! Four levels on one vCPU, and what VMPL1 gives to those below it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use coco_part_api::{Error, ErrorKind, Grants, GuestLevel, Origin, Rights};
use machine::rmp::{code, perm};
use machine::{Answer, Op, Regs, Vcpu, msr, vmsa};

use super::super::features::page_with_shadow_stack_right;
use super::super::model::SnpModel;
use super::super::platform::launch_with;
use super::switching::{RUN_VMPL0, call_for_ever, place_of, put_level, serve_once};
use super::{Snp, rmpadjust_of};
use crate::runner::{Body, Cpu};
use crate::suite::create::case;
use crate::suite::{Bench, Case, Check, Stop, ensure, same};
use crate::world::layout::{FREE, PAGE, page, range};
use crate::world::{Gate, L1, Options, World};

/// Calls that each level has to have served.
const CALLS: u64 = 4;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "S3-four-levels",
            "S3",
            ["SW-05"],
            Contract,
            "one vCPU has a VMSA at each of the four VMPLs; L1 runs each of the three below, and each is told its own answers",
            four_levels
        ),
        case!(
            "M5-vmpl1-adjusts",
            "M5",
            ["PG-25"],
            Contract,
            "VMPL1 gives VMPL2 and 3 what it has itself and takes it back; beyond that, and for itself or L1, it is refused",
            vmpl1_adjusts
        ),
        case!(
            "M5-shadow-stack-right",
            "M5",
            [],
            Contract,
            "the right to supervisor shadow stacks is given where CPUID has it, and refused as unsupported elsewhere",
            shadow_stack_right
        ),
    ]
}

/// All three guest levels on one vCPU.
fn all_levels(bench: &Bench<Snp>) -> Options<Snp> {
    Options { levels: GuestLevel::ALL.to_vec(), ..bench.options() }
}

fn four_levels(bench: &mut Bench<Snp>) -> Check {
    let mut world = bench.world(all_levels(bench));
    let served: [Rc<Cell<u64>>; 3] = Default::default();
    let wrong = Rc::new(RefCell::new(Vec::new()));
    for (level, count) in GuestLevel::ALL.into_iter().zip(&served) {
        let (count, log) = (Rc::clone(count), Rc::clone(&wrong));
        world.runner.at_entry(
            place_of(level).1,
            Box::new(move |_| {
                let (count, log) = (Rc::clone(&count), Rc::clone(&log));
                Some(Box::new(move |cpu: Cpu<'_, SnpModel>| call_for_ever(cpu, level, &count, &log)) as Body<SnpModel>)
            }),
        );
    }
    world.on_l1(|mut l1| {
        for (index, level) in GuestLevel::ALL.into_iter().enumerate() {
            put_level(&mut l1, level, index as u64)?;
        }
        loop {
            for level in GuestLevel::ALL {
                serve_once(&mut l1, level)?;
            }
        }
    });
    let counts = served.clone();
    let end = world.run_until(move |_| counts.iter().all(|count| count.get() >= CALLS));
    world.expect(end)?;
    same("answers", wrong.borrow().clone(), Vec::new())?;
    let machine = &world.runner.machine.0;
    let vmsas: Vec<u64> = (0..4).filter_map(|vmpl| machine.host_state().vmsa(Vcpu(0), vmpl)).collect();
    same("VMSAs of the vCPU", vmsas.len(), 4)?;
    for (vmpl, at) in (0..4_u8).zip(vmsas) {
        same("VMPL in the VMSA", machine.peek(at + vmsa::VMPL as u64, 1, Some(0)), Some(vec![vmpl]))?;
        let runs = machine.counters(Vcpu(0), vmpl).vmruns;
        ensure(runs >= CALLS, || format!("VMPL{vmpl} ran {runs} times"))?;
    }
    Ok(())
}

/// Rights of each VMPL on a page.
fn rights(world: &World<Snp>, at: u64) -> Option<[u8; 4]> {
    world.runner.machine.0.rmp_entry(at).map(|entry| entry.perms)
}

/// RMPADJUSTs of VMPL1 on a page on which it has no right to execute: RDX, and EAX.
fn adjustments() -> Vec<(u64, u32)> {
    let rdx = |vmpl: u64, mask: u8| vmpl | u64::from(mask) << 8;
    let own = perm::READ | perm::WRITE;
    vec![
        (rdx(2, perm::READ), code::SUCCESS),
        (rdx(3, own), code::SUCCESS),
        (rdx(2, own), code::SUCCESS),
        (rdx(2, own | perm::EXECUTE_USER), code::FAIL_PERMISSION),
        (rdx(2, perm::EXECUTE_SUPERVISOR), code::FAIL_PERMISSION),
        (rdx(3, perm::READ | perm::EXECUTE_USER), code::FAIL_PERMISSION),
        (rdx(3, 0), code::SUCCESS),
        (rdx(1, own), code::FAIL_PERMISSION),
        (rdx(1, 0), code::FAIL_PERMISSION),
        (rdx(0, 0), code::FAIL_PERMISSION),
        (rdx(4, 0), code::FAIL_PERMISSION),
    ]
}

/// What a level executes.
type Program = Rc<dyn Fn(Cpu<'_, SnpModel>)>;

fn vmpl1_adjusts(bench: &mut Bench<Snp>) -> Check {
    let mut world = bench.world(all_levels(bench));
    let (adjusted, touched) = (Gate::new(), Gate::new());
    let (done, read) = (adjusted.clone(), touched.clone());
    let complaints: Rc<RefCell<Vec<String>>> = Rc::default();
    let (of_one, of_two) = (Rc::clone(&complaints), Rc::clone(&complaints));
    let one: Program = Rc::new(move |cpu| {
        for (rdx, want) in adjustments() {
            let eax = rmpadjust_of(cpu, FREE, rdx);
            if eax != Ok(want) {
                of_one.borrow_mut().push(format!("RMPADJUST {rdx:#x} gave {eax:x?}, not {want}"));
            }
        }
        done.pass();
    });
    let two: Program = Rc::new(move |cpu| {
        let word = cpu.execute(Op::Read { gpa: FREE, len: 8, private: true });
        if word != Ok(Answer::Bytes(vec![0; 8])) {
            of_two.borrow_mut().push(format!("VMPL2 reads {word:x?}"));
        }
        read.pass();
        // Beyond what it was given: it does not come back.
        let fetched = cpu.execute(Op::Fetch { gpa: FREE, user: false });
        of_two.borrow_mut().push(format!("VMPL2 fetches {fetched:x?}"));
    });
    for (level, program) in [(GuestLevel::ONE, one), (GuestLevel::TWO, two)] {
        world.runner.at_entry(
            place_of(level).1,
            Box::new(move |_| {
                let program = Rc::clone(&program);
                Some(Box::new(move |cpu: Cpu<'_, SnpModel>| {
                    program(cpu);
                    give_way_for_ever(cpu);
                }) as Body<SnpModel>)
            }),
        );
    }
    let gate = adjusted.clone();
    world.on_l1(move |mut l1| {
        grant_page(&mut l1, Rights::READ | Rights::WRITE)?;
        for (index, level) in [GuestLevel::ONE, GuestLevel::TWO].into_iter().enumerate() {
            put_level(&mut l1, level, index as u64)?;
        }
        while !gate.is_reached() {
            let _ = l1.backend.run(GuestLevel::ONE);
        }
        loop {
            let _ = l1.backend.run(GuestLevel::TWO);
        }
    });
    let end = world.run_to(&touched);
    world.expect(end)?;
    world.run_for(200, |_| false);
    same("complaints", complaints.borrow().clone(), Vec::new())?;
    let own = perm::READ | perm::WRITE;
    same("rights", rights(&world, FREE), Some([perm::ALL, own, own, 0]))
}

/// Has the host run L1, without a call.
fn give_way_for_ever(cpu: Cpu<'_, SnpModel>) {
    loop {
        let _ = cpu.execute(Op::Wrmsr(msr::GHCB, RUN_VMPL0));
        let _ = cpu.execute(Op::Vmgexit(Regs::default()));
    }
}

/// L1 validates the page and gives VMPL1 these rights.
fn grant_page(l1: &mut L1<'_, Snp>, rights: Rights) -> Check {
    let grants = Grants::one(GuestLevel::ONE, rights);
    let done = l1.backend.validate_for(range(FREE, PAGE), &grants, Origin::Monitor);
    done.map_err(|stopped| Stop::Wrong(stopped.cause.to_string()))
}

fn shadow_stack_right(bench: &mut Bench<Snp>) -> Check {
    let wanted = Rights::READ | Rights::WRITE | Rights::SHADOW_STACK;
    // A processor without it.
    let mut world = bench.world(all_levels(bench));
    world.on_l1(move |mut l1| {
        let grants = Grants::one(GuestLevel::ONE, wanted);
        let refused =
            l1.backend.validate_for(range(FREE, PAGE), &grants, Origin::Monitor).map_err(|stop| stop.cause.kind());
        same("granting it", refused, Err(ErrorKind::Unsupported))?;
        grant_page(&mut l1, Rights::READ | Rights::WRITE)?;
        let mut cut = Default::default();
        let refused = l1.backend.set_rights(range(FREE, PAGE), &grants, &mut cut).map_err(|stop| stop.cause.kind());
        same("adding it", refused, Err(ErrorKind::Unsupported))
    });
    world.finish()?;
    let own = perm::READ | perm::WRITE;
    same("rights", rights(&world, FREE), Some([perm::ALL, own, 0, 0]))?;

    // One that has it, with the feature on: a level pushes where it has the right, and nowhere else.
    let options = all_levels(bench);
    let mut world = bench.world(options.clone());
    let features = vmsa::features::SNP_ACTIVE | vmsa::features::VMPL_SSS;
    world.runner.machine.0 = launch_with(&options, features, &page_with_shadow_stack_right());
    let pushed = Gate::new();
    let gate = pushed.clone();
    let complaints: Rc<RefCell<Vec<String>>> = Rc::default();
    let log = Rc::clone(&complaints);
    world.runner.at_entry(
        place_of(GuestLevel::ONE).1,
        Box::new(move |_| {
            let (gate, log) = (gate.clone(), Rc::clone(&log));
            Some(Box::new(move |cpu: Cpu<'_, SnpModel>| {
                let push = cpu.execute(Op::ShadowStack { gpa: FREE });
                if push != Ok(Answer::None) {
                    log.borrow_mut().push(format!("a push gave {push:x?}"));
                }
                gate.pass();
                // Ordinary RAM: it does not come back.
                let push = cpu.execute(Op::ShadowStack { gpa: page(FREE, 1) });
                log.borrow_mut().push(format!("a push into RAM gave {push:x?}"));
            }) as Body<SnpModel>)
        }),
    );
    world.on_l1(move |mut l1| {
        grant_page(&mut l1, wanted)?;
        let ram = Grants::one(GuestLevel::ONE, Rights::RAM);
        let done = l1.backend.validate_for(range(page(FREE, 1), PAGE), &ram, Origin::Monitor);
        done.map_err(|stopped| Stop::Wrong(stopped.cause.to_string()))?;
        put_level(&mut l1, GuestLevel::ONE, 0)?;
        loop {
            let _ = l1.backend.run(GuestLevel::ONE);
        }
    });
    let end = world.run_to(&pushed);
    world.expect(end)?;
    world.run_for(200, |_| false);
    same("complaints", complaints.borrow().clone(), Vec::new())?;
    same("rights", rights(&world, FREE), Some([perm::ALL, own | perm::SHADOW_STACK, 0, 0]))
}
