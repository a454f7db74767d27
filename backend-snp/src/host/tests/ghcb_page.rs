use core::panic::AssertUnwindSafe;
use std::vec::Vec;

use coco_part_api::{Error, ErrorKind};

use super::{GHCB, page};
use crate::abi::ap::{ApCreation, ApRequest};
use crate::abi::ghcb::ValidBit;
use crate::abi::sev_features::SevFeatures;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::host::{GhcbPage, HostChannel, reason};
use crate::instr::CallFrame;
use crate::testing::{BITMAP, EXIT_CODE, INFO_1, INFO_2, Memory, MockPort, frame, reply};

const FEATURES: SevFeatures = SevFeatures::SNP_ACTIVE.union(SevFeatures::SMT_PROTECTION);

fn creation(request: ApRequest) -> ApCreation {
    ApCreation { request, vmpl: Vmpl::VMPL2, apic_id: 0x1_0005, vmsa: frame(0x9000) }
}

/// Offset and value of every word of the page that is not zero.
fn words(memory: &Memory) -> Vec<(usize, u64)> {
    let words = (0..0x1000).step_by(8).map(|at| (at, memory.word(GHCB as usize + at)));
    words.filter(|(_, word)| *word != 0).collect()
}

#[test]
fn shows_the_host_the_fields_of_the_request_and_nothing_else() {
    let memory = Memory::new();
    memory.bytes()[GHCB as usize..][..0x1000].fill(0xee);
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |exit| {
        // Valid bits 114 to 116, and 63 for RAX; version 2 at 0xffa.
        let expected = match exit.count {
            0 => [
                (0x1f8, 0x8001),
                (EXIT_CODE, 0x8000_0013),
                (INFO_1, 0x0001_0005_0002_0001),
                (INFO_2, 0x9000),
                (BITMAP, 1 << 63),
                (BITMAP + 8, 0x001c_0000_0000_0000),
                (0xff8, 0x2_0000),
            ]
            .to_vec(),
            _ => {
                [(EXIT_CODE, 0x8000_0018), (INFO_1, 3), (BITMAP + 8, 0x001c_0000_0000_0000), (0xff8, 0x2_0000)].to_vec()
            }
        };
        assert_eq!(words(&view), expected);
        assert_eq!(*exit.msr, GHCB);
        view.bytes()[GHCB as usize..][..0x1000].fill(0xee);
        reply(&view, GHCB, 0, 0);
    });
    ghcb.ap_creation(&mut port, &creation(ApRequest::Create { features: FEATURES })).unwrap();
    ghcb.run_vmpl(&mut port, Vmpl::VMPL3).unwrap();
}

#[test]
fn selects_its_page_before_every_exit() {
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |_| reply(&view, GHCB, 0, 0));
    port.msr = 0x1_2345_6000;
    ghcb.run_vmpl(&mut port, Vmpl::VMPL1).unwrap();
    assert_eq!(port.exits, [GHCB]);
}

#[test]
fn doubts_every_answer_that_is_not_success() {
    let missing = |field| SnpError::MissingField { field };
    let gp = 0x8000_0b0d;
    let ud = 0x8000_0306;
    // Status, detail, whether their valid bits are set, what comes of it.
    let cases = [
        (0, 0, 0x10, missing(ValidBit::SW_EXIT_INFO_1)),
        (1, gp, 0x08, missing(ValidBit::SW_EXIT_INFO_2)),
        (2, 5, 0x08, missing(ValidBit::SW_EXIT_INFO_2)),
        (1, gp, 0x18, SnpError::Exception { info: gp }),
        (1, ud, 0x18, SnpError::Exception { info: ud }),
        (1, 0x8000_0b0e, 0x18, SnpError::ForbiddenException { info: 0x8000_0b0e }),
        (1, 0x8000_031d, 0x18, SnpError::ForbiddenException { info: 0x8000_031d }),
        (1, 0x8000_000d, 0x18, SnpError::ForbiddenException { info: 0x8000_000d }),
        (1, 0x8000_020d, 0x18, SnpError::ForbiddenException { info: 0x8000_020d }),
        (1, 0x0000_0b0d, 0x18, SnpError::ForbiddenException { info: 0x0b0d }),
        (1, 0, 0x18, SnpError::ForbiddenException { info: 0 }),
        (2, 6, 0x18, SnpError::MalformedRequest { code: 6 }),
        (3, 0, 0x18, SnpError::UnknownStatus { status: 3 }),
        (0x7fff_ffff, 0, 0x18, SnpError::UnknownStatus { status: 0x7fff_ffff }),
    ];
    for (info_1, info_2, bits, expected) in cases {
        let memory = Memory::new();
        let view = memory.clone();
        let (mut ghcb, mut port) = page(&memory, move |_| {
            reply(&view, GHCB, info_1, info_2);
            view.bytes()[GHCB as usize + BITMAP + 14] = bits;
        });
        assert_eq!(ghcb.run_vmpl(&mut port, Vmpl::VMPL1), Err(expected), "{info_1:#x} {info_2:#x}");
        assert_eq!(ghcb.ap_creation(&mut port, &creation(ApRequest::Destroy)), Err(expected));
        assert_eq!(ghcb.guest_request(&mut port, frame(0x1000), frame(0x2000)), Err(expected));
        let mut regs = CallFrame::default();
        assert_eq!(ghcb.call_vmpl0(&mut port, &mut regs, || Ok(())), Err(expected));
    }
    assert_eq!(SnpError::ForbiddenException { info: 0 }.kind(), ErrorKind::HostMisbehaved);
    assert_eq!(SnpError::Exception { info: gp }.kind(), ErrorKind::HostRefused);
}

