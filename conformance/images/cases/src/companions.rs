//! Programs at the other levels of the guest's vCPU (S3, M5, M7): each is served its own answers and reaches what it was given.
//!
//! They run whenever L1 has served the guest, so a call of the guest gives each of them a turn.

use coco_part_api::{ErrorKind, GuestLevel, GuestPort};
use image_companions::{LEVELS, data, task};

use crate::bed::{Bed, Found, Instruction};
use crate::calls::{query, query_answer};
use crate::check::{Check, Failed, Value, ensure, same};
use crate::denied::{self, info};
use crate::guest::{Guest, wrong};
use crate::liars::everything;
use crate::places::in_no_call;
use crate::{Case, case};

/// Calls in which each companion has a call of its own served.
const CALLS: u64 = 24;
/// Calls after which a companion has done a task, whatever the host does.
const TURNS: u32 = 2000;

const FIRST: GuestLevel = GuestLevel::ONE;
const THIRD: GuestLevel = GuestLevel::THREE;

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 19] {
    [
        case!(
            "S3-four-levels",
            "S3",
            "one vCPU has a state at each of four levels; each of the three below L1 is served its own answers and keeps its registers",
            four_levels,
            beside_companions
        ),
        case!(
            "M5-companions-adjust",
            "M5",
            "level 1 changes rights of levels below it as far as its own go, level 3 those of none",
            adjust,
            beside_companions
        ),
        case!(
            "M7-companions-pages",
            "M7",
            "pages of programs at other levels are named in no call of the guest",
            pages,
            beside_companions
        ),
        case!(
            "M5-guest-gives-to-companion",
            "M5",
            "what the guest gives level 3 to read it reads; its store there never ends",
            gives,
            faults_at(3, info::STORE),
            beside_companions
        ),
        case!(
            "M7-denied-store-to-companion",
            "M7",
            "a store to another level's page that may be read never ends",
            store_data,
            faults(info::STORE),
            beside_companions
        ),
        case!(
            "M7-denied-load-of-companion",
            "M7",
            "a load of another level's page never ends",
            load_tables,
            faults(info::LOAD),
            beside_companions
        ),
        case!(
            "M7-denied-fetch-from-companion",
            "M7",
            "code of other levels is not executed",
            fetch_code,
            faults(info::EXECUTE),
            beside_companions
        ),
        case!(
            "M7-denied-load-of-companion-state",
            "M7",
            "a load of another level's state never ends",
            load_state,
            faults(info::LOAD),
            beside_companions
        ),
        case!(
            "M7-level-1-loads-guest",
            "M7",
            "a load of the guest's memory by level 1, which is more privileged, never ends",
            first_loads_guest,
            faults_at(1, info::LOAD),
            beside_companions
        ),
        case!(
            "M7-level-3-stores-to-guest",
            "M7",
            "a store of level 3 to the guest's memory never ends",
            third_stores_to_guest,
            faults_at(3, info::STORE),
            beside_companions
        ),
        case!(
            "M7-level-1-loads-level-3",
            "M7",
            "nor does a load by level 1 of a page of level 3",
            first_loads_third,
            faults_at(1, info::LOAD),
            beside_companions
        ),
        case!(
            "M7-level-3-loads-level-1",
            "M7",
            "nor the other way round",
            third_loads_first,
            faults_at(3, info::LOAD),
            beside_companions
        ),
        case!(
            "M7-level-1-stores-to-l1",
            "M7",
            "a store of level 1 to L1's data never ends",
            first_stores_to_monitor,
            faults_at(1, info::STORE),
            beside_companions
        ),
        case!(
            "M7-level-3-stores-to-read-only",
            "M7",
            "a store of level 3 to a page that it may read never ends",
            third_stores_to_task,
            faults_at(3, info::STORE),
            beside_companions
        ),
        case!(
            "S3-sometimes-level-1",
            "S3",
            "a host that at times runs level 1 instead mixes up no call",
            under_liar,
            under("sometimes-wrong-level-1"),
            beside_companions
        ),
        case!(
            "S3-sometimes-level-2",
            "S3",
            "nor one that runs level 2",
            under_liar,
            under("sometimes-wrong-level-2"),
            beside_companions
        ),
        case!(
            "S3-sometimes-level-3",
            "S3",
            "nor one that runs level 3",
            under_liar,
            under("sometimes-wrong-level-3"),
            beside_companions
        ),
        case!(
            "S1-four-levels-skipped",
            "S1",
            "a host that at times says that a level ran, and runs none, loses no call",
            under_liar,
            under("sometimes-never-switch"),
            beside_companions
        ),
        case!(
            "S1-four-levels-refused",
            "S1",
            "nor does one that at times refuses",
            under_liar,
            under("sometimes-refuse-switch"),
            beside_companions
        ),
    ]
}

