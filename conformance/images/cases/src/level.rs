//! Who the guest is, and instructions that are not its to use (H3, M5, S3).

use coco_part_api::{GuestPort, Identify, Level, PageSize};

use crate::bed::{Bed, Found, Instruction, View};
use crate::check::{Check, ensure, same};
use crate::guest::{Guest, OK, VALIDATE, start};
use crate::{Case, case};

const FAIL_PERMISSION: Found = Found::Status(2);
const SUCCESS: Found = Found::Status(0);
/// Mask of rights of RMPADJUST: read, write, execute by user and supervisor.
const ALL_RIGHTS: u64 = 0xf << 8;
const READ: u64 = 1 << 8;
const MAKE_VMSA: u64 = 1 << 16;

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 14] {
    [
        case!("H3-own-level", "H3", "the level that L1 tells is the one that the machine shows", own_level),
        case!("M5-guest-executes-pvalidate", "M5", "PVALIDATE in a guest is #GP, on whatever page", pvalidate),
        case!(
            "M5-guest-executes-rmpadjust",
            "M5",
            "RMPADJUST in a guest changes no right of its own level or of one above it",
            rmpadjust
        ),
        case!(
            "M5-guest-gives-to-others",
            "M5",
            "it gives a less privileged level no right on what is not the guest's",
            gives
        ),
        case!("M5-guest-adjusts-invalid-page", "M5", "on a page that is not validated it is #VC", invalid_page),
        case!(
            "V3-guest-makes-no-vmsa",
            "V3",
            "RMPADJUST with the VMSA bit makes no VMSA in a guest's hands",
            makes_no_vmsa
        ),
        case!("M5-no-rmpquery", "M5", "RMPQUERY, which this processor does not have, is #UD", rmpquery),
        case!(
            "M5-rights-of-own-memory",
            "M5",
            "what is validated for the guest it may load, store and execute",
            own_memory
        ),
        case!(
            "H2-shared-read",
            "H2",
            "through a mapping for the host a private page does not show what it holds",
            shared_read
        ),
        case!("S3-vc-cpuid", "S3", "CPUID raises #VC with its code", cpuid),
        case!("S3-vc-msr", "S3", "RDMSR and WRMSR raise #VC with their code", msr),
        case!("S3-vc-port", "S3", "IN and OUT raise #VC with their code", ports),
        case!("S3-vc-caches", "S3", "WBINVD and INVD raise #VC with their codes", caches),
        case!("S3-vc-others", "S3", "RDPMC, MONITOR, MWAIT and VMMCALL raise #VC with their codes", others),
    ]
}

fn own_level<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let own = guest.shim.level();
    same("what L1 says", Some(own) == guest.shim.port().level().map(Level::Guest), true)?;
    let at = guest.own(1);
    for target in 0..4 {
        let found = guest.bed.execute(Instruction::Rmpadjust { at, rdx: target });
        let want = if target > u64::from(own.number()) { SUCCESS } else { FAIL_PERMISSION };
        same("RMPADJUST for a level", found, want)?;
    }
    ensure("a level of a guest", own != Level::Monitor)
}

fn pvalidate<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let monitor = guest.places.monitor;
    let fresh = start(guest.agreed_pages(1)?);
    let own = guest.own(1);
    guest.put(own, 0x6d69_6e65)?;
    for at in [own, fresh, monitor.data, monitor.secrets, guest.first_area()] {
        for validate in [false, true] {
            let found = guest.bed.execute(Instruction::Pvalidate { at, size: PageSize::Small, validate });
            same("PVALIDATE", found, Found::GeneralProtection)?;
        }
    }
    same("contents", guest.word(own)?, 0x6d69_6e65_u64)
}

fn rmpadjust<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let monitor = guest.places.monitor;
    let fresh = start(guest.agreed_pages(1)?);
    guest.mark();
    for at in [guest.own(1), fresh, monitor.data, monitor.secrets, guest.first_area()] {
        for target in 0..=u64::from(guest.shim.level().number()) {
            for rdx in [target, target | READ, target | ALL_RIGHTS, target | ALL_RIGHTS | MAKE_VMSA] {
                same("RMPADJUST", guest.bed.execute(Instruction::Rmpadjust { at, rdx }), FAIL_PERMISSION)?;
            }
        }
    }
    guest.mark();
    Ok(())
}

/// The level below the guest's.
fn below<P: GuestPort, B: Bed>(guest: &Guest<'_, '_, P, B>) -> u64 {
    u64::from(guest.shim.level().number()) + 1
}

