//! The vTPM protocol over a device that answers backwards.

use std::sync::{Arc, Barrier};
use std::vec;

use coco_part_api::svsm::vtpm::{MOST_COMMAND, VTPM_CMD, VTPM_QUERY};
use coco_part_api::svsm::{CallId, CallResult, QUERY_PROTOCOL, VTPM};

use super::mock::MockTpm;
use super::*;
use crate::VtpmError;

const BUFFER: u64 = RAM + 0x4000;
const ADDRESS: CallResult = CallResult::INVALID_ADDRESS;
const PARAMETER: CallResult = CallResult::INVALID_PARAMETER;
const REQUEST: CallResult = CallResult::INVALID_REQUEST;
const SUCCESS: CallResult = CallResult::SUCCESS;

/// A guest with a vTPM, and the device.
fn fixture() -> (Fixture, MockTpm) {
    let mut fixture = Fixture::new();
    let tpm = MockTpm::default();
    fixture.vtpm = Some(Vtpm::new(tpm.clone()));
    (fixture, tpm)
}

fn regs(call: u32, rcx: u64) -> CallRegs {
    CallRegs { rax: CallId::new(VTPM, call).to_rax(), rcx, rdx: 0x22, r8: 0x88, r9: 0x99 }
}

/// Writes a buffer and has the guest send it; no register but RAX may change.
fn send(fixture: &Fixture, at: u64, command: u32, locality: u8, size: u32, bytes: &[u8]) -> CallResult {
    let mut buffer = command.to_le_bytes().to_vec();
    buffer.push(locality);
    buffer.extend_from_slice(&size.to_le_bytes());
    buffer.extend_from_slice(bytes);
    fixture.world.poke(at, &buffer);
    fixture.world.clear_log();
    let regs = regs(VTPM_CMD, at);
    let answer = fixture.call_regs(regs);
    assert_eq!(answer, regs.with_result(answer.result()));
    answer.result()
}

fn versions(fixture: &Fixture) -> u64 {
    let wanted = CallId::new(VTPM, 1).to_rax();
    fixture.call_regs(CallRegs::call(CallId::new(0, QUERY_PROTOCOL), wanted, 0, 0)).rcx
}

#[test]
fn a_query_names_the_one_platform_command() {
    let (fixture, _) = fixture();
    let query = regs(VTPM_QUERY, 7);
    assert_eq!(fixture.call_regs(query), CallRegs { rax: 0, rcx: 1 << 8, rdx: 0, ..query });
    assert_eq!(versions(&fixture), 0x1_0000_0001);
    let unknown = regs(2, BUFFER);
    assert_eq!(fixture.call_regs(unknown), unknown.with_result(CallResult::UNSUPPORTED_CALL));
}

#[test]
fn without_a_device_there_is_no_such_protocol() {
    let fixture = Fixture::new();
    assert_eq!(versions(&fixture), 0);
    for call in [VTPM_QUERY, VTPM_CMD, 2] {
        let regs = regs(call, BUFFER);
        assert_eq!(fixture.call_regs(regs), regs.with_result(CallResult::UNSUPPORTED_PROTOCOL));
    }
}

#[test]
fn a_command_is_copied_once_and_its_response_overwrites_the_buffer() {
    let (fixture, tpm) = fixture();
    assert_eq!(send(&fixture, BUFFER, 8, 0, 10, b"0123456789"), SUCCESS);
    assert_eq!(tpm.commands(), [b"0123456789"]);
    // Behind the response the rest of the command stays.
    assert_eq!(fixture.world.peek(BUFFER, 19), b"\x0a\0\0\0987654321056789");
    assert_eq!(fixture.world.reads(), [(BUFFER, 9), (BUFFER + 9, 10)]);
    assert_eq!(fixture.world.writes(), [(BUFFER + 4, 10), (BUFFER, 4)]);
    assert_eq!(fixture.state(BUFFER), OWN);
}

