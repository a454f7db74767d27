//! What a guest puts into its registers, its call area and its lists.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use coco_part_api::svsm::list::{Entry, ListPlace, MOST};
use coco_part_api::svsm::state_frame::{MAGIC, StateFrame};
use coco_part_api::svsm::{
    ATTESTATION, CONFIGURE_VTOM, CORE, CREATE_VCPU, CallId, CallResult, DELETE_VCPU, DEPOSIT_MEM, PVALIDATE,
    QUERY_PROTOCOL, REMAP_CA, VTPM, WITHDRAW_MEM, own,
};
use coco_part_api::{CallMonitor, CallRegs, Context, GuestLevel, GuestMemory, HasMemory};
use x86_64::PhysAddr;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::bytes::{Bytes, Memory};
use crate::runner::End;
use crate::snp::Snp;
use crate::world::layout::{BOOT_STATE, CALL_AREA, DATA, FREE, LARGE, MONITOR, STATE};
use crate::world::{Options, Record, World};

/// Walks a list from its cursor to its end.
pub(super) fn list(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let at = bytes.u64();
    let memory = Memory::new();
    // The words of the list go where the address says, if that is inside.
    let start = at & 0xfff8;
    for index in 0..=MOST as u64 {
        if bytes.is_over() || start + 8 * index >= 0xfff8 {
            break;
        }
        memory.poke(start + 8 * index, &bytes.take::<8>());
    }
    let Ok(place) = ListPlace::new(at) else {
        assert!(!at.is_multiple_of(8) || at >= 1 << 52);
        return false;
    };
    assert!(place.room() <= MOST as u64);
    let before = memory.copy();
    for step in 0..=MOST {
        let Ok((header, entry)) = place.next_entry(&memory) else {
            if step == 0 {
                assert_eq!(memory.copy(), before, "a refusal writes nothing");
            }
            return false;
        };
        assert!(header.next < header.entries && u64::from(header.entries) <= place.room());
        let word = place.entry(header.next).expect("inside its page");
        assert_eq!(word.align_down(0x1000u64), place.header().align_down(0x1000u64));
        assert_eq!(entry.encode(), u64::from_le_bytes(memory.peek(word.as_u64())));
        assert_eq!(Entry::decode(entry.encode()), Ok(entry));
        let result = place.advance(&memory, header).expect("the memory is there");
        if result == CallResult::SUCCESS {
            return true;
        }
        assert_eq!(result, CallResult::INCOMPLETE);
    }
    panic!("more entries than fit");
}

pub(super) fn list_examples() -> Vec<Vec<u8>> {
    let example = |at: u64, words: &[u64]| [at].iter().chain(words).flat_map(|word| word.to_le_bytes()).collect();
    vec![
        example(0x1008, &[1, 0x7000 | 4]),
        example(0x1000, &[3 | 1 << 16, 0, 0x20_0005, 0x3000_000c]),
        example(0x1ff0, &[1, 0x7004]),
        example(0x1008, &[510, 0x7004]),
        example(0x1008, &[511, 0x7004]),
        example(1 << 52, &[1]),
    ]
}

/// Checks a state frame for each level.
pub(super) fn state_frame(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let mut frame = StateFrame::new_zeroed();
    frame.as_mut_bytes().iter_mut().for_each(|byte| *byte = bytes.u8());
    let sound = GuestLevel::ALL.into_iter().filter(|level| frame.check(*level).is_ok()).count();
    assert!(sound <= 1, "a frame is for one level");
    if sound == 1 {
        assert!(frame.magic == MAGIC && (1..=3).contains(&frame.level));
        assert!(frame.context.rflags & 2 != 0 && frame.context.cr0 >> 32 == 0);
    }
    let again = StateFrame::read_from_bytes(frame.as_bytes()).expect("its own size");
    assert_eq!(again, frame);
    sound == 1
}

pub(super) fn state_frame_examples() -> Vec<Vec<u8>> {
    let frame = |level| StateFrame::new(level, Context::long_mode(1, 2, 3)).as_bytes().to_vec();
    GuestLevel::ALL.into_iter().map(frame).collect()
}

/// Calls of one input.
const CALLS: usize = 6;
/// Turns after which a world gives up: a guest that gave its own pages away waits for ever.
const TURNS: u64 = 60_000;

/// One call, and the words that the guest writes before.
#[derive(Clone, Copy, Debug)]
struct Call {
    regs: CallRegs,
    words: [(u64, u64); 3],
}

