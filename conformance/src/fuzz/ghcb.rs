//! What the host writes into the GHCB page and the GHCB MSR.

use std::cell::Cell;

use backend_snp::SnpError;
use backend_snp::abi::ap::{ApCreation, ApRequest};
use backend_snp::abi::ghcb_msr::{self, CpuidRegister};
use backend_snp::abi::nae::HvFeatures;
use backend_snp::abi::sev_features::SevFeatures;
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::host::{GhcbPage, Host, HostChannel, MsrProtocol, hv_features, negotiate, register_ghcb};
use backend_snp::instr::CallFrame;
use coco_part_api::{FrameRange, HostState, Stopped};
use x86_64::PhysAddr;

use super::bytes::{Bytes, Memory};
use super::port::{HostilePort, no_adjust};
use crate::world::layout::{PAGE, frame};

/// Where the GHCB page is.
pub(super) const GHCB: u64 = 0x4000;
/// Offset of SW_EXITINFO1; from here to the end of the valid bitmap is what an answer is read from.
const ANSWER: u64 = 0x398;
/// Bytes of it.
const ANSWER_LEN: usize = 0x68;
/// Offset of the head of a page state list.
const LIST: u64 = 0x800;

/// What the host wrote last.
type Last = Cell<[u8; ANSWER_LEN]>;

/// Serves the registration honestly, and anything else by the next bytes of the input.
fn serve(memory: &Memory, bytes: &mut Bytes<'_>, last: &Last, msr: &mut u64) {
    if *msr == GHCB | 0x12 {
        *msr = GHCB | 0x13;
        return;
    }
    let before: [u8; 8] = memory.peek(GHCB + 0x3a8);
    assert!(before == [0; 8] || before == (GHCB + LIST).to_le_bytes(), "SW_SCRATCH of an earlier request: {before:x?}");
    let answer = bytes.take();
    last.set(answer);
    memory.poke(GHCB + ANSWER, &answer);
    memory.poke(GHCB + LIST, &bytes.take::<8>());
    *msr = bytes.u64();
}

/// What an answer says, read the plain way: SW_EXITINFO1 and SW_EXITINFO2, `None` without their valid bits.
fn fields(answer: &[u8; ANSWER_LEN]) -> [Option<u64>; 2] {
    // The bitmap is at offset 0x58, a bit for each quadword of the page: 115 and 116.
    [(0, 0x08), (8, 0x10)].map(|(at, bit)| {
        let word = u64::from_le_bytes(*answer[at..].first_chunk().expect("inside"));
        (answer[0x58 + 14] & bit != 0).then_some(word)
    })
}

/// The error that an answer has to become, if it is none of success.
fn expected(answer: &[u8; ANSWER_LEN]) -> Result<(), fn(&SnpError) -> bool> {
    match fields(answer) {
        [None, _] => Err(|error| matches!(error, SnpError::MissingField { .. })),
        [Some(status), info] => match (status & 0xffff_ffff, info) {
            (0, _) => Ok(()),
            (1 | 2, None) => Err(|error| matches!(error, SnpError::MissingField { .. })),
            // Valid, an exception, and #UD or #GP.
            (1, Some(info)) if info >> 31 & 1 == 1 && info >> 8 & 7 == 3 && matches!(info & 0xff, 6 | 13) => {
                Err(|error| matches!(error, SnpError::Exception { .. }))
            }
            (1, Some(_)) => Err(|error| matches!(error, SnpError::ForbiddenException { .. })),
            (2, Some(_)) => Err(|error| matches!(error, SnpError::MalformedRequest { .. })),
            _ => Err(|error| matches!(error, SnpError::UnknownStatus { .. })),
        },
    }
}

fn compare<T: std::fmt::Debug>(result: &Result<T, SnpError>, answer: &[u8; ANSWER_LEN]) -> bool {
    match (result, expected(answer)) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(is)) if is(error) => {}
        _ => panic!("{result:?} for {answer:x?}"),
    }
    result.is_ok()
}

