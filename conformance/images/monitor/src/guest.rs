//! The guest that the file brings along: its pages, its memory from the start, and its first vCPU.

use coco_part_api::range::LARGE;
use coco_part_api::{BootPage, Context, Error, FrameRange, GuestMemory, HasMemory, PageSize};
use image_layout::{GUEST_IMAGE, GuestImage, GuestStart, PAGE};
use image_runtime::link::{LINKS, Link};
use image_runtime::paging::{Builder, Mapping, Rights, Table, View};
use image_runtime::println;
use l1_monitor::{GuestLaunch, State};
use x86_64::{PhysAddr, VirtAddr};

use crate::reason::{self, StartError};
use crate::serve::{Vcpu, World, launch_frame, step};
use crate::start::frame;

/// Page tables that the guest begins with: root, and one of each of the two levels below.
pub(crate) const TABLES: u64 = 3;
/// Pages behind the image: secrets, CPUID, call area, page tables.
const BEHIND: u64 = 3 + TABLES;
/// Least memory that a guest has from the start behind its image.
const ROOM: u64 = 0x10_0000;
/// Most memory that the first page tables map.
pub(crate) const MAPPED: u64 = 1 << 30;

/// Makes the guest ready to run. `image_layout` says what it finds.
#[inline(never)]
pub(crate) fn launch(world: &World, monitor: &mut Vcpu) -> Result<(), StartError> {
    let mut bytes = [0; GuestImage::BYTES];
    let at = launch_frame(GUEST_IMAGE).start_address();
    world.space.private().read(at, &mut bytes).map_err(|_| StartError::NoGuestImage)?;
    let image = GuestImage::decode(&bytes).ok_or(StartError::NoGuestImage)?;
    if image.first == image.end {
        println!("no guest in the file");
        // Whatever comes of it, nothing is left to be done.
        let _ = LINKS.with(|link: &mut Link| link.end(0));
        image_runtime::end::terminate(reason::NOT_ENDED);
    }

    let outside = StartError::Memory("guest's image not in RAM");
    let range = |first: u64, end: u64| {
        let start = PhysAddr::try_new(first).map_err(|_| outside)?;
        FrameRange::new(start, end.checked_sub(first).ok_or(outside)?).map_err(|_| outside)
    };
    let pages = range(image.first, image.end)?;
    let behind_end = image.end.checked_add(BEHIND * PAGE).ok_or(outside)?;
    let behind = range(image.end, behind_end)?;
    let ram = world.guests.ranges().iter().find(|ram| ram.contains(pages) && ram.contains(behind)).ok_or(outside)?;
    let ram_end = ram.start().as_u64() + ram.bytes();
    let private_end = behind_end.saturating_add(ROOM).next_multiple_of(LARGE).min(ram_end);

    // The pages of the file are valid since the launch, and the monitor's alone until now.
    let adopt = |range| {
        let refused = |_| StartError::Refused { step: "guest's pages in the ledger" };
        monitor_ledger(monitor).adopt(range, State::NotPrivate, State::Monitor).map_err(refused)
    };
    adopt(pages)?;
    adopt(behind)?;
    monitor
        .backend()
        .validate(behind)
        .map_err(|stopped| StartError::Guest { step: "pages behind the guest's image", kind: stopped.cause.kind() })?;

    let place = |index| frame(behind, index).ok_or(outside);
    let (secrets, cpuid, call_area) = (place(0)?, place(1)?, place(2)?);
    let tables = behind.skip(3).ok_or(outside)?;
    let root = write_tables(world, monitor, tables, ram_end.min(MAPPED))?;
    monitor.publish(pages).map_err(step("guest's image"))?;
    monitor.publish(tables).map_err(step("guest's page tables"))?;
    if behind_end < private_end {
        monitor.hand_over(range(behind_end, private_end)?).map_err(step("guest's first memory"))?;
    }

    let mut context = Context::long_mode(image.entry, 0, root);
    let [secrets_at, cpuid_at] = [secrets, cpuid].map(|frame| frame.start_address().as_u64());
    let start = GuestStart {
        secrets: secrets_at,
        cpuid: cpuid_at,
        free: behind_end,
        free_end: private_end,
        ram_end,
        vcpus: world.vcpus.into(),
    };
    for (register, value) in start.registers() {
        if let Some(place) = context.gpr.get_mut(register) {
            *place = value;
        }
    }
    let launch = GuestLaunch {
        state: world.guest_state,
        call_area,
        context: &context,
        pages: &[(BootPage::Secrets, secrets), (BootPage::Features, cpuid)],
        monitor: world.monitor,
    };
    println!("guest at level {} begins at {:#x}", monitor.shared().level.number(), image.entry);
    let started = monitor.start_guest(&launch).map_err(step("guest's start"));
    #[cfg(feature = "defect")]
    crate::defect::GUEST_RUNS.store(true, core::sync::atomic::Ordering::Relaxed);
    started
}

fn monitor_ledger(monitor: &Vcpu) -> l1_monitor::Ledger<'static> {
    monitor.shared().ledger
}

/// Page tables that map RAM up to `end` at its own addresses, privately. Gives what CR3 has to be.
pub(crate) fn write_tables(world: &World, monitor: &mut Vcpu, at: FrameRange, end: u64) -> Result<u64, StartError> {
    const FULL: StartError = StartError::Memory("page tables too small");
    let mut tables = world.guest_tables.lock();
    let mut builder = Builder::new(&mut tables, at.start(), world.c_bit);
    let all = Mapping {
        at: VirtAddr::zero(),
        to: PhysAddr::zero(),
        len_bytes: end.next_multiple_of(LARGE),
        size: PageSize::Large,
        rights: Rights::All,
        view: View::Private,
    };
    builder.map(&all).map_err(|_| FULL)?;
    let root = builder.root();
    let memory = monitor.backend().memory();
    for (index, word) in tables.iter().flat_map(Table::bytes).enumerate() {
        let to = PhysAddr::new_truncate(at.start().as_u64() + 8 * index as u64);
        GuestMemory::write(&memory, to, &word)
            .map_err(|error| StartError::Guest { step: "guest's page tables", kind: error.kind() })?;
    }
    Ok(root)
}
