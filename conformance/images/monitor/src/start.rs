//! From the first Rust instruction to the monitor's own page tables.

use backend_snp::host::negotiate;
use backend_snp::launch::parameters::{guest_ram, vp_count};
use coco_part_api::{Context, FrameRange, MemoryMap, VcpuId};
use image_layout::{MEMORY_MAP, MONITOR, MONITOR_END, PAGE, PARAMETERS, VCPU_COUNT};
use image_runtime::paging::{Builder, CBit, Rights};
use image_runtime::space::{self, Space};
use image_runtime::vcpu::{self, VCPUS};
use image_runtime::{cpu, end, exceptions};
use l1_monitor::Ledger;
use spin::Mutex;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use crate::entry::boot_stack;
use crate::guest;
use crate::own::{self, EXCEPTION_STACK_FRAMES, OWN_TABLES, Own, STACK_FRAMES};
use crate::reason::EarlyError;
use crate::serve::{self, Secondary, World};

/// Most ranges of RAM.
const RANGES: usize = 16;
/// Frames of a vCPU's channel to the host: GHCB page, two message pages, and one to prove the level with.
pub(crate) const CHANNEL_FRAMES: u64 = 4;

/// On the boot stack, on the first page tables.
pub(crate) extern "sysv64" fn first(c_bit: u64) -> ! {
    exceptions::install(serve::exception);
    // SAFETY: the boot stack is private and mapped, and its end is a multiple of 16. This code is on it too, but no handler of an
    // exception comes back to it. No vCPU but the first one has this number.
    unsafe { vcpu::begin(VcpuId(0), boot_stack()) };
    let stack = or_end(first_stack());
    // SAFETY: the stack was validated just now, for this purpose, and is mapped at its own address.
    unsafe { cpu::continue_on(stack, second, c_bit) }
}

fn first_stack() -> Result<VirtAddr, EarlyError> {
    // SAFETY: on the first page tables, with handlers that end the guest. The next value is made when this one is gone.
    let mut own = unsafe { Own::new() }?;
    negotiate(own.port()).map_err(|_| EarlyError::HOST)?;
    end_of(own.take_stack(STACK_FRAMES)?)
}

/// On the first vCPU's own stack, still on the first page tables.
extern "sysv64" fn second(c_bit: u64) -> ! {
    let secondaries = or_end(assemble(c_bit));
    serve::first_vcpu(&secondaries)
}

