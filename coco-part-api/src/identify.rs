//! Who am I, and what can this backend do.

use crate::level::{Level, VcpuId};

/// The own place in the VM. Both sides.
///
/// # For backend authors
/// The level must never come from the host (rule H3): at L1 it follows from what the machine lets the caller do, below it
/// from protected memory that L1 wrote, checked against the machine where the machine can tell.
pub trait Identify {
    /// The level this code runs at.
    fn level(&self) -> Level;

    /// The vCPU this code runs on.
    fn vcpu(&self) -> VcpuId;

    /// What this backend on this machine can do.
    fn capabilities(&self) -> Capabilities;
}

/// What a backend on its machine can do. Fixed from start to end of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How the guest levels stand to each other.
    pub hierarchy: Hierarchy,
    /// How many guest levels there are, 0 to 3.
    pub guest_levels: u8,
    /// How a guest level reaches the host.
    pub host_reach: HostReach,
    /// Whether a page can leave a level's hands without being shared with the host.
    pub rescind_unassigned: Support,
    /// Whose TLBs the backend can flush by itself.
    pub flush: FlushReach,
    /// Who vouches for the level in evidence.
    pub binding: Binding,
    /// Whether a guest level can be interrupted by an event that L1 chooses.
    pub inject: Support,
}

/// A thing that a backend does or openly does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Yes,
    /// It answers [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    No,
}

/// How the guest levels stand to each other. L1 is above all of them everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// A lower number is more privileged.
    Ordered,
    /// None is above another.
    Siblings,
}

/// How a guest level reaches the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostReach {
    /// By its own channel; the guest agrees page states with the host itself.
    Direct,
    /// Only by asking L1.
    ThroughMonitor,
}

/// Whose stale translations a backend can drop on the spot (rule M5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushReach {
    /// All vCPUs': a flush ticket is redeemed at once.
    AllVcpus,
    /// The own vCPU's: a ticket is redeemed when every other vCPU has left the lower levels since.
    OwnVcpu,
}

/// Who vouches for the level named in evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The hardware signs the level as a field of its own.
    Hardware,
    /// The monitor put the level under the hardware's signature; the verifier has to trust the measured monitor.
    Monitor,
}

impl Capabilities {
    /// Packs them into one register for the IDENTIFY call of [`svsm::own`](crate::svsm::own).
    ///
    /// Bit 0 siblings, 3:1 guest levels, 4 host through L1, 5 rescind without sharing, 6 own-vCPU flush, 7 level vouched
    /// for by L1, 8 inject; the rest is zero.
    pub const fn to_bits(self) -> u64 {
        (matches!(self.hierarchy, Hierarchy::Siblings) as u64)
            | ((self.guest_levels & 7) as u64) << 1
            | (matches!(self.host_reach, HostReach::ThroughMonitor) as u64) << 4
            | (matches!(self.rescind_unassigned, Support::Yes) as u64) << 5
            | (matches!(self.flush, FlushReach::OwnVcpu) as u64) << 6
            | (matches!(self.binding, Binding::Monitor) as u64) << 7
            | (matches!(self.inject, Support::Yes) as u64) << 8
    }

    /// The inverse of [`to_bits`](Self::to_bits); `None` when a reserved bit is set.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits >> 9 != 0 {
            return None;
        }
        Some(Self {
            hierarchy: if bits & 1 == 0 { Hierarchy::Ordered } else { Hierarchy::Siblings },
            guest_levels: (bits >> 1 & 7) as u8,
            host_reach: if bits >> 4 & 1 == 0 { HostReach::Direct } else { HostReach::ThroughMonitor },
            rescind_unassigned: if bits >> 5 & 1 == 1 { Support::Yes } else { Support::No },
            flush: if bits >> 6 & 1 == 0 { FlushReach::AllVcpus } else { FlushReach::OwnVcpu },
            binding: if bits >> 7 & 1 == 0 { Binding::Hardware } else { Binding::Monitor },
            inject: if bits >> 8 & 1 == 1 { Support::Yes } else { Support::No },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_nine_bits_survives_the_round_trip() {
        for bits in 0..1 << 9 {
            assert_eq!(Capabilities::from_bits(bits).map(Capabilities::to_bits), Some(bits));
        }
        assert_eq!(Capabilities::from_bits(1 << 9), None);
    }
}
