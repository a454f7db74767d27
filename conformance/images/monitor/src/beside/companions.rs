//! A companion at each of the other levels, on the first vCPU.

#[allow(unsafe_code)]
mod program;

use coco_part_api::context::RDI;
use coco_part_api::{Context, Error, GuestLevel, GuestMemory, HasMemory, Identify, Stopped, VcpuId};
use image_companions::{LEVELS as COMPANIONS, Pages, prepare, serve};
use image_runtime::paging::Table;
use l1_monitor::State;

use crate::guest::{MAPPED, write_tables};
use crate::reason::StartError;
use crate::serve::{Vcpu, World};
use crate::start::RSI;

/// Levels in use.
pub(crate) const LEVELS: &[GuestLevel] = &GuestLevel::ALL;

/// CR4: OSFXSR, OSXMMEXCPT, OSXSAVE.
const EXTENDED: u64 = 1 << 9 | 1 << 10 | 1 << 18;
/// Index of RDX in a context.
const RDX: usize = 2;

fn pages() -> Result<Pages, StartError> {
    Pages::at(image_layout::COMPANIONS).ok_or(StartError::Memory("a layout that cannot be"))
}

fn step_of<E: Error>(step: &'static str) -> impl Fn(Stopped<E>) -> StartError {
    move |Stopped { cause, .. }| StartError::Guest { step, kind: cause.kind() }
}

/// Makes the companions ready to run.
#[inline(never)]
pub(crate) fn start(world: &World, monitor: &mut Vcpu) -> Result<(), StartError> {
    let pages = pages()?;
    prepare(monitor.backend(), pages).map_err(step_of("validation of the companions' pages"))?;
    let refused = |_| StartError::Refused { step: "the ledger has the companions' pages" };
    monitor.shared().ledger.adopt(pages.all(), State::NotPrivate, State::Monitor).map_err(refused)?;
    let unwritten = |error| StartError::Guest { step: "writing the companions' program", kind: Error::kind(&error) };
    let code = pages.code().start();
    let end = (world.span.start().as_u64() + world.span.bytes()).min(MAPPED);
    let memory = monitor.backend().memory();
    GuestMemory::write(&memory, code, program::bytes()).map_err(unwritten)?;
    for level in COMPANIONS {
        let root = write_tables(world, monitor, pages.tables(level), end)?;
        // They are where the guest's are made, too.
        world.guest_tables.lock().fill(Table::EMPTY);
        let mut context = Context::long_mode(code.as_u64(), 0, root);
        context.cr4 |= EXTENDED;
        let [own, task] = [pages.data(level), pages.task()].map(|page| page.start().as_u64());
        for (register, value) in [(RDI, own), (RSI, level.number().into()), (RDX, task)] {
            if let Some(place) = context.gpr.get_mut(register) {
                *place = value;
            }
        }
        image_companions::start(monitor.backend(), pages, level, &context).map_err(step_of("start of a companion"))?;
    }
    image_runtime::println!("companions at levels 1 and 3");
    Ok(())
}

/// Between two steps of the monitor: each companion makes a call.
pub(crate) fn step(monitor: &mut Vcpu) {
    if let Ok(pages) = pages()
        && monitor.backend().vcpu() == VcpuId(0)
    {
        serve(monitor.backend(), pages);
    }
}
