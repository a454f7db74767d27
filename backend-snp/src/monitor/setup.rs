//! The start of an L1 vCPU.

use core::marker::PhantomData;

use coco_part_api::{FrameRange, GuestLevel, GuestMemory, HostState, MemoryMap, Stopped, VcpuId};
use x86_64::structures::paging::PhysFrame;

use super::shared::Shared;
use super::{L1, attest};
use crate::abi::cpuid::{CpuidAnswer, CpuidEntry, CpuidPage};
use crate::abi::cpuid_leaves::{CpuidLeaf, EncryptionFeatures, FlushFeatures};
use crate::abi::nae::HvFeatures;
use crate::error::SnpError;
use crate::features::Policy;
use crate::host::{GhcbPage, Host, HostChannel, MsrProtocol, hv_features, negotiate};
use crate::instr::{Page, PageSize, Port, PvalidateCode, PvalidateOp, RmpAttributes, RmpCode, Vmpl, VmplPermissions};

/// What the host must offer.
const HOST_FEATURES: HvFeatures = HvFeatures::SEV_SNP.union(HvFeatures::AP_CREATION).union(HvFeatures::MULTIPLE_VMPLS);

/// How L1 asks the host to run a lower level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwitchBy {
    /// By GHCB page.
    #[default]
    Page,
    /// By MSR protocol.
    Msr,
}

/// Where the things of one L1 vCPU are. All frames are 4 KiB, private pages of L1, and differ.
#[derive(Clone, Debug)]
pub struct Setup<'a, M> {
    /// This vCPU: its APIC id, which has to be below the number of vCPUs in [`Shared`].
    pub vcpu: VcpuId,
    /// RAM of the whole VM. What is outside is refused (M1).
    pub map: MemoryMap<'a>,
    /// Private memory (C=1).
    pub private: M,
    /// Memory shared with the host (C=0).
    pub shared: M,
    /// Becomes the GHCB page of this vCPU.
    pub ghcb: PhysFrame,
    /// Becomes the shared page for messages to the firmware.
    pub request: PhysFrame,
    /// Becomes the shared page for messages from the firmware.
    pub response: PhysFrame,
    /// Proves the own level. No lower level has a right on it. Nothing is stored in it, and it may serve all vCPUs.
    pub scratch: PhysFrame,
    /// Guest levels in use. Only these ever get rights.
    pub levels: &'a [GuestLevel],
    /// Those of them whose #VC exceptions come to L1 (ReflectVC): for guests that trap instead of calling.
    pub reflect: &'a [GuestLevel],
    /// The secrets page that the firmware filled.
    pub secrets: PhysFrame,
    /// The CPUID page that the firmware checked.
    pub cpuid: PhysFrame,
    /// How a lower level is run.
    pub switch_by: SwitchBy,
}

