//! Which vCPU this is, and things that belong to one vCPU.
//!
//! The task register says which: every vCPU has a task state segment of its own in a descriptor table that all share. Reading it
//! needs no instruction that the host could intercept and answer.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use coco_part_api::VcpuId;
use x86_64::VirtAddr;

use crate::cpu::{load_gdt, load_task, task};
use crate::exceptions;
use crate::segment::{
    self, CODE_WORD, DATA_WORD, IST_1, PERMISSION_MAP, RSP_0, TASK, TASK_BYTES, USER_CODE_WORD, USER_DATA_WORD,
};

/// Most vCPUs of an image. They are numbered from 0 (APIC ids).
pub const VCPUS: usize = 16;

const WORD: usize = size_of::<u32>();
const FIRST_TASK: usize = TASK as usize / size_of::<u64>();

type TaskState = [AtomicU32; TASK_BYTES / WORD];

/// The processor writes into both when it loads or leaves a task, which nobody here does twice.
static GDT: [AtomicU64; FIRST_TASK + 2 * VCPUS] = [const { AtomicU64::new(0) }; FIRST_TASK + 2 * VCPUS];
static TASKS: [TaskState; VCPUS] = [const { [const { AtomicU32::new(0) }; TASK_BYTES / WORD] }; VCPUS];

/// Gives this vCPU its number, its descriptor tables, and a stack for exceptions that ends at `exception_stack`. Once on each
/// vCPU, with a number of its own. False for a number that there is no room for.
///
/// # Safety
/// `exception_stack` ends a private, mapped stack, and is a multiple of 16. No other vCPU has or gets the number. Whatever else
/// is on that stack is lost with the first exception.
pub unsafe fn begin(id: VcpuId, exception_stack: VirtAddr) -> bool {
    let Some(state) = TASKS.get(id.index()) else { return false };
    set_stack(state, IST_1, exception_stack);
    if let Some(word) = state.get(PERMISSION_MAP / WORD) {
        word.store((TASK_BYTES as u32) << 16, Ordering::Relaxed);
    }
    let descriptor = segment::task(VirtAddr::from_ptr(state));
    let segments = [0, CODE_WORD, DATA_WORD, USER_DATA_WORD, USER_CODE_WORD];
    for (word, value) in GDT.iter().zip(segments) {
        word.store(value, Ordering::Relaxed);
    }
    let first = FIRST_TASK + 2 * id.index();
    for (word, value) in GDT.iter().skip(first).zip(descriptor) {
        word.store(value, Ordering::Relaxed);
    }
    // SAFETY: both segments have just been written, by this vCPU or another one, and always with the same values.
    unsafe { load_gdt(&GDT) }
    // In range: the descriptor is in the table.
    // SAFETY: the descriptor was written above, as an available one, and nobody else has this number.
    unsafe { load_task((first * size_of::<u64>()) as u16) }
    exceptions::load();
    true
}

/// Gives this vCPU a stack for what brings it from CPL 3 to CPL 0. False before [`begin`].
///
/// # Safety
/// `end` ends a private, mapped stack, and is a multiple of 16. Whatever else is on that stack is lost.
pub unsafe fn set_kernel_stack(end: VirtAddr) -> bool {
    let Some(state) = current().and_then(|id| TASKS.get(id.index())) else { return false };
    set_stack(state, RSP_0, end);
    true
}

fn set_stack(state: &TaskState, offset: usize, end: VirtAddr) {
    // Low half, high half.
    let halves = [end.as_u64() as u32, (end.as_u64() >> 32) as u32];
    for (word, half) in state.iter().skip(offset / WORD).zip(halves) {
        word.store(half, Ordering::Relaxed);
    }
}

/// The number of this vCPU; `None` before [`begin`].
pub fn current() -> Option<VcpuId> {
    let index = task().checked_sub(TASK)? / (2 * size_of::<u64>() as u16);
    Some(VcpuId(index.into()))
}

/// One value for each vCPU, which only that vCPU can reach.
#[derive(Debug)]
pub struct PerVcpu<T> {
    slots: [Slot<T>; VCPUS],
}

#[derive(Debug)]
struct Slot<T> {
    is_taken: AtomicBool,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: a value is put, used and replaced by the vCPU that `current` names, and by no other: it never crosses vCPUs, so it need
// not be `Send`. Two uses at a time on that vCPU, by code that interrupts another use, are kept apart by `is_taken`.
unsafe impl<T> Sync for PerVcpu<T> {}

impl<T> PerVcpu<T> {
    /// No vCPU has a value.
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: [const { Slot { is_taken: AtomicBool::new(false), value: UnsafeCell::new(None) } }; VCPUS] }
    }

    /// Gives this vCPU its value. False if that is in use at this moment.
    pub fn set(&self, new: T) -> bool {
        self.with_slot(|slot| *slot = Some(new)).is_some()
    }

    /// Takes the value of this vCPU away. `None` as for [`with`](Self::with).
    pub fn take(&self) -> Option<T> {
        self.with_slot(Option::take)?
    }

    /// Works with the value of this vCPU. `None` if it has none, or code that this code interrupted works with it.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.with_slot(|slot| slot.as_mut().map(work))?
    }

    fn with_slot<R>(&self, work: impl FnOnce(&mut Option<T>) -> R) -> Option<R> {
        let slot = self.slots.get(current()?.index())?;
        if slot.is_taken.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: only this vCPU comes to this slot, and `is_taken` was not set, so there is no other reference.
        let value = unsafe { &mut *slot.value.get() };
        let result = work(value);
        slot.is_taken.store(false, Ordering::Release);
        Some(result)
    }
}

impl<T> Default for PerVcpu<T> {
    fn default() -> Self {
        Self::new()
    }
}
