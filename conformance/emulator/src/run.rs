//! The loop of each processor: the host while nothing runs, the guest until it exits, and so on.

use core::sync::atomic::Ordering;

use machine::vmsa::read_u64;
use machine::{HostStep, Stop, Vcpu, vmsa};

use crate::boot::{LIMIT, STARTED, WATCHDOG};
use crate::console::say;
use crate::cpu::{self, Cpu, now, ticks_per_second};
use crate::ending::{Ending, end};
use crate::exits;
use crate::guest::is_paged;
use crate::world::{WORLD, World};

/// RFLAGS: IF.
const IF: u64 = 1 << 9;

/// Never returns: some processor ends the run.
pub(crate) fn run(cpu: &mut Cpu) -> ! {
    let Some(shared) = WORLD.get() else { end(Ending::Broken, format_args!("a processor started too early")) };
    let vcpu = Vcpu(cpu.id);
    loop {
        if core::mem::take(&mut cpu.is_idle) {
            cpu::wait(cpu.id);
        }
        let mut world = shared.lock();
        within_limit(&mut world);
        if world.machine.running(vcpu).is_none() {
            if !world.machine.host_ready(vcpu) {
                world.put_extended_away(cpu);
                everybody_waits(&mut world);
                drop(world);
                cpu::wait(cpu.id);
                continue;
            }
            let writer = world.machine.exit_info(vcpu).map(|exit| exit.vmpl);
            let step = world.machine.host(vcpu);
            world.settle(cpu.id, writer);
            match step {
                HostStep::Entered(_) => cpu.last_exit = now(),
                HostStep::Parked => continue,
                HostStep::Stopped(stop) => stopped(&mut world, vcpu, stop),
            }
        }
        let Some(vmpl) = world.machine.running_vmpl(vcpu) else { continue };
        let Some(key) = world.machine.running(vcpu) else { continue };
        let Some(registers) = world.machine.registers(vcpu) else { continue };
        let (is_paged, xcr0) = (is_paged(registers), read_u64(registers, vmsa::XCR0));
        let root = world.tables[usize::from(vmpl)].root(is_paged);
        cpu.load(registers, root);
        world.switch_extended(cpu, key, xcr0);
        interrupt(&mut world, cpu);
        world.is_entered(vmpl);
        drop(world);
        let exit = cpu.enter();
        let mut world = shared.lock();
        world.has_run(vmpl, cpu);
        exits::handle(&mut world, cpu, vmpl, exit);
        // A liar may run it on another processor next.
        if world.machine.running(vcpu).is_none() && !world.machine.config().honest_host {
            world.put_extended_away(cpu);
        }
        world.settle(cpu.id, None);
    }
}

/// Lets a pending interrupt in, or asks for the moment at which it can come in.
fn interrupt(world: &mut World, cpu: &mut Cpu) {
    let vcpu = Vcpu(cpu.id);
    world.machine.set_clock(now());
    let is_open = world.machine.registers(vcpu).is_some_and(|registers| read_u64(registers, vmsa::RFLAGS) & IF != 0);
    let can_take = is_open && !cpu.is_occupied();
    if can_take && let Some(vector) = world.machine.take_interrupt(vcpu) {
        cpu.inject(1 << 31 | u64::from(vector));
    }
    cpu.ask_for_window(world.machine.pending_interrupt(vcpu).is_some());
    // Those that run elsewhere learn of theirs by an exit.
    let posted = world.machine.take_posted();
    (0..8).filter(|id| *id != cpu.id && posted >> id & 1 != 0).for_each(cpu::kick);
}

/// Ends the run if no vCPU has anything to run and none will.
fn everybody_waits(world: &mut World) {
    let vcpus = world.machine.config().vcpus;
    let idle = |id: &u8| world.machine.running(Vcpu(*id)).is_none() && !world.machine.host_ready(Vcpu(*id));
    if (0..vcpus).all(|id| idle(&id)) {
        world.flush();
        end(Ending::Ended, format_args!("every vCPU waits, and nobody is left to wake one"));
    }
}

/// The host keeps a vCPU from running.
fn stopped(world: &mut World, vcpu: Vcpu, stop: Stop) -> ! {
    world.flush();
    let id = vcpu.0;
    let vmpl = world.machine.exit_info(vcpu).map_or(0, |exit| exit.vmpl);
    match stop {
        Stop::Terminated { set, code } => {
            end(Ending::Ended, format_args!("vCPU {id} at VMPL{vmpl} asked to be terminated: reason {set}:{code:#x}"))
        }
        Stop::NestedFault { gpa, info } => end(
            Ending::Ended,
            format_args!(
                "vCPU {id} at VMPL{vmpl}: nested page fault at {gpa:#x} (EXITINFO1 {info:#x}), which the host does not repair"
            ),
        ),
        Stop::VmrunRefused => end(Ending::Ended, format_args!("vCPU {id}: VMRUN refused the VMSA")),
        Stop::Refused => end(Ending::Ended, format_args!("vCPU {id} at VMPL{vmpl}: the host does not run it any more")),
    }
}

/// Ends the run if it has taken too long altogether.
fn within_limit(world: &mut World) {
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit == 0 || now().wrapping_sub(STARTED.load(Ordering::Relaxed)) <= limit.saturating_mul(ticks_per_second()) {
        return;
    }
    world.flush();
    for vcpu in (0..world.machine.config().vcpus).map(Vcpu) {
        let id = vcpu.0;
        match world.machine.running_vmpl(vcpu).zip(world.machine.registers(vcpu)) {
            Some((vmpl, registers)) => {
                say(format_args!("vCPU {id} is at VMPL{vmpl}, RIP {:#x}", read_u64(registers, vmsa::RIP)));
            }
            None => match world.machine.exit_info(vcpu) {
                Some(exit) => say(format_args!("vCPU {id} is with the host since it left VMPL{}", exit.vmpl)),
                None => say(format_args!("vCPU {id} was never entered")),
            },
        }
    }
    end(Ending::Watchdog, format_args!("the guest gave no result within {limit} s"))
}

/// Ends the run if a guest has run for too long without an exit.
pub(crate) fn watch(world: &mut World, cpu: &Cpu, vmpl: u8) {
    let seconds = WATCHDOG.load(Ordering::Relaxed);
    if now().wrapping_sub(cpu.last_exit) > seconds.saturating_mul(ticks_per_second()) {
        let rip = world.machine.registers(Vcpu(cpu.id)).map_or(0, |registers| read_u64(registers, vmsa::RIP));
        world.flush();
        let id = cpu.id;
        end(Ending::Watchdog, format_args!("vCPU {id} at VMPL{vmpl} made no exit for {seconds} s; RIP {rip:#x}"));
    }
}