impl<'a, P: Port, M: GuestMemory> L1<'a, P, M> {
    /// Starts L1 on this vCPU: proves that it runs at VMPL0, checks the features that are on, agrees on protocol version and
    /// host features, shares GHCB and message pages, and registers the GHCB page.
    ///
    /// The first vCPU to start takes the key of VMPL0 from the secrets page into `shared`. A caller that needs the port
    /// after a failure passes `&mut port`.
    ///
    /// # Errors
    /// [`SnpError::SevStatus`]; [`SnpError::Rmpadjust`] with `FAIL_PERMISSION` below VMPL0; [`SnpError::Unsupported`] on a
    /// processor whose CPUID page has no INVLPGB; [`SnpError::UnknownVcpu`];
    /// [`SnpError::VersionRange`], [`SnpError::MissingFeatures`], [`SnpError::NoChange`] for a page that is not private
    /// before, [`SnpError::GhcbRefused`], and those of a host that misbehaves. Pages may be shared already then; the VM
    /// cannot do better than to end.
    pub fn start<const VCPUS: usize>(
        mut port: P,
        setup: Setup<'a, M>,
        shared: &'a Shared<VCPUS>,
    ) -> Result<Self, SnpError> {
        let features = Policy::MONITOR.check(port.read_sev_status())?;
        prove_vmpl0(&mut port, setup.scratch)?;
        let has_shadow_stack_right = processor(&setup.private, setup.cpuid)?;
        let frames = shared.frames();
        frames.check(setup.vcpu)?;
        negotiate(&mut port)?;
        hv_features(&mut port, HOST_FEATURES)?;
        for frame in [setup.ghcb, setup.request, setup.response] {
            share(&mut port, frame)?;
        }
        let page = GhcbPage::register(&mut port, setup.shared.clone(), setup.ghcb)?;
        let l1 = Self {
            port,
            host: Host::Page(page),
            switch_by: setup.switch_by,
            vcpu: setup.vcpu,
            map: setup.map,
            memory: setup.private,
            shared_memory: setup.shared,
            request: setup.request,
            response: setup.response,
            levels: setup.levels,
            reflect: setup.reflect,
            secrets: setup.secrets,
            cpuid: setup.cpuid,
            has_shadow_stack_right,
            features,
            frames,
            channel: &shared.channel,
            current: [None; 3],
            trapped: [None; 3],
            not_send: PhantomData,
        };
        attest::open_channel(&l1)?;
        log::debug!("L1 runs on {} with {features:?}", l1.vcpu);
        Ok(l1)
    }
}

/// RMPADJUST changes only masks of greater VMPLs, so VMPL1 can be the target of VMPL0 alone (RMP-014). The mask it is given
/// is the one it has.
fn prove_vmpl0<P: Port>(port: &mut P, scratch: PhysFrame) -> Result<(), SnpError> {
    let nothing = RmpAttributes::new(Vmpl::VMPL1, VmplPermissions::empty());
    match port.rmpadjust(small_page(scratch)?, nothing)? {
        RmpCode::SUCCESS => Ok(()),
        code => Err(SnpError::Rmpadjust { code }),
    }
}

/// What the processor can do says the page that the firmware checked, not the host. A cut is redeemed by a flush that reaches
/// every vCPU (M5), so that there has to be one. Gives whether masks have a bit for supervisor shadow stacks.
fn processor<M: GuestMemory>(private: &M, cpuid: PhysFrame) -> Result<bool, SnpError> {
    let at = cpuid.start_address();
    let page: CpuidPage = private.read_value(at).map_err(SnpError::memory(at))?;
    let entry = |leaf: CpuidLeaf| match page.table().map(|table| table.lookup(leaf.0, 0)) {
        Ok(CpuidAnswer::Entry(entry)) => entry,
        _ => CpuidEntry::default(),
    };
    let flushes = FlushFeatures::from_bits_retain(entry(CpuidLeaf::ADDRESS_SIZES).ebx);
    if !flushes.contains(FlushFeatures::INVLPGB) {
        return Err(SnpError::Unsupported { what: "a processor without INVLPGB in the guest" });
    }
    let features = EncryptionFeatures::from_bits_retain(entry(CpuidLeaf::ENCRYPTION).eax);
    Ok(features.contains(EncryptionFeatures::VMPL_SSS))
}

/// Makes a private page of L1 a shared one, before there is a GHCB page.
fn share<P: Port>(port: &mut P, frame: PhysFrame) -> Result<(), SnpError> {
    let result = port.pvalidate(small_page(frame)?, PvalidateOp::Rescind)?;
    match result.code {
        PvalidateCode::SUCCESS if result.carry => return Err(SnpError::NoChange),
        PvalidateCode::SUCCESS => {}
        code => return Err(SnpError::Pvalidate { code }),
    }
    let shared = MsrProtocol.page_state(port, FrameRange::of(frame), HostState::Shared);
    shared.map_err(|Stopped { cause, .. }| cause)
}

fn small_page(frame: PhysFrame) -> Result<Page, SnpError> {
    Page::try_new(frame.start_address(), PageSize::Size4KiB)
        .map_err(|error| coco_part_api::RangeError::Unaligned { at: error.at }.into())
}