/// The data page of a companion.
fn page<P: GuestPort, B: Bed>(guest: &Guest<'_, '_, P, B>, companion: GuestLevel) -> u64 {
    guest.places.companions.data(companion).start().as_u64()
}

/// Calls of each companion that were served, if nothing is wrong with it.
fn served<P: GuestPort, B: Bed>(guest: &Guest<'_, '_, P, B>) -> Result<[u64; 2], Failed> {
    let mut served = [0; 2];
    for (companion, served) in LEVELS.into_iter().zip(&mut served) {
        let word = |offset| guest.word(page(guest, companion) + offset);
        same("level of a companion", word(data::LEVEL)?, u64::from(companion.number()))?;
        same("what is wrong with a companion", word(data::WRONG)?, 0)?;
        *served = word(data::SERVED)?;
    }
    Ok(served)
}

fn four_levels<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let before = served(guest)?;
    guest.mark();
    for tag in 0..CALLS {
        same("an answer", guest.call(query(tag))?, query_answer(tag))?;
    }
    guest.mark();
    for (before, after) in before.into_iter().zip(served(guest)?) {
        // The turns after the last call are still to come.
        ensure("each companion was served meanwhile", after + 1 >= before + CALLS)?;
    }
    for companion in LEVELS {
        same("calls of a companion that were not served", guest.word(page(guest, companion) + data::LOST)?, 0)?;
    }
    Ok(())
}

/// What a companion can be asked for.
#[derive(Clone, Copy)]
enum Task {
    Load(u64),
    Store(u64),
    /// RMPADJUST of a page, with RDX.
    Adjust(u64, u64),
}

/// Writes a task down. Its number.
fn give<P: GuestPort, B: Bed>(
    guest: &mut Guest<'_, '_, P, B>,
    companion: GuestLevel,
    what: Task,
) -> Result<u64, Failed> {
    let (kind, at, operand) = match what {
        Task::Load(at) => (task::LOAD, at, 0),
        Task::Store(at) => (task::STORE, at, 0x6d69_6e65),
        Task::Adjust(at, rdx) => (task::ADJUST, at, rdx),
    };
    let page = guest.places.companions.task().start().as_u64();
    let number = guest.word(page + task::NUMBER)? + 1;
    let words = [
        (task::LEVEL, companion.number().into()),
        (task::KIND, kind),
        (task::AT, at),
        (task::OPERAND, operand),
        (task::NUMBER, number),
    ];
    for (offset, word) in words {
        guest.put(page + offset, word)?;
    }
    Ok(number)
}

/// Has a companion do something. Its result.
fn have<P: GuestPort, B: Bed>(
    guest: &mut Guest<'_, '_, P, B>,
    companion: GuestLevel,
    what: Task,
) -> Result<u64, Failed> {
    let number = give(guest, companion, what)?;
    for tag in 0..TURNS {
        if guest.word(page(guest, companion) + data::DONE)? == number {
            return guest.word(page(guest, companion) + data::RESULT);
        }
        guest.call_patiently(query(tag.into()))?;
    }
    Err(wrong("a companion does its task", ErrorKind::Busy))
}

/// Has a companion do what must not come back.
fn never<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, companion: GuestLevel, what: Task) -> Check {
    let (Task::Load(at) | Task::Store(at) | Task::Adjust(at, _)) = what;
    guest.bed.say(format_args!("expects a nested page fault at {at:#x}"));
    let result = have(guest, companion, what)?;
    Err(Failed { what: "an access of a companion that must not end", got: result.into(), want: Value::Holds(false) })
}

/// EAX of RMPADJUST.
const ADJUSTED: u64 = 0;
const FAIL_PERMISSION: u64 = 2;
/// Rights in RDX.
const READ: u64 = 1 << 8;
const WRITE: u64 = 2 << 8;
const EXECUTE: u64 = 8 << 8;