fn gives<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (target, monitor) = (below(guest), guest.places.monitor);
    for at in [monitor.data, monitor.secrets, monitor.features, monitor.first] {
        for rights in [READ, READ << 1 | READ, READ << 3, ALL_RIGHTS] {
            let found = guest.bed.execute(Instruction::Rmpadjust { at, rdx: target | rights });
            same("a right on a page of L1", found, FAIL_PERMISSION)?;
        }
    }
    // On its own pages it may.
    for rdx in [target | READ, target | ALL_RIGHTS, target] {
        same("the own page", guest.bed.execute(Instruction::Rmpadjust { at: guest.own(1), rdx }), SUCCESS)?;
    }
    Ok(())
}

fn invalid_page<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = start(guest.agreed_pages(1)?);
    let found = guest.bed.execute(Instruction::Rmpadjust { at, rdx: below(guest) | READ });
    same("RMPADJUST", found, Found::Vc(0x404))
}

fn makes_no_vmsa<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(1);
    crate::vcpus::fill(guest, at)?;
    // For a level below it may change rights; the bit is ignored.
    let found = guest.bed.execute(Instruction::Rmpadjust { at, rdx: below(guest) | MAKE_VMSA });
    same("RMPADJUST", found, SUCCESS)?;
    guest.put(at, 1)?;
    same("it is memory", guest.word(at)?, 1_u64)
}

fn rmpquery<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    for target in 0..4 {
        let found = guest.bed.execute(Instruction::Rmpquery { at: guest.own(1), target });
        same("RMPQUERY", found, Found::InvalidOpcode)?;
    }
    Ok(())
}

/// A near return, eight times.
const RETURNS: u64 = 0xc3c3_c3c3_c3c3_c3c3;

fn own_memory<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = start(guest.agreed_pages(1)?);
    guest.entry_answers("validate", at | VALIDATE, OK)?;
    let view = View::Private;
    same("a load", guest.bed.execute(Instruction::Load { at, view }), Found::Value(0))?;
    same("a store", guest.bed.execute(Instruction::Store { at, view, value: RETURNS }), Found::Done)?;
    same("a load of it", guest.bed.execute(Instruction::Load { at, view }), Found::Value(RETURNS))?;
    same("a fetch", guest.bed.execute(Instruction::Fetch { at }), Found::Done)
}

fn shared_read<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(1);
    guest.put(at, RETURNS)?;
    match guest.bed.execute(Instruction::Load { at, view: View::Shared }) {
        Found::Value(seen) => same("it shows the contents", seen == RETURNS, false)?,
        found => same("a load", found, Found::Value(0))?,
    }
    same("contents", guest.word(at)?, RETURNS)
}

/// Demands that an instruction raises #VC with this code (56421, table of exit codes).
fn raises<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, instruction: Instruction, code: u64) -> Check {
    same("an instruction", guest.bed.execute(instruction), Found::Vc(code))
}

fn cpuid<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    for (leaf, subleaf) in [(0, 0), (1, 0), (0xd, 1), (0x8000_001f, 0), (u32::MAX, 7)] {
        raises(guest, Instruction::Cpuid { leaf, subleaf }, 0x72)?;
    }
    Ok(())
}

fn msr<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    for number in [0x1b, 0x2ff, 0x4000_0000, 0xc001_1020] {
        raises(guest, Instruction::ReadMsr(number), 0x7c)?;
        raises(guest, Instruction::WriteMsr(number, 0), 0x7c)?;
    }
    // SEV_STATUS is the guest's to read, and nobody's to write.
    let status = guest.bed.execute(Instruction::ReadMsr(0xc001_0131));
    same("SEV_STATUS", status, Found::Value(7))?;
    same("a write", guest.bed.execute(Instruction::WriteMsr(0xc001_0131, 0)), Found::GeneralProtection)
}

fn ports<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    for port in [0, 0x80, 0x3f8, 0xffff] {
        raises(guest, Instruction::In(port), 0x7b)?;
        raises(guest, Instruction::Out(port, 0x5a), 0x7b)?;
    }
    Ok(())
}

fn caches<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    raises(guest, Instruction::Wbinvd, 0x89)?;
    raises(guest, Instruction::Invd, 0x76)
}

fn others<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    raises(guest, Instruction::Rdpmc, 0x6f)?;
    raises(guest, Instruction::Monitor, 0x8a)?;
    raises(guest, Instruction::Mwait, 0x8b)?;
    raises(guest, Instruction::Vmmcall, 0x81)
}
