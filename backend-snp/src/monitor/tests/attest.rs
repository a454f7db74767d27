use std::boxed::Box;

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use coco_part_api::{Attest, AttestFor, Binding, DataForm, Error, ErrorKind, Evidence, Level, report_data};
use zerocopy::{FromBytes, IntoBytes};

use super::mock::{Did, World};
use super::*;
use crate::SnpError;
use crate::abi::guest_request::{GuestMessage, MessageType};

const KEY: [u8; 32] = [0x42; 32];
const REPORT: usize = 0x4a0;

/// A firmware that answers report requests: report data and VMPL as asked for, the message number in the measurement.
fn firmware(world: &mut World, request: u64, response: u64) {
    let mut page = GuestMessage::read_from_bytes(&world.page(request >> 12)).unwrap();
    let GuestMessage { header, payload } = &mut page;
    let len = usize::from(header.msg_size);
    let tag: [u8; 16] = *header.authtag.first_chunk().unwrap();
    let cipher = Aes256Gcm::new(&KEY.into());
    let asked = &mut payload[..len];
    cipher
        .decrypt_inout_detached(&header.iv().into(), header.additional_data(), asked.into(), &tag.into())
        .expect("the request is authentic");
    let (data, vmpl): ([u8; 64], [u8; 4]) = (*payload.first_chunk().unwrap(), *payload[64..].first_chunk().unwrap());

    let mut answer = [0; 0x20 + REPORT];
    answer[4..8].copy_from_slice(&(REPORT as u32).to_le_bytes());
    let report = &mut answer[0x20..];
    report[0x30..0x34].copy_from_slice(&vmpl);
    report[0x50..0x90].copy_from_slice(&data);
    report[0x90..0x98].copy_from_slice(&header.msg_seqno.to_le_bytes());
    header.msg_seqno += 1;
    header.msg_type = MessageType(header.msg_type.0 + 1);
    header.msg_size = answer.len() as u16;
    let tag = cipher
        .encrypt_inout_detached(&header.iv().into(), header.additional_data(), answer.as_mut_slice().into())
        .unwrap();
    header.authtag[..16].copy_from_slice(&tag);
    payload[..answer.len()].copy_from_slice(&answer);
    world.put(response, page.as_bytes());
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.machine.poke(SECRETS + 0x20, &KEY);
    bench.machine.with(|world| world.firmware = Some(Box::new(firmware)));
    bench
}

#[test]
fn own_evidence_has_the_bytes_as_they_are() {
    let bench = bench();
    let mut l1 = bench.start(0);
    let mut out = [0xff; REPORT + 8];
    let evidence = l1.attest(&[7; 64], &mut out).unwrap();
    assert_eq!(
        evidence,
        Evidence { len: REPORT, names: Level::Monitor, bound_by: Binding::Hardware, data: DataForm::Verbatim }
    );
    assert_eq!((out[0x30], &out[0x50..0x90], &out[REPORT..]), (0, &[7; 64][..], &[0xff; 8][..]));
}

#[test]
fn evidence_for_a_level_names_it_and_has_a_digest() {
    let bench = bench();
    let mut l1 = bench.start(0);
    let mut out = [0; REPORT];
    let evidence = l1.attest_for(GuestLevel::TWO, &[7; 64], b"manifest", &mut out).unwrap();
    assert_eq!((evidence.names, evidence.data), (Level::Guest(GuestLevel::TWO), DataForm::Digest));
    let digest = report_data(GuestLevel::TWO.into(), &[7; 64], b"manifest");
    assert_eq!((out[0x30], &out[0x50..0x90]), (2, &digest[..]));
    assert_eq!(
        l1.attest_for(GuestLevel::THREE, &[7; 64], b"", &mut out).unwrap_err(),
        SnpError::NoVcpu { level: GuestLevel::THREE }
    );
}