#[test]
fn copies_an_answer_once() {
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |_| reply(&view, GHCB, 0, 0x1_0000_0002));
    let status = ghcb.guest_request(&mut port, frame(0x1000), frame(0x2000)).unwrap();
    assert_eq!((status.vmm().0, status.firmware().0), (1, 2));
    assert_eq!(memory.reads().as_slice(), [(GHCB + INFO_1 as u64, 0x68)]);
}

#[test]
fn a_result_without_its_valid_bit_is_none() {
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |_| {
        reply(&view, GHCB, 0, 0);
        view.bytes()[GHCB as usize + BITMAP + 14] = 0x08;
    });
    let missing = SnpError::MissingField { field: ValidBit::SW_EXIT_INFO_2 };
    assert_eq!(ghcb.guest_request(&mut port, frame(0x1000), frame(0x2000)), Err(missing));
    // A switch has no result but the status.
    ghcb.run_vmpl(&mut port, Vmpl::VMPL1).unwrap();
}

#[test]
fn taking_a_vcpu_back_shows_no_features() {
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |_| {
        assert_eq!(view.word(GHCB as usize + BITMAP), 0);
        assert_eq!(view.word(GHCB as usize + INFO_1), 0x0001_0005_0002_0002);
        reply(&view, GHCB, 0, 0);
    });
    ghcb.ap_creation(&mut port, &creation(ApRequest::Destroy)).unwrap();
}

#[test]
fn a_call_by_page_carries_the_registers_outside_of_it() {
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |exit| {
        assert_eq!(view.word(GHCB as usize + EXIT_CODE), 0x8000_0018);
        assert_eq!(view.word(GHCB as usize + INFO_1), 0);
        assert!(words(&view).iter().all(|(_, word)| *word != 0x77), "a register is in the page");
        exit.regs.unwrap().rax = 0x88;
        reply(&view, GHCB, 0, 0);
    });
    let mut regs = CallFrame { rax: 0x77, rcx: 0x77, rdx: 0x77, r8: 0x77, r9: 0x77 };
    ghcb.call_vmpl0(&mut port, &mut regs, || Ok(())).unwrap();
    assert_eq!((regs.rax, regs.rcx), (0x88, 0x77));
}

#[test]
fn the_mark_of_a_call_is_set_when_the_page_is_filled() {
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, |_| panic!("no exit without the mark"));
    let refused = ghcb.call_vmpl0(&mut port, &mut CallFrame::default(), || {
        assert_eq!(view.word(GHCB as usize + EXIT_CODE), 0x8000_0018);
        assert_eq!(view.word(GHCB as usize + BITMAP + 8), 0x001c_0000_0000_0000);
        Err(SnpError::NotServed)
    });
    assert_eq!((refused, port.msr), (Err(SnpError::NotServed), GHCB));
}

#[test]
fn ends_by_page_once_and_by_register_for_ever() {
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |exit| match exit.count {
        0 => {
            assert_eq!(view.word(GHCB as usize + EXIT_CODE), 0x8000_fffe);
            assert_eq!(view.word(GHCB as usize + INFO_1), 0x11c);
        }
        _ => assert_eq!(*exit.msr, 0x1_1c100),
    });
    let end = AssertUnwindSafe(|| ghcb.terminate(&mut port, reason(0x11)));
    assert!(std::panic::catch_unwind(end).is_err());
    assert_eq!((port.exits.len(), port.halts), (1002, 0));
}

#[test]
fn a_page_that_is_not_registered_is_not_used() {
    let memory = Memory::new();
    let mut port = MockPort::new(|exit| *exit.msr = !0xfff | 0x013);
    let refused = GhcbPage::register(&mut port, memory.clone(), frame(GHCB)).map(drop);
    assert!(matches!(refused, Err(SnpError::GhcbRefused { .. })));
    assert_eq!(port.msr, 0xabc_0000);
}

#[test]
fn a_page_outside_of_memory_is_an_error_before_the_exit() {
    let at = crate::testing::RAM as u64;
    let mut port = MockPort::new(move |exit| *exit.msr = at | 0x013);
    let mut ghcb = GhcbPage::register(&mut port, Memory::new(), frame(at)).unwrap();
    let error = ghcb.run_vmpl(&mut port, Vmpl::VMPL1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inaccessible);
    assert_eq!(port.exits.len(), 1);
}
