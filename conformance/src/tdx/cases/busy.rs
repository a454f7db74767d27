//! Leaves that find their operand busy, because the host works on the same page or vCPU.

use coco_part_api::{ErrorKind, Validate};
use machine::tdx::host::Policy;

use super::{TURNS, case, everything_done_under, of_l1, stop, under};
use crate::platform::Platform;
use crate::suite::{Bench, Case, Check, Kind, ensure, same};
use crate::tdx::Tdx;
use crate::world::Gate;
use crate::world::layout::{FREE, PAGE, range};

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Tdx>> {
    vec![
        case!(
            "H2-busy-operands",
            "H2",
            ["TD-01"],
            HostileHost,
            "a leaf that finds its operand busy is executed again, and everything gets done",
            busy_operands
        ),
        case!(
            "H2-busy-for-ever",
            "H2",
            ["TD-01"],
            HostileHost,
            "an operand that stays busy ends the verb as busy after a bounded number of tries, nothing done, and later it succeeds",
            busy_for_ever
        ),
    ]
}

fn busy_operands(bench: &mut Bench<Tdx>) -> Check {
    everything_done_under(bench, &[Policy::Busy(1), Policy::Busy(64), Policy::BusyEach(2)])
}

fn busy_for_ever(bench: &mut Bench<Tdx>) -> Check {
    /// More than a verb tries one leaf.
    const TRIES: u64 = 2_000;
    let options = bench.options();
    let mut world = bench.world(options);
    let (ready, tried) = (Gate::new(), Gate::new());
    let gates = (ready.clone(), tried.clone());
    world.on_l1(move |mut l1| {
        let cpu = l1.cpu;
        same("first", stop(l1.backend.validate(range(FREE, PAGE))), Ok(()))?;
        gates.0.wait(|| Tdx::pause(cpu));
        let pages = range(FREE + PAGE, 4 * PAGE);
        same("while busy", stop(l1.backend.validate(pages)), Err((0, ErrorKind::Busy)))?;
        gates.1.wait(|| Tdx::pause(cpu));
        same("later", stop(l1.backend.validate(pages)), Ok(()))
    });
    let end = world.run_to(&ready);
    world.expect(end)?;
    let (before, picture) = (of_l1(&world), world.snapshot());
    world.runner.machine.0.host_state_mut().set_policy(Policy::Busy(u64::MAX));
    ready.open();
    let end = world.run_to(&tried);
    world.expect(end)?;
    let tries = of_l1(&world).accept - before.accept;
    ensure((2..TRIES).contains(&tries), || format!("{tries} tries"))?;
    same("state", picture.diff(&world.snapshot()), Vec::new())?;
    world.runner.machine.0.host_state_mut().set_policy(Policy::Honest);
    tried.open();
    world.finish()?;
    // From the start: L1 does not come up, and says why.
    let mut world = bench.world(under(bench, Policy::Busy(u64::MAX)));
    world.run_for(TURNS, |_| false);
    ensure(world.complaints().iter().any(|text| text.contains("operand busy")), || {
        format!("L1 says {:?}", world.complaints())
    })
}
