//! The request that gives the host a VMSA to run, or takes it back.
//!
//! Source: 56421 version 2, `facts/ap_creation.csv`.

use x86_64::structures::paging::PhysFrame;

use super::sev_features::SevFeatures;
use super::vmpl::Vmpl;

/// What the host shall do with the VMSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApRequest {
    /// Use it from the next INIT on.
    CreateOnInit {
        /// Features; the same as in the VMSA.
        features: SevFeatures,
    },
    /// Run it now.
    Create {
        /// Features; the same as in the VMSA.
        features: SevFeatures,
    },
    /// Stop running the vCPU.
    Destroy,
}

impl ApRequest {
    /// Returns the number of the request.
    pub const fn number(self) -> u16 {
        match self {
            Self::CreateOnInit { .. } => 0,
            Self::Create { .. } => 1,
            Self::Destroy => 2,
        }
    }
}

bit_struct! {
    /// SW_EXITINFO1 of [`NaeCode::AP_CREATION`](super::nae::NaeCode::AP_CREATION).
    pub struct ApCreationInfo(u64) {
        /// Number of the request, see [`ApRequest`].
        request / with_request @ 15:0,
        /// Number of the VMSA's level.
        vmpl / with_vmpl @ 19:16,
        /// Interrupt controller number of the vCPU.
        apic_id / with_apic_id @ 63:32,
    }
}

/// One request about a VMSA.
///
/// The page has to carry the VMSA attribute before the host is asked to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApCreation {
    /// What to do.
    pub request: ApRequest,
    /// Level of the VMSA.
    pub vmpl: Vmpl,
    /// Interrupt controller number of the vCPU.
    pub apic_id: u32,
    /// The VMSA page. Hosts refuse one at a multiple of 2 MiB.
    pub vmsa: PhysFrame,
}

impl ApCreation {
    /// Returns SW_EXITINFO1.
    pub const fn exit_info_1(&self) -> ApCreationInfo {
        ApCreationInfo::from_bits_retain(0)
            .with_request(self.request.number() as u64)
            .with_vmpl(self.vmpl.number() as u64)
            .with_apic_id(self.apic_id as u64)
    }

    /// Returns SW_EXITINFO2.
    pub const fn exit_info_2(&self) -> u64 {
        self.vmsa.start_address().as_u64()
    }

    /// Returns RAX, where the request has one.
    pub const fn rax(&self) -> Option<u64> {
        match self.request {
            ApRequest::CreateOnInit { features } | ApRequest::Create { features } => Some(features.bits()),
            ApRequest::Destroy => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use x86_64::PhysAddr;

    use super::*;

    #[test]
    fn a_request_fills_three_registers() {
        let features = SevFeatures::SNP_ACTIVE;
        let mut request = ApCreation {
            request: ApRequest::Create { features },
            vmpl: Vmpl::VMPL2,
            apic_id: 0x89ab_cdef,
            vmsa: PhysFrame::containing_address(PhysAddr::new(0x7000)),
        };
        assert_eq!(request.exit_info_1().bits(), 0x89ab_cdef_0002_0001);
        assert_eq!((request.exit_info_2(), request.rax()), (0x7000, Some(1)));
        request.request = ApRequest::Destroy;
        assert_eq!((request.exit_info_1().request(), request.rax()), (2, None));
    }
}
