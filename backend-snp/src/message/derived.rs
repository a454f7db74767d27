//! Derived keys and the values of the secure TSC.

use coco_part_api::GuestMemory;
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroize;

use super::Channel;
use super::exchange::{Request, accepted};
use crate::abi::guest_messages::{GuestFieldSelect, KeyRequest, KeyResponse, TscInfoRequest, TscInfoResponse};
use crate::abi::guest_request::MessageType;
use crate::error::SnpError;
use crate::host::Host;
use crate::instr::Port;

/// Version of a key request that has the mitigation vector.
const WITH_MITIGATIONS: u8 = 2;
/// Bytes of a key request before that.
const WITHOUT_MITIGATIONS: usize = core::mem::offset_of!(KeyRequest, launch_mit_vector);

/// A key that the firmware derived. Not `Copy`, not `Debug`; wiped when dropped.
pub struct DerivedKey([u8; 32]);

impl DerivedKey {
    /// A place for a key, zeros so far.
    pub const fn empty() -> Self {
        Self([0; 32])
    }

    /// The key.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for DerivedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Values of the secure TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscInfo {
    /// For `guest_tsc_scale` of a VMSA: 8.32 fixed point.
    pub scale: u64,
    /// For `guest_tsc_offset` of a VMSA.
    pub offset: u64,
    /// Deviation of the reported TSC frequency in units of 1/100000, as in the secrets page.
    pub factor: u32,
}

impl<M: GuestMemory> Channel<M> {
    /// Has the firmware derive a key into `out`, which keeps what it has on an error.
    ///
    /// `request` names at least the channel's level and values no newer than those at launch, else the firmware refuses.
    /// The mitigation vector goes out only where it is selected: that takes a newer message, which older firmware refuses.
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub fn derived_key<P: Port>(
        &mut self,
        port: &mut P,
        host: &mut Host<M>,
        request: &KeyRequest,
        out: &mut DerivedKey,
    ) -> Result<(), SnpError> {
        host.page()?;
        let payload = request.as_bytes();
        let is_newer = request.guest_field_select.contains(GuestFieldSelect::LAUNCH_MITIGATION_VECTOR);
        let message = if is_newer {
            Request { version: WITH_MITIGATIONS, ..Request::new(MessageType::KEY_REQ, payload) }
        } else {
            Request::new(MessageType::KEY_REQ, payload.get(..WITHOUT_MITIGATIONS).unwrap_or(payload))
        };
        let mut response = KeyResponse::new_zeroed();
        let reply = self.exchange(port, host, &message, response.as_mut_bytes())?;
        accepted(response.status)?;
        self.insist(reply.expect::<KeyResponse>())?;
        out.0.copy_from_slice(&response.derived_key);
        Ok(())
    }

    /// Asks for the values of the secure TSC, for the VMSAs of further vCPUs.
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub fn tsc_info<P: Port>(&mut self, port: &mut P, host: &mut Host<M>) -> Result<TscInfo, SnpError> {
        host.page()?;
        let payload = TscInfoRequest::new_zeroed();
        let message = Request::new(MessageType::TSC_INFO_REQ, payload.as_bytes());
        let mut response = TscInfoResponse::new_zeroed();
        let reply = self.exchange(port, host, &message, response.as_mut_bytes())?;
        accepted(response.status)?;
        self.insist(reply.expect::<TscInfoResponse>())?;
        Ok(TscInfo { scale: response.tsc_scale, offset: response.tsc_offset, factor: response.tsc_factor })
    }
}