/// Validates memory for everything that is to be kept, makes the final page tables, and goes over to them.
fn assemble(c_bit: u64) -> Result<[Option<Secondary>; VCPUS], EarlyError> {
    let c_bit = CBit::new(c_bit).ok_or(EarlyError::MEMORY)?;
    // SAFETY: as in `first_stack`, whose value is gone.
    let mut own = unsafe { Own::new() }?;
    let stack = own.pass_stack(STACK_FRAMES)?;

    // A private copy: nobody measured the page, and the host may have written anything.
    let mut parameters = [0; PAGE as usize];
    own.read(PARAMETERS, &mut parameters)?;
    let area = |offset: u32| parameters.get(offset as usize..).unwrap_or_default();
    let vcpus = vp_count(area(VCPU_COUNT), VCPUS as u32).map_err(|_| EarlyError::PARAMETERS)?;
    let monitor = monitor_range()?;
    let mut room = [monitor; RANGES];
    let all = guest_ram(area(MEMORY_MAP), &[], &mut room).map_err(|_| EarlyError::PARAMETERS)?;
    let span = span(all, monitor)?;

    let objects = own.mark();
    let all = keep(&mut own, all)?;
    let mut room = [monitor; RANGES];
    let guests = guest_ram(area(MEMORY_MAP), &[monitor], &mut room).map_err(|_| EarlyError::PARAMETERS)?;
    let guests = keep(&mut own, guests)?;
    let words = own.words(Ledger::words_for(span.frames()))?;
    let storage = own.place(l1_monitor::Storage::new())?;
    let shared = own.place(backend_snp::monitor::Shared::new())?;
    let (guest_tables, _) = own.tables(guest::TABLES)?;
    let objects = own.since(objects)?;

    let end = PhysAddr::new_truncate(span.start().as_u64() + span.bytes());
    let (tables, first) = own.tables(1 + OWN_TABLES + space::tables(end))?;
    let mut builder = Builder::new(tables, first, c_bit);
    let root = builder.root();
    own::map_image(&mut builder)?;
    own::map(&mut builder, stack, Rights::Data)?;
    own::map(&mut builder, objects, Rights::Data)?;

    let guest_state = own.take_state_frame()?;
    let channels = own.take(CHANNEL_FRAMES * u64::from(vcpus))?;
    let mut secondaries = [const { None }; VCPUS];
    for (id, place) in (0..vcpus).zip(&mut secondaries).skip(1) {
        let stack = own.take_stack(STACK_FRAMES)?;
        let exception_stack = own.take_stack(EXCEPTION_STACK_FRAMES)?;
        own::map(&mut builder, stack, Rights::Data)?;
        own::map(&mut builder, exception_stack, Rights::Data)?;
        let mut context = Context::long_mode(serve::secondary_entry(), end_of(stack)?.as_u64() - 8, root);
        // The arguments of the entry.
        let arguments = [(coco_part_api::context::RDI, u64::from(id)), (RSI, end_of(exception_stack)?.as_u64())];
        for (register, value) in arguments {
            if let Some(place) = context.gpr.get_mut(register) {
                *place = value;
            }
        }
        *place = Some(Secondary { id: VcpuId(id), context, state: own.take_state_frame()? });
    }
    space::map(&mut builder, end).map_err(|_| EarlyError::MEMORY)?;

    // SAFETY: everything that is in use is mapped in the new tables where it was: image, stack, objects. The old tables and the
    // boot stack are part of the image.
    unsafe { cpu::load_page_tables(root) };
    // SAFETY: the tables map both windows up to `end`. Exceptions end the guest.
    let space = unsafe { Space::new(end) }.map_err(|_| EarlyError::MEMORY)?;
    let valid = own.valid()?;
    serve::publish(World {
        space,
        vcpus,
        monitor,
        valid,
        span,
        all: MemoryMap::new(all).map_err(|_| OVERLAP)?,
        guests: MemoryMap::new(guests).map_err(|_| OVERLAP)?,
        words,
        storage,
        shared,
        channels,
        guest_state,
        guest_tables: Mutex::new(guest_tables),
        c_bit,
    });
    Ok(secondaries)
}

/// Index of RSI in a context.
pub(crate) const RSI: usize = 6;

/// Ranges of RAM overlap.
const OVERLAP: EarlyError = EarlyError::MEMORY;

fn monitor_range() -> Result<FrameRange, EarlyError> {
    let range = FrameRange::new(PhysAddr::new_truncate(MONITOR), MONITOR_END - MONITOR);
    range.map_err(|_| EarlyError::MEMORY)
}

/// From the first to the last frame of RAM, the monitor's own memory among it.
fn span(all: &[FrameRange], monitor: FrameRange) -> Result<FrameRange, EarlyError> {
    if !all.iter().any(|range| range.contains(monitor)) {
        return Err(EarlyError::MEMORY);
    }
    let (first, last) = all.first().zip(all.last()).ok_or(OVERLAP)?;
    // In order: the reader of the map demands it.
    let end = last.start().as_u64() + last.bytes();
    FrameRange::new(first.start(), end - first.start().as_u64()).map_err(|_| OVERLAP)
}

/// Ranges that stay.
fn keep(own: &mut Own, ranges: &[FrameRange]) -> Result<&'static [FrameRange], EarlyError> {
    let first = *ranges.first().ok_or(EarlyError::MEMORY)?;
    let kept = own.place([first; RANGES])?;
    for (place, range) in kept.iter_mut().zip(ranges) {
        *place = *range;
    }
    kept.get(..ranges.len()).ok_or(OVERLAP)
}

fn end_of(stack: FrameRange) -> Result<VirtAddr, EarlyError> {
    VirtAddr::try_new(stack.start().as_u64() + stack.bytes()).map_err(|_| EarlyError::MEMORY)
}

/// A frame of a range.
pub(crate) fn frame(range: FrameRange, index: u64) -> Option<PhysFrame> {
    range.skip(index).map(FrameRange::first)
}

/// Ends the guest after an error at a time without a console.
fn or_end<T>(result: Result<T, EarlyError>) -> T {
    result.unwrap_or_else(|error| end::terminate(error.0))
}
