//! The handler over a real GHCB page: what the host sees, and what it may answer.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use coco_part_api::GuestMemory;

use super::super::*;
use super::mock::*;
use crate::error::SnpError;
use crate::host::GhcbPage;
use crate::insn::Gpr;
use crate::testing::{EXIT_CODE, INFO_1, INFO_2, Memory, MockPort, frame, reply};

const GHCB: u64 = 0x3000;
const RAX: usize = 0x1f8;

/// Handles one instruction with a host that sets the status words, marks RAX valid and writes it.
fn with_host(scene: &mut Scene, code: ExitCode, status: (u64, u64)) -> (Result<Outcome, VcError>, Memory, Vec<u64>) {
    let memory = Memory::new();
    let at = GHCB as usize;
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (shared, log) = (memory.clone(), seen.clone());
    let mut port = MockPort::new(move |exit| {
        if *exit.msr & 0xfff == 0x012 {
            // Registration is granted.
            *exit.msr = *exit.msr & !0xfff | 0x013;
            return;
        }
        log.borrow_mut().extend([EXIT_CODE, INFO_1, INFO_2, RAX].map(|offset| shared.word(at + offset)));
        reply(&shared, GHCB, status.0, status.1);
        shared.set_word(at + RAX, 0x55);
        // Bit 63 of the bitmap.
        shared.bytes()[at + crate::testing::BITMAP + 7] |= 0x80;
    });
    let mut page = GhcbPage::register(&mut port, memory.clone(), frame(GHCB)).unwrap();
    let mut events = PageEvents { port: &mut port, page: &mut page };
    let facts =
        Facts { cpuid: scene.cpuid.table().unwrap(), apic_id: 0, sev_status: scene.sev_status, call_area: None };
    let outcome = handle(&mut scene.context, code, &facts, &mut scene.space, &mut events);
    let seen = seen.borrow().clone();
    (outcome, memory, seen)
}

#[test]
fn an_instruction_becomes_one_event_of_the_page() {
    let mut scene = Scene::new(&[0xe4, 0x60]);
    let (outcome, memory, seen) = with_host(&mut scene, ExitCode::IOIO, (0, 0));
    assert_eq!(outcome, Ok(Outcome::Done));
    // IN, 8 bits, 64-bit addresses, port 0x60; RAX is not shown.
    assert_eq!(seen, [0x7b, 0x60_0211, 0, 0]);
    assert_eq!(scene.gpr(Gpr::RAX) & 0xff, 0x55);
    // The handle has no other view of the page than this one.
    let mut version = [0; 2];
    memory.read(x86_64::PhysAddr::new(GHCB + 0xffa), &mut version).unwrap();
    assert_eq!(version, [2, 0]);
}

#[test]
fn a_device_store_shows_its_bytes_in_the_page() {
    let mut scene = Scene::new(&[0xc7, 0x07, 1, 2, 3, 4]).with(Gpr::RDI, DEVICE + 0x10);
    let (outcome, memory, seen) = with_host(&mut scene, ExitCode::NPF, (0, 0));
    assert_eq!(outcome, Ok(Outcome::Done));
    assert_eq!(seen, [0x8000_0002, DEVICE_AT + 0x10, 4, 0]);
    assert_eq!(memory.bytes()[GHCB as usize + 0x800..][..5], [1, 2, 3, 4, 0]);
}

#[test]
fn exceptions_in_the_page_are_raised_or_fatal() {
    let answer = |info| with_host(&mut Scene::new(&[0xe4, 0x60]), ExitCode::IOIO, (1, info)).0;
    assert_eq!(answer(0x8000_030d), GP);
    assert_eq!(answer(0x8000_0306), UD);
    for info in [0x0000_030d, 0x8000_000d, 0x8000_030e, 0x8000_0301, 0] {
        assert_eq!(answer(info), Err(VcError::Host(SnpError::ForbiddenException { info })));
    }
}

#[test]
fn a_false_exit_sends_nothing() {
    let (outcome, memory, seen) = with_host(&mut Scene::new(&[0x90]), ExitCode::VMMCALL, (0, 0));
    assert_eq!((outcome, seen), (FALSE_EXIT, Vec::new()));
    assert!(memory.bytes()[GHCB as usize..][..0x1000].iter().all(|byte| *byte == 0));
}