fn adjust<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let [first, third] = LEVELS.map(|companion| page(guest, companion));
    let (guests, monitors) = (guest.own(1), guest.places.monitor.data);
    guest.mark();
    let rows = [
        // For L1's level and the own one.
        (FIRST, first, 0, FAIL_PERMISSION),
        (FIRST, first, READ, FAIL_PERMISSION),
        (FIRST, first, 1, FAIL_PERMISSION),
        (FIRST, first, 1 | READ | WRITE | EXECUTE, FAIL_PERMISSION),
        // For those below: what it has, and no more.
        (FIRST, first, 2 | READ | EXECUTE, FAIL_PERMISSION),
        (FIRST, first, 3 | READ | WRITE, ADJUSTED),
        (FIRST, first, 3, ADJUSTED),
        (FIRST, first, 2 | READ, ADJUSTED),
        // On pages of others it has nothing to give.
        (FIRST, third, 2 | READ | WRITE, FAIL_PERMISSION),
        (FIRST, guests, 3 | READ, FAIL_PERMISSION),
        (FIRST, monitors, 2 | READ, FAIL_PERMISSION),
        (THIRD, third, 0, FAIL_PERMISSION),
        (THIRD, third, 1 | READ, FAIL_PERMISSION),
        (THIRD, third, 2 | READ | WRITE, FAIL_PERMISSION),
        (THIRD, third, 3 | READ, FAIL_PERMISSION),
        (THIRD, third, 3 | READ | WRITE | EXECUTE, FAIL_PERMISSION),
        (THIRD, guests, 3 | READ, FAIL_PERMISSION),
        (THIRD, monitors, 3 | READ, FAIL_PERMISSION),
    ];
    for (companion, at, rdx, want) in rows {
        same("RMPADJUST of a companion", have(guest, companion, Task::Adjust(at, rdx))?, want)?;
    }
    guest.mark();
    served(guest).map(|_| ())
}

fn pages<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let pages = guest.places.companions;
    let tables = LEVELS.map(|companion| pages.tables(companion).start().as_u64());
    let states = LEVELS.map(|companion| pages.state(companion).start_address().as_u64());
    let [code, task] = [pages.code(), pages.task()].map(|page| page.start().as_u64());
    for at in LEVELS.map(|companion| page(guest, companion)).into_iter().chain(tables).chain(states).chain([code, task])
    {
        in_no_call(guest, at)?;
    }
    served(guest).map(|_| ())
}

fn gives<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    const GIVEN: u64 = 0x6769_7665_6e21;
    let at = guest.own(1);
    guest.put(at, GIVEN)?;
    let gave = guest.bed.execute(Instruction::Rmpadjust { at, rdx: u64::from(THIRD.number()) | READ });
    same("RMPADJUST of the guest", gave, Found::Status(0))?;
    same("what level 3 reads", have(guest, THIRD, Task::Load(at))?, GIVEN)?;
    never(guest, THIRD, Task::Store(at))
}

fn store_data<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = page(guest, FIRST);
    denied::store(guest, at + data::SERVED)
}

fn load_tables<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.places.companions.tables(THIRD).start().as_u64();
    denied::load(guest, at)
}

fn fetch_code<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.places.companions.code().start().as_u64();
    denied::never(guest, at, Instruction::Fetch { at })
}

fn load_state<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.places.companions.state(FIRST).start_address().as_u64();
    denied::load(guest, at)
}

fn first_loads_guest<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(1);
    never(guest, FIRST, Task::Load(at))
}

fn third_stores_to_guest<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.own(1);
    never(guest, THIRD, Task::Store(at))
}

fn first_loads_third<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = page(guest, THIRD);
    never(guest, FIRST, Task::Load(at))
}

fn third_loads_first<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = page(guest, FIRST);
    never(guest, THIRD, Task::Load(at))
}

fn first_stores_to_monitor<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.places.monitor.data;
    never(guest, FIRST, Task::Store(at))
}

fn third_stores_to_task<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let at = guest.places.companions.task().start().as_u64();
    never(guest, THIRD, Task::Store(at + 0x800))
}

fn under_liar<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let before = served(guest)?;
    everything(guest)?;
    for tag in 0..TURNS {
        let after = served(guest)?;
        if before.into_iter().zip(after).all(|(before, after)| after >= before + CALLS) {
            return Ok(());
        }
        same("an answer", guest.call_patiently(query(tag.into()))?, query_answer(tag.into()))?;
    }
    Err(wrong("calls of the companions", ErrorKind::Busy))
}
