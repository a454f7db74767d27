//! From the first instruction to a guest with page tables, exceptions and a console of its own.

use backend_snp::SnpError;
use backend_snp::abi::cpuid::{CpuidAnswer, CpuidPage};
use backend_snp::abi::cpuid_leaves::CpuidLeaf;
use backend_snp::guest::{GuestSide, Placement};
use backend_snp::instr::{DirectMap, NativePort, NativeWindow};
use backend_snp::message::MessagePages;
use coco_part_api::vcpu::frame_at;
use coco_part_api::{After, Context, FrameRange, GuestMemory, MemoryMap, PageSize, RangeError, Validate, VcpuId};
use image_layout::{GUEST, GuestStart};
use image_runtime::arena::Arena;
use image_runtime::link::{LINKS, Link};
use image_runtime::paging::{Builder, CBit, Mapping, Rights, View};
use image_runtime::space::{self, Space};
use image_runtime::{cpu, end, exceptions, objects, println, vcpu};
use l2_guest_shim::{Limits, Shim, ShimError};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use crate::program;

/// What this guest runs on.
pub(crate) type Side = GuestSide<NativePort, NativeWindow>;
/// The same behind the verbs.
pub(crate) type Guest = Shim<'static, Side>;

/// Reason code of an end before the console.
const NO_START: u8 = 0x40;
/// Reason code of a panic.
pub(crate) const PANIC: u8 = 0x41;
/// Reason code of an exception that nobody expects.
pub(crate) const EXCEPTION: u8 = 0x42;
/// Reason code if the host does not end the guest when it is told the result.
pub(crate) const NOT_ENDED: u8 = 0x43;

/// Frames of a stack, and of one for exceptions.
const STACK_FRAMES: u64 = 16;
pub(crate) const EXCEPTION_STACK_FRAMES: u64 = 4;
/// Page tables for what CPL 3 has, without the root.
const USER_TABLES: u64 = 3;
/// Pages that a vCPU shares with the host: GHCB page and two message pages.
const CHANNEL_FRAMES: u64 = 3;

