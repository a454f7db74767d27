//! What it costs L1 to create and to delete a vCPU of the guest.

use std::cell::Cell;
use std::rc::Rc;

use coco_part_api::Context;
use coco_part_api::{CreateVcpu, MemoryMap, NewVcpu, VcpuId};
use l2_guest_shim::{Limits, Shim};
use machine::Vcpu;

use super::Figure;
use super::counted::{Counted, Work, text};
use crate::platform::Platform;
use crate::snp::{Snp, SnpModel};
use crate::world::layout::{CALL_AREA, ENTRY_FURTHER, STATE, frame, page};
use crate::world::{L2, Options};

/// Turns after which the ended vCPU has come to rest.
const REST: u64 = 200_000;

/// RMPADJUSTs of L1 on the vCPU that asks, without those that any call costs. The new vCPU's own start is not part of it.
pub(super) fn figures(per_call: u64) -> Result<Vec<Figure>, String> {
    let options = Options { vcpus: 2, ..Options::default() };
    let levels = options.levels.len() as u64;
    let mut counted = Counted::<Snp>::new(options);
    let (create, delete) = (Work::default(), Work::default());
    let ended = Rc::new(Cell::new(false));
    let gates = (create.clone(), delete.clone());
    counted.world.on_guest(0, move |L2 { port, cpu, home, .. }| {
        let map = MemoryMap::new(&home.guest_ram).map_err(text)?;
        let mut shim = Shim::negotiate(port, map, Limits::default()).map_err(text)?;
        let (id, state) = (VcpuId(1), frame(page(STATE, 1)));
        let context = &Context::long_mode(ENTRY_FURTHER, 0, 0);
        let new = NewVcpu { id, context, state, call_area: frame(page(CALL_AREA, 1)) };
        gates.0.before.wait(|| Snp::pause(cpu));
        shim.create_vcpu(new).map_err(text)?;
        gates.0.after.wait(|| Snp::pause(cpu));
        gates.1.before.wait(|| Snp::pause(cpu));
        shim.destroy_vcpu(id, state).map_err(text)?;
        gates.1.after.wait(|| Snp::pause(cpu));
        Ok(())
    });
    let end = Rc::clone(&ended);
    counted.world.on_guest(1, move |_| {
        end.set(true);
        Ok(())
    });
    let count = |model: &SnpModel| model.0.counters(Vcpu(0), 0).rmpadjust;
    let created = counted.of(&create, count)?;
    let end = counted.world.run_until(|_| ended.get());
    counted.world.expect(end).map_err(|stop| format!("{stop:?}"))?;
    counted.world.run_for(REST, |_| false);
    let deleted = counted.of(&delete, count)?;
    counted.finish()?;
    let figure = |name, what, (before, after): (u64, u64), floor| Figure {
        name,
        what,
        value: after - before - per_call,
        floor,
        aim: Some(levels + 1),
    };
    Ok(vec![
        // Rights go before the frame is checked, the flag comes after: it cannot be one instruction.
        figure(
            "rmpadjust_per_vcpu_created",
            "RMPADJUSTs for one vCPU created, but for the call's own",
            created,
            levels + 1,
        ),
        figure(
            "rmpadjust_per_vcpu_deleted",
            "RMPADJUSTs for one vCPU deleted, but for the call's own",
            deleted,
            levels,
        ),
    ])
}
