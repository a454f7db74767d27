//! What the guest puts into the GHCB page for one event: its fields and no others (GH-16).

use crate::abi::ghcb::ValidBit;
use crate::abi::nae::NaeCode;

/// One event: its code, its parameters, and the fields that it has beside them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) code: NaeCode,
    pub(super) info_1: u64,
    pub(super) info_2: u64,
    pub(super) fields: Fields,
    /// What goes into the shared buffer, to which SW_SCRATCH then points. Empty when the host fills it.
    pub(super) buffer: Option<&'a [u8]>,
}

/// The fields that not every event has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields {
    pub(super) rax: Option<u64>,
    pub(super) rbx: Option<u64>,
    pub(super) rcx: Option<u64>,
    pub(super) rdx: Option<u64>,
    pub(super) cpl: Option<u8>,
    pub(super) xcr0: Option<u64>,
    pub(super) xss: Option<u64>,
}

impl<'a> Request<'a> {
    /// An event with SW_EXITINFO1 and SW_EXITINFO2.
    pub(super) fn new(code: NaeCode, info_1: u64, info_2: u64) -> Self {
        Self { code, info_1, info_2, fields: Fields::default(), buffer: None }
    }

    /// An event that has nothing but its code.
    pub(super) fn plain(code: NaeCode) -> Self {
        Self::new(code, 0, 0)
    }

    /// The same with fields.
    pub(super) fn with(self, fields: Fields) -> Self {
        Self { fields, ..self }
    }

    /// The same with the shared buffer, which begins with `bytes`.
    pub(super) fn with_buffer(self, bytes: &'a [u8]) -> Self {
        Self { buffer: Some(bytes), ..self }
    }
}

impl Fields {
    /// Each field as a quadword of the page, by its valid bit.
    pub(super) fn quadwords(&self) -> [(ValidBit, Option<u64>); 7] {
        // CPL is byte 3 of its quadword.
        let cpl = self.cpl.map(|cpl| u64::from(cpl) << 24);
        [
            (ValidBit::RAX, self.rax),
            (ValidBit::RBX, self.rbx),
            (ValidBit::RCX, self.rcx),
            (ValidBit::RDX, self.rdx),
            (ValidBit::CPL, cpl),
            (ValidBit::XCR0, self.xcr0),
            (ValidBit::XSS, self.xss),
        ]
    }
}
