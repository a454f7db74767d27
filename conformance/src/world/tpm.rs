//! The vTPM device of a world: every response is its command backwards.

use l1_monitor::{VtpmDevice, VtpmError};

/// What stands for the public part of its endorsement key.
pub(crate) const KEY: &[u8] = b"public part of the key of a vTPM";

/// The device.
pub(crate) struct BackwardsTpm;

impl VtpmDevice for BackwardsTpm {
    fn execute(&mut self, command: &[u8], response: &mut [u8]) -> Result<usize, VtpmError> {
        let into = response.get_mut(..command.len()).ok_or(VtpmError::Command)?;
        into.copy_from_slice(command);
        into.reverse();
        Ok(command.len())
    }

    fn endorsement_key(&self) -> Option<&[u8]> {
        Some(KEY)
    }
}
