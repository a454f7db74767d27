//! Further CPUs: brought up, taken offline, brought up again, destroyed.

use machine::{Regs, vmsa};

use super::boot::use_own_ghcb;
use super::client::{Kernel, Via};
use super::memory::{Region, State};
use super::order::{ENTRIES_ON_STACK, Signals};
use super::page::Ap;
use super::places;
use crate::suite::{Stop, same};
use crate::world::layout::PAGE;

/// RAX of CREATE_VCPU.
const CREATE_VCPU: u64 = 2;
/// RAX of DELETE_VCPU.
const DELETE_VCPU: u64 = 3;
/// CR4.MCE, which an AP starts with if the boot CPU has it on.
const CR4_MCE: u64 = 1 << 6;

/// A segment: selector, attributes, limit, base.
const fn segment(selector: u64, attributes: u64, base: u64) -> [u64; 2] {
    [selector | attributes << 16 | 0xffff << 32, base]
}

/// A VMSA as `wakeup_cpu_via_vmgexit` fills it: the state of a processor after INIT, in real mode, at the trampoline.
fn real_mode_vmsa(start_ip: u64, vmpl: u8, sev_status: u64) -> Vec<u8> {
    let vector = start_ip >> 12;
    let data = segment(0, 0x92, 0);
    let quads: [(usize, u64); 12] = [
        (vmsa::EFER, vmsa::EFER_SVME),
        // CR4, CR0, DR7, DR6.
        (0x148, CR4_MCE),
        (0x158, 0x6000_0010),
        (0x160, 0x400),
        (0x168, 0xffff_0ff0),
        (vmsa::RFLAGS, 0x2),
        (vmsa::RIP, start_ip & 0xfff),
        // G_PAT, XCR0, MXCSR with the x87 tag word, x87 control word.
        (0x268, 0x0007_0406_0007_0406),
        (vmsa::XCR0, 0x1),
        (0x408, 0x1f80 | 0x5555 << 32),
        (0x410, 0x40),
        (vmsa::SEV_FEATURES, sev_status >> 2),
    ];
    let segments: [(usize, [u64; 2]); 10] = [
        (0x00, data),
        (0x10, segment(vector << 8, 0x9a, vector << 12)),
        (0x20, data),
        (0x30, data),
        (0x40, data),
        (0x50, data),
        // GDTR, LDTR, IDTR, TR.
        (0x60, segment(0, 0, 0)),
        (0x70, segment(0, 0x82, 0)),
        (0x80, segment(0, 0, 0)),
        (0x90, segment(0, 0x83, 0)),
    ];
    let mut page = vec![0; PAGE as usize];
    for (offset, value) in quads {
        vmsa::write_u64(&mut page, offset, value);
    }
    for (offset, [low, high]) in segments {
        vmsa::write_u64(&mut page, offset, low);
        vmsa::write_u64(&mut page, offset + 8, high);
    }
    page[vmsa::VMPL] = vmpl;
    page
}

/// Makes a VMSA of a page and has the host run it.
fn create(kernel: &Kernel<'_>, cpu: u64, state: Region) -> Result<(), Stop> {
    let sev_status = kernel.sev_status()?;
    kernel.write(state.start, &real_mode_vmsa(places::TRAMPOLINE, kernel.vmpl, sev_status))?;
    let regs = Regs { rax: CREATE_VCPU, rcx: state.start, rdx: places::area(cpu), r8: cpu, r9: 0 };
    kernel.must_call(Via::Page, &format!("CREATE_VCPU {cpu}, {}", state.name), regs, "CPU does not start")?;
    let ap = Ap::Create { sev_features: sev_status >> 2 };
    kernel.ap_creation(cpu, ap, state.start, &format!("create AP {cpu} at VMPL{}, {}", kernel.vmpl, state.name))
}

/// `snp_cleanup_vmsa`: the page is memory again, which the kernel proves by using it.
fn clean_up(kernel: &Kernel<'_>, state: Region) -> Result<(), Stop> {
    let regs = Regs { rax: DELETE_VCPU, rcx: state.start, ..Regs::default() };
    kernel.must_call(Via::Page, &format!("DELETE_VCPU {}", state.name), regs, "the page is lost")?;
    kernel.write(state.start, &[0; PAGE as usize])
}

/// `wakeup_cpu_via_vmgexit`, and the wait for the CPU to say that it is online.
pub(super) fn bring_up(kernel: &Kernel<'_>, signals: &Signals, round: usize) -> Result<(), Stop> {
    kernel.log.heading(["kernel, CPU 1 comes online", "kernel, CPU 1 comes online again"][round]);
    create(kernel, 1, places::STATES[round])?;
    if let Some(before) = round.checked_sub(1) {
        // A new VMSA each time; the older one is cleaned up only now.
        clean_up(kernel, places::STATES[before])?;
    }
    kernel.wait_for(&signals.online[round])
}

/// Asks the CPU to go offline, and waits until it is about to.
pub(super) fn offline(kernel: &Kernel<'_>, signals: &Signals, round: usize) -> Result<(), Stop> {
    signals.leave[round].pass();
    kernel.wait_for(&signals.left[round])
}

/// `shutdown_all_aps` of kexec: the host stops the VMSA, then L1 gives the page back.
pub(super) fn destroy(kernel: &Kernel<'_>, round: usize) -> Result<(), Stop> {
    kernel.log.heading("kernel, kexec: shutdown_all_aps");
    let state = places::STATES[round];
    kernel.ap_creation(1, Ap::Destroy, state.start, &format!("destroy AP 1 at VMPL{}, {}", kernel.vmpl, state.name))?;
    clean_up(kernel, state)
}

/// What CPU 1 does from the trampoline on, in its first life and in its second.
pub(super) fn further_cpu(kernel: &mut Kernel<'_>, signals: &Signals, round: usize) -> Result<(), Stop> {
    kernel.log.heading(["secondary startup", "secondary startup, the second time"][round]);
    // What the memory of the kernel tells every CPU.
    kernel.vmpl = signals.vmpl.get();
    kernel.area = places::area(1);
    same("VMPL of the new CPU", kernel.cpu.start().level, kernel.vmpl)?;
    // early_setup_idt, then cpu_init_exception_handling.
    use_own_ghcb(kernel, 1)?;
    use_own_ghcb(kernel, 1)?;
    signals.online[round].pass();
    // Work of a running CPU that goes by its own call area and GHCB.
    let page = Region::page("a page of a driver", places::DRIVER_PAGE);
    kernel.set_memory(page, State::Shared, ENTRIES_ON_STACK)?;
    kernel.set_memory(page, State::Private, ENTRIES_ON_STACK)?;
    kernel.wait_for(&signals.leave[round])?;
    signals.left[round].pass();
    if round == 0 {
        // play_dead.
        kernel.ap_reset_hold()?;
        return Err("CPU 1 came back from its reset hold without a startup IPI".into());
    }
    // stop_this_cpu.
    loop {
        kernel.halt()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vmsa_starts_in_real_mode_at_the_trampoline() {
        let page = real_mode_vmsa(0x9_9060, 2, 0x7);
        let quad = |offset| vmsa::read_u64(&page, offset);
        assert_eq!((quad(0x10), quad(0x18)), (0xffff_009a_9900, 0x9_9000), "CS");
        assert_eq!((quad(vmsa::RIP), quad(vmsa::EFER), quad(vmsa::SEV_FEATURES)), (0x60, 0x1000, 1));
        // No paging, no protection: real mode.
        assert_eq!(quad(0x158) & 0x8000_0001, 0);
        assert_eq!(page[vmsa::VMPL], 2);
    }
}