/// Why the guest does not go on.
#[derive(Clone, Copy, Debug, thiserror_no_std::Error)]
pub(crate) enum Stop {
    /// The monitor's word cannot be.
    #[error("{0} cannot be")]
    Told(&'static str),
    /// No memory is left.
    #[error("no memory for {0}")]
    Memory(&'static str),
    /// The backend failed.
    #[error("{0}")]
    Backend(SnpError),
    /// A verb of the shim failed.
    #[error("{0}")]
    Shim(ShimError<SnpError>),
    /// Something is not as it has to be.
    #[error("{0}")]
    Wrong(&'static str),
}

impl From<SnpError> for Stop {
    fn from(error: SnpError) -> Self {
        Self::Backend(error)
    }
}

impl From<ShimError<SnpError>> for Stop {
    fn from(error: ShimError<SnpError>) -> Self {
        Self::Shim(error)
    }
}

impl From<RangeError> for Stop {
    fn from(_: RangeError) -> Self {
        Self::Told("a range of memory")
    }
}

/// The guest's memory and what it knows.
pub(crate) struct Machine {
    pub(crate) start: GuestStart,
    pub(crate) space: Space,
    pub(crate) placement: Placement,
    pub(crate) map: MemoryMap<'static>,
    /// Private memory that reads as zeros.
    pub(crate) arena: Arena,
    /// Two frames that CPL 3 has from [`space::USER`] on: one of code, one that it may write.
    pub(crate) user: FrameRange,
    root: u64,
}

unsafe extern "C" {
    static image_code: u8;
    static image_constants: u8;
    static image_data: u8;
    static image_end: u8;
}

/// On the boot stack, on the monitor's page tables.
pub(crate) extern "sysv64" fn first(secrets: u64, cpuid: u64, free: u64, free_end: u64, ram_end: u64, vcpus: u64) -> ! {
    exceptions::install(program::exception);
    let start = GuestStart { secrets, cpuid, free, free_end, ram_end, vcpus };
    let Ok((machine, stack)) = assemble(start) else { end::terminate(NO_START) };
    // SAFETY: the stack is mapped in the new tables, and nobody else has it.
    unsafe { cpu::continue_on(stack, second, core::ptr::from_mut(machine).expose_provenance() as u64) }
}

/// On a stack with a frame below it that is not mapped.
extern "sysv64" fn second(machine: u64) -> ! {
    // SAFETY: the argument that `first` made of a reference that it has given up.
    let machine = unsafe { &mut *core::ptr::with_exposed_provenance_mut::<Machine>(machine as usize) };
    let Ok(mut guest) = machine.side(VcpuId(0), machine.placement.call_area()) else { end::terminate(NO_START) };
    println!("hello from vmpl{}", machine.placement.vmpl().number());
    let result = match program::run(machine, &mut guest) {
        Ok(()) => 0,
        Err(stop) => {
            println!("failed: {stop}");
            1
        }
    };
    // The host ends the guest here.
    let _ = LINKS.with(|link| link.end(result));
    end::terminate(NOT_ENDED)
}

fn assemble(start: GuestStart) -> Result<(&'static mut Machine, VirtAddr), Stop> {
    let identity = DirectMap::try_new(VirtAddr::zero(), start.free_end).map_err(|_| Stop::Told("end of memory"))?;
    // SAFETY: the monitor's page tables map memory up to there at its own addresses, privately. The CPUID page is no object.
    let early = unsafe { NativeWindow::new(identity) };
    let c_bit = c_bit(&early, start.cpuid)?;
    let free = range(start.free, start.free_end)?;
    let mut arena = Arena::new(free);
    let ram_end = PhysAddr::try_new(start.ram_end).map_err(|_| Stop::Told("end of RAM"))?;

    // Own memory is mapped at its own addresses in small pages, so that each part has its rights.
    let small_tables = 2 + (start.free_end - GUEST).div_ceil(0x20_0000) + 1;
    let code_tables = if program::CODE.is_some() { space::tables(ram_end) } else { 0 };
    let tables = 1 + small_tables + space::tables(ram_end) + code_tables + USER_TABLES;
    let tables = arena.take(tables).ok_or(Stop::Memory("page tables"))?;
    // SAFETY: fresh memory of the arena, which reads as zeros.
    let mut builder = Builder::new(unsafe { objects::tables(tables) }, tables.start(), c_bit);
    let root = builder.root();
    let [code, constants, data, end] =
        [&raw const image_code, &raw const image_constants, &raw const image_data, &raw const image_end]
            .map(|at| at.addr() as u64);
    map(&mut builder, range(code, constants)?, Rights::Code)?;
    map(&mut builder, range(constants, data)?, Rights::Constants)?;
    map(&mut builder, range(data, end)?, Rights::Data)?;
    space::map(&mut builder, ram_end).map_err(|_| Stop::Memory("page tables"))?;
    if let Some(at) = program::CODE {
        let (to, len_bytes) = (PhysAddr::zero(), ram_end.as_u64().next_multiple_of(PageSize::Large.bytes()));
        let code = Mapping { at, to, len_bytes, size: PageSize::Large, rights: Rights::Code, view: View::Private };
        builder.map(&code).map_err(|_| Stop::Memory("page tables"))?;
    }

    let stack = take_stack(&mut arena, STACK_FRAMES)?;
    let exception_stack = take_stack(&mut arena, EXCEPTION_STACK_FRAMES)?;
    map(&mut builder, stack, Rights::Data)?;
    map(&mut builder, exception_stack, Rights::Data)?;
    let user = arena.take(2).ok_or(Stop::Memory("code at CPL 3"))?;
    for (block, rights) in user.small_blocks().zip([Rights::UserCode, Rights::UserData]) {
        let (to, len_bytes, size) = (block.start(), PageSize::Small.bytes(), PageSize::Small);
        let at = space::USER + (to - user.start());
        let mapping = Mapping { at, to, len_bytes, size, rights, view: View::Private };
        builder.map(&mapping).map_err(|_| Stop::Memory("page tables"))?;
    }
    // Everything behind is for objects.
    let rest = free.skip(arena.taken().map_or(0, FrameRange::frames)).ok_or(Stop::Memory("objects"))?;
    map(&mut builder, rest, Rights::Data)?;
    // SAFETY: the new tables map image, stacks and free memory where they are. The boot stack is part of the image.
    unsafe { cpu::load_page_tables(root) };
    // SAFETY: the stack is mapped and fresh, and no other vCPU has the number 0.
    unsafe { vcpu::begin(VcpuId(0), end_of(exception_stack)) };
    // SAFETY: the tables map both windows up to there.
    let space = unsafe { Space::new(ram_end) }.map_err(|_| Stop::Told("end of RAM"))?;

    let scratch = arena.take(1).ok_or(Stop::Memory("scratch"))?.first();
    // SAFETY: CPL 0 with handlers for exceptions; probing changes rights of lower levels on the scratch page alone.
    let mut port = unsafe { space.port() };
    let secrets = frame_at(start.secrets).ok_or(Stop::Told("address of the secrets page"))?;
    let placement = Placement::find(&mut port, &space.private(), secrets, scratch)?;
    let ram = place(&mut arena, [range(GUEST, start.ram_end)?])?;
    let map = MemoryMap::new(ram)?;
    let room = arena.take(objects::frames_of::<Machine>()).ok_or(Stop::Memory("objects"))?;
    let machine = Machine { start, space, placement, map, arena, user, root };
    // SAFETY: fresh memory of the arena, mapped at its own addresses.
    let machine = unsafe { objects::place(room, machine) }.ok_or(Stop::Memory("objects"))?;
    Ok((machine, end_of(stack)))
}

/// Where the C-bit is, as the page says that the firmware checked and the monitor copied.
fn c_bit(memory: &NativeWindow, at: u64) -> Result<CBit, Stop> {
    let at = PhysAddr::try_new(at).map_err(|_| Stop::Told("address of the CPUID page"))?;
    let page: CpuidPage = memory.read_value(at).map_err(SnpError::memory(at))?;
    match page.table().map(|table| table.lookup(CpuidLeaf::ENCRYPTION.0, 0)) {
        // Bits 5:0.
        Ok(CpuidAnswer::Entry(entry)) => {
            CBit::new((entry.ebx & 0x3f).into()).ok_or(Stop::Told("position of the C-bit"))
        }
        _ => Err(Stop::Told("CPUID page")),
    }
}

impl Machine {
    /// This guest's side of a vCPU, with GHCB page and console, and on the first one the channel to the firmware.
    pub(crate) fn side(&mut self, id: VcpuId, call_area: PhysFrame) -> Result<Guest, Stop> {
        let channel = self.arena.take(CHANNEL_FRAMES).ok_or(Stop::Memory("a channel"))?;
        let (private, shared) = (self.space.private(), self.space.shared());
        // SAFETY: CPL 0 with handlers for exceptions. The pages that are changed are those of the arena and of free RAM.
        let [port, link_port] = [(); 2].map(|()| unsafe { self.space.port() });
        let side = GuestSide::new(port, private, shared, &self.placement, id, call_area);
        let mut guest = Shim::negotiate(side, self.map, Limits::default())?;
        guest.rescind(channel, After::Shared).map_err(|stopped| stopped.cause)?;
        guest.port_mut().use_ghcb(channel.first())?;
        LINKS.set(Link::open(link_port, shared, channel.first())?);
        if id == VcpuId(0) {
            let [request, response] = [1, 2].map(|index| channel.skip(index).map(FrameRange::first));
            let (request, response) = request.zip(response).ok_or(Stop::Memory("a channel"))?;
            let secrets = frame_at(self.start.secrets).ok_or(Stop::Told("address of the secrets page"))?;
            guest.port_mut().open_channel(secrets, MessagePages::new(request, response)?)?;
        }
        Ok(guest)
    }

    /// The same machine for another vCPU, with frames of its own.
    pub(crate) fn part(&mut self, frames: u64) -> Result<&'static mut Self, Stop> {
        let arena = Arena::new(self.arena.take(frames).ok_or(Stop::Memory("a part of memory"))?);
        let Self { start, space, placement, map, user, root, .. } = *self;
        place(&mut self.arena, Self { start, space, placement, map, arena, user, root })
    }

    /// Registers for another vCPU that begins in `entry` with an argument and the end of a stack for exceptions.
    pub(crate) fn context(&mut self, entry: extern "sysv64" fn(u64, u64) -> !, argument: u64) -> Result<Context, Stop> {
        let stack = take_stack(&mut self.arena, STACK_FRAMES)?;
        let exception_stack = take_stack(&mut self.arena, EXCEPTION_STACK_FRAMES)?;
        // As after a call.
        let mut context = Context::long_mode(entry as usize as u64, end_of(stack).as_u64() - 8, self.root);
        // RDI, RSI.
        for (register, value) in [(7, argument), (6, end_of(exception_stack).as_u64())] {
            if let Some(place) = context.gpr.get_mut(register) {
                *place = value;
            }
        }
        Ok(context)
    }
}

/// Memory for an object that stays.
pub(crate) fn place<T>(arena: &mut Arena, value: T) -> Result<&'static mut T, Stop> {
    let range = arena.take(objects::frames_of::<T>()).ok_or(Stop::Memory("objects"))?;
    // SAFETY: fresh memory of the arena, mapped at its own addresses.
    unsafe { objects::place(range, value) }.ok_or(Stop::Memory("objects"))
}

/// A stack; the frame below it is taken as well, so that an overflow meets nothing of worth.
pub(crate) fn take_stack(arena: &mut Arena, frames: u64) -> Result<FrameRange, Stop> {
    arena.take(1 + frames).and_then(|taken| taken.skip(1)).ok_or(Stop::Memory("a stack"))
}

fn map(builder: &mut Builder<'_>, range: FrameRange, rights: Rights) -> Result<(), Stop> {
    let (to, len_bytes, size, view) = (range.start(), range.bytes(), PageSize::Small, View::Private);
    let at = VirtAddr::try_new(to.as_u64()).map_err(|_| Stop::Told("address of the image"))?;
    builder.map(&Mapping { at, to, len_bytes, size, rights, view }).map_err(|_| Stop::Memory("page tables"))
}

/// The range from one address to another.
pub(crate) fn range(first: u64, end: u64) -> Result<FrameRange, Stop> {
    let at = PhysAddr::try_new(first).map_err(|_| Stop::Told("a range of memory"))?;
    Ok(FrameRange::new(at, end.checked_sub(first).ok_or(Stop::Told("a range of memory"))?)?)
}

/// The address behind a stack.
pub(crate) fn end_of(stack: FrameRange) -> VirtAddr {
    VirtAddr::new_truncate(stack.start().as_u64() + stack.bytes())
}
