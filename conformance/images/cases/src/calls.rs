//! Calls: served once, answered in the agreed registers (S1, S2).

use coco_part_api::svsm::{APIC, CONFIGURE_VTOM, CORE, CallId, CallResult, QUERY_PROTOCOL, VTPM, own};
use coco_part_api::{CallRegs, GuestPort, Identify, Level};

use crate::bed::Bed;
use crate::check::{Check, Failed, ensure, same};
use crate::guest::{Guest, OK};
use crate::{Case, case};

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 6] {
    [
        case!(
            "S1-calls-cost-the-same",
            "S1",
            "each of many calls is served once: one exit of the guest and one of L1",
            many
        ),
        case!("S2-registers", "S2", "an answer changes no register but those of its results", registers),
        case!(
            "S2-unknown-calls",
            "S2",
            "unknown protocols and calls are named as such and change no register but RAX",
            unknown
        ),
        case!("S2-queries", "S2", "which protocols there are, and of which versions", queries),
        case!("S2-vtom-query", "S2", "there is no vTOM, and it is not configured", vtom),
        case!("S2-identify", "S2", "L1 says who the caller is: its level, its vCPU, what the vendor can do", identify),
    ]
}

/// A harmless call that is told from others by its arguments.
pub(crate) const fn query(tag: u64) -> CallRegs {
    CallRegs { r9: tag, ..CallRegs::call(CallId::new(CORE, QUERY_PROTOCOL), 1, !tag, tag << 8) }
}

/// Its answer.
pub(crate) const fn query_answer(tag: u64) -> CallRegs {
    CallRegs { rcx: 1 << 32 | 1, ..query(tag).with_result(CallResult::SUCCESS) }
}

fn many<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    guest.mark();
    for tag in 0..100 {
        same("an answer", guest.call(query(tag))?, query_answer(tag))?;
    }
    guest.mark();
    Ok(())
}

fn registers<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    for tag in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef, 1 << 63] {
        same("an answer", guest.call(query(tag))?, query_answer(tag))?;
        let nobody = CallRegs { rax: CallId::new(0x77, 5).to_rax(), rcx: tag, rdx: !tag, r8: tag >> 1, r9: tag << 1 };
        let want = nobody.with_result(CallResult::UNSUPPORTED_PROTOCOL);
        same("an answer to a call that nobody knows", guest.call(nobody)?, want)?;
    }
    Ok(())
}

fn unknown<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let rows = [
        (77, 0, CallResult::UNSUPPORTED_PROTOCOL),
        (u32::MAX, u32::MAX, CallResult::UNSUPPORTED_PROTOCOL),
        (CORE, 8, CallResult::UNSUPPORTED_CALL),
        (CORE, u32::MAX, CallResult::UNSUPPORTED_CALL),
        (VTPM, 0, CallResult::UNSUPPORTED_PROTOCOL),
        (APIC, 0, CallResult::UNSUPPORTED_PROTOCOL),
        (own::PROTOCOL, 99, CallResult::UNSUPPORTED_CALL),
    ];
    for (protocol, number, want) in rows {
        let rax = CallId::new(protocol, number).to_rax();
        guest.answers("a call", CallRegs { rax, rcx: 0x1111, rdx: 0x2222, r8: 0x3333, r9: 0 }, want)?;
    }
    Ok(())
}

fn versions<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, protocol: u32) -> Result<u64, Failed> {
    let wanted = CallId::new(protocol, 1).to_rax();
    let regs = CallRegs { r9: 9, ..CallRegs::call(CallId::new(CORE, QUERY_PROTOCOL), wanted, 7, 8) };
    let answer = guest.call(regs)?;
    same("registers", answer, CallRegs { rcx: answer.rcx, ..regs.with_result(OK) })?;
    Ok(answer.rcx)
}

fn queries<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    const VERSION_ONE: u64 = 1 << 32 | 1;
    for protocol in [CORE, own::PROTOCOL] {
        same("a protocol that there is", versions(guest, protocol)?, VERSION_ONE)?;
    }
    for protocol in [77, VTPM, APIC] {
        same("a protocol that there is not", versions(guest, protocol)?, 0_u64)?;
    }
    Ok(())
}

fn vtom<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let regs = CallRegs { r9: 9, ..CallRegs::call(CallId::new(CORE, CONFIGURE_VTOM), 1, 7, 8) };
    let nothing = CallRegs { rcx: 0, rdx: 0, r8: 0, ..regs.with_result(OK) };
    same("a question", guest.call(regs)?, nothing)?;
    guest.core_answers("a configuration", CONFIGURE_VTOM, [2, 0, 0], CallResult::INVALID_REQUEST)
}

fn identify<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let regs = CallRegs::call(CallId::new(own::PROTOCOL, own::IDENTIFY), 7, 8, 9);
    let answer = guest.call(regs)?;
    same("result", answer.result(), OK)?;
    same("level", answer.rcx, u64::from(guest.shim.level().number()))?;
    same("vCPU", answer.rdx, u64::from(guest.shim.vcpu().0))?;
    same("capabilities", answer.r8, guest.shim.capabilities().to_bits())?;
    ensure("a level of a guest", guest.shim.level() != Level::Monitor)
}
