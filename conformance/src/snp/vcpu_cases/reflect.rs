//! Guests under ReflectVC: hosts that keep an instruction to themselves, and what CPUID says.

use coco_part_api::svsm::CallResult;
use machine::host::Policy;
use machine::vmsa;

use super::super::features;
use super::{A_WHILE, Snp};
use crate::platform::{Found, Plain};
use crate::suite::create::case;
use crate::suite::create::vcpus::{query, query_answer};
use crate::suite::probe::call;
use crate::suite::switch::traps::{rounds, told, trapping, work};
use crate::suite::{Bench, Case, Check, ensure, same};
use crate::world::devices::Told;
use crate::world::layout::{BOOT_STATE, CALL_AREA, DATA, ENTRY_GUEST};
use crate::world::{Gate, Options, World};

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "H2-keeps-reflected",
            "H2",
            ["SW-01"],
            HostileHost,
            "a host that says an instruction is done and runs the level again has it executed again, and L1 told once",
            keeps_reflected
        ),
        case!(
            "H2-never-reflects",
            "H2",
            ["SW-01"],
            HostileHost,
            "a host that never lets L1 complete an instruction stops the guest there and changes no register of it",
            never_reflects
        ),
        case!(
            "H2-cpuid-of-the-page",
            "H2",
            ["CP-01"],
            HostileHost,
            "a guest that traps finds CPUID as the firmware checked it, whatever the host says, with its own APIC id",
            cpuid_of_the_page
        ),
        case!(
            "H2-ram-as-device",
            "H2",
            ["PG-28"],
            HostileHost,
            "a host that calls a page of the guest's RAM a device gets none of it and puts nothing there",
            ram_as_device
        ),
        case!(
            "S1-reflected-call",
            "S1",
            [],
            Contract,
            "a guest under ReflectVC that does know L1 calls it as any other, and reads where its call area is",
            reflected_call
        ),
    ]
}

fn under(bench: &Bench<Snp>, host: Policy) -> Options<Snp> {
    Options { host, ..trapping(bench) }
}

fn keeps_reflected(bench: &mut Bench<Snp>) -> Check {
    for times in [1, 3, 12] {
        let options = under(bench, Policy::KeepReflected(times));
        rounds(bench, options, 4)?;
    }
    Ok(())
}

/// The registers by which an instruction would be answered.
fn answered(world: &World<Snp>) -> [Option<Vec<u8>>; 3] {
    [vmsa::RIP, vmsa::RBX, vmsa::RDX].map(|offset| world.peek(BOOT_STATE + offset as u64, 8, Some(0)))
}

fn never_reflects(bench: &mut Bench<Snp>) -> Check {
    let mut world = bench.world(under(bench, Policy::KeepReflected(u64::MAX)));
    let went_on = Gate::new();
    let gate = went_on.clone();
    world.on_plain_guest(0, move |guest| {
        work(&guest, 0)?;
        gate.pass();
        Ok(())
    });
    world.run_for(A_WHILE, |_| false);
    ensure(world.complaints().is_empty(), || world.complaints().join("; "))?;
    ensure(!went_on.is_reached(), || "the guest went on without L1".into())?;
    same("what the devices were told", world.told(), Vec::new())?;
    let quad = |value: u64| Some(value.to_le_bytes().to_vec());
    same("RIP, RBX and RDX", answered(&world), [quad(ENTRY_GUEST), quad(0), quad(0)])?;
    // An honest host from here on: nothing is lost.
    world.runner.machine.0.host_state_mut().set_policy(Policy::Honest);
    let end = world.run_to(&went_on);
    world.expect(end)?;
    same("what the devices were told", world.told(), told(1))
}

fn cpuid_of_the_page(bench: &mut Bench<Snp>) -> Check {
    // Bits that software puts in: OSXSAVE, an SVSM, the size of x87 and SSE state.
    const OSXSAVE: u32 = 1 << 27;
    const SVSM: u32 = 1 << 28;
    const LEGACY: u32 = 0x240;
    let mut world = bench.world(under(bench, Policy::LieCpuid));
    let done = Gate::new();
    let gate = done.clone();
    world.on_plain_guest(0, move |guest| {
        let asked = |leaf, subleaf| guest.execute(Plain::Cpuid { leaf, subleaf });
        for [leaf, subleaf, eax, ebx, ecx, edx] in features::LEAVES.iter().copied() {
            let want = match leaf {
                1 => [eax, ebx & 0x00ff_ffff, ecx & !OSXSAVE, edx],
                0x8000_001f => [eax | SVSM, ebx, ecx, edx],
                _ => [eax, ebx, ecx, edx],
            };
            same(&format!("CPUID {leaf:#x}"), asked(leaf, subleaf)?, Found::Cpuid(want))?;
        }
        same("CPUID 0xd", asked(0xd, 0)?, Found::Cpuid([0, LEGACY, 0, 0]))?;
        // Inside a range and not in the page, and outside of every range.
        for leaf in [2, 0x8000_0001, 0x11, 0x4000_0000, 0x8000_0020, u32::MAX] {
            same(&format!("CPUID {leaf:#x}"), asked(leaf, 0)?, Found::Cpuid([0; 4]))?;
        }
        gate.pass();
        Ok(())
    });
    let end = world.run_to(&done);
    world.expect(end)
}

fn ram_as_device(bench: &mut Bench<Snp>) -> Check {
    const SECRET: u64 = 0x7072_6976_6174_6521;
    let mut world = bench.world(trapping(bench));
    let (ready, begin, came_back) = (Gate::new(), Gate::new(), Gate::new());
    let (gate, go, back) = (ready.clone(), begin.clone(), came_back.clone());
    world.on_plain_guest(0, move |guest| {
        let cpu = guest.cpu;
        let store = machine::Op::Write { gpa: DATA, bytes: SECRET.to_le_bytes().to_vec(), private: true };
        cpu.execute(store).map_err(|fault| format!("{fault:?}"))?;
        gate.pass();
        go.wait(|| <Snp as crate::platform::Platform>::pause(cpu));
        same("the word", guest.execute(Plain::Load { at: DATA })?, Found::Value(SECRET))?;
        back.pass();
        Ok(())
    });
    let end = world.run_to(&ready);
    world.expect(end)?;
    world.runner.machine.0.mark_device(DATA, true);
    begin.open();
    world.run_for(A_WHILE, |_| false);
    ensure(!came_back.is_reached(), || "the load came back".into())?;
    same("what the devices were told", world.told(), Vec::<Told>::new())?;
    world.runner.machine.0.mark_device(DATA, false);
    let end = world.run_to(&came_back);
    world.expect(end)
}

fn reflected_call(bench: &mut Bench<Snp>) -> Check {
    /// SVSM_CAA.
    const CALL_AREA_MSR: u32 = 0xc001_f000;
    let mut world = bench.world(trapping(bench));
    world.on_guest(0, |mut l2| {
        for _ in 0..3 {
            same("a call", call(&mut l2, query())?, query_answer())?;
            let area = <Snp as crate::platform::Platform>::plain(l2.cpu, Plain::ReadMsr(CALL_AREA_MSR))?;
            same("its call area", area, Found::Value(CALL_AREA))?;
        }
        same("the last one", call(&mut l2, query())?.result(), CallResult::SUCCESS)
    });
    world.finish()?;
    same("what the devices were told", world.told(), Vec::new())
}