#[test]
fn vcpus_share_one_row_of_message_numbers() {
    let bench = bench();
    let (mut first, mut second) = (bench.start(0), bench.start(1));
    let mut out = [0; REPORT];
    for turn in 0..4 {
        let l1 = if turn % 2 == 0 { &mut first } else { &mut second };
        l1.attest(&[1; 64], &mut out).unwrap();
        assert_eq!(out[0x90], 1 + 2 * turn);
    }
}

#[test]
fn a_small_buffer_is_refused_before_anything_is_sent() {
    let bench = bench();
    let mut l1 = bench.start(0);
    let error = l1.attest(&[1; 64], &mut [0; REPORT - 1]).unwrap_err();
    assert_eq!(error, SnpError::BufferTooSmall { needed: REPORT, given: REPORT - 1 });
    assert_eq!(bench.machine.take_log(), []);
}

#[test]
fn a_lost_answer_closes_the_channel_for_all_vcpus() {
    let bench = bench();
    let (mut first, mut second) = (bench.start(0), bench.start(1));
    let mut out = [0; REPORT];
    first.attest(&[1; 64], &mut out).unwrap();
    let firmware = bench.machine.with(|world| world.firmware.take());
    assert!(first.attest(&[1; 64], &mut out).is_err());
    bench.machine.with(|world| world.firmware = firmware);
    bench.machine.take_log();
    for l1 in [&mut first, &mut second] {
        assert_eq!(l1.attest(&[1; 64], &mut out).unwrap_err().kind(), ErrorKind::ChannelClosed);
    }
    assert_eq!(bench.machine.take_log(), []);
}

#[test]
fn a_busy_key_is_not_waited_for_without_end() {
    let bench = bench();
    let mut l1 = bench.start(0);
    let guard = bench.shared.channel.try_lock().unwrap();
    assert_eq!(l1.attest(&[1; 64], &mut [0; REPORT]).unwrap_err().kind(), ErrorKind::Busy);
    drop(guard);
    assert!(bench.machine.take_log().iter().all(|did| *did == Did::Pause));
    assert!(l1.attest(&[1; 64], &mut [0; REPORT]).is_ok());
}

#[test]
fn the_key_leaves_the_secrets_page_and_the_channel_goes_on_behind_its_number() {
    let bench = bench();
    bench.machine.poke(SECRETS + 0xa0, &6_u32.to_le_bytes());
    bench.machine.poke(SECRETS + 0xb8, &1_u32.to_le_bytes());
    let mut first = bench.start(0);
    assert_eq!(bench.machine.page(SECRETS)[0x20..0x40], [0; 32]);
    let mut out = [0; REPORT];
    first.attest(&[1; 64], &mut out).unwrap();
    assert_eq!(out[0x90..0x98], 0x1_0000_0007_u64.to_le_bytes());
    bench.start(1).attest(&[1; 64], &mut out).unwrap();
    assert_eq!(out[0x90..0x98], 0x1_0000_0009_u64.to_le_bytes());
}

#[test]
fn a_key_that_stays_in_the_page_is_not_used() {
    let bench = bench();
    let before = bench.machine.with(|world| world.steps);
    drop(bench.start(0));
    // The store into the secrets page is the last step of a start.
    let steps = bench.machine.with(|world| world.steps) - before;
    let bench = self::bench();
    bench.machine.break_after(steps - 1, super::mock::Broken::Fault);
    assert!(L1::start(bench.machine.port(), bench.setup(0), &bench.shared).is_err());
    assert!(bench.shared.channel.try_lock().unwrap().is_none());
    assert_eq!(bench.machine.page(SECRETS)[0x20..0x40], KEY);
    assert!(bench.start(1).attest(&[1; 64], &mut [0; REPORT]).is_ok());
}

#[test]
fn the_end_wipes_the_key_first() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let bench = bench();
    let mut l1 = bench.start(0);
    // The mock host knows no way to end, and panics.
    let end = AssertUnwindSafe(|| l1.terminate(crate::host::reason(7)));
    assert!(catch_unwind(end).is_err());
    assert_eq!(bench.shared.channel.try_lock().unwrap().as_ref().map(|shared| shared.key.0), Some([0; 32]));
}
