//! Reports, derived keys and TSC information.

use alloc::vec;

use super::*;

const STATUS_INVALID_PARAMETER: [u8; 4] = [0x16, 0, 0, 0];

fn key_request(root: u32, fields: u64, vmpl: u32, guest_svn: u32, tcb: [u8; 8]) -> Vec<u8> {
    let mut payload = vec![];
    payload.extend_from_slice(&root.to_le_bytes());
    payload.extend_from_slice(&[0; 4]);
    payload.extend_from_slice(&fields.to_le_bytes());
    payload.extend_from_slice(&vmpl.to_le_bytes());
    payload.extend_from_slice(&guest_svn.to_le_bytes());
    payload.extend_from_slice(&tcb);
    payload
}

#[test]
fn report_states_request_and_launch() {
    let mut psp = launched(1);
    let answer = ask(&mut psp, 1, 5, &report_request(2, [0x42; 64])).unwrap();
    assert_eq!(answer.len(), 0x4c0);
    assert_eq!(answer[..8], [0, 0, 0, 0, 0xa0, 0x04, 0, 0]);
    assert_eq!(answer[0x08..0x20], [0; 24]);
    let report = &answer[0x20..];
    assert_eq!(report[0x030..0x034], [2, 0, 0, 0]);
    assert_eq!(report[0x050..0x090], [0x42; 64]);
    assert_eq!(report[0x008..0x010], DEFAULT_POLICY.to_le_bytes());
    assert_eq!(report[0x090..0x0c0], psp.digest());
    assert_eq!(report[0x0c0..0x0e0], [0xaa; 32]);
    psp.set_report_version(ReportVersion::V5);
    let answer = ask(&mut psp, 1, 5, &report_request(2, [0x42; 64])).unwrap();
    assert_eq!(answer[0x20], 5);
}

#[test]
fn a_key_speaks_for_its_own_level_and_below() {
    let mut psp = launched(1);
    for vmpck in 0..4 {
        for vmpl in [0, 1, 2, 3, 4, u32::MAX] {
            let is_allowed = (u32::from(vmpck)..4).contains(&vmpl);
            let report = ask(&mut psp, vmpck, 5, &report_request(vmpl, [0; 64])).unwrap();
            let derived = ask(&mut psp, vmpck, 3, &key_request(0, 0, vmpl, 0, [0; 8])).unwrap();
            for answer in [report, derived] {
                if is_allowed {
                    assert_eq!(answer[..4], [0; 4], "VMPCK{vmpck} VMPL{vmpl}");
                } else {
                    assert_eq!(answer[..4], STATUS_INVALID_PARAMETER, "VMPCK{vmpck} VMPL{vmpl}");
                    assert!(answer[4..].iter().all(|&byte| byte == 0));
                }
            }
        }
    }
    assert_eq!(psp.nonce_reuse(), None);
}

#[test]
fn refuses_reserved_bits_and_missing_keys_inside_the_response() {
    let mut psp = launched(1);
    let with = |at: usize, value: u8| {
        let mut payload = report_request(0, [0; 64]);
        payload[at] = value;
        payload
    };
    for (at, value, status) in
        [(0x44, 1, 0x00), (0x44, 2, 0x27), (0x44, 3, 0x16), (0x44, 4, 0x16), (0x48, 1, 0x16), (0x5f, 1, 0x16)]
    {
        let answer = ask(&mut psp, 0, 5, &with(at, value)).unwrap();
        assert_eq!(answer[..4], [status, 0, 0, 0], "byte {at:#x} = {value}");
    }
}