#[test]
fn a_buffer_lies_at_any_address_and_fills_its_page() {
    let (fixture, tpm) = fixture();
    let longest: Vec<u8> = (0..MOST_COMMAND).map(|index| index as u8).collect();
    let backwards: Vec<u8> = longest.iter().rev().copied().collect();
    for offset in [0, 1, 0xff6, 0xff7, 0xffb, 0xffd, 0xfff] {
        let at = BUFFER + offset;
        assert_eq!(send(&fixture, at, 8, 0, MOST_COMMAND as u32, &longest), SUCCESS, "{offset:#x}");
        assert_eq!(fixture.world.peek(at, 4), (MOST_COMMAND as u32).to_le_bytes());
        assert_eq!(fixture.world.peek(at + 4, MOST_COMMAND), backwards);
        assert!(fixture.all_are(BUFFER, 2, OWN));
    }
    assert_eq!(tpm.commands().len(), 7);
    // The longest response there can be.
    tpm.gives(Ok(4092));
    assert_eq!(send(&fixture, BUFFER, 8, 0, 1, b"!"), SUCCESS);
    assert_eq!(fixture.world.peek(BUFFER, 5), [0xfc, 0x0f, 0, 0, b'!']);
    tpm.gives(Ok(0));
    assert_eq!(send(&fixture, BUFFER, 8, 0, 1, b"!"), SUCCESS);
    assert_eq!(fixture.world.peek(BUFFER, 5), [0, 0, 0, 0, 0]);
}

#[test]
fn refuses_other_platform_commands_localities_and_sizes_and_asks_no_device() {
    let (fixture, tpm) = fixture();
    for (command, locality, size) in [
        (0, 0, 10),
        (1, 0, 10),
        (7, 0, 10),
        (9, 0, 10),
        (0x108, 0, 10),
        (u32::MAX, 0, 10),
        (8, 1, 10),
        (8, 4, 10),
        (8, 0xff, 10),
        (8, 0, 0),
        (8, 0, 4088),
        (8, 0, 0x8000_0000),
        (8, 0, u32::MAX),
    ] {
        let sent = send(&fixture, BUFFER, command, locality, size, b"0123456789");
        assert_eq!(sent, PARAMETER, "{command:#x} {locality:#x} {size:#x}");
        assert_eq!(fixture.world.writes(), []);
    }
    assert!(tpm.commands().is_empty());
}

#[test]
fn refuses_buffers_that_are_not_the_callers() {
    let (fixture, tpm) = fixture();
    fixture.ledger().adopt(range(RAM + 0x8000, 1), OWN, State::Guest(GuestLevel::ONE)).unwrap();
    for at in [
        L1,
        BOOT_STATE,
        BOOT_AREA,
        BOOT_AREA + 8,
        // Its second page is not.
        RAM + 0x7001,
        RAM + (RAM_FRAMES << 12) - 8,
        HOLE,
        FRESH,
        RAM + 0x8000,
        1 << 52,
        (1 << 52) - 9,
        u64::MAX,
    ] {
        let before = fixture.snapshot();
        let regs = regs(VTPM_CMD, at);
        assert_eq!(fixture.call_regs(regs), regs.with_result(ADDRESS), "{at:#x}");
        assert_eq!(fixture.snapshot(), before);
        assert_eq!((fixture.world.reads(), fixture.world.writes()), (vec![], vec![]));
    }
    let held = fixture.ledger().claim(range(BUFFER + 0x1000, 1), OWN).unwrap();
    assert_eq!(send(&fixture, BUFFER + 1, 8, 0, 1, b"!"), CallResult::BUSY);
    drop(held);
    fixture.world.fault_at(BUFFER);
    assert_eq!(send(&fixture, BUFFER, 8, 0, 1, b"!"), ADDRESS);
    assert!(tpm.commands().is_empty());
    assert!(fixture.all_are(BUFFER, 2, OWN));
}

