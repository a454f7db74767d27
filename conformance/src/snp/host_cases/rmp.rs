//! What the reverse map table has to stop: memory that the host moves, and SNP's instructions in a guest's hands.

use std::cell::RefCell;
use std::rc::Rc;

use coco_part_api::{GuestMemory, GuestPort, HasMemory, HostState, Validate};
use machine::host::Policy;
use machine::rmp::perm;
use machine::{Answer, Fault, Op};
use x86_64::PhysAddr;

use super::{TURNS, case, free, is_clean, run_as_l1, second_vcpu, trace_from, under};
use crate::platform::Platform;
use crate::snp::platform::Snp;
use crate::suite::probe::{call, list_words, put, rescind};
use crate::suite::{Bench, Case, Check, Kind, Stop, ensure, same};
use crate::world::layout::{
    BOOT_STATE, CALL_AREA, DATA, FREE, MONITOR_DATA, MONITOR_SECRETS, MONITOR_STATE, PAGE, page, range,
};
use crate::world::{Gate, Options};

/// A word that a page is known by.
const MINE: u64 = 0x6d69_6e65_0000_0001;
/// The same for another page.
const YOURS: u64 = 0x796f_7572_7300_0002;

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "H2-moved-page-is-not-valid",
            "H2",
            ["PG-02", "PG-06"],
            HostileHost,
            "memory that the host assigns to another address is not valid there, for L1 and for a guest",
            moved_page
        ),
        case!(
            "H2-aliased-page",
            "H2",
            ["PG-13", "PG-02"],
            HostileHost,
            "two guest addresses on one system page: the second one faults",
            aliased_page
        ),
        case!(
            "H2-shared-write",
            "H2",
            ["PG-13"],
            HostileGuest,
            "neither a write without the C-bit nor one of the host reaches a private page",
            shared_write
        ),
        case!(
            "H2-returned-page-is-garbage",
            "H2",
            ["PG-18", "PG-03"],
            HostileHost,
            "what a page held is gone when the host takes it, also by force",
            returned_page
        ),
        case!(
            "M5-guest-executes-rmpadjust",
            "M5",
            ["PG-25", "VC-19", "CP-07"],
            HostileGuest,
            "PVALIDATE and RMPADJUST in a guest give nobody a right that the guest lacks, and make no VMSA",
            guest_instructions
        ),
        case!(
            "M3-unvalidated-page",
            "M3",
            ["RQ-14", "PG-01"],
            HostileGuest,
            "a page that the host assigned and nobody validated is no memory, for the guest and for L1",
            unvalidated_page
        ),
        case!(
            "M5-stale-right-until-flush",
            "M5",
            ["PG-20"],
            Concurrency,
            "a right that is cut lives in another vCPU's TLB until L1's flush, and not longer",
            stale_right
        ),
    ]
}

fn moved_page(bench: &mut Bench<Snp>) -> Check {
    // L1's memory under another page of L1.
    let other = page(MONITOR_DATA, 1);
    let host = Policy::RemapInto { from: MONITOR_DATA, to: other, after_steps: 200 };
    let mut world = bench.world(under(bench, host));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    let end = run_as_l1(&mut world, move |l1| {
        let memory = l1.backend.memory();
        let _ = memory.write_value(PhysAddr::new(MONITOR_DATA), &MINE);
        let _ = memory.write_value(PhysAddr::new(other), &YOURS);
        for _ in 0..300 {
            Snp::pause(l1.cpu);
        }
        let word = memory.read_value::<u64>(PhysAddr::new(other));
        log.borrow_mut().push(word.ok());
    });
    same("L1 went on", end, Some(()))?;
    same("L1 reads", seen.borrow().clone(), vec![None])?;

    // A guest's memory under an address that it has not asked for.
    let host = Policy::RemapInto { from: DATA, to: FREE, after_steps: 6000 };
    let mut world = bench.world(under(bench, host));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    world.on_guest(0, move |l2| {
        let memory = l2.port.memory();
        put(&l2, &[(DATA, MINE)])?;
        for _ in 0..8000 {
            Snp::pause(l2.cpu);
        }
        log.borrow_mut().push(memory.read_value::<u64>(PhysAddr::new(FREE)).ok());
        Ok(())
    });
    is_clean(&world.run_for(2 * TURNS, |_| false))?;
    same("the guest reads", seen.borrow().clone(), vec![None])?;
    for level in 0..4 {
        same(&format!("VMPL{level} reads"), world.peek(FREE, 8, Some(level)), None)?;
    }
    Ok(())
}

