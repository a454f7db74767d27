//! Behaviour of the whole security processor, asked by an independent client.

use alloc::{format, vec::Vec};

use super::{
    client::{open, report_request, seal, seal_version},
    *,
};

mod channel;
mod facts;
mod services;

fn launched(seed: u64) -> SecurityProcessor {
    let mut psp = SecurityProcessor::new(seed);
    psp.measure(page_type::NORMAL, 0x1000, &[1; 4096]).unwrap();
    psp.finish(DEFAULT_POLICY, [0xaa; 32], None).unwrap();
    psp
}

fn key(psp: &SecurityProcessor, vmpck: u8) -> [u8; 32] {
    *psp.vmpck(vmpck).unwrap()
}

/// Asks with the next number of the key and returns the plaintext of the response.
fn ask(psp: &mut SecurityProcessor, vmpck: u8, msg_type: u8, payload: &[u8]) -> Result<Vec<u8>, u32> {
    ask_version(psp, vmpck, (msg_type, 1), payload)
}

fn ask_version(psp: &mut SecurityProcessor, vmpck: u8, kind: (u8, u8), payload: &[u8]) -> Result<Vec<u8>, u32> {
    let key = key(psp, vmpck);
    let seqno = psp.state().used[usize::from(vmpck)] + 1;
    let response = psp.guest_request(&seal_version(&key, vmpck, seqno, kind, payload))?;
    assert_eq!(response[0x35], kind.1, "the response has the version of the request");
    Ok(open(&key, vmpck, seqno + 1, kind.0 + 1, &response).expect("the response is authentic"))
}

#[test]
fn keys_are_distinct_and_come_from_the_seed() {
    let psp = SecurityProcessor::new(1);
    let other = SecurityProcessor::new(2);
    let mut keys: Vec<_> = [&psp, &other].iter().flat_map(|psp| (0..4).map(|number| key(psp, number))).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 8);
    assert_eq!(psp.state(), SecurityProcessor::new(1).state());
    assert_eq!(psp.secrets_page()[0x20..0x40], key(&psp, 0));
    assert_eq!(psp.vmpck(4), None);
}

#[test]
fn debug_text_has_no_key_bytes() {
    let psp = SecurityProcessor::new(3);
    let text = format!("{psp:?}");
    for number in 0..4 {
        let bytes = format!("{:?}", &key(&psp, number)[..4]);
        assert!(!text.contains(bytes.trim_matches(['[', ']'])), "VMPCK{number}");
    }
}

#[test]
fn launch_ends_once_and_requests_wait_for_it() {
    let mut psp = SecurityProcessor::new(1);
    let request = seal(&key(&psp, 0), 0, 1, 5, &report_request(0, [0; 64]));
    assert_eq!(psp.guest_request(&request), Err(status::INVALID_GUEST_STATE));
    assert_eq!(psp.finish(0, [0; 32], None), Err(status::POLICY_FAILURE));
    psp.measure(page_type::ZERO, 0, &[0; 4096]).unwrap();
    psp.finish(DEFAULT_POLICY, [0; 32], None).unwrap();
    let before = psp.state();
    assert_eq!(psp.measure(1, 0, &[0; 4096]), Err(status::INVALID_GUEST_STATE));
    assert_eq!(psp.finish(DEFAULT_POLICY, [0; 32], None), Err(status::INVALID_GUEST_STATE));
    assert_eq!(psp.state(), before);
    assert!(psp.guest_request(&request).is_ok());
}

#[test]
fn a_clone_is_a_snapshot() {
    let mut psp = launched(1);
    let snapshot = psp.clone();
    ask(&mut psp, 0, 17, &[0; 128]).unwrap();
    assert_ne!(psp.state(), snapshot.state());
    assert_eq!(snapshot.state(), launched(1).state());
}
