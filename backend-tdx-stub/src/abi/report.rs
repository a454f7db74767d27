//! Layout of a TDREPORT (fact table `tdreport`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a report, and the alignment of the buffer for one.
pub const REPORT: usize = 1024;

/// REPORT_TYPE of a report made by the TDX module.
pub const TYPE_TDX: u8 = 0x81;

/// REPORTMACSTRUCT: what the platform's MAC covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReportMac {
    /// REPORT_TYPE.type: [`TYPE_TDX`].
    pub report_type: u8,
    /// REPORT_TYPE.subtype.
    pub subtype: u8,
    /// REPORT_TYPE.version.
    pub version: u8,
    _reserved_0x03: [u8; 13],
    /// CPUSVN.
    pub cpusvn: [u8; 16],
    /// SHA-384 of [`TeeTcbInfo`].
    pub tee_tcb_info_hash: [u8; 48],
    /// SHA-384 of [`TdInfo`].
    pub tee_info_hash: [u8; 48],
    /// The caller's 64 bytes.
    pub reportdata: [u8; 64],
    _reserved_0xc0: [u8; 32],
    /// HMAC that only this platform can check.
    pub mac: [u8; 32],
}

layout! {
    ReportMac: 0x100 {
        report_type @ 0x00,
        subtype @ 0x01,
        version @ 0x02,
        _reserved_0x03 @ 0x03,
        cpusvn @ 0x10,
        tee_tcb_info_hash @ 0x20,
        tee_info_hash @ 0x50,
        reportdata @ 0x80,
        _reserved_0xc0 @ 0xc0,
        mac @ 0xe0,
    }
}

/// TEE_TCB_INFO: the module. 239 bytes and a reserved tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TeeTcbInfo {
    /// Which fields are valid.
    pub valid: [u8; 8],
    /// Security version of the module.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the module.
    pub mrseam: [u8; 48],
    /// Its signer.
    pub mrsignerseam: [u8; 48],
    /// Its attributes.
    pub attributes: [u8; 8],
    /// Security version of the module that is loaded now; newer modules.
    pub tee_tcb_svn2: [u8; 16],
    _reserved_0x90: [u8; 112],
}

layout! {
    TeeTcbInfo: 0x100 {
        valid @ 0x00,
        tee_tcb_svn @ 0x08,
        mrseam @ 0x18,
        mrsignerseam @ 0x48,
        attributes @ 0x78,
        tee_tcb_svn2 @ 0x80,
        _reserved_0x90 @ 0x90,
    }
}

/// TDINFO: the TD. No field names an L2 (TDX-65).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TdInfo {
    /// Attributes of the TD: debug, migratable, ...
    pub attributes: [u8; 8],
    /// Extended features it may use.
    pub xfam: [u8; 8],
    /// Measurement of the initial contents.
    pub mrtd: [u8; 48],
    /// Set by the host at creation.
    pub mrconfigid: [u8; 48],
    /// Set by the host at creation.
    pub mrowner: [u8; 48],
    /// Set by the host at creation.
    pub mrownerconfig: [u8; 48],
    /// Run-time measurements 0 to 3.
    pub rtmr: [[u8; 48]; 4],
    /// Digest of the bound service TDs.
    pub servtd_hash: [u8; 48],
    _reserved_0x1c0: [u8; 64],
}

layout! {
    TdInfo: 0x200 {
        attributes @ 0x000,
        xfam @ 0x008,
        mrtd @ 0x010,
        mrconfigid @ 0x040,
        mrowner @ 0x070,
        mrownerconfig @ 0x0a0,
        rtmr @ 0x0d0,
        servtd_hash @ 0x190,
        _reserved_0x1c0 @ 0x1c0,
    }
}

/// A whole TDREPORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TdReport {
    /// What the MAC covers.
    pub mac: ReportMac,
    /// The module.
    pub tcb: TeeTcbInfo,
    /// The TD.
    pub td: TdInfo,
}

layout! {
    TdReport: 0x400 {
        mac @ 0x000,
        tcb @ 0x100,
        td @ 0x200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Table;

    #[test]
    fn the_layout_is_that_of_the_table() {
        let structures = [
            ("REPORTMACSTRUCT", 0x000, ReportMac::OFFSETS),
            ("TEE_TCB_INFO", 0x100, TeeTcbInfo::OFFSETS),
            ("TDINFO", 0x200, TdInfo::OFFSETS),
        ];
        let table = Table::parse(include_str!("../../facts/tdreport.csv"));
        for (structure, start, offsets) in structures {
            for row in table.with("structure", structure) {
                let field = row.text("field");
                let (name, inside) = match field {
                    "REPORT_TYPE.type" => ("report_type", 0),
                    "REPORT_TYPE.reserved" | "reserved" | "size note" => continue,
                    "RTMR0" | "RTMR1" | "RTMR2" | "RTMR3" => ("rtmr", 48 * field[4..].parse::<u64>().unwrap()),
                    _ => (field.trim_start_matches("REPORT_TYPE."), 0),
                };
                let name = name.to_lowercase();
                let ours = offsets.iter().find(|(known, _)| *known == name).expect(field).1 as u64 + inside;
                assert_eq!(ours, row.number("offset_in_struct"), "{structure} {field}");
                assert_eq!(ours + start, row.number("offset_in_report"), "{structure} {field}");
            }
        }
        assert_eq!(table.one("field", "report size").text("meaning"), std::format!("{REPORT} bytes"));
        let kind = table.one("field", "REPORT_TYPE.type").text("meaning");
        assert!(kind.starts_with(&std::format!("0x{TYPE_TDX:x}")), "{kind}");
    }
}
