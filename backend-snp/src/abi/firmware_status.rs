//! What firmware and host answer to a guest message.
//!
//! Source: 56860 and 56421, `facts/guest_request.csv`.

codes! {
    /// Status of the firmware.
    pub struct FirmwareStatus(u32) {
        /// Done.
        SUCCESS = 0x00;
        /// The platform is in the wrong state.
        INVALID_PLATFORM_STATE = 0x01;
        /// The guest is in the wrong state.
        INVALID_GUEST_STATE = 0x02;
        /// Bad configuration.
        INVALID_CONFIG = 0x03;
        /// Bad length.
        INVALID_LENGTH = 0x04;
        /// The platform is owned already.
        ALREADY_OWNED = 0x05;
        /// Bad certificate.
        INVALID_CERTIFICATE = 0x06;
        /// The guest policy forbids it.
        POLICY_FAILURE = 0x07;
        /// The guest is not active.
        INACTIVE = 0x08;
        /// Bad address.
        INVALID_ADDRESS = 0x09;
        /// Bad signature.
        BAD_SIGNATURE = 0x0a;
        /// Bad measurement.
        BAD_MEASUREMENT = 0x0b;
        /// The ASID is taken.
        ASID_OWNED = 0x0c;
        /// Bad ASID.
        INVALID_ASID = 0x0d;
        /// Caches have to be written back first.
        WBINVD_REQUIRED = 0x0e;
        /// The data fabric has to be flushed first.
        DF_FLUSH_REQUIRED = 0x0f;
        /// Unknown guest.
        INVALID_GUEST = 0x10;
        /// Unknown command.
        INVALID_COMMAND = 0x11;
        /// The guest is active.
        ACTIVE = 0x12;
        /// Hardware error; the platform is safe.
        HARDWARE_ERROR_PLATFORM = 0x13;
        /// Hardware error; the platform is not safe.
        HARDWARE_ERROR_UNSAFE = 0x14;
        /// Not supported.
        UNSUPPORTED = 0x15;
        /// Bad parameter.
        INVALID_PARAMETER = 0x16;
        /// Out of resources.
        RESOURCE_LIMIT = 0x17;
        /// Protected data is damaged.
        SECURE_DATA_INVALID = 0x18;
        /// Bad RMP page size.
        INVALID_PAGE_SIZE = 0x19;
        /// Bad RMP page state.
        INVALID_PAGE_STATE = 0x1a;
        /// Bad metadata entry.
        INVALID_METADATA_ENTRY = 0x1b;
        /// The page belongs to somebody else.
        INVALID_PAGE_OWNER = 0x1c;
        /// The message number does not fit.
        AEAD_OVERFLOW = 0x1d;
        /// Ring buffer mode ended.
        RING_BUFFER_MODE_EXIT = 0x1f;
        /// The RMP has to be initialised again.
        RMP_INIT_REQUIRED = 0x20;
        /// Bad security version.
        BAD_SVN = 0x21;
        /// Bad version.
        BAD_VERSION = 0x22;
        /// The platform has to be shut down first.
        SHUTDOWN_REQUIRED = 0x23;
        /// Update failed.
        UPDATE_FAILED = 0x24;
        /// The committed image has to be restored.
        RESTORE_REQUIRED = 0x25;
        /// Initialising the RMP failed.
        RMP_INIT_FAILED = 0x26;
        /// Bad key selection.
        INVALID_KEY = 0x27;
    }
}

codes! {
    /// Status of the host for a guest message.
    pub struct VmmError(u32) {
        /// No error.
        SUCCESS = 0;
        /// The certificate buffer is too small; RBX holds the pages needed.
        INVALID_LEN = 1;
        /// Ask again later.
        BUSY = 2;
    }
}

bit_struct! {
    /// SW_EXITINFO2 after a guest message.
    pub struct GuestRequestStatus(u64) {
        /// See [`FirmwareStatus`].
        firmware_bits / with_firmware_bits @ 31:0,
        /// See [`VmmError`].
        vmm_bits / with_vmm_bits @ 63:32,
    }
}

impl GuestRequestStatus {
    /// Returns the status of the firmware, as the host reports it.
    pub const fn firmware(self) -> FirmwareStatus {
        FirmwareStatus(self.firmware_bits() as u32)
    }

    /// Returns the status of the host.
    pub const fn vmm(self) -> VmmError {
        VmmError(self.vmm_bits() as u32)
    }
}
