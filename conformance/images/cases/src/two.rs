//! What becomes of a further vCPU, and what two of them do at once (V1, V4, and others on two vCPUs).

use coco_part_api::svsm::{CREATE_VCPU, CallResult, DELETE_VCPU, PVALIDATE, REMAP_CA};
use coco_part_api::vcpu::frame_at;
use coco_part_api::{CreateVcpu, ErrorKind, GuestMemory, GuestPort, Identify, NewVcpu, VcpuId, report_data};

use crate::bed::Bed;
use crate::calls::{query, query_answer};
use crate::check::{Check, Failed, Value, ensure, same};
use crate::further::{AREA, FURTHER_NONCE, STORED, Task, word};
use crate::guest::{
    BAD_ADDRESS, BAD_PARAMETER, Guest, IGNORE_NO_CHANGE, NO_CHANGE, OK, PATIENCE, VALIDATE, address, outcome, start,
    wrong,
};
use crate::{Case, case};

/// Pages of the case's own: state frame of the further vCPU, and what it works on.
const STATE: u64 = 16;
const LIST: u64 = 18;
const OUT: u64 = 19;
/// Its number.
const ID: VcpuId = VcpuId(1);

/// The cases of this file.
pub(crate) fn cases<P: GuestPort, B: Bed>() -> [Case<P, B>; 13] {
    [
        case!(
            "V1-create-and-destroy",
            "V1",
            "a further vCPU is created, does its work, and is destroyed",
            lifecycle,
            on_two
        ),
        case!(
            "V1-created-again",
            "V1",
            "it is created again and again, in the same frame and in another one",
            again,
            on_two
        ),
        case!(
            "V1-frame-comes-back",
            "V1",
            "state frame and call area of one that is gone are plain memory of the guest",
            comes_back,
            on_two
        ),
        case!(
            "M7-second-vcpu",
            "M7",
            "frame and call area of a live vCPU are named in no call of the guest",
            second_vcpu,
            on_two
        ),
        case!(
            "V4-running-vcpu-stays",
            "V4",
            "deleting a vCPU that runs is refused as in use, and it runs on",
            running_stays,
            on_two
        ),
        case!("V4-delete-self", "V4", "a vCPU does not delete itself", delete_self, on_two),
        case!(
            "V4-created-and-never-run",
            "V4",
            "a vCPU that never ran is deleted, and its frame still holds its image",
            never_run,
            on_two
        ),
        case!("S1-two-vcpus-call", "S1", "both call at once; every answer goes to its caller", both_call, on_two),
        case!("M3-memory-of-both", "M3", "what one vCPU validates the other one uses", memory_of_both, on_two),
        case!(
            "M2-page-validated-by-two",
            "M2",
            "of two vCPUs that validate one page at once one succeeds",
            by_two,
            on_two
        ),
        case!(
            "M5-cut-waits-for-others",
            "M5",
            "a page that another vCPU stored into is given up; its next store faults, and the page comes back as zeros",
            cut,
            on_two
        ),
        case!(
            "H1-list-changes-under-l1",
            "H1",
            "a list that another vCPU rewrites all the time is done as it was at some moment",
            list_changes,
            on_two
        ),
        case!("A1-second-vcpu", "A1", "a further vCPU gets evidence for its level from L1", evidence, on_two),
    ]
}

/// Writes a word of the mailbox.
fn tell<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, word: u64, value: u64) -> Check {
    guest.put(guest.places.mailbox + 8 * word, value)
}

/// Waits until a word of the mailbox is this.
fn wait<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, what: &'static str, word: u64, want: u64) -> Check {
    for _ in 0..PATIENCE {
        if guest.word(guest.places.mailbox + 8 * word)? == want {
            return Ok(());
        }
        guest.bed.pause();
    }
    Err(wrong(what, ErrorKind::Busy))
}

/// Creates the further vCPU with a state frame, and waits until it runs.
fn begin_in<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, state: u64) -> Check {
    for word in 0..word::COUNT {
        tell(guest, word, 0)?;
    }
    let frame = |at| frame_at(at).ok_or(wrong("an address", ErrorKind::Misaligned));
    let context = guest.bed.further();
    let new =
        NewVcpu { id: ID, context: &context, state: frame(guest.own(state))?, call_area: frame(guest.own(AREA))? };
    same("create", outcome(guest.shim.create_vcpu(new)), Value::Done)?;
    wait(guest, "the further vCPU runs", word::RUNS, 1)
}

fn begin<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    begin_in(guest, STATE)
}

/// Gives it a task. Its number.
fn give<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, task: Task) -> Result<u64, Failed> {
    let next = guest.word(guest.places.mailbox + 8 * word::DONE)? + 1;
    let (task, arguments) = task.words();
    for (index, argument) in (word::ARGUMENTS..).zip(arguments) {
        tell(guest, index, argument)?;
    }
    tell(guest, word::TASK, task)?;
    Ok(next)
}

/// The result of a task.
fn result<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, number: u64) -> Result<u64, Failed> {
    wait(guest, "the further vCPU does its task", word::DONE, number)?;
    guest.word(guest.places.mailbox + 8 * word::RESULT)
}

