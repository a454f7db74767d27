//! The whole order: what the boot CPU does after what, and how the CPUs wait for each other.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use coco_part_api::svsm::CallResult;
use machine::Regs;

use super::client::{Kernel, Via, result_name};
use super::memory::{Mapping, Region, State};
use super::{CPUS, aps, boot, page, places};
use crate::suite::{Check, Stop, same};
use crate::world::Gate;
use crate::world::layout::{LARGE, PAGE};

/// Most entries of a page state change of newer kernels, which keep the list on their stack.
pub(super) const ENTRIES_ON_STACK: usize = 64;
/// RAX of the vTPM protocol's query.
const VTPM_QUERY: u64 = 2 << 32;

/// By what the programs of a run tell each other how far they are: memory of the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    /// VMPL by the secrets page.
    pub(super) vmpl: Rc<Cell<u8>>,
    /// CPU 1 is online, for the first and the second time.
    pub(super) online: [Gate; 2],
    /// It is to go.
    pub(super) leave: [Gate; 2],
    /// It goes.
    pub(super) left: [Gate; 2],
    /// The pool is shared, and the host may change how it backs it.
    pub(super) fragment: Gate,
    /// How it ended.
    pub(super) over: Rc<RefCell<Option<Check>>>,
}

impl Signals {
    /// Notes how a program ended.
    pub(super) fn end(&self, who: &str, check: Check) {
        let named = |stop| match stop {
            Stop::Wrong(text) => Stop::Wrong(format!("{who}: {text}")),
            other => other,
        };
        // The first one who fails decides.
        let mut over = self.over.borrow_mut();
        if !matches!(*over, Some(Err(_))) {
            *over = Some(check.map_err(named));
        }
    }

    /// Whether there is nothing more to wait for.
    pub(super) fn is_over(&self) -> bool {
        self.over.borrow().is_some()
    }
}

/// What the boot CPU does from the decompressor to the end of kexec.
pub(super) fn first_cpu(kernel: &mut Kernel<'_>, signals: &Signals, pool: u64) -> Check {
    boot::decompressor(kernel)?;
    boot::startup(kernel)?;
    boot::handlers(kernel, CPUS)?;
    signals.vmpl.set(kernel.vmpl);

    let large = places::pool(pool, Mapping::Direct);
    let small = places::pool(pool, Mapping::Vmalloc);
    kernel.log.heading("kernel, swiotlb_update_mem_attributes");
    kernel.set_memory(large, State::Shared, ENTRIES_ON_STACK)?;

    aps::bring_up(kernel, signals, 0)?;
    kernel.log.heading("kernel, snp_svsm_vtpm_probe");
    let answer = kernel.call(Via::Page, "VTPM_QUERY", Regs { rax: VTPM_QUERY, ..Regs::default() })?;
    same("answer to the vTPM query", result_name(answer.rax), CallResult::UNSUPPORTED_PROTOCOL.to_string())?;
    kernel.log.heading("kernel, mem_encrypt_free_decrypted_mem");
    kernel.set_memory(boot::bss_unused(), State::Private, ENTRIES_ON_STACK)?;
    aps::offline(kernel, signals, 0)?;

    signals.fragment.wait(|| {
        // A fault would come back at the next instruction.
        let _ = kernel.pause();
    });
    for entries in [ENTRIES_ON_STACK, page::BUFFER_ENTRIES] {
        let turn = |what: &str| kernel.log.heading(&format!("kernel, {what}, {entries} entries per exit"));
        if entries != ENTRIES_ON_STACK {
            turn("set_memory_decrypted of a pool backed by small pages");
            kernel.set_memory(large, State::Shared, entries)?;
        }
        turn("set_memory_encrypted");
        kernel.set_memory(large, State::Private, entries)?;
        turn("set_memory_decrypted of a vmalloc mapping");
        kernel.set_memory(small, State::Shared, entries)?;
        turn("set_memory_encrypted of a vmalloc mapping");
        kernel.set_memory(small, State::Private, entries)?;
    }
    kernel.log.heading("kernel, set_memory_decrypted of a pool backed by small pages");
    kernel.set_memory(large, State::Shared, ENTRIES_ON_STACK)?;

    aps::bring_up(kernel, signals, 1)?;
    aps::offline(kernel, signals, 1)?;
    aps::destroy(kernel, 1)?;
    kernel.log.heading("kernel, kexec: unshare_all_memory, a 2 MiB mapping at a time");
    for block in 0..pool / LARGE {
        let one = Region { start: large.start + block * LARGE, pages: LARGE / PAGE, ..large };
        kernel.set_memory(one, State::Private, ENTRIES_ON_STACK)?;
    }
    kernel.set_memory(boot::bss_used(), State::Private, ENTRIES_ON_STACK)?;
    kernel.log.heading("kernel, kexec: the GHCB pages");
    kernel.ghcb = 0;
    for cpu in 0..CPUS {
        kernel.early_set_memory(Region::page("a CPU's GHCB", places::ghcb(cpu)), State::Private)?;
    }
    Ok(())
}