/// An address that means something, mostly: one byte chooses what, one the page, one the offset.
fn address(bytes: &mut Bytes<'_>) -> u64 {
    let (kind, page, offset) = (bytes.u8(), u64::from(bytes.u8()), u64::from(bytes.u8()));
    let base = match kind % 8 {
        0 => CALL_AREA,
        1 => DATA,
        2 => FREE,
        3 => MONITOR,
        4 => STATE,
        5 => BOOT_STATE,
        6 => FREE + LARGE * page,
        _ => return bytes.u64(),
    };
    base + page * 0x1000 + if kind & 0x80 == 0 { 0 } else { offset * 8 }
}

fn call(bytes: &mut Bytes<'_>) -> Call {
    let number = bytes.u8();
    let id = match number % 12 {
        0 => CallId::new(CORE, REMAP_CA),
        1..=3 => CallId::new(CORE, PVALIDATE),
        4 => CallId::new(CORE, CREATE_VCPU),
        5 => CallId::new(CORE, DELETE_VCPU),
        6 => CallId::new(own::PROTOCOL, bytes.u32() % 4),
        7 => CallId::from_rax(bytes.u64()),
        8 => CallId::new(CORE, DEPOSIT_MEM),
        9 => CallId::new(CORE, WITHDRAW_MEM),
        10 => CallId::new(ATTESTATION, bytes.u32() % 3),
        _ => CallId::new(VTPM, bytes.u32() % 3),
    };
    let at = address(bytes);
    let (rdx, r8) = (u64::from(bytes.u8()), u64::from(bytes.u8()));
    // A list with two entries, where its flags and cursor are any.
    let header = u64::from(bytes.u8() % 4) | u64::from(bytes.u8() % 4) << 16 | u64::from(bytes.u8() / 250) << 32;
    let entries = [0, 1].map(|_| address(bytes) | u64::from(bytes.u8()));
    let words = [(at, header), (at.wrapping_add(8), entries[0]), (at.wrapping_add(16), entries[1])];
    Call { regs: CallRegs::call(id, at, rdx, r8), words }
}

/// A guest makes calls, and whatever comes of it for the guest itself, no oracle finds anything. Taken is an input of which
/// one call at least succeeded.
pub(super) fn monitor(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let calls: [Call; CALLS] = std::array::from_fn(|_| call(&mut bytes));
    let record = Rc::new(RefCell::new(Record::default()));
    let options = Options::<Snp> { turns: TURNS, guest_bytes: 4 * LARGE, vtpm: true, ..Options::default() };
    let mut world = World::new(options, Rc::clone(&record));
    let taken = Rc::new(Cell::new(false));
    let done = Rc::clone(&taken);
    world.on_guest(0, move |mut l2| {
        for Call { regs, words } in calls {
            let memory = l2.port.memory();
            // Where the guest cannot write, it calls all the same.
            for (at, word) in words {
                if let Ok(at) = PhysAddr::try_new(at) {
                    let _ = memory.write(at, &word.to_le_bytes());
                }
            }
            let answer = l2.port.call(regs).map_err(|error| error.to_string())?;
            done.set(done.get() || answer.result().is_success());
            // Calls whose results are in other registers too.
            let id = CallId::from_rax(regs.rax);
            let has_results = id.protocol != CORE || matches!(id.call, QUERY_PROTOCOL | CONFIGURE_VTOM);
            if !has_results && answer.with_result(CallResult::SUCCESS) != regs.with_result(CallResult::SUCCESS) {
                return Err(format!("{regs:x?} came back as {answer:x?}").as_str().into());
            }
        }
        Ok(())
    });
    let end = world.run();
    assert!(!matches!(end, End::Panicked { .. } | End::NoProgram(_)), "{end:?}");
    assert!(record.borrow().violations.is_empty(), "{:?}", record.borrow().violations);
    let changed = world.complaints().into_iter().find(|complaint| complaint.contains("came back as"));
    assert_eq!(changed, None, "registers that no call defines");
    taken.get()
}

pub(super) fn monitor_examples() -> Vec<Vec<u8>> {
    vec![
        // Validates a free page, uses it as a call area, and gives it back.
        vec![1, 0x80, 0, 1, 0, 0, 1, 0, 0, 2, 0, 0, 4, 2, 0, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        // Two entries, one large and one of the monitor.
        vec![1, 0x80, 0, 1, 0, 0, 2, 0, 0, 6, 0, 0, 5, 3, 1, 0, 4],
        // A vCPU from an empty state frame, and its end.
        vec![4, 4, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 4, 2, 0],
        // A deposit of an own page, and back.
        vec![8, 0x80, 0, 1, 0, 0, 1, 0, 0, 1, 9, 0, 0, 1, 9, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // Who am I, evidence, something unknown.
        vec![6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 1, 0, 0, 0, 1, 3, 0],
    ]
}
