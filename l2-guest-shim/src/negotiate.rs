//! Finding out where the guest runs and what L1 speaks.

use coco_part_api::{CallRegs, Capabilities, GuestLevel, GuestPort, Level, MemoryMap, VcpuId};

use crate::call::complete;
use crate::codec::{CORE, CORE_VERSION, IDENTIFY, OWN, OWN_VERSION, QUERY};
use crate::{Limits, Shim, ShimError};

/// Who the caller is, as L1 says.
struct Identity {
    level: GuestLevel,
    capabilities: Capabilities,
}

impl<'m, P: GuestPort> Shim<'m, P> {
    /// Asks L1 for its protocols, finds out the own level, and cross-checks it where both port and L1 know it.
    ///
    /// `map` is the guest's RAM: no verb touches anything else.
    ///
    /// # Errors
    /// [`ShimError::CoreVersion`] for an L1 that does not speak version 1 of the core protocol;
    /// [`ShimError::LevelMismatch`] and [`ShimError::VcpuMismatch`] when port and L1 disagree (CP-07);
    /// [`ShimError::Unsupported`] when neither knows the level; [`ShimError::BadAnswer`] and the errors of a call.
    pub fn negotiate(mut port: P, map: MemoryMap<'m>, limits: Limits) -> Result<Self, ShimError<P::Error>> {
        let core = versions(&mut port, &limits, CORE, CORE_VERSION)?;
        if !core.includes(CORE_VERSION) {
            return Err(ShimError::CoreVersion { lowest: core.lowest, highest: core.highest });
        }
        let has_own = versions(&mut port, &limits, OWN, OWN_VERSION)?.includes(OWN_VERSION);
        let told = if has_own { Some(identity(&mut port, &limits)?) } else { None };
        let unknown = |what| ShimError::Unsupported { what };
        let level = told.as_ref().map(|told| told.level).or(port.level()).ok_or(unknown("the own level"))?;
        let capabilities = told.map(|told| told.capabilities).or(port.capabilities());
        let capabilities = capabilities.ok_or(unknown("the capabilities"))?;
        let vcpu = port.vcpu();
        Ok(Self { port, map, limits, level, vcpu, capabilities, has_own, evidence_page: None })
    }
}

/// The versions of a protocol that L1 speaks.
pub(crate) struct Versions {
    lowest: u32,
    highest: u32,
}

impl Versions {
    pub(crate) const fn includes(&self, version: u32) -> bool {
        self.lowest <= version && version <= self.highest
    }
}

/// Asks for the versions of a protocol. Zeros mean that L1 does not speak it, and include no version.
pub(crate) fn versions<P: GuestPort>(
    port: &mut P,
    limits: &Limits,
    protocol: u32,
    version: u32,
) -> Result<Versions, ShimError<P::Error>> {
    let asked = u64::from(protocol) << 32 | u64::from(version);
    let answer = complete(port, limits, QUERY, [asked, 0, 0])?;
    // Two halves of RCX.
    Ok(Versions { lowest: answer.rcx as u32, highest: (answer.rcx >> 32) as u32 })
}

/// Asks L1 who the caller is and checks it against the port.
fn identity<P: GuestPort>(port: &mut P, limits: &Limits) -> Result<Identity, ShimError<P::Error>> {
    let CallRegs { rcx, rdx, r8, .. } = complete(port, limits, IDENTIFY, [0; 3])?;
    let told = u8::try_from(rcx).ok().and_then(|number| GuestLevel::try_from(number).ok());
    let level = match (port.level(), told) {
        (Some(own), Some(told)) if own == told => told,
        (Some(own), _) => return Err(ShimError::LevelMismatch { port: Level::Guest(own), monitor: rcx }),
        (None, told) => told.ok_or(ShimError::BadAnswer { what: "level", value: rcx })?,
    };
    let vcpu = port.vcpu();
    if u32::try_from(rdx).map(VcpuId) != Ok(vcpu) {
        return Err(ShimError::VcpuMismatch { port: vcpu, monitor: rdx });
    }
    let capabilities = Capabilities::from_bits(r8).ok_or(ShimError::BadAnswer { what: "capabilities", value: r8 })?;
    Ok(Identity { level, capabilities })
}
