//! The monitor's own memory: its image, and what it validates behind it.

use core::sync::atomic::AtomicU64;

use backend_snp::host::{HostChannel, MsrProtocol};
use backend_snp::instr::{
    DirectMap, NativePort, NativeWindow, Page, PageSize as RmpPage, Port, PvalidateCode, PvalidateOp,
};
use coco_part_api::{FrameRange, GuestMemory, HostState, PageSize};
use image_layout::{MONITOR_END, SECRETS};
use image_runtime::arena::Arena;
use image_runtime::objects;
use image_runtime::paging::{Builder, Mapping, Rights, Table, View};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use crate::reason::EarlyError;

/// Frames of a stack, without the one below it that is not mapped.
pub(crate) const STACK_FRAMES: u64 = 24;
/// Frames of a stack for exceptions.
pub(crate) const EXCEPTION_STACK_FRAMES: u64 = 2;

/// There is no room for the monitor's own memory.
const NO_ROOM: EarlyError = EarlyError::MEMORY;
/// The image is not where it should be.
const BAD_IMAGE: EarlyError = EarlyError::MEMORY;

unsafe extern "C" {
    static image_code: u8;
    static image_constants: u8;
    static image_data: u8;
    static image_end: u8;
}

/// The parts of the image that have rights of their own.
struct Image {
    code: FrameRange,
    constants: FrameRange,
    data: FrameRange,
}

fn image() -> Result<Image, EarlyError> {
    let [code, constants, data, end] =
        [&raw const image_code, &raw const image_constants, &raw const image_data, &raw const image_end]
            .map(<*const u8>::addr);
    let part = |from: usize, to: usize| {
        let at = PhysAddr::try_new(from as u64).map_err(|_| BAD_IMAGE)?;
        FrameRange::new(at, to.saturating_sub(from) as u64).map_err(|_| BAD_IMAGE)
    };
    Ok(Image { code: part(code, constants)?, constants: part(constants, data)?, data: part(data, end)? })
}

/// Memory as the first page tables show it: the monitor's, at its own addresses.
fn identity() -> Result<DirectMap, EarlyError> {
    DirectMap::try_new(VirtAddr::zero(), MONITOR_END).map_err(|_| NO_ROOM)
}

/// The monitor's memory before it has page tables of its own. Made once.
pub(crate) struct Own {
    port: NativePort,
    memory: NativeWindow,
    arena: Arena,
}

impl Own {
    /// Everything behind the image is free, and nothing of it is valid.
    ///
    /// # Safety
    /// On the first page tables, with handlers for exceptions that do not come back. No other value is used any more.
    pub(crate) unsafe fn new() -> Result<Self, EarlyError> {
        let end = image()?.data;
        let end = end.start().as_u64() + end.bytes();
        let free = PhysAddr::try_new(end).ok().and_then(|at| FrameRange::new(at, SECRETS.checked_sub(end)?).ok());
        let arena = Arena::new(free.ok_or(NO_ROOM)?);
        let map = identity()?;
        // SAFETY: the first page tables map the monitor's memory privately at its own addresses, and exceptions have a handler.
        // What is changed and accessed is taken from the arena and has not been used before, or is a page of the launch.
        let port = unsafe { NativePort::new(map) };
        // SAFETY: as for the port.
        let memory = unsafe { NativeWindow::new(map) };
        Ok(Self { port, memory, arena })
    }

    /// The port, for the first talk with the host.
    pub(crate) const fn port(&mut self) -> &mut NativePort {
        &mut self.port
    }

