//! How a world is made.

use std::collections::BTreeSet;
use std::fmt;

use coco_part_api::GuestLevel;

use super::layout;
use crate::platform::Platform;

/// Everything that makes one world differ from another.
pub struct Options<P: Platform> {
    /// vCPUs, 1 to 8.
    pub vcpus: u8,
    /// Bytes of guest RAM.
    pub guest_bytes: u64,
    /// Bytes of it that the guest has from the start, at least [`layout::HANDED_OVER`].
    pub handed_over: u64,
    /// Guest levels in use.
    pub levels: Vec<GuestLevel>,
    /// The one at which the guest runs; the last one unless it is given.
    pub level: Option<GuestLevel>,
    /// Whether guests are served a vTPM.
    pub vtpm: bool,
    /// Whether instructions of guest levels that need help come to L1 where the vendor leaves L1 the choice: for guests that
    /// trap instead of calling.
    pub traps: bool,
    /// How the host behaves.
    pub host: P::Host,
    /// Decides who steps, and what garbage memory holds.
    pub seed: u64,
    /// Which of [`Platform::VARIANTS`].
    pub variant: usize,
    /// Defect of the backend or the monitor, by its name.
    pub defect: Option<&'static str>,
    /// Rules that the machine does not enforce, by their ids.
    pub broken_rules: BTreeSet<&'static str>,
    /// Whether the machine records a trace.
    pub trace: bool,
    /// Turns after which a run that waits for something gives up.
    pub turns: u64,
}

impl<P: Platform> Default for Options<P> {
    fn default() -> Self {
        Self {
            vcpus: 1,
            guest_bytes: 16 * layout::LARGE,
            handed_over: layout::HANDED_OVER,
            levels: vec![GuestLevel::TWO],
            level: None,
            vtpm: false,
            traps: false,
            host: P::Host::default(),
            seed: 1,
            variant: 0,
            defect: None,
            broken_rules: BTreeSet::new(),
            trace: false,
            turns: 4_000_000,
        }
    }
}

impl<P: Platform> Clone for Options<P> {
    fn clone(&self) -> Self {
        Self {
            vcpus: self.vcpus,
            guest_bytes: self.guest_bytes,
            handed_over: self.handed_over,
            levels: self.levels.clone(),
            level: self.level,
            vtpm: self.vtpm,
            traps: self.traps,
            host: self.host.clone(),
            seed: self.seed,
            variant: self.variant,
            defect: self.defect,
            broken_rules: self.broken_rules.clone(),
            trace: self.trace,
            turns: self.turns,
        }
    }
}

impl<P: Platform> fmt::Debug for Options<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("vcpus", &self.vcpus).field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl<P: Platform> Options<P> {
    /// Level at which the guest runs.
    pub fn guest_level(&self) -> GuestLevel {
        self.level.or(self.levels.last().copied()).unwrap_or(GuestLevel::TWO)
    }
}
