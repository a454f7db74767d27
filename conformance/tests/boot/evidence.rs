//! Reports of the security processor of the emulator's machine.

use backend_snp::launch::Igvm;
use machine::psp::{SecurityProcessor, msg_type};

#[path = "../../machine/src/psp/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod client;

/// Seed of the machine in the emulator.
const SEED: u64 = 1;

/// A security processor that has launched the file.
pub(crate) fn launched(file: &[u8]) -> SecurityProcessor {
    let igvm = Igvm::try_new(file).unwrap();
    let mut psp = SecurityProcessor::new(SEED);
    for update in igvm.updates() {
        psp.measure(update.page_type.number(), update.frame.start_address().as_u64(), update.contents).unwrap();
    }
    psp.finish(igvm.policy().bits(), [0; 32], None).unwrap();
    psp
}

/// The report for `vmpl` over `report_data`, as a guest gets it under the key of that level.
pub(crate) fn report(psp: &mut SecurityProcessor, vmpl: u8, report_data: [u8; 64]) -> Vec<u8> {
    let secrets = psp.secrets_page();
    let key = secrets[0x20 + 32 * usize::from(vmpl)..][..32].try_into().unwrap();
    let payload = client::report_request(vmpl.into(), report_data);
    let used = psp.state().used[usize::from(vmpl)];
    let request = client::seal(key, vmpl, used + 1, msg_type::REPORT_REQ, &payload);
    let response = psp.guest_request(&request).unwrap();
    let answer = client::open(key, vmpl, used + 2, msg_type::REPORT_REQ + 1, &response).unwrap();
    answer[0x20..].to_vec()
}
