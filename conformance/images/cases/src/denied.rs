//! Accesses that the machine denies: a nested page fault, which is for the host, and which no host repairs. Each ends its boot.

use coco_part_api::{GuestPort, Validate};

use crate::bed::{Bed, Instruction, View};
use crate::check::{Check, Failed, Value, same};
use crate::guest::{Guest, done, range};
use crate::{Case, case};

/// EXITINFO1 of a nested page fault (56860, "RMP and VMPL access checks").
pub(crate) mod info {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    const RMP: u64 = 1 << 31;
    const FINAL: u64 = 1 << 32;
    const ENCRYPTED: u64 = 1 << 34;
    const VMPL: u64 = 1 << 36;

    /// The level lacks the right.
    pub(crate) const LOAD: u64 = FINAL | PRESENT | RMP | ENCRYPTED | VMPL;
    pub(crate) const STORE: u64 = LOAD | WRITE;
    pub(crate) const EXECUTE: u64 = LOAD | FETCH;
    /// The page is not the guest's.
    pub(crate) const NOT_OURS: u64 = FINAL | PRESENT | RMP | ENCRYPTED;
    pub(crate) const EXECUTE_NOT_OURS: u64 = NOT_OURS | FETCH;
    /// A store without the C-bit to a page of the guest.
    pub(crate) const SHARED_STORE: u64 = FINAL | PRESENT | RMP | WRITE;
}

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 13] {
    [
        case!("M7-denied-load-of-l1", "M7", "a load of L1's data never ends", load_data, faults(info::LOAD)),
        case!("M7-denied-store-to-l1", "M7", "a store to L1's data never ends", store_data, faults(info::STORE)),
        case!(
            "M7-denied-fetch-from-l1",
            "M7",
            "L1's code is not executed by a guest",
            fetch_image,
            faults(info::EXECUTE)
        ),
        case!("M7-denied-load-of-image", "M7", "a load of L1's image never ends", load_image, faults(info::LOAD)),
        case!(
            "M7-denied-load-of-secrets",
            "M7",
            "a load of the original secrets page never ends",
            load_secrets,
            faults(info::LOAD)
        ),
        case!(
            "M7-denied-store-to-secrets",
            "M7",
            "a store to the original secrets page never ends",
            store_secrets,
            faults(info::STORE)
        ),
        case!(
            "M7-denied-load-of-features",
            "M7",
            "a load of the original CPUID page never ends",
            load_features,
            faults(info::LOAD)
        ),
        case!(
            "M7-denied-load-of-deposit",
            "M7",
            "a load of a page that L1 was lent never ends",
            load_deposit,
            faults(info::LOAD)
        ),
        case!(
            "M7-denied-store-to-deposit",
            "M7",
            "a store to a page that L1 was lent never ends",
            store_deposit,
            faults(info::STORE)
        ),
        case!(
            "M6-denied-load-of-shared-page",
            "M6",
            "a page that the host got is not private any more",
            load_shared,
            faults(info::NOT_OURS)
        ),
        case!(
            "M6-denied-fetch-from-shared-page",
            "M6",
            "nor is it executed",
            fetch_shared,
            faults(info::EXECUTE_NOT_OURS)
        ),
        case!(
            "H2-shared-write",
            "H2",
            "a store without the C-bit does not reach a private page",
            store_without_c_bit,
            faults(info::SHARED_STORE)
        ),
        case!(
            "V1-frame-out-of-reach",
            "V1",
            "a state frame is out of the guest's reach while it serves",
            store_state,
            on_two,
            faults(info::STORE)
        ),
    ]
}

/// Executes what must not come back.
pub(crate) fn never<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, at: u64, instruction: Instruction) -> Check {
    guest.bed.say(format_args!("expects a nested page fault at {at:#x}"));
    let found = guest.bed.execute(instruction);
    Err(Failed { what: "an access that must not end", got: Value::Found(found), want: Value::Holds(false) })
}

pub(crate) fn load<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, at: u64) -> Check {
    never(guest, at, Instruction::Load { at, view: View::Private })
}

pub(crate) fn store<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, at: u64) -> Check {
    never(guest, at, Instruction::Store { at, view: View::Private, value: 0x6d69_6e65 })
}

fn load_data<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    load(guest, guest.places.monitor.data)
}

fn store_data<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    store(guest, guest.places.monitor.data)
}

fn fetch_image<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.places.monitor.first;
    never(guest, at, Instruction::Fetch { at })
}

fn load_image<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    load(guest, guest.places.monitor.first)
}

fn load_secrets<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    load(guest, guest.places.monitor.secrets)
}

fn store_secrets<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    store(guest, guest.places.monitor.secrets)
}

fn load_features<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    load(guest, guest.places.monitor.features)
}

fn lend<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Result<u64, Failed> {
    let at = guest.own(8);
    done("deposit", guest.shim.deposit(range(at, 1)?))?;
    Ok(at)
}

fn load_deposit<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = lend(guest)?;
    load(guest, at)
}

fn store_deposit<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = lend(guest)?;
    store(guest, at)
}

fn share<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Result<u64, Failed> {
    let at = guest.own(8);
    done("share", guest.shim.share(range(at, 1)?))?;
    Ok(at)
}

fn load_shared<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = share(guest)?;
    load(guest, at)
}

fn fetch_shared<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = share(guest)?;
    never(guest, at, Instruction::Fetch { at })
}

fn store_without_c_bit<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(8);
    guest.put(at, 0x6b65_7074)?;
    same("contents", guest.word(at)?, 0x6b65_7074_u64)?;
    never(guest, at, Instruction::Store { at, view: View::Shared, value: 0x6d69_6e65 })
}

fn store_state<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let state = crate::two::create_only(guest)?;
    store(guest, state)
}
