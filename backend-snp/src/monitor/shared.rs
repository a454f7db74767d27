//! What the vCPUs of L1 share.

use core::fmt;

use spin::Mutex;

use super::frames::{Frames, VcpuFrames, no_frames};
use crate::abi::secrets::Vmpck;

/// L1's key for messages to the firmware and the last message number used with it (GR-11). A key of zeros is a closed
/// channel.
pub(super) struct MessageKey {
    pub(super) key: Vmpck,
    pub(super) last: u64,
}

/// The key; empty until the first vCPU starts.
///
/// Taken by `try_lock` only, with the port's pause in between: whoever has it talks to the host meanwhile.
pub(super) type ChannelLock = Mutex<Option<MessageKey>>;

/// Storage that the vCPUs of L1 share: `VCPUS` of them, numbered from 0 (APIC ids). Handed in by the integrator, private
/// memory of L1.
pub struct Shared<const VCPUS: usize> {
    frames: [VcpuFrames; VCPUS],
    pub(super) channel: ChannelLock,
}

impl<const VCPUS: usize> Shared<VCPUS> {
    /// Storage before the first vCPU has started.
    pub const fn new() -> Self {
        Self { frames: [const { no_frames() }; VCPUS], channel: Mutex::new(None) }
    }

    pub(super) const fn frames(&self) -> Frames<'_> {
        Frames::new(&self.frames)
    }
}

impl<const VCPUS: usize> Default for Shared<VCPUS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const VCPUS: usize> fmt::Debug for Shared<VCPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("vcpus", &VCPUS).finish_non_exhaustive()
    }
}