/// Has a task done.
fn have<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, task: Task) -> Result<u64, Failed> {
    let number = give(guest, task)?;
    result(guest, number)
}

/// Ends the further vCPU and destroys it. It may still be on its way out.
fn end_in<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>, state: u64) -> Check {
    have(guest, Task::End)?;
    let frame = frame_at(guest.own(state)).ok_or(wrong("an address", ErrorKind::Misaligned))?;
    let mut last = Value::Done;
    for _ in 0..PATIENCE {
        last = outcome(guest.shim.destroy_vcpu(ID, frame));
        match last {
            Value::Stopped(ErrorKind::InUse | ErrorKind::Busy, _) => guest.bed.pause(),
            _ => break,
        }
    }
    same("destroy", last, Value::Done)
}

fn end<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    end_in(guest, STATE)
}

fn lifecycle<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    begin(guest)?;
    same("its calls", have(guest, Task::Call(5))?, 5_u64)?;
    end(guest)
}

fn again<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    for state in [STATE, STATE, STATE + 8] {
        begin_in(guest, state)?;
        same("its calls", have(guest, Task::Call(2))?, 2_u64)?;
        end_in(guest, state)?;
    }
    Ok(())
}

fn comes_back<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (state, area) = (guest.own(STATE), guest.own(AREA));
    begin(guest)?;
    guest.put(area + 0x100, 0x6b65_7074)?;
    guest.entry_answers("the area of a live vCPU", area, BAD_ADDRESS)?;
    end(guest)?;
    same("the area keeps its contents", guest.word(area + 0x100)?, 0x6b65_7074_u64)?;
    for at in [state, area] {
        guest.entry_answers("plain memory", at | VALIDATE, NO_CHANGE)?;
        guest.put(at, 1)?;
        guest.entry_answers("given up", at, OK)?;
        guest.entry_answers("taken back", at | VALIDATE, OK)?;
        guest.is_zero_page("the page", at)?;
    }
    guest.core_answers("deleted twice", DELETE_VCPU, [state, 0, 0], BAD_PARAMETER)
}

fn second_vcpu<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let (state, area) = (guest.own(STATE), guest.own(AREA));
    begin(guest)?;
    for at in [state, area] {
        guest.neither("an entry of a list", at, BAD_ADDRESS)?;
        guest.core_answers("a list there", PVALIDATE, [at + 8, 0, 0], BAD_ADDRESS)?;
        guest.core_answers("a call area", REMAP_CA, [at, 0, 0], BAD_ADDRESS)?;
        guest.core_answers("a state frame", CREATE_VCPU, [at, guest.own(LIST), 0], BAD_ADDRESS)?;
        guest.core_answers("the area of another one", CREATE_VCPU, [guest.own(LIST), at, 0], BAD_ADDRESS)?;
    }
    guest.core_answers("its area is no vCPU", DELETE_VCPU, [area, 0, 0], BAD_PARAMETER)?;
    same("its calls", have(guest, Task::Call(3))?, 3_u64)?;
    end(guest)
}

fn running_stays<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let state = guest.own(STATE);
    begin(guest)?;
    for _ in 0..3 {
        let answer = guest.core(DELETE_VCPU, [state, 0, 0])?;
        same("delete", answer, CallResult::FAIL_INUSE)?;
    }
    same("its calls", have(guest, Task::Call(3))?, 3_u64)?;
    end(guest)
}

fn delete_self<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let state = guest.own(STATE);
    begin(guest)?;
    let answer = have(guest, Task::Delete(state))?;
    same("delete", CallResult::from_rax(answer), CallResult::FAIL_INUSE)?;
    same("its calls", have(guest, Task::Call(3))?, 3_u64)?;
    end(guest)
}

/// Has L1 take the further vCPU's frame, which the host is not told. Gives the frame.
pub(crate) fn create_only<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Result<u64, Failed> {
    let (state, area) = (guest.own(STATE), guest.own(AREA));
    guest.put(area, 0)?;
    crate::vcpus::fill(guest, state)?;
    same("create", guest.core(CREATE_VCPU, [state, area, u64::from(ID.0)])?, OK)?;
    Ok(state)
}

fn never_run<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    let state = create_only(guest)?;
    guest.entry_answers("its frame", state | VALIDATE | IGNORE_NO_CHANGE, BAD_ADDRESS)?;
    let mut deleted = OK;
    for _ in 0..PATIENCE {
        deleted = guest.core(DELETE_VCPU, [state, 0, 0])?;
        if deleted != CallResult::FAIL_INUSE {
            break;
        }
        guest.bed.pause();
    }
    same("delete", deleted, OK)?;
    guest.entry_answers("its frame is plain memory", state | VALIDATE, NO_CHANGE)
}

