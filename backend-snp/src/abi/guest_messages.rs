//! Payloads of the messages between a level and the firmware.
//!
//! Source: 56860, `facts/guest_request.csv`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zeroize::Zeroize;

use super::firmware_status::FirmwareStatus;
use super::report::AttestationReport;

codes! {
    /// Which key signs a report or is the root of a derived key; bits 1:0.
    pub struct KeySelect(u32) {
        /// VLEK if loaded, else VCEK.
        ANY = 0;
        /// VCEK, the key of the chip.
        VCEK = 1;
        /// VLEK, the key of the host's operator.
        VLEK = 2;
    }
}

/// Asks for an attestation report.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReportRequest {
    /// Data that goes into the report.
    pub report_data: [u8; 64],
    /// Number of the VMPL to state: the own one or a less privileged one.
    pub vmpl: u32,
    /// Key that signs.
    pub key_sel: KeySelect,
    _reserved_0x48: [u8; 24],
}

layout! { ReportRequest: 0x60 {
    report_data @ 0x00,
    vmpl @ 0x40,
    key_sel @ 0x44,
    _reserved_0x48 @ 0x48,
} }

impl ReportRequest {
    /// Makes a request.
    pub const fn new(report_data: [u8; 64], vmpl: super::vmpl::Vmpl, key_sel: KeySelect) -> Self {
        Self { report_data, vmpl: vmpl.number() as u32, key_sel, _reserved_0x48: [0; 24] }
    }
}

/// Answer to a [`ReportRequest`].
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReportResponse {
    /// Status.
    pub status: FirmwareStatus,
    /// Size of the report in bytes.
    pub report_size: u32,
    _reserved_0x08: [u8; 24],
    /// The report.
    pub report: AttestationReport,
}

layout! { ReportResponse: 0x4c0 {
    status @ 0x00,
    report_size @ 0x04,
    _reserved_0x08 @ 0x08,
    report @ 0x20,
} }

bit_struct! {
    /// Root of a derived key.
    pub struct RootKeySelect(u32) {
        /// 0 for VCEK or VLEK, 1 for VMRK.
        root_key / with_root_key @ 0:0,
        /// See [`KeySelect`].
        key_sel / with_key_sel @ 2:1,
    }
}

flags! {
    /// What is mixed into a derived key.
    pub struct GuestFieldSelect(u64) {
        /// Guest policy.
        POLICY = 1 << 0;
        /// Image id.
        IMAGE_ID = 1 << 1;
        /// Family id.
        FAMILY_ID = 1 << 2;
        /// Launch measurement.
        MEASUREMENT = 1 << 3;
        /// Security version of the guest.
        GUEST_SVN = 1 << 4;
        /// Version of the platform.
        TCB_VERSION = 1 << 5;
        /// Mitigations at launch; message version 2.
        LAUNCH_MITIGATION_VECTOR = 1 << 6;
    }
}

/// Asks for a derived key.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct KeyRequest {
    /// Root key.
    pub root_key_select: RootKeySelect,
    _reserved_0x04: u32,
    /// Values to mix in.
    pub guest_field_select: GuestFieldSelect,
    /// Number of the VMPL to mix in: the own one or a less privileged one.
    pub vmpl: u32,
    /// Security version, at most that of the launch.
    pub guest_svn: u32,
    /// Platform version, at most the committed one.
    pub tcb_version: u64,
    /// Mitigations at launch. Message version 1 ends before this field.
    pub launch_mit_vector: u64,
}

layout! { KeyRequest: 0x28 {
    root_key_select @ 0x00,
    _reserved_0x04 @ 0x04,
    guest_field_select @ 0x08,
    vmpl @ 0x10,
    guest_svn @ 0x14,
    tcb_version @ 0x18,
    launch_mit_vector @ 0x20,
} }

impl KeyRequest {
    /// Makes a request for a key of `vmpl` and `root`, with nothing mixed in.
    pub const fn new(root: RootKeySelect, vmpl: super::vmpl::Vmpl) -> Self {
        Self {
            root_key_select: root,
            _reserved_0x04: 0,
            guest_field_select: GuestFieldSelect::empty(),
            vmpl: vmpl.number() as u32,
            guest_svn: 0,
            tcb_version: 0,
            launch_mit_vector: 0,
        }
    }
}

/// Answer to a [`KeyRequest`]. Neither `Copy` nor `Debug`, and the key is wiped when dropped.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct KeyResponse {
    /// Status.
    pub status: FirmwareStatus,
    _reserved_0x04: [u8; 28],
    /// The key.
    pub derived_key: [u8; 32],
}

layout! { KeyResponse: 0x40 {
    status @ 0x00,
    _reserved_0x04 @ 0x04,
    derived_key @ 0x20,
} }

impl Drop for KeyResponse {
    fn drop(&mut self) {
        self.derived_key.zeroize();
    }
}

/// Asks for the values of the secure TSC.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TscInfoRequest {
    _reserved_0x00: [u8; 128],
}

layout! { TscInfoRequest: 0x80 {
    _reserved_0x00 @ 0x00,
} }

/// Answer to a [`TscInfoRequest`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TscInfoResponse {
    /// Status.
    pub status: FirmwareStatus,
    _reserved_0x04: u32,
    /// Value for `guest_tsc_scale` of the VMSA.
    pub tsc_scale: u64,
    /// Value for `guest_tsc_offset` of the VMSA.
    pub tsc_offset: u64,
    /// Deviation of the reported frequency, as in the secrets page.
    pub tsc_factor: u32,
    _reserved_0x1c: [u8; 100],
}

layout! { TscInfoResponse: 0x80 {
    status @ 0x00,
    _reserved_0x04 @ 0x04,
    tsc_scale @ 0x08,
    tsc_offset @ 0x10,
    tsc_factor @ 0x18,
    _reserved_0x1c @ 0x1c,
} }
