//! Device memory, events 0x80000001 and 0x80000002.

use alloc::boxed::Box;

use super::ghcb::{self, Malformed, Reply, Request};
use crate::{Machine, PAGE_SIZE};

/// A page of device registers, outside of all RAM: they hold what was written to them.
pub const DEVICE_PAGE: u64 = 0xfec0_0000;

/// First address beyond the address space.
const END: u64 = 1 << 52;

/// The registers of the device.
#[derive(Clone, Debug)]
pub(super) struct Device(Box<[u8; PAGE_SIZE as usize]>);

impl Default for Device {
    fn default() -> Self {
        Self(Box::new([0; PAGE_SIZE as usize]))
    }
}

/// Direction of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Machine {
    /// Serves one access of `len` bytes. Memory that the host has is read and written as memory; the device page holds what
    /// it is given; everything else reads as ones. A page of the guest is no device.
    pub(super) fn device_event(
        &mut self,
        gpa: u64,
        request: &Request,
        access: Access,
        address: u64,
        len: u64,
    ) -> Result<Reply, Malformed> {
        let room = (ghcb::SHARED_BUFFER_END - ghcb::SHARED_BUFFER) as u64;
        if !(1..=room).contains(&len) || address >= END || address + len > END {
            return Err(Malformed::InvalidInput);
        }
        let (first, last) = (address & !(PAGE_SIZE - 1), address + len - 1);
        for page in (first..=last).step_by(PAGE_SIZE as usize) {
            if self.translate(page).is_some_and(|spa| self.rmp_entry_at(spa).assigned) {
                return Err(Malformed::InvalidInput);
            }
        }
        // At most the size of the buffer.
        let len = len as usize;
        let offset = request.scratch(len)?;
        let mut data = request.buffer(offset)[..len].to_vec();
        for (byte, at) in data.iter_mut().zip(address..) {
            match access {
                Access::Read => *byte = self.device_byte(at),
                Access::Write => self.set_device_byte(at, *byte),
            }
        }
        // Inside the page of the request.
        if access == Access::Read && !self.host_write(gpa + offset as u64, &data) {
            return Err(Malformed::Scratch);
        }
        Ok(Reply::default())
    }

    fn device_byte(&self, at: u64) -> u8 {
        match at.checked_sub(DEVICE_PAGE) {
            Some(offset @ 0..PAGE_SIZE) => self.host.device.0[offset as usize],
            _ => {
                // Ones where there is nothing.
                let mut byte = [0];
                self.host_read(at, &mut byte);
                byte[0]
            }
        }
    }

    fn set_device_byte(&mut self, at: u64, value: u8) {
        match at.checked_sub(DEVICE_PAGE) {
            Some(offset @ 0..PAGE_SIZE) => self.host.device.0[offset as usize] = value,
            _ => {
                self.host_write(at, &[value]);
            }
        }
    }
}