/// Does something while the further vCPU makes so many calls, which are all answered as they have to be.
pub(crate) fn beside_calls<P: GuestPort, B: Bed>(
    guest: &mut Guest<'_, '_, P, B>,
    calls: u64,
    work: fn(&mut Guest<'_, '_, P, B>) -> Check,
) -> Check {
    begin(guest)?;
    let number = give(guest, Task::Call(calls))?;
    work(guest)?;
    same("right answers of the further vCPU", result(guest, number)?, calls)?;
    end(guest)
}

fn both_call<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    beside_calls(guest, CALLS, |guest| {
        (0..CALLS).try_for_each(|tag| same("an answer", guest.call_patiently(query(tag))?, query_answer(tag)))
    })
}

/// Calls of each of two vCPUs at once.
const CALLS: u64 = 200;

fn memory_of_both<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    begin(guest)?;
    let pages = guest.agreed_pages(2)?;
    let [first, second] = [start(pages), start(pages) + 0x1000];
    let list = guest.own(LIST);
    let answer = have(guest, Task::Entry { list, entry: first | VALIDATE })?;
    same("the further vCPU validates", CallResult::from_rax(answer), OK)?;
    guest.is_zero_page("its page", first)?;
    guest.entry_answers("again", first | VALIDATE, NO_CHANGE)?;
    guest.entry_answers("the first one validates", second | VALIDATE, OK)?;
    let answer = have(guest, Task::Entry { list, entry: second | VALIDATE })?;
    same("the further vCPU again", CallResult::from_rax(answer), NO_CHANGE)?;
    end(guest)
}

fn by_two<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    begin(guest)?;
    let pages = guest.agreed_pages(8)?;
    let list = guest.own(LIST);
    for index in 0..8 {
        let entry = (start(pages) + 0x1000 * index) | VALIDATE;
        let number = give(guest, Task::Entry { list, entry })?;
        let own = guest.entry(entry)?;
        let other = CallResult::from_rax(result(guest, number)?);
        let one_each = [(OK, NO_CHANGE), (NO_CHANGE, OK)].contains(&(own, other));
        same("one succeeds, the other one changes nothing", one_each, true)?;
    }
    guest.is_zero("the pages", pages)?;
    end(guest)
}

fn cut<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    begin(guest)?;
    let at = guest.own(OUT);
    guest.put(at, 0)?;
    same("a store", have(guest, Task::Store(at))?, 0_u64)?;
    same("what it stored", guest.word(at)?, STORED)?;
    guest.entry_answers("give up", at, OK)?;
    // A right that it had a moment ago.
    same("a store afterwards", have(guest, Task::Store(at))?, 0x404_u64)?;
    guest.entry_answers("take back", at | VALIDATE, OK)?;
    guest.is_zero_page("the page", at)?;
    same("a store into it", have(guest, Task::Store(at))?, 0_u64)?;
    end(guest)
}

fn list_changes<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    /// Entries 0 and 1, or entry 3 alone. No mixture reaches entry 2 unless bounds come from both headers.
    const HEADERS: [u64; 2] = [2, 4 | 3 << 16];
    const CALLS: u64 = 40;
    const PRECIOUS: u64 = 0x7072_6563_696f_7573;
    begin(guest)?;
    let list = guest.own(LIST);
    let [kept, other, poison] = [20, 21, 22].map(|index| guest.own(index));
    for at in [kept, other, poison] {
        guest.put(at, PRECIOUS)?;
    }
    let ignore = |at: u64| at | VALIDATE | IGNORE_NO_CHANGE;
    for (index, entry) in [ignore(kept), ignore(other), poison, ignore(kept)].into_iter().enumerate() {
        guest.put(list + 8 * (index as u64 + 1), entry)?;
    }
    guest.put(list, HEADERS[0])?;
    let number = give(guest, Task::Rewrite { list, headers: HEADERS, entry: ignore(kept) })?;
    for round in 0..CALLS {
        guest.put(list, if round % 2 == 0 { HEADERS[0] } else { HEADERS[1] })?;
        let result = guest.core(PVALIDATE, [list, 0, 0])?;
        let may_be = [OK, CallResult::INCOMPLETE, BAD_PARAMETER].contains(&result);
        same("what a list may answer", may_be, true)?;
    }
    tell(guest, word::STOP, 1)?;
    ensure("the other vCPU rewrote it", result(guest, number)? > 0)?;
    for at in [kept, other, poison] {
        same("a page that no list gives up", guest.word(at)?, PRECIOUS)?;
    }
    end(guest)
}

fn evidence<P: GuestPort, B: Bed>(guest: &mut Guest<'_, '_, P, B>) -> Check {
    begin(guest)?;
    let (at, out) = (guest.own(LIST), guest.own(OUT));
    let answer = have(guest, Task::Attest { at, out })?;
    same("result", CallResult::from_rax(answer), OK)?;
    let mut bytes = [0; 0x1000];
    let memory = guest.shim.port().memory();
    memory.read(address(out)?, &mut bytes).map_err(|_| wrong("a load", ErrorKind::Inaccessible))?;
    let data = report_data(guest.shim.level(), &FURTHER_NONCE, &[]);
    ensure("it is over L1's digest", bytes.windows(data.len()).any(|window| window == data))?;
    end(guest)
}
