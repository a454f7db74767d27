//! A vTPM: the integrator's device, and the private place of its responses.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use coco_part_api::svsm::CallResult;
use coco_part_api::svsm::vtpm::MOST_RESPONSE;
use spin::{Mutex, MutexGuard};

/// A TPM that executes commands of guests.
///
/// Commands are bytes of a guest: nothing in them is to be trusted. Both buffers are private memory of the monitor, so that
/// nobody changes them meanwhile. A device must not panic: nobody could catch it.
pub trait VtpmDevice: Send {
    /// Executes a TPM command, 1 to 4087 bytes, at locality 0, and writes its response. Gives the response's length, at
    /// most that of `response`, which is 4092 bytes.
    ///
    /// # Errors
    /// [`VtpmError`]. A TPM's own error codes are responses.
    fn execute(&mut self, command: &[u8], response: &mut [u8]) -> Result<usize, VtpmError>;

    /// The public part of the endorsement key (TPMT_PUBLIC), which evidence over the monitor's services names. `None` when
    /// there is none; the vTPM is then no part of evidence. At most 4000 bytes.
    fn endorsement_key(&self) -> Option<&[u8]>;
}

/// Why a device gave no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VtpmError {
    /// It could not take this command. The next one may do.
    Command,
    /// It is out of order. It is not asked again.
    Device,
}

impl fmt::Display for VtpmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "vTPM could not take the command",
            Self::Device => "vTPM is out of order",
        })
    }
}

impl core::error::Error for VtpmError {}

/// A device with what it needs, in storage of the integrator. All vCPUs share it; one command is executed at a time.
pub struct Vtpm<D: ?Sized> {
    is_broken: AtomicBool,
    inner: Mutex<Inner<D>>,
}

struct Inner<D: ?Sized> {
    response: [u8; MOST_RESPONSE],
    device: D,
}

impl<D> Vtpm<D> {
    /// A vTPM with this device.
    pub const fn new(device: D) -> Self {
        let inner = Mutex::new(Inner { response: [0; MOST_RESPONSE], device });
        Self { is_broken: AtomicBool::new(false), inner }
    }
}

impl<D: VtpmDevice + ?Sized> Vtpm<D> {
    /// True once the device said that it is out of order, or gave a response that cannot be. Guests find no vTPM then.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    /// Has the device execute a command and hands its response on. Waits for nobody: BUSY while another vCPU has the device.
    pub(crate) fn execute(
        &self,
        command: &[u8],
        hand_on: impl FnOnce(&[u8]) -> Result<(), CallResult>,
    ) -> Result<(), CallResult> {
        let mut inner = self.lock()?;
        let Inner { response, device } = &mut *inner;
        let outcome = device.execute(command, response);
        let given = match outcome {
            Ok(len) => response.get(..len).ok_or(VtpmError::Device),
            Err(error) => Err(error),
        };
        let handed = match given {
            Ok(bytes) => hand_on(bytes),
            Err(error) => {
                if error == VtpmError::Device {
                    log::error!("vTPM is out of order");
                    self.is_broken.store(true, Ordering::Release);
                }
                Err(CallResult::INVALID_REQUEST)
            }
        };
        // It may hold what the guest had unsealed.
        response.fill(0);
        handed
    }

    /// Looks at the endorsement key. BUSY while another vCPU has the device.
    pub(crate) fn with_key<R>(&self, look: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, CallResult> {
        let inner = self.lock()?;
        Ok(look(inner.device.endorsement_key()))
    }

    /// The device, for one use. It may have broken since somebody looked whether it works.
    fn lock(&self) -> Result<MutexGuard<'_, Inner<D>>, CallResult> {
        let inner = self.inner.try_lock().ok_or(CallResult::BUSY)?;
        if self.is_broken() { Err(CallResult::UNSUPPORTED_PROTOCOL) } else { Ok(inner) }
    }
}

impl<D: ?Sized> fmt::Debug for Vtpm<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vtpm").field("is_broken", &self.is_broken).finish_non_exhaustive()
    }
}