/// One request by GHCB page, chosen by the first byte.
pub(super) fn answer(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let kind = bytes.u8();
    let (memory, last) = (Memory::new(), Last::new([0; ANSWER_LEN]));
    let mut host = |msr: &mut u64| serve(&memory, &mut bytes, &last, msr);
    let mut adjust = no_adjust;
    let mut port = HostilePort::new(&mut host, &mut adjust);
    let page = GhcbPage::register(&mut port, memory.clone(), frame(GHCB)).expect("registered");
    let mut page = Host::Page(page);
    let taken = match kind % 4 {
        0 => compare(&page.run_vmpl(&mut port, Vmpl::VMPL2), &last.get()),
        1 => {
            let mut registers = CallFrame::default();
            compare(&page.call_vmpl0(&mut port, &mut registers, || Ok(())), &last.get())
        }
        2 => {
            let request = ApRequest::Create { features: SevFeatures::SNP_ACTIVE };
            let request = ApCreation { request, vmpl: Vmpl::VMPL2, apic_id: 1, vmsa: frame(0x7000) };
            compare(&page.ap_creation(&mut port, &request), &last.get())
        }
        _ => {
            let result = page.guest_request(&mut port, frame(0x8000), frame(0x9000));
            match (fields(&last.get()), expected(&last.get())) {
                // Success needs the second word too.
                ([_, None], Ok(())) => {
                    assert!(matches!(result, Err(SnpError::MissingField { .. })));
                    false
                }
                ([_, Some(status)], Ok(())) => {
                    assert_eq!(result.map(|status| status.bits()), Ok(status));
                    true
                }
                _ => compare(&result, &last.get()),
            }
        }
    };
    assert_eq!(port.exits, 2, "registration and one request");
    taken
}

/// An answer with both valid bits.
fn good(info_1: u64, info_2: u64) -> Vec<u8> {
    let mut bytes = vec![0; ANSWER_LEN];
    bytes[..8].copy_from_slice(&info_1.to_le_bytes());
    bytes[8..16].copy_from_slice(&info_2.to_le_bytes());
    bytes[0x58 + 14] = 0x18;
    bytes
}

pub(super) fn answer_examples() -> Vec<Vec<u8>> {
    let infos = [(0, 0), (1, 0x8000_0306), (1, 0x8000_030d), (2, 5), (0, 2 << 32)];
    let all = (0..4u8).flat_map(|kind| infos.map(|(one, two)| [vec![kind], good(one, two)].concat()));
    all.collect()
}

/// A page state change of up to 1024 pages, by list.
pub(super) fn page_state(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let (to, first, frames) = (bytes.u8(), bytes.u16(), u64::from(bytes.u16()) % 1024 + 1);
    let to = if to & 1 == 0 { HostState::Private } else { HostState::Shared };
    let range = FrameRange::new(PhysAddr::new(u64::from(first) * PAGE), frames * PAGE).expect("aligned");
    let entries = range.blocks().count() as u64;
    let (memory, last) = (Memory::new(), Last::new([0; ANSWER_LEN]));
    let mut host = |msr: &mut u64| serve(&memory, &mut bytes, &last, msr);
    let mut adjust = no_adjust;
    let mut port = HostilePort::new(&mut host, &mut adjust);
    let mut page = GhcbPage::register(&mut port, memory.clone(), frame(GHCB)).expect("registered");
    let result = page.page_state(&mut port, range, to);
    // A list of n entries goes out n + 1 times at most, whatever the host's cursor does.
    let lists = entries.div_ceil(253);
    assert!(port.exits <= 1 + entries + lists, "{} exits for {entries} entries", port.exits);
    match result {
        Ok(()) => {
            assert!(port.exits > lists, "each list was sent");
            assert!(matches!(fields(&last.get()), [Some(_), Some(0)]));
            true
        }
        Err(Stopped { done, .. }) => {
            assert!(done <= frames);
            let boundary = range.blocks().scan(0, |sum, block| {
                *sum += block.range().frames();
                Some(*sum)
            });
            assert!(done == 0 || boundary.into_iter().any(|sum| sum == done), "{done} frames are no whole entries");
            false
        }
    }
}