    /// Copies bytes of the launch's pages out.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), EarlyError> {
        let at = PhysAddr::try_new(at).map_err(|_| NO_ROOM)?;
        self.memory.read(at, into).map_err(|_| EarlyError::VALIDATE)
    }

    /// Takes frames and makes them private memory that reads as zeros.
    pub(crate) fn take(&mut self, frames: u64) -> Result<FrameRange, EarlyError> {
        let range = self.arena.take(frames).ok_or(NO_ROOM)?;
        self.validate(range)?;
        Ok(range)
    }

    /// Takes a frame that may become a VMSA. Frames that are passed over are valid as well.
    pub(crate) fn take_state_frame(&mut self) -> Result<PhysFrame, EarlyError> {
        let before = self.mark();
        let frame = self.arena.take_state_frame().ok_or(NO_ROOM)?;
        self.validate(self.since(before)?)?;
        Ok(frame)
    }

    /// Takes a stack with a frame below it that is to stay unmapped, and gives the stack alone.
    pub(crate) fn take_stack(&mut self, frames: u64) -> Result<FrameRange, EarlyError> {
        self.take(1 + frames)?.skip(1).ok_or(NO_ROOM)
    }

    /// Passes over a stack that an earlier value took first, and gives it.
    pub(crate) fn pass_stack(&mut self, frames: u64) -> Result<FrameRange, EarlyError> {
        self.arena.take(1 + frames).and_then(|taken| taken.skip(1)).ok_or(NO_ROOM)
    }

    /// Where the next frames will be taken, for [`since`](Self::since).
    pub(crate) fn mark(&self) -> u64 {
        self.arena.taken().map_or(0, FrameRange::frames)
    }

    /// What was taken since a mark.
    pub(crate) fn since(&self, mark: u64) -> Result<FrameRange, EarlyError> {
        self.arena.taken().and_then(|taken| taken.skip(mark)).ok_or(NO_ROOM)
    }

    /// All of the monitor's memory that is valid, but for the pages of the launch.
    pub(crate) fn valid(&self) -> Result<FrameRange, EarlyError> {
        let first = image()?.code.start();
        let taken = self.arena.taken().ok_or(NO_ROOM)?;
        let end = taken.start().as_u64() + taken.bytes();
        FrameRange::new(first, end - first.as_u64()).map_err(|_| NO_ROOM)
    }

    fn validate(&mut self, range: FrameRange) -> Result<(), EarlyError> {
        let agreed = MsrProtocol.page_state(&mut self.port, range, HostState::Private);
        agreed.map_err(|_| EarlyError::HOST)?;
        for block in range.small_blocks() {
            let page = Page::try_new(block.start(), RmpPage::Size4KiB).map_err(|_| NO_ROOM)?;
            match self.port.pvalidate(page, PvalidateOp::Validate) {
                // With the carry flag it was valid before: the host offers one frame twice.
                Ok(result) if result.code == PvalidateCode::SUCCESS && !result.carry => {}
                _ => return Err(EarlyError::VALIDATE),
            }
        }
        GuestMemory::zero(&self.memory, range).map_err(|_| EarlyError::VALIDATE)
    }

    /// Takes memory for an object that stays.
    pub(crate) fn place<T>(&mut self, value: T) -> Result<&'static mut T, EarlyError> {
        let range = self.take(objects::frames_of::<T>())?;
        // SAFETY: fresh private memory, at its own address now, and in the final page tables too.
        unsafe { objects::place(range, value) }.ok_or(NO_ROOM)
    }

    /// Takes memory for words that are zero and stay.
    pub(crate) fn words(&mut self, count: usize) -> Result<&'static [AtomicU64], EarlyError> {
        let range = self.take(objects::frames_of_words(count))?;
        // SAFETY: as for `place`, and `take` has zeroed it.
        unsafe { objects::words(range, count) }.ok_or(NO_ROOM)
    }

    /// Takes memory for empty page tables.
    pub(crate) fn tables(&mut self, count: u64) -> Result<(&'static mut [Table], PhysAddr), EarlyError> {
        let range = self.take(count)?;
        // SAFETY: as for `words`. The reference is for who writes them; those that become the final page tables are not written
        // once the processor uses them.
        Ok((unsafe { objects::tables(range) }, range.start()))
    }
}

/// Maps a part of the own memory at its own address.
pub(crate) fn map(builder: &mut Builder<'_>, range: FrameRange, rights: Rights) -> Result<(), EarlyError> {
    let (to, len_bytes, size, view) = (range.start(), range.bytes(), PageSize::Small, View::Private);
    let at = VirtAddr::try_new(to.as_u64()).map_err(|_| BAD_IMAGE)?;
    builder.map(&Mapping { at, to, len_bytes, size, rights, view }).map_err(|_| EarlyError::MEMORY)
}

/// Maps the image at its own address, each part with its rights.
pub(crate) fn map_image(builder: &mut Builder<'_>) -> Result<(), EarlyError> {
    let Image { code, constants, data } = image()?;
    map(builder, code, Rights::Code)?;
    map(builder, constants, Rights::Constants)?;
    map(builder, data, Rights::Data)
}

/// Tables that the monitor's own memory takes at its own addresses, all of it below 1 GiB: two upper levels, and one per 2 MiB.
pub(crate) const OWN_TABLES: u64 = 2 + MONITOR_END.div_ceil(0x20_0000);