fn aliased_page(bench: &mut Bench<Snp>) -> Check {
    for level in [0, 2u8] {
        let (first, second) = if level == 0 { (MONITOR_DATA, page(MONITOR_DATA, 1)) } else { (DATA, page(DATA, 1)) };
        let mut world = bench.world(bench.options());
        let ready = Gate::new();
        let gate = ready.clone();
        let seen = Rc::new(RefCell::new(None));
        let log = Rc::clone(&seen);
        if level == 0 {
            world.on_l1(move |l1| {
                let (memory, cpu) = (l1.backend.memory(), l1.cpu);
                memory.write_value(PhysAddr::new(first), &MINE).map_err(|error| error.to_string())?;
                gate.wait(|| Snp::pause(cpu));
                *log.borrow_mut() = Some(memory.read_value::<u64>(PhysAddr::new(second)).ok());
                Ok(())
            });
        } else {
            world.on_guest(0, move |l2| {
                put(&l2, &[(first, MINE)])?;
                l2.wait(&gate);
                *log.borrow_mut() = Some(l2.port.memory().read_value::<u64>(PhysAddr::new(second)).ok());
                Ok(())
            });
        }
        let end = world.run_to(&ready);
        world.expect(end)?;
        let machine = &mut world.runner.machine.0;
        let spa = machine.translate(first);
        machine.map(second, false, spa);
        ready.open();
        is_clean(&world.run_for(TURNS, |_| false))?;
        // The fault is for the host, which does not repair it: the access never ends.
        same(&format!("VMPL{level} read"), *seen.borrow(), None)?;
        let stops = world.runner.stops();
        ensure(stops.iter().any(|(_, why)| why.contains("NestedFault")), || format!("VMPL{level}: {stops:?}"))?;
    }
    Ok(())
}

fn shared_write(bench: &mut Bench<Snp>) -> Check {
    for victim in [MONITOR_DATA, MONITOR_SECRETS, MONITOR_STATE, BOOT_STATE, DATA] {
        let mut world = bench.world(bench.options());
        let before = world.peek(victim, 8, Some(0));
        let done = Rc::new(RefCell::new(None));
        let log = Rc::clone(&done);
        world.on_guest(0, move |l2| {
            let op = Op::Write { gpa: victim + 8, bytes: MINE.to_le_bytes().to_vec(), private: false };
            *log.borrow_mut() = Some(l2.cpu.execute(op));
            Ok(())
        });
        is_clean(&world.run_for(TURNS, |_| false))?;
        same(&format!("a write without the C-bit to {victim:#x}"), done.borrow().clone(), None)?;
        let written = world.runner.machine.0.host_write(victim, &MINE.to_le_bytes());
        same(&format!("a write of the host to {victim:#x}"), written, false)?;
        let after = world.peek(victim, 16, Some(0)).unwrap_or_default();
        ensure(!after.chunks(8).any(|word| word == MINE.to_le_bytes()), || format!("{victim:#x} was written"))?;
        if victim == MONITOR_DATA {
            same("L1's page", after.get(..8).map(<[u8]>::to_vec), before)?;
        }
    }
    Ok(())
}

fn returned_page(bench: &mut Bench<Snp>) -> Check {
    let mut world = bench.world(under(bench, Policy::UnassignPage { gpa: MONITOR_DATA, after_steps: 200 }));
    let ran = run_as_l1(&mut world, |mut l1| {
        let memory = l1.backend.memory();
        let words = [(FREE, MINE), (MONITOR_DATA, YOURS)];
        let own = l1.backend.validate(free(1)).is_ok();
        for (at, word) in words {
            let _ = memory.write_value(PhysAddr::new(at), &word);
        }
        let shared = l1.backend.share(free(1)).is_ok();
        for _ in 0..300 {
            Snp::pause(l1.cpu);
        }
        own && shared
    });
    same("L1 shared its page", ran, Some(true))?;
    for (at, word) in [(FREE, MINE), (MONITOR_DATA, YOURS)] {
        let seen = world.peek(at, 8, None);
        ensure(seen.is_some(), || format!("the host does not have {at:#x}"))?;
        ensure(seen.as_deref() != Some(&word.to_le_bytes()), || format!("the host reads what {at:#x} held"))?;
    }
    Ok(())
}