#[test]
fn tsc_information_has_the_known_bytes() {
    let mut psp = launched(1);
    let answer = ask(&mut psp, 0, 17, &[0; 128]).unwrap();
    assert_eq!(
        answer[..0x1c],
        [
            0, 0, 0, 0, 0, 0, 0, 0, // status
            0, 0, 0, 0, 1, 0, 0, 0, // scale 1.0
            0, 0, 0, 0, 0, 0, 0, 0, // offset
            200, 0, 0, 0, // factor, as in the secrets page
        ]
    );
    assert_eq!(answer[0x1c..], [0; 100]);
    let answer = ask(&mut psp, 0, 17, &[1; 128]).unwrap();
    assert_eq!(answer[..4], STATUS_INVALID_PARAMETER);
}

#[test]
fn derived_keys_depend_on_what_was_selected() {
    let mut psp = launched(1);
    let mut key_of = |payload: &[u8]| -> [u8; 32] {
        let answer = ask(&mut psp, 0, 3, payload).unwrap();
        assert_eq!(answer[..0x20], [0; 0x20]);
        answer[0x20..].try_into().unwrap()
    };
    let plain = key_of(&key_request(0, 0, 0, 0, [0; 8]));
    assert_eq!(plain, key_of(&key_request(0, 0, 0, 0, [0; 8])));
    assert_eq!(plain, key_of(&key_request(0, 0, 0, 0, [1, 0, 0, 0, 0, 0, 0, 0])), "not selected");
    let mut keys = vec![plain];
    keys.push(key_of(&key_request(1, 0, 0, 0, [0; 8])));
    keys.push(key_of(&key_request(0, 0, 1, 0, [0; 8])));
    for bit in 0..6 {
        keys.push(key_of(&key_request(0, 1 << bit, 0, 0, [0; 8])));
    }
    keys.push(key_of(&key_request(0, 1 << 5, 0, 0, [1, 0, 0, 0, 0, 0, 0, 0])));
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

#[test]
fn a_sealing_key_survives_a_relaunch_unless_bound_to_the_guest() {
    let answer = |seed, root| ask(&mut launched(seed), 0, 3, &key_request(root, 1 << 3, 0, 0, [0; 8])).unwrap();
    assert_eq!(answer(1, 0), answer(2, 0));
    assert_ne!(answer(1, 1), answer(2, 1));
}

#[test]
fn derived_keys_are_limited_to_what_was_launched() {
    let mut psp = launched(1);
    let mut reserved = key_request(0, 0, 0, 0, [0; 8]);
    reserved[0x04] = 1;
    for (payload, status) in [
        (key_request(0, 0, 0, 1, [0; 8]), 0x16),
        (key_request(0, 0, 0, 0, [4, 1, 0, 0, 0, 0, 0x17, 0xda]), 0x00),
        (key_request(0, 0, 0, 0, [4, 1, 0, 0, 0, 0, 0x17, 0xdb]), 0x16),
        (key_request(0, 0, 0, 0, [5, 1, 0, 0, 0, 0, 0x17, 0xda]), 0x16),
        (key_request(0, 0, 0, 0, [0, 0, 1, 0, 0, 0, 0, 0]), 0x16),
        (key_request(0, 1 << 6, 0, 0, [0; 8]), 0x16),
        (key_request(0, 1 << 63, 0, 0, [0; 8]), 0x16),
        (key_request(4, 0, 0, 0, [0; 8]), 0x27),
        (key_request(6, 0, 0, 0, [0; 8]), 0x16),
        (key_request(8, 0, 0, 0, [0; 8]), 0x16),
        (reserved, 0x16),
    ] {
        let answer = ask(&mut psp, 0, 3, &payload).unwrap();
        assert_eq!(answer[..4], [status, 0, 0, 0], "{payload:02x?}");
    }
    for (mit_vector, status) in [(0x3u64, 0x00), (0x7, 0x16)] {
        let mut payload = key_request(0, 1 << 6, 0, 0, [0; 8]);
        payload.extend_from_slice(&mit_vector.to_le_bytes());
        let answer = ask_version(&mut psp, 0, (3, 2), &payload).unwrap();
        assert_eq!(answer[..4], [status, 0, 0, 0], "{mit_vector:#x}");
    }
}
