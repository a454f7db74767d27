//! What the security processor does for an authentic request: reports, derived keys, TSC information.
//!
//! Payload layouts: fact table `guest_request`. A fault in a payload is answered in the status field of the response,
//! all other fields of which are zero then. The way a key is derived is the model's own; what goes into it is the
//! architecture's.

use alloc::{vec, vec::Vec};

use sha2::{Digest, Sha384};

use super::{
    SecurityProcessor,
    bytes::{is_zero, put, take, u32_at, u64_at},
    launch::Launched,
    message::{Header, msg_type},
    platform::{COMMITTED_TCB, LAUNCH_MIT_VECTOR, TSC_FACTOR, TSC_OFFSET, TSC_SCALE, Tcb},
    report::{self, REPORT_LEN},
    status,
};

const REPORT_REQ_LEN: usize = 0x60;
const REPORT_RSP_LEN: usize = 0x20 + REPORT_LEN;
const KEY_REQ_LEN: usize = 0x20;
const KEY_REQ_V2_LEN: usize = 0x28;
const KEY_RSP_LEN: usize = 0x40;
const TSC_INFO_LEN: usize = 128;

const ROOT_VMRK: u32 = 1 << 0;
const FIELD_POLICY: u64 = 1 << 0;
const FIELD_IMAGE_ID: u64 = 1 << 1;
const FIELD_FAMILY_ID: u64 = 1 << 2;
const FIELD_MEASUREMENT: u64 = 1 << 3;
const FIELD_GUEST_SVN: u64 = 1 << 4;
const FIELD_TCB_VERSION: u64 = 1 << 5;
const FIELD_LAUNCH_MIT_VECTOR: u64 = 1 << 6;

impl SecurityProcessor {
    /// Answers an authentic request with the payload of its response.
    pub(super) fn serve(&self, guest: &Launched, header: Header, request: &[u8]) -> Result<Vec<u8>, u32> {
        let (answer, response_len) = match (header.msg_type, header.msg_version, request.len()) {
            (msg_type::REPORT_REQ, 1, REPORT_REQ_LEN) => (self.report(guest, header.vmpck, request), REPORT_RSP_LEN),
            (msg_type::KEY_REQ, 1, KEY_REQ_LEN) | (msg_type::KEY_REQ, 2, KEY_REQ_V2_LEN) => {
                (self.derived_key(guest, header.vmpck, request), KEY_RSP_LEN)
            }
            (msg_type::TSC_INFO_REQ, 1, TSC_INFO_LEN) => (tsc_info(request), TSC_INFO_LEN),
            (msg_type::REPORT_REQ | msg_type::KEY_REQ | msg_type::TSC_INFO_REQ, ..) => {
                return Err(status::INVALID_PARAMETER);
            }
            (other, ..) if other % 2 == 1 && other < msg_type::LAST => {
                return Err(status::UNSUPPORTED);
            }
            _ => return Err(status::INVALID_PARAMETER),
        };
        Ok(answer.unwrap_or_else(|status| {
            let mut refusal = vec![0; response_len];
            put(&mut refusal, 0x00, &status.to_le_bytes());
            refusal
        }))
    }

    fn report(&self, guest: &Launched, vmpck: u8, request: &[u8]) -> Result<Vec<u8>, u32> {
        let vmpl = allowed_vmpl(vmpck, u32_at(request, 0x40))?;
        check_key_selection(u32_at(request, 0x44))?;
        check_zero(&request[0x48..])?;
        let report_data = take(request, 0x00);
        let report = report::make(guest, &self.report_id, self.report_version, vmpl, &report_data);

        let mut response = vec![0; REPORT_RSP_LEN];
        put(&mut response, 0x04, &(REPORT_LEN as u32).to_le_bytes());
        put(&mut response, 0x20, &report);
        Ok(response)
    }

    fn derived_key(&self, guest: &Launched, vmpck: u8, request: &[u8]) -> Result<Vec<u8>, u32> {
        let root_select = u32_at(request, 0x00);
        let fields = u64_at(request, 0x08);
        let vmpl = allowed_vmpl(vmpck, u32_at(request, 0x10))?;
        let guest_svn = u32_at(request, 0x14);
        let tcb: [u8; 8] = take(request, 0x18);
        // Version 1 of the message knows neither the field nor its selection.
        let (mit_vector, known_fields) = if request.len() == KEY_REQ_V2_LEN {
            (u64_at(request, 0x20), 2 * FIELD_LAUNCH_MIT_VECTOR - 1)
        } else {
            (0, FIELD_LAUNCH_MIT_VECTOR - 1)
        };
        let block = guest.id_block.as_ref();

        check_key_selection(root_select >> 1)?;
        check_zero(&request[0x04..0x08])?;
        let is_within_launch = guest_svn <= block.map_or(0, |block| block.guest_svn)
            && Tcb::from_bytes(tcb).is_some_and(|tcb| tcb.is_at_most(COMMITTED_TCB))
            && mit_vector & !LAUNCH_MIT_VECTOR == 0;
        if fields & !known_fields != 0 || !is_within_launch {
            return Err(status::INVALID_PARAMETER);
        }

        let root = match root_select & ROOT_VMRK {
            0 => &self.vcek_root,
            _ => &self.vmrk,
        };
        let mut mix = Sha384::new()
            .chain_update(b"coco-part model: derived key")
            .chain_update(root)
            .chain_update(fields.to_le_bytes())
            .chain_update(vmpl.to_le_bytes());
        let mut add = |field: u64, value: &[u8]| {
            if fields & field != 0 {
                mix.update(value);
            }
        };
        add(FIELD_POLICY, &guest.policy.to_le_bytes());
        add(FIELD_IMAGE_ID, &block.map_or([0; 16], |block| block.image_id));
        add(FIELD_FAMILY_ID, &block.map_or([0; 16], |block| block.family_id));
        add(FIELD_MEASUREMENT, &guest.digest);
        add(FIELD_GUEST_SVN, &guest_svn.to_le_bytes());
        add(FIELD_TCB_VERSION, &tcb);
        add(FIELD_LAUNCH_MIT_VECTOR, &mit_vector.to_le_bytes());

        let mut response = vec![0; KEY_RSP_LEN];
        put(&mut response, 0x20, &mix.finalize()[..32]);
        Ok(response)
    }
}

fn tsc_info(request: &[u8]) -> Result<Vec<u8>, u32> {
    check_zero(request)?;
    let mut response = vec![0; TSC_INFO_LEN];
    put(&mut response, 0x08, &TSC_SCALE.to_le_bytes());
    put(&mut response, 0x10, &TSC_OFFSET.to_le_bytes());
    put(&mut response, 0x18, &TSC_FACTOR.to_le_bytes());
    Ok(response)
}

/// A key speaks for its own level and the levels below.
fn allowed_vmpl(vmpck: u8, vmpl: u32) -> Result<u32, u32> {
    (u32::from(vmpck)..=3).contains(&vmpl).then_some(vmpl).ok_or(status::INVALID_PARAMETER)
}

/// No VLEK is loaded: only "VLEK, else VCEK" and "VCEK" can be had.
fn check_key_selection(selection: u32) -> Result<(), u32> {
    match selection {
        0 | 1 => Ok(()),
        2 => Err(status::INVALID_KEY),
        _ => Err(status::INVALID_PARAMETER),
    }
}

fn check_zero(reserved: &[u8]) -> Result<(), u32> {
    is_zero(reserved).then_some(()).ok_or(status::INVALID_PARAMETER)
}