fn guest_instructions(bench: &mut Bench<Snp>) -> Check {
    let options = bench.options();
    let own = u64::from(options.guest_level().number());
    let mask = |rights: u8, target: u64| u64::from(rights) << 8 | target;
    const VMSA: u64 = 1 << 16;
    let adjust = |gpa: u64, rdx: u64| Op::Rmpadjust { gpa, rcx: 0, rdx };
    let code = |eax: u32| Ok(Answer::Rmpadjust { eax });
    // FAIL_PERMISSION.
    let no = || code(2);
    let mut rows: Vec<(Op, Result<Answer, Fault>)> = Vec::new();
    for gpa in [DATA, FREE, MONITOR_DATA, CALL_AREA] {
        for edx in [0, 1] {
            rows.push((Op::Pvalidate { gpa, ecx: 0, edx }, Err(Fault::GeneralProtection)));
        }
        for target in 0..=own {
            rows.push((adjust(gpa, mask(perm::ALL & !perm::SHADOW_STACK, target)), no()));
            rows.push((adjust(gpa, mask(0, target)), no()));
            rows.push((adjust(gpa, mask(0, target) | VMSA), no()));
        }
    }
    // A right on L1's pages is none that the guest has to give.
    for gpa in [MONITOR_DATA, MONITOR_SECRETS, MONITOR_STATE, BOOT_STATE] {
        for rights in [perm::READ, perm::READ | perm::WRITE, perm::EXECUTE_SUPERVISOR] {
            // The guest's own VMSA is in use while the guest asks.
            let refused = if gpa == BOOT_STATE { code(3) } else { no() };
            rows.push((adjust(gpa, mask(rights, 3)), refused));
        }
    }
    // Nothing can be given on a page that is assigned and not validated.
    let unvalidated = Fault::Vc { code: 0x404, gpa: FREE };
    rows.push((adjust(FREE, mask(perm::READ, 3)), Err(unvalidated)));

    let mut world = bench.world(options);
    let (before, after) = (Gate::new(), Gate::new());
    let gates = (before.clone(), after.clone());
    world.on_guest(0, move |mut l2| {
        let agreed = l2.port.agree(range(FREE, PAGE), HostState::Private);
        agreed.map_err(|stopped| stopped.cause.to_string())?;
        l2.wait(&gates.0);
        for (op, want) in rows {
            let what = format!("{op:x?}");
            same(&what, l2.cpu.execute(op), want)?;
        }
        l2.wait(&gates.1);
        // Its own rights it may give to less privileged levels, but no VMSA comes of it.
        same("own page", l2.cpu.execute(adjust(page(DATA, 1), mask(perm::READ, 3) | VMSA)), code(0))
    });
    let end = world.run_to(&before);
    world.expect(end)?;
    let picture = world.snapshot();
    before.open();
    let end = world.run_to(&after);
    world.expect(end)?;
    same("state", picture.diff_beside_running(&world.snapshot()), Vec::new())?;
    after.open();
    world.finish()?;
    let entry = world.runner.machine.0.rmp_entry(page(DATA, 1));
    same("VMSA attribute", entry.map(|entry| entry.vmsa), Some(false))
}

fn unvalidated_page(bench: &mut Bench<Snp>) -> Check {
    let mut world = bench.world(bench.options());
    world.on_guest(0, |mut l2| {
        let agreed = l2.port.agree(range(FREE, PAGE), HostState::Private);
        agreed.map_err(|stopped| stopped.cause.to_string())?;
        let fault = Fault::Vc { code: 0x404, gpa: FREE };
        let read = l2.cpu.execute(Op::Read { gpa: FREE, len: 8, private: true });
        same("read", read, Err(fault))?;
        let write = l2.cpu.execute(Op::Write { gpa: FREE, bytes: vec![1; 8], private: true });
        same("write", write, Err(fault))
    });
    world.finish()?;
    for level in 0..4 {
        same(&format!("VMPL{level}"), world.peek(FREE, 8, Some(level)), None)?;
    }
    Ok(())
}

fn stale_right(bench: &mut Bench<Snp>) -> Check {
    use coco_part_api::svsm::{CORE, CallId, CallResult, PVALIDATE};
    const LIST: u64 = DATA + 0x1_0000;
    let mut stale = 0;
    for more in 0..8 {
        let options = bench.options();
        let mut world = bench.world(Options { vcpus: 2, trace: true, seed: options.seed + more, ..options });
        let ready = Gate::new();
        let (opened, over) = (ready.clone(), Rc::new(RefCell::new(false)));
        let flag = Rc::clone(&over);
        world.on_guest(0, move |mut l2| {
            let cpu = l2.cpu;
            put(&l2, &list_words(LIST, &[rescind(DATA)]))?;
            second_vcpu(&mut l2)?;
            ready.wait(|| Snp::pause(cpu));
            let answer = call(&mut l2, coco_part_api::CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0))?;
            *flag.borrow_mut() = true;
            same("rescind", answer.result(), CallResult::SUCCESS)
        });
        let stop_at = Rc::clone(&over);
        world.on_guest(1, move |l2| {
            let write = || Op::Write { gpa: DATA, bytes: vec![1; 8], private: true };
            l2.cpu.execute(write()).map_err(|fault| Stop::Wrong(format!("first write: {fault:?}")))?;
            opened.open();
            while !*stop_at.borrow() {
                if l2.cpu.execute(write()).is_err() {
                    break;
                }
            }
            Ok(())
        });
        is_clean(&world.run_for(2 * TURNS, |_| *over.borrow()))?;
        ensure(*over.borrow(), || format!("seed {more}: the call did not end: {:?}", world.complaints()))?;
        let done = trace_from(&world, 0);
        let cut = done.iter().position(|d| d.vmpl == 0 && d.name == "rmpadjust" && d.operands == [DATA, 0, 2]);
        let cut = cut.ok_or("no right was cut")?;
        let after = done.get(cut..).unwrap_or_default();
        let flushed = after.iter().position(|d| d.vmpl == 0 && d.name == "tlbsync").ok_or("nothing was flushed")?;
        let is_write = |d: &&super::Done| {
            d.vcpu == 1 && d.vmpl == 2 && d.name == "write" && d.operands.first() == Some(&DATA) && d.outcome == "done"
        };
        stale += after.iter().take(flushed).filter(is_write).count();
        let late = after.iter().skip(flushed).filter(is_write).count();
        same(&format!("seed {more}: writes after the flush"), late, 0)?;
    }
    // Without these no case about flushes proves anything.
    ensure(stale > 0, || "no stale right was ever used".into())
}
