//! Where this guest runs: what L1 wrote, checked against what the machine shows.

use coco_part_api::vcpu::frame_at;
use coco_part_api::{FrameRange, GuestLevel, GuestMemory};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::abi::page::{Page, PageSize};
use crate::abi::rmp::{RmpAttributes, RmpCode, VmplPermissions};
use crate::abi::secrets::SecretsPage;
use crate::abi::sev_features::SevFeatures;
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;
use crate::features::Policy;
use crate::instr::Port;

/// Level, features, and L1's memory. Found once, on the first vCPU, before anything else is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    level: GuestLevel,
    vmpl: Vmpl,
    features: SevFeatures,
    call_area: PhysFrame,
    monitor: FrameRange,
}

impl Placement {
    /// Reads the secrets page that L1 filled and probes the own level.
    ///
    /// The level that the page names is proved with RMPADJUST, which works towards less privileged levels only: it has to
    /// fail towards the own level and to succeed towards the next one. A probe that succeeds takes every right of that
    /// lower level on `scratch` away, so `scratch` is a private page of the caller that nobody below uses.
    ///
    /// # Errors
    /// [`SnpError::SevStatus`] for features that are missing or not understood (CP-05); [`SnpError::NoSvsm`],
    /// [`SnpError::BadSecrets`] for the page (CP-06); [`SnpError::LevelMismatch`] when machine and page disagree (CP-07);
    /// [`SnpError::Rmpadjust`], [`SnpError::Fault`] for a probe that tells nothing; [`SnpError::Memory`].
    pub fn find<P: Port, M: GuestMemory>(
        port: &mut P,
        private: &M,
        secrets: PhysFrame,
        scratch: PhysFrame,
    ) -> Result<Self, SnpError> {
        let features = Policy::GUEST.check(port.read_sev_status())?;
        let at = secrets.start_address();
        let page: SecretsPage = private.read_value(at).map_err(SnpError::memory(at))?;
        let (level, call_area, monitor) = check(&page)?;
        let vmpl = probe(port, level, scratch)?;
        Ok(Self { level, vmpl, features, call_area, monitor })
    }

    /// The own level.
    pub const fn level(&self) -> GuestLevel {
        self.level
    }

    /// The own level as the vendor names it.
    pub const fn vmpl(&self) -> Vmpl {
        self.vmpl
    }

    /// Features that are on for this level.
    pub const fn features(&self) -> SevFeatures {
        self.features
    }

    /// Call area of the first vCPU.
    pub const fn call_area(&self) -> PhysFrame {
        self.call_area
    }

    /// Memory that is L1's.
    pub const fn monitor(&self) -> FrameRange {
        self.monitor
    }
}

/// Checks a private copy of the page.
///
/// Every known version has the fields that are read here; what another one has there nobody knows.
fn check(page: &SecretsPage) -> Result<(GuestLevel, PhysFrame, FrameRange), SnpError> {
    let bad = |field| SnpError::BadSecrets { field };
    if !SecretsPage::VERSIONS.contains(&page.version) {
        return Err(bad("version"));
    }
    if page.svsm_size == 0 {
        return Err(SnpError::NoSvsm);
    }
    let level = GuestLevel::try_from(page.svsm_guest_vmpl).map_err(|_| bad("svsm_guest_vmpl"))?;
    let call_area = frame_at(page.svsm_caa).ok_or(bad("svsm_caa"))?;
    let base = PhysAddr::try_new(page.svsm_base).map_err(|_| bad("svsm_base"))?;
    let monitor = FrameRange::new(base, page.svsm_size).map_err(|_| bad("svsm_base"))?;
    if page.svsm_max_version < coco_part_api::svsm::CORE_VERSION {
        return Err(bad("svsm_max_version"));
    }
    Ok((level, call_area, monitor))
}

/// Proves that this code runs at `told`, neither above nor below.
fn probe<P: Port>(port: &mut P, told: GuestLevel, scratch: PhysFrame) -> Result<Vmpl, SnpError> {
    let mut own = Vmpl::VMPL1;
    for target in [Vmpl::VMPL1, Vmpl::VMPL2, Vmpl::VMPL3] {
        let reaches = reaches(port, target, scratch)?;
        if reaches != (target.number() > told.number()) {
            return Err(SnpError::LevelMismatch { told: told.number(), probed: target.number() });
        }
        if target.number() == told.number() {
            own = target;
        }
    }
    Ok(own)
}

/// Whether the own level may adjust `target`'s rights, which it may for every less privileged level.
fn reaches<P: Port>(port: &mut P, target: Vmpl, scratch: PhysFrame) -> Result<bool, SnpError> {
    let at = scratch.start_address();
    // A frame is aligned for its size.
    let page = Page::try_new(at, PageSize::Size4KiB)
        .map_err(|_| SnpError::Range(coco_part_api::RangeError::Unaligned { at }))?;
    match port.rmpadjust(page, RmpAttributes::new(target, VmplPermissions::empty()))? {
        RmpCode::SUCCESS => Ok(true),
        RmpCode::FAIL_PERMISSION => Ok(false),
        code => Err(SnpError::Rmpadjust { code }),
    }
}
