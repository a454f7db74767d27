//! Hosts that carry a switch out, or do not, and answer it wrong (SW-08, SW-09).

use coco_part_api::svsm::{CORE, CallId, CallResult, PVALIDATE};
use coco_part_api::{CallMonitor, CallRegs, Error, ErrorKind};
use machine::host::Policy;

use super::{LIST, Snp};
use crate::suite::create::case;
use crate::suite::create::vcpus::{agree_private, query, query_answer, with_seeds};
use crate::suite::probe::{call, list_words, put, validate};
use crate::suite::{Bench, Case, Check, ensure, same};
use crate::world::layout::{DATA, FREE};
use crate::world::{Gate, L2, Options};

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![case!(
        "S1-wrong-answers",
        "S1",
        ["SW-08", "SW-09"],
        HostileHost,
        "a wrong response code or error bits fail the call by name, whether L1 served it or not; L1 lives and serves once",
        wrong_answers
    )]
}

/// What the host says, whether L1 has run by then, and what the caller is told.
const LIES: [(Policy, bool, ErrorKind); 7] = [
    // The code of CPUID, of a page state change, and of the request itself.
    (Policy::WrongResponseCode(0x005), true, ErrorKind::HostMisbehaved),
    (Policy::WrongResponseCode(0x015), true, ErrorKind::HostMisbehaved),
    (Policy::WrongResponseCode(0x016), true, ErrorKind::HostMisbehaved),
    (Policy::WrongResponseCode(0xfff), true, ErrorKind::HostMisbehaved),
    (Policy::SwitchErrorBits(7), true, ErrorKind::HostMisbehaved),
    (Policy::SwitchErrorBits(u32::MAX), true, ErrorKind::HostMisbehaved),
    (Policy::RefuseSwitch, false, ErrorKind::HostMisbehaved),
];

fn wrong_answers(bench: &mut Bench<Snp>) -> Check {
    for (policy, is_served, want) in LIES {
        // A host that may lie, and does so when the guest is up.
        let host = Policy::After { exits: u64::MAX, inner: Box::new(policy.clone()) };
        for options in with_seeds(&Options { host: host.clone(), ..bench.options() }, 2) {
            let mut world = bench.world(options);
            let (up, told) = (Gate::new(), Gate::new());
            let (begin, end) = (up.clone(), told.clone());
            world.on_guest(0, move |mut l2| {
                agree_private(&mut l2, FREE, 1)?;
                put(&l2, &list_words(LIST, &[validate(FREE)]))?;
                let regs = CallRegs::call(CallId::new(CORE, PVALIDATE), LIST, 0, 0);
                l2.wait(&begin);
                not_told(&mut l2, regs, want, is_served)?;
                for _ in 0..3 {
                    not_told(&mut l2, query(), want, is_served)?;
                }
                l2.wait(&end);
                // Served once, or not at all.
                put(&l2, &list_words(LIST, &[validate(FREE)]))?;
                let before = if is_served { CallResult::NO_CHANGE } else { CallResult::SUCCESS };
                same("validate again", call(&mut l2, regs)?.result(), before)?;
                same("a query", call(&mut l2, query())?, query_answer())?;
                put(&l2, &[(DATA, 1)])
            });
            let reached = world.run_to(&up);
            world.expect(reached)?;
            world.runner.machine.0.host_state_mut().set_policy(policy.clone());
            up.open();
            let reached = world.run_to(&told);
            world.expect(reached)?;
            world.runner.machine.0.host_state_mut().set_policy(host.clone());
            told.open();
            world.finish()?;
        }
    }
    Ok(())
}

/// A call whose answer is lost.
fn not_told(l2: &mut L2<'_, Snp>, regs: CallRegs, want: ErrorKind, is_served: bool) -> Check {
    match l2.port.call(regs) {
        Ok(answer) => Err(format!("a wrong answer of the host was taken for one of L1: {answer:x?}").into()),
        Err(error) => {
            let kind = error.kind();
            let named = kind == want || is_served && kind == ErrorKind::HostRefused;
            ensure(named, || format!("the caller is told {kind:?}: {error}"))
        }
    }
}
