//! L1's part.

use coco_part_api::{
    Context, Exit, FrameRange, GuestLevel, GuestMemory, Monitor, NotYet, Origin, PendingCall, Source, Stopped, Terms,
};

use crate::{LEVELS, Pages, answered, called, data, wrong};

/// How often a companion is run at most until it has called. A host that runs something else, or nobody, costs tries.
const TRIES: u32 = 64;

/// Makes the pages private memory that reads as zeros, with the rights that each level is to have. Before they are private
/// memory of anybody.
///
/// # Errors
/// What the backend says.
pub fn prepare<B: Monitor>(backend: &mut B, pages: Pages) -> Result<(), Stopped<B::Error>> {
    for (range, grants) in pages.shares() {
        backend.validate_for(range, &grants, Origin::Monitor)?;
    }
    LEVELS.into_iter().try_for_each(|level| backend.validate(FrameRange::of(pages.state(level))))
}

/// Gives this vCPU a companion that begins so. Its pages are [prepared](prepare), and filled.
///
/// # Errors
/// What the backend says.
pub fn start<B: Monitor>(
    backend: &mut B,
    pages: Pages,
    level: GuestLevel,
    context: &Context,
) -> Result<(), Stopped<B::Error>> {
    let terms = Terms { level, target: backend.vcpu(), call_area: pages.data(level).first() };
    // The frame was never granted: there is nothing to flush.
    let mut cut = B::Cut::default();
    let proof = loop {
        cut = match backend.redeem(cut) {
            Ok(proof) => break proof,
            Err(NotYet(cut)) => cut,
        };
    };
    let seed = backend.admit(pages.state(level), Source::Context(context), &terms, &proof);
    let seed = seed.map_err(Stopped::at_start)?;
    backend.install(seed).map_err(|(_, error)| Stopped::at_start(error))
}

/// Runs each companion until a call of it is answered, or has been tried often enough: whoever relies on them counts.
pub fn serve<B: Monitor>(backend: &mut B, pages: Pages) {
    for level in LEVELS {
        for _ in 0..TRIES {
            match backend.run(level) {
                Ok(Exit::Call(call)) => {
                    answer(backend, pages, level, call);
                    break;
                }
                Ok(Exit::MalformedCall(call) | Exit::HostCall(call)) => {
                    note(backend, pages, level, wrong::EXIT);
                    let regs = call.regs();
                    // Whoever does not go on is found out by who counts.
                    let _ = backend.answer(call, regs);
                    break;
                }
                // The host did not run it, or ran something else.
                Ok(Exit::Spurious | Exit::InterruptPending) | Err(_) => {}
                Ok(_) => {
                    note(backend, pages, level, wrong::EXIT);
                    break;
                }
            }
        }
    }
}

fn answer<B: Monitor>(backend: &mut B, pages: Pages, level: GuestLevel, call: PendingCall) {
    let regs = call.regs();
    if call.level() != level || regs != called(level, regs.rax) {
        note(backend, pages, level, wrong::CALL);
    }
    // As above.
    let _ = backend.answer(call, answered(regs));
}

/// Writes down what is wrong where the guest looks.
fn note<B: Monitor>(backend: &B, pages: Pages, level: GuestLevel, what: u64) {
    let at = coco_part_api::memory::offset(pages.data(level).start(), data::WRONG);
    if let Some(at) = at {
        // Nobody else can be told.
        let _ = backend.memory().write_value(at, &what);
    }
}
