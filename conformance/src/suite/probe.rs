//! Requests that must be refused and change nothing.

use std::cell::RefCell;
use std::rc::Rc;

use coco_part_api::svsm::list::{Action, Entry};
use coco_part_api::svsm::{CORE, CallId, CallResult};
use coco_part_api::{Block, CallMonitor, CallRegs, GuestMemory, HasMemory, PageSize};
use x86_64::PhysAddr;

use super::bench::{Stop, ensure, same};
use super::{Bench, Check};
use crate::platform::Platform;
use crate::world::layout::CALL_AREA;
use crate::world::{Gate, L2, Options, World};

/// One request and what must come of it.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// What it tries.
    pub(crate) what: String,
    /// Words to write before the call, and where.
    pub(crate) words: Vec<(u64, u64)>,
    /// The call.
    pub(crate) regs: CallRegs,
    /// The answer.
    pub(crate) want: CallResult,
}

impl Probe {
    /// A call of the core protocol.
    pub(crate) fn core(what: &str, call: u32, rcx: u64, want: CallResult) -> Self {
        let regs = CallRegs::call(CallId::new(CORE, call), rcx, 0, 0);
        Self { what: what.to_owned(), words: Vec::new(), regs, want }
    }

    /// The same with these words in memory first.
    #[must_use]
    pub(crate) fn with_words(mut self, words: Vec<(u64, u64)>) -> Self {
        self.words = words;
        self
    }

    /// A list of entries in the caller's own call area.
    pub(crate) fn list(what: &str, entries: &[u64], want: CallResult) -> Self {
        let at = CALL_AREA + 8;
        Self::core(what, coco_part_api::svsm::PVALIDATE, at, want).with_words(list_words(at, entries))
    }
}

/// The words of a list at an address: a header that begins with the first entry, and the entries.
pub(crate) fn list_words(at: u64, entries: &[u64]) -> Vec<(u64, u64)> {
    let header = (at, entries.len() as u64);
    let rest = entries.iter().enumerate().map(|(index, word)| (at + 8 * (index as u64 + 1), *word));
    std::iter::once(header).chain(rest).collect()
}

/// The word of a list entry.
pub(crate) fn entry(at: u64, size: PageSize, action: Action, ignore_cf: bool) -> u64 {
    let block = Block::new(PhysAddr::new(at), size).expect("entries of cases are aligned");
    Entry { block, action, ignore_cf }.encode()
}

/// A 4 KiB entry that asks to validate.
pub(crate) fn validate(at: u64) -> u64 {
    entry(at, PageSize::Small, Action::Validate, false)
}

/// A 4 KiB entry that asks to rescind.
pub(crate) fn rescind(at: u64) -> u64 {
    entry(at, PageSize::Small, Action::Rescind, false)
}

/// Writes words through the guest's own memory.
///
/// # Errors
/// An access that faulted.
pub(crate) fn put<P: Platform>(l2: &L2<'_, P>, words: &[(u64, u64)]) -> Check {
    let memory = l2.port.memory();
    words.iter().try_for_each(|(at, word)| {
        let bytes = word.to_le_bytes();
        memory.write(PhysAddr::new(*at), &bytes).map_err(|error| Stop::Wrong(error.to_string()))
    })
}

/// Calls L1.
///
/// # Errors
/// A call that was not served.
pub(crate) fn call<P: Platform>(l2: &mut L2<'_, P>, regs: CallRegs) -> Result<CallRegs, Stop> {
    l2.port.call(regs).map_err(|error| Stop::Wrong(format!("not served: {error}")))
}

/// Makes each request from the boot vCPU of a guest and demands: that answer, no other register changed, and the state of
/// the whole VM as before, but for what the caller itself wrote.
pub(crate) fn refused<P: Platform>(bench: &mut Bench<P>, probes: Vec<Probe>) -> Check {
    let options = bench.options();
    let mut world = bench.world(options);
    refused_in(&mut world, probes, |_| Ok(()))
}

/// As [`refused`], in a world of the case and after `prepare` ran in the guest.
pub(crate) fn refused_in<P: Platform>(
    world: &mut World<P>,
    probes: Vec<Probe>,
    prepare: impl for<'y> FnOnce(&mut L2<'y, P>) -> Check + 'static,
) -> Check {
    refused_beside(world, probes, prepare, &Gate::new())
}

/// As [`refused_in`], beside other programs of the guest that wait at a gate until all requests are made.
pub(crate) fn refused_beside<P: Platform>(
    world: &mut World<P>,
    probes: Vec<Probe>,
    prepare: impl for<'y> FnOnce(&mut L2<'y, P>) -> Check + 'static,
    done: &Gate,
) -> Check {
    let gates: Vec<(Gate, Gate)> = probes.iter().map(|_| (Gate::new(), Gate::new())).collect();
    let answers = Rc::new(RefCell::new(Vec::new()));
    let (inside, log, list) = (gates.clone(), Rc::clone(&answers), probes.clone());
    world.on_guest(0, move |mut l2| {
        prepare(&mut l2)?;
        for (probe, (before, after)) in list.iter().zip(&inside) {
            put(&l2, &probe.words)?;
            l2.wait(before);
            let answer = call(&mut l2, probe.regs)?;
            log.borrow_mut().push(answer);
            l2.wait(after);
        }
        Ok(())
    });
    for (index, (probe, (before, after))) in probes.iter().zip(&gates).enumerate() {
        let end = world.run_to(before);
        world.expect(end)?;
        let picture = world.snapshot();
        before.open();
        let end = world.run_to(after);
        world.expect(end)?;
        let answer = answers.borrow()[index];
        ensure(answer.result() == probe.want, || {
            format!("{}: answered {:?}, want {:?}", probe.what, answer.result(), probe.want)
        })?;
        same(&format!("{}: registers", probe.what), answer, probe.regs.with_result(probe.want))?;
        let changes = picture.diff_beside_running(&world.snapshot());
        ensure(changes.is_empty(), || format!("{}: changed {}", probe.what, changes.join(", ")))?;
        after.open();
    }
    done.open();
    world.finish()
}

/// Runs a program of the guest's boot vCPU to its end.
pub(crate) fn as_guest<P: Platform>(
    bench: &mut Bench<P>,
    options: Options<P>,
    body: impl for<'y> FnOnce(L2<'y, P>) -> Check + 'static,
) -> Result<World<P>, Stop> {
    let mut world = bench.world(options);
    world.on_guest(0, body);
    world.finish()?;
    Ok(world)
}

/// Lists of entries need the cursor that L1 wrote back.
pub(crate) fn cursor<P: Platform>(l2: &L2<'_, P>, list: u64) -> Result<u16, Stop> {
    let mut bytes = [0; 2];
    l2.port.memory().read(PhysAddr::new(list + 2), &mut bytes).map_err(|error| Stop::Wrong(error.to_string()))?;
    Ok(u16::from_le_bytes(bytes))
}
