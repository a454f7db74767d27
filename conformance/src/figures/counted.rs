//! Worlds in which one piece of work is counted between two gates, on any platform.

use std::cell::RefCell;
use std::rc::Rc;

use coco_part_api::MemoryMap;
use l2_guest_shim::{Limits, Shim};

use crate::platform::Platform;
use crate::suite::{Check, Stop};
use crate::world::{Gate, L1, L2, Options, Record, World};

/// Work between two gates.
#[derive(Clone, Default)]
pub(super) struct Work {
    /// Before it.
    pub(super) before: Gate,
    /// After it.
    pub(super) after: Gate,
}

/// A world whose oracles are asked at the end.
pub(super) struct Counted<P: Platform> {
    pub(super) world: World<P>,
    record: Rc<RefCell<Record>>,
}

impl<P: Platform> Counted<P> {
    pub(super) fn new(options: Options<P>) -> Self {
        let record = Rc::default();
        Self { world: World::new(options, Rc::clone(&record)), record }
    }

    /// What `count` counts, from before the work until after it.
    pub(super) fn of<T>(&mut self, work: &Work, count: impl Fn(&P::Model) -> T) -> Result<(T, T), String> {
        let mut reach = |gate: &Gate| {
            let end = self.world.run_to(gate);
            self.world.expect(end).map_err(|stop| format!("{stop:?}"))?;
            let counted = count(&self.world.runner.machine);
            gate.open();
            Ok::<T, String>(counted)
        };
        Ok((reach(&work.before)?, reach(&work.after)?))
    }

    /// Runs to the end.
    pub(super) fn finish(mut self) -> Result<(), String> {
        self.world.finish().map_err(|stop| format!("{stop:?}"))?;
        let violations = self.record.borrow().violations.clone();
        if violations.is_empty() { Ok(()) } else { Err(violations.join("; ")) }
    }
}

/// Counts before and after work that L1 does with the machine to itself.
pub(super) fn at_l1<P: Platform, T>(
    options: Options<P>,
    count: impl Fn(&P::Model) -> T,
    body: impl for<'y> FnOnce(&mut P::Monitor<'y>) -> Check + 'static,
) -> Result<(T, T), String> {
    let mut counted = Counted::new(options);
    let work = Work::default();
    let gates = work.clone();
    counted.world.on_l1(move |L1 { mut backend, cpu, .. }| {
        gates.before.wait(|| P::pause(cpu));
        let check = body(&mut backend);
        gates.after.wait(|| P::pause(cpu));
        check
    });
    let counts = counted.of(&work, count)?;
    counted.finish()?;
    Ok(counts)
}

/// Counts before and after work that a guest does through the shim, on a machine that `prepare` has changed.
pub(super) fn at_l2<P: Platform, T>(
    options: Options<P>,
    prepare: impl FnOnce(&mut P::Model),
    count: impl Fn(&P::Model) -> T,
    body: impl for<'m, 'y> FnOnce(&mut Shim<'m, P::Guest<'y>>) -> Check + 'static,
) -> Result<(T, T), String> {
    let mut counted = Counted::new(options);
    prepare(&mut counted.world.runner.machine);
    let work = Work::default();
    let gates = work.clone();
    counted.world.on_guest(0, move |L2 { port, cpu, home, .. }| {
        let map = MemoryMap::new(&home.guest_ram).map_err(text)?;
        let mut shim = Shim::negotiate(port, map, Limits::default()).map_err(text)?;
        gates.before.wait(|| P::pause(cpu));
        let check = body(&mut shim);
        gates.after.wait(|| P::pause(cpu));
        check
    });
    let counts = counted.of(&work, count)?;
    counted.finish()?;
    Ok(counts)
}

pub(super) fn text(error: impl std::fmt::Display) -> Stop {
    Stop::Wrong(error.to_string())
}