#[test]
fn a_command_that_another_vcpu_rewrites_is_the_one_that_was_read() {
    let (fixture, tpm) = fixture();
    fixture.world.after_read(|bytes, at| {
        // After the head another size and locality, after the command another command.
        let with = if at == BUFFER { &[8, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff][..] } else { &[0xee; 32] };
        bytes[BUFFER as usize..][..with.len()].copy_from_slice(with);
    });
    assert_eq!(send(&fixture, BUFFER, 8, 0, 4, b"good"), SUCCESS);
    assert_eq!(tpm.commands(), [b"good"]);
    assert_eq!(fixture.world.peek(BUFFER, 8), b"\x04\0\0\0doog");
}

#[test]
fn the_buffer_is_claimed_from_before_it_is_read_until_the_response_is_written() {
    let (fixture, _) = fixture();
    let is_claimed = |words: Arc<[AtomicU64]>| {
        move |_: &mut Vec<u8>, _| {
            let ledger = Ledger::new(&words, range(0, FRAMES)).unwrap();
            assert!(ledger.survey(range(BUFFER, 2)).only(&[State::Changing]));
        }
    };
    fixture.world.after_read(is_claimed(fixture.words.clone()));
    fixture.world.before_write(is_claimed(fixture.words.clone()));
    assert_eq!(send(&fixture, BUFFER + 8, 8, 0, 4, b"good"), SUCCESS);
    assert!(fixture.all_are(BUFFER, 2, OWN));
}

#[test]
fn a_device_that_cannot_take_a_command_is_an_invalid_request() {
    let (fixture, tpm) = fixture();
    tpm.gives(Err(VtpmError::Command));
    assert_eq!(send(&fixture, BUFFER, 8, 0, 4, b"good"), REQUEST);
    assert_eq!(fixture.world.writes(), []);
    assert_eq!(send(&fixture, BUFFER, 8, 0, 4, b"good"), SUCCESS);
    fixture.world.write_fault_at(BUFFER);
    assert_eq!(send(&fixture, BUFFER, 8, 0, 4, b"good"), ADDRESS);
    fixture.world.no_fault_at(BUFFER);
    assert_eq!(send(&fixture, BUFFER, 8, 0, 4, b"good"), SUCCESS);
}

#[test]
fn a_device_out_of_order_is_never_asked_again() {
    for outcome in [Err(VtpmError::Device), Ok(4093), Ok(usize::MAX)] {
        let (fixture, tpm) = fixture();
        tpm.gives(outcome);
        assert_eq!(send(&fixture, BUFFER, 8, 0, 4, b"good"), REQUEST);
        assert_eq!(fixture.world.writes(), []);
        assert!(fixture.vtpm.as_ref().unwrap().is_broken());
        assert_eq!(send(&fixture, BUFFER, 8, 0, 4, b"good"), CallResult::UNSUPPORTED_PROTOCOL);
        assert_eq!((versions(&fixture), tpm.commands().len()), (0, 1));
    }
}

#[test]
fn a_device_has_one_command_at_a_time_and_nobody_waits_for_it() {
    let (fixture, tpm) = fixture();
    vcpus::start(&fixture, 1);
    let barrier = Arc::new(Barrier::new(2));
    tpm.meets(&barrier);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            fixture.world.poke(BUFFER + 0x2000, b"\x08\0\0\0\0\x04\0\0\0good");
            let regs = regs(VTPM_CMD, BUFFER + 0x2000);
            call_on(&mut fixture.monitor(1), &fixture.world, 1, regs).result()
        });
        barrier.wait();
        assert_eq!(send(&fixture, BUFFER, 8, 0, 4, b"else"), CallResult::BUSY);
        barrier.wait();
        assert_eq!(other.join().unwrap(), SUCCESS);
    });
    assert_eq!(send(&fixture, BUFFER, 8, 0, 4, b"else"), SUCCESS);
    assert_eq!(tpm.commands(), [b"good", b"else"]);
}