pub(super) fn page_state_examples() -> Vec<Vec<u8>> {
    let head = |first: u16, frames: u16| [vec![0], first.to_le_bytes().to_vec(), (frames - 1).to_le_bytes().to_vec()];
    // Cursor and last entry of the list that comes back.
    let list = |cursor: u16, end: u16, info: u64| {
        let mut bytes = good(0, info);
        bytes.extend(cursor.to_le_bytes());
        bytes.extend(end.to_le_bytes());
        bytes.extend([0; 12]);
        bytes
    };
    vec![
        [head(7, 3).concat(), list(3, 2, 0)].concat(),
        [head(7, 3).concat(), list(1, 2, 0), list(3, 2, 0)].concat(),
        [head(7, 3).concat(), list(2, 2, 0x1_0000_0002)].concat(),
        [head(0, 1024).concat(), list(2, 1, 0)].concat(),
        [head(1, 511).concat(), list(253, 252, 0), list(253, 252, 0), list(5, 4, 0)].concat(),
    ]
}

/// One request by MSR protocol, chosen by the first byte; every answer is the next word.
pub(super) fn msr(data: &[u8]) -> bool {
    let mut bytes = Bytes::new(data);
    let (kind, before) = (bytes.u8(), bytes.u64());
    let got = Cell::new(0);
    let mut host = |msr: &mut u64| {
        *msr = bytes.u64();
        got.set(*msr);
    };
    let mut adjust = no_adjust;
    let mut port = HostilePort::new(&mut host, &mut adjust);
    port.msr = before;
    let page = frame(0x12_3000);
    let taken = match kind % 6 {
        0 => negotiate(&mut port).is_ok_and(|info| {
            assert!(info.min_version <= 2 && 2 <= info.max_version);
            assert_eq!((got.get() & 0xfff, got.get() >> 48), (1, u64::from(info.max_version)));
            true
        }),
        1 => {
            let needed = HvFeatures::from_bits_truncate(before);
            hv_features(&mut port, needed).is_ok_and(|features| {
                assert!(features.contains(needed));
                // Less than the answer says where a feature lacks another one that it needs.
                assert_eq!((got.get() & 0xfff, features.bits() & !(got.get() >> 12)), (0x81, 0));
                true
            })
        }
        2 => {
            let taken = register_ghcb(&mut port, page).is_ok();
            assert_eq!(taken, got.get() == 0x12_3013);
            taken
        }
        3 => {
            let taken = MsrProtocol.run_vmpl(&mut port, Vmpl::VMPL1).is_ok();
            assert!(!taken || (got.get() & 0xfff == 0x17 && got.get() >> 32 == 0));
            taken
        }
        4 => {
            let range = FrameRange::new(page.start_address(), 3 * PAGE).expect("aligned");
            match MsrProtocol.page_state(&mut port, range, HostState::Private) {
                Ok(()) => {
                    assert_eq!(port.exits, 3);
                    true
                }
                Err(Stopped { done, .. }) => {
                    assert_eq!(done + 1, port.exits);
                    false
                }
            }
        }
        _ => parsers(before),
    };
    assert_eq!(port.msr, before, "the register has its old value");
    assert!(port.exits <= 3);
    taken
}

/// The answers that no request of the host channel reads.
fn parsers(raw: u64) -> bool {
    let mut taken = false;
    for register in [CpuidRegister::Eax, CpuidRegister::Ebx, CpuidRegister::Ecx, CpuidRegister::Edx] {
        if let Ok(value) = ghcb_msr::cpuid_response(raw, register) {
            assert_eq!((u64::from(value), raw & 0xfff), (raw >> 32, 5));
            taken = true;
        }
    }
    if let Ok(Some(page)) = ghcb_msr::preferred_ghcb_response(raw) {
        assert_eq!(page.start_address().as_u64() | 0x11, raw);
        taken = true;
    }
    if ghcb_msr::ap_reset_hold_response(raw).is_ok() {
        assert_eq!(raw & 0xfff, 7);
        taken = true;
    }
    taken
}

pub(super) fn msr_examples() -> Vec<Vec<u8>> {
    let answers = [0x2_0001_0000_0001 | 51 << 24, 0x7f_f081, 0x12_3013, 0x17, 0x15, 0x5];
    let example = |kind: usize, before: u64, answers: &[u64]| {
        let words = answers.iter().flat_map(|word| word.to_le_bytes());
        [kind as u8].into_iter().chain(before.to_le_bytes()).chain(words).collect::<Vec<u8>>()
    };
    let mut all: Vec<_> = answers.iter().enumerate().map(|(kind, answer)| example(kind, 0, &[*answer; 3])).collect();
    all.extend([0x5, 0x4000_0005, 0x12_3011, 0x1007].map(|raw| example(5, raw, &[])));
    all
}
