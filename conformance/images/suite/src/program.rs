//! The cases of this image on its first vCPU, and what they have a further one do.

use core::sync::atomic::{AtomicU64, Ordering};

use backend_snp::guest::{GuestSide, Placement};
use coco_part_api::range::{LARGE, SMALL};
use coco_part_api::{Context, FrameRange, VcpuId};
use image_cases::{Guest as CaseGuest, MonitorPages, OWN_PAGES, Places, Selection};
use image_companions::Pages;
use image_layout::{COMPANIONS, CPUID, GUEST_IMAGE, LAUNCH_VMSA, MONITOR, MONITOR_END, PAGE, SECRETS};
use image_runtime::exceptions::Frame;
use image_runtime::space::{SHARED, Space};
use image_runtime::{cpu, end, println, probe, vcpu};
use spin::Once;
use x86_64::VirtAddr;

use crate::bed::Native;
use crate::start::{EXCEPTION, Guest, Machine, Side, Stop, range};

/// Where all memory can be executed: behind the other windows.
pub(crate) const CODE_WINDOW: VirtAddr = VirtAddr::new(SHARED.as_u64() + (1 << 39));
/// The same, for the start.
pub(crate) const CODE: Option<VirtAddr> = Some(CODE_WINDOW);

/// The magic, then the words of a [`Selection`]. Whoever makes the file of this image writes them.
#[used]
static SELECTION: [AtomicU64; 1 + Selection::WORDS] = {
    let mut words = [const { AtomicU64::new(0) }; 1 + Selection::WORDS];
    words[0] = AtomicU64::new(Selection::MAGIC);
    words
};

/// What the further vCPU needs.
struct Shared {
    space: Space,
    placement: Placement,
    places: Places,
}

static SHARED_WITH_FURTHER: Once<Shared> = Once::new();

/// Runs the cases.
pub(crate) fn run(machine: &mut Machine, guest: &mut Guest) -> Result<(), Stop> {
    let places = places(machine)?;
    let shared = Shared { space: machine.space, placement: machine.placement, places };
    SHARED_WITH_FURTHER.call_once(|| shared);
    let bed = Native::new(machine.context(further_entry, 1)?);
    let mut selected = [0; Selection::WORDS];
    for (word, given) in selected.iter_mut().zip(SELECTION.iter().skip(1)) {
        *word = given.load(Ordering::Relaxed);
    }
    let failed = image_cases::run(&mut CaseGuest::new(guest, bed, places), &Selection::from_words(selected));
    if failed == 0 { Ok(()) } else { Err(Stop::Wrong("cases")) }
}

/// Memory for the cases, and where the rest lies.
fn places(machine: &mut Machine) -> Result<Places, Stop> {
    let own = own_pages(machine)?;
    let mailbox = machine.arena.take(1).ok_or(Stop::Memory("a mailbox"))?;
    let start = machine.start;
    Ok(Places {
        own,
        mailbox: mailbox.start().as_u64(),
        fresh: range(start.free_end.next_multiple_of(LARGE), start.ram_end)?,
        hole: start.ram_end.next_multiple_of(LARGE),
        secrets: start.secrets,
        monitor: MonitorPages {
            first: MONITOR,
            data: GUEST_IMAGE,
            last: MONITOR_END - PAGE,
            secrets: SECRETS,
            features: CPUID,
            launch_state: LAUNCH_VMSA,
        },
        companions: Pages::at(COMPANIONS).ok_or(Stop::Told("a layout that"))?,
        // At most 16.
        vcpus: start.vcpus as u8,
    })
}

/// Pages in a row of which none is aligned to 2 MiB.
fn own_pages(machine: &mut Machine) -> Result<FrameRange, Stop> {
    for _ in 0..2 {
        let own = machine.arena.take(OWN_PAGES).ok_or(Stop::Memory("pages for the cases"))?;
        let at = own.start().as_u64();
        if at.next_multiple_of(LARGE) - at >= OWN_PAGES * SMALL {
            return Ok(own);
        }
    }
    Err(Stop::Memory("pages for the cases"))
}

/// A further vCPU: its number and the end of its stack for exceptions.
extern "sysv64" fn further_entry(id: u64, exception_stack: u64) -> ! {
    // Below 16.
    let id = VcpuId(id as u32);
    // SAFETY: the first vCPU took this stack for this vCPU, which is created again only after it has been destroyed.
    unsafe { vcpu::begin(id, VirtAddr::new_truncate(exception_stack)) };
    if let Some(Shared { space, placement, places }) = SHARED_WITH_FURTHER.get() {
        // SAFETY: CPL 0 with handlers for exceptions. The pages that are changed are those that the cases name.
        let port = unsafe { space.port() };
        // Its call area is what the cases say.
        let area = placement.call_area();
        let side: Side = GuestSide::new(port, space.private(), space.shared(), placement, id, area);
        image_cases::further(side, Native::new(Context::long_mode(0, 0, 0)), places);
    }
    loop {
        // SAFETY: interrupts have a handler.
        unsafe { cpu::wait_for_interrupt() };
    }
}

/// An exception of a probe, or the end.
pub(crate) fn exception(frame: &mut Frame) {
    if probe::caught(frame) {
        return;
    }
    let Frame { vector, error, rip, .. } = *frame;
    println!("exception {vector} with code {error:#x} at {rip:#x}, CR2 {:#x}", cpu::fault_address());
    end::terminate(EXCEPTION)
}
