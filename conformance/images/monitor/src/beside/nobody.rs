//! Nobody beside the guest.

use coco_part_api::GuestLevel;

use crate::reason::StartError;
use crate::serve::{LEVEL, Vcpu, World};

/// Levels in use.
pub(crate) const LEVELS: &[GuestLevel] = &[LEVEL];

/// Before the guest starts.
#[expect(clippy::unnecessary_wraps, reason = "with companions it can fail")]
pub(crate) fn start(_: &World, _: &mut Vcpu) -> Result<(), StartError> {
    Ok(())
}

/// Between two steps of the monitor.
pub(crate) fn step(_: &mut Vcpu) {}
