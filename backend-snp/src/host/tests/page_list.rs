use core::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use coco_part_api::{Error, ErrorKind, FrameRange, HostState, Stopped};

use super::{GHCB, page};
use crate::error::SnpError;
use crate::host::HostChannel;
use crate::testing::{BITMAP, EXIT_CODE, Memory, range, reply};

const LIST: usize = GHCB as usize + 0x800;
const LARGE: u64 = 0x20_0000;

/// What the host does with one list: its head afterwards, and SW_EXITINFO1 and 2.
struct Answer {
    head: u64,
    info_1: u64,
    info_2: u64,
}

const fn head(cursor: u16, end: u16) -> u64 {
    cursor as u64 | (end as u64) << 16
}

const fn answer(head: u64) -> Answer {
    Answer { head, info_1: 0, info_2: 0 }
}

/// Changes a range over a host that sees exit number, head and entries, and says what it did.
fn change(
    range: FrameRange,
    to: HostState,
    host: impl Fn(usize, u64, &[u64]) -> Answer + 'static,
) -> (Result<(), Stopped<SnpError>>, usize) {
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |exit| {
        assert_eq!(view.word(GHCB as usize + EXIT_CODE), 0x8000_0010);
        assert_eq!(view.word(GHCB as usize + 0x3a8), LIST as u64);
        // Valid bits 114 to 117.
        assert_eq!(view.word(GHCB as usize + BITMAP + 8), 0x003c_0000_0000_0000);
        let before = view.word(LIST);
        let entries: Vec<u64> = (0..253).map(|index| view.word(LIST + 8 + 8 * index)).collect();
        let said = host(exit.count, before, &entries);
        // Whatever it says, it scribbles over all entries.
        view.bytes()[LIST + 8..LIST + 0x7f0].fill(0xa5);
        view.set_word(LIST, said.head);
        reply(&view, GHCB, said.info_1, said.info_2);
    });
    let outcome = ghcb.page_state(&mut port, range, to);
    (outcome, port.exits.len())
}

#[test]
fn one_list_holds_253_pages_of_either_size() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    // Two small pages, 600 large ones, one small one.
    let whole = range(LARGE - 0x2000, 0x2000 + 600 * LARGE + 0x1000);
    let (outcome, exits) = change(whole, HostState::Private, move |_, before, entries| {
        let end = (before >> 16) as u16;
        log.borrow_mut().extend_from_slice(&entries[..=usize::from(end)]);
        assert!(entries[usize::from(end) + 1..].iter().all(|&entry| entry == 0));
        answer(head(end + 1, end))
    });
    assert_eq!((outcome, exits), (Ok(()), 3));
    let small = |at: u64| 1 << 52 | at;
    let mut expected = [small(LARGE - 0x2000), small(LARGE - 0x1000)].to_vec();
    expected.extend((1..=600).map(|index| 1 << 56 | small(index * LARGE)));
    expected.push(small(601 * LARGE));
    assert_eq!(*seen.borrow(), expected);
}

#[test]
fn sharing_has_its_own_operation() {
    let (outcome, _) = change(range(0x8000, 0x1000), HostState::Shared, |_, before, entries| {
        assert_eq!((before, entries[0]), (0, 0x0020_0000_0000_8000));
        answer(head(1, 0))
    });
    assert_eq!(outcome, Ok(()));
}

/// No address is cut: frames on both sides of 4 GiB and 1 TiB, and up to the last one that an address can have.
#[test]
fn an_entry_names_its_page_wherever_that_is() {
    for at in [(1 << 32) - 0x1000, 1 << 32, (1 << 40) - 0x1000, 1 << 40, 1 << 47, (1 << 52) - 0x1000] {
        let (outcome, _) = change(range(at, 0x1000), HostState::Private, move |_, _, entries| {
            assert_eq!(entries[0], 1 << 52 | at);
            answer(head(1, 0))
        });
        assert_eq!(outcome, Ok(()), "{at:#x}");
    }
}

#[test]
fn entries_go_out_unchanged_after_a_partial_answer() {
    let (outcome, exits) = change(range(0x8000, 0x4000), HostState::Private, |exit, before, entries| {
        assert_eq!(before, head(exit as u16, 3));
        let expected: Vec<u64> = (8..12).map(|frame| 1 << 52 | frame << 12).collect();
        assert_eq!(entries[..4], expected);
        answer(head(exit as u16 + 1, 3))
    });
    assert_eq!((outcome, exits), (Ok(()), 4));
}

#[test]
fn a_host_that_never_moves_is_left_after_one_exit_more_than_entries() {
    let (outcome, exits) = change(range(0x8000, 0x4000), HostState::Private, |_, before, _| answer(before));
    let stalled = SnpError::PageStateStalled { exits: 5 };
    assert_eq!((outcome, exits), (Err(Stopped { done: 0, cause: stalled }), 5));
    assert_eq!(stalled.kind(), ErrorKind::HostMisbehaved);
}

#[test]
fn believes_no_head_that_lies() {
    // Cursor, last entry and reserved word after the second exit; the first one did two of four.
    let lies: [(u16, u16, u32); 8] =
        [(0, 3, 0), (1, 3, 0), (5, 3, 0), (u16::MAX, 3, 0), (4, 4, 0), (4, 2, 0), (4, 3, 1), (2, u16::MAX, 0)];
    for (now, end, reserved) in lies {
        let (outcome, exits) = change(range(0x8000, 0x4000), HostState::Private, move |exit, _, _| match exit {
            0 => answer(head(2, 3)),
            _ => answer(head(now, end) | u64::from(reserved) << 32),
        });
        let cause = SnpError::PageStateHeader { was: 2, now, end, reserved };
        assert_eq!((outcome, exits), (Err(Stopped { done: 2, cause }), 2), "{now} {end} {reserved}");
    }
}

#[test]
fn an_error_in_either_status_word_is_a_failure() {
    // Status, detail, cursor after it, frames that count as done.
    let cases = [
        (0, 1 << 32 | 1, 0, 0, SnpError::PageState { code: 1 << 32 | 1 }),
        (0, 0x100 << 32, 2, 2, SnpError::PageState { code: 0x100 << 32 }),
        (0, 0x100 << 32, 4, 0, SnpError::PageState { code: 0x100 << 32 }),
        (2, 3, 4, 0, SnpError::MalformedRequest { code: 3 }),
        (9, 0, 4, 0, SnpError::UnknownStatus { status: 9 }),
    ];
    for (info_1, info_2, now, done, cause) in cases {
        let (outcome, _) = change(range(0x8000, 0x4000), HostState::Private, move |_, _, _| Answer {
            head: head(now, 3),
            info_1,
            info_2,
        });
        assert_eq!(outcome, Err(Stopped { done, cause }));
    }
}

#[test]
fn progress_is_counted_in_small_frames_over_all_lists() {
    let whole = range(LARGE, 300 * LARGE);
    let (outcome, exits) = change(whole, HostState::Private, |exit, before, _| match exit {
        0 => answer(head(253, (before >> 16) as u16)),
        _ => Answer { head: head(3, (before >> 16) as u16), info_1: 0, info_2: 0x100 << 32 },
    });
    let cause = SnpError::PageState { code: 0x100 << 32 };
    assert_eq!((outcome, exits), (Err(Stopped { done: 256 * 512, cause }), 2));
}
