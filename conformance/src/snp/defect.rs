//! Deliberate defects: a backend that leaves one step out, made by its port or its memory window.

use backend_snp::instr::RmpAttributes;
use x86_64::PhysAddr;

use crate::window::{Interference, Tamper};

/// EFER.SVME, the bit by which a VMSA can be run.
const SVME: u64 = 1 << 12;
/// The byte of EFER that holds SVME, and SVME in it.
const SVME_BYTE: usize = 1;
const SVME_IN_BYTE: u8 = 0x10;
/// Offset of the VMPL in a VMSA (`vmsa`).
const VMSA_VMPL: usize = 0xca;
/// Offset of EFER in a VMSA.
const VMSA_EFER: u64 = 0xd0;
/// Offset of RIP in a VMSA.
const VMSA_RIP: u64 = 0x178;
/// Offset of GUEST_EXITCODE in a VMSA.
const VMSA_EXIT_CODE: u64 = 0x3c0;
/// Offsets of the quadwords of a VMSA that are read one by one: EFER, exit code, RAX, RCX, RDX, R8, R9.
const VMSA_QUADS: [u64; 7] = [VMSA_EFER, 0x3c0, 0x1f8, 0x308, 0x310, 0x340, 0x348];
/// Bytes of a VMSA.
const VMSA_BYTES: usize = 0x1000;
/// Bytes of a list header.
const LIST_HEADER: usize = 8;

/// One step that is left out or done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Rights are not cut: RMPADJUST with an empty mask is swallowed.
    RevokeDropped,
    /// No TLB is flushed.
    FlushDropped,
    /// Validated pages are not zeroed.
    ZeroingDropped,
    /// PVALIDATE's "nothing changed" is not seen.
    CarryHidden,
    /// The caller of a call can go on running while it is served: every VMSA looks as if its run bit were clear, and is not.
    GateSkipped,
    /// Lists are read twice: counts and flags of the first reading go with cursors and addresses of the second.
    ListReadTwice,
    /// The pending mark of a call stays.
    PendingNotCleared,
    /// A state frame's level is not checked: every frame looks as if it were for level 2.
    LevelNotChecked,
    /// A page granted to one level is granted to another one too.
    RightsForEverybody,
    /// RIP of a level stays where it is when its instruction is completed.
    RipStays,
    /// An exit of a level stays on record when it has been told.
    ExitStays,
    /// Each message to the firmware begins with the first sequence number again.
    SequenceReused,
}

impl Defect {
    /// All of them with their names in reports.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("revoke-dropped", Self::RevokeDropped),
        ("flush-dropped", Self::FlushDropped),
        ("zeroing-dropped", Self::ZeroingDropped),
        ("carry-hidden", Self::CarryHidden),
        ("run-gate-skipped", Self::GateSkipped),
        ("list-read-twice", Self::ListReadTwice),
        ("pending-not-cleared", Self::PendingNotCleared),
        ("level-not-checked", Self::LevelNotChecked),
        ("rights-for-everybody", Self::RightsForEverybody),
        ("rip-stays", Self::RipStays),
        ("exit-stays", Self::ExitStays),
        ("sequence-reused", Self::SequenceReused),
    ];

    /// What it is a defect of.
    pub const fn of(self) -> &'static str {
        match self {
            Self::ListReadTwice => "monitor",
            _ => "backend",
        }
    }

    /// The defect of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, defect)| *defect)
    }

    /// True when an RMPADJUST is pretended instead of executed.
    pub(super) fn swallows(self, attributes: RmpAttributes) -> bool {
        self == Self::RevokeDropped && attributes.permissions().is_empty() && !attributes.is_vmsa()
    }

    /// True when a compare-and-exchange sets the run bit.
    fn opens_gate(expected: u64, new: u64) -> bool {
        expected & SVME == 0 && new == expected | SVME
    }
}

impl Tamper for Defect {
    fn on_read(self, at: PhysAddr, bytes: &[u8]) -> Interference {
        let offset = at.as_u64() % VMSA_BYTES as u64;
        match self {
            // Behind the count of a header.
            Self::ListReadTwice if bytes.len() == LIST_HEADER && !VMSA_QUADS.contains(&offset) => {
                Interference::Again { from: 2 }
            }
            // Behind the flags of the first entry.
            Self::ListReadTwice
                if bytes.len() > LIST_HEADER && bytes.len().is_multiple_of(LIST_HEADER) && bytes.len() < VMSA_BYTES =>
            {
                Interference::Again { from: 1 }
            }
            Self::GateSkipped if bytes.len() == 8 && offset == VMSA_EFER => {
                Interference::Patch { offset: SVME_BYTE, byte: bytes[SVME_BYTE] & !SVME_IN_BYTE }
            }
            Self::LevelNotChecked if bytes.len() == VMSA_BYTES && at.is_aligned(VMSA_BYTES as u64) => {
                Interference::Patch { offset: VMSA_VMPL, byte: 2 }
            }
            Self::LevelNotChecked if bytes.len() == 1 && offset == VMSA_VMPL as u64 => {
                Interference::Patch { offset: 0, byte: 2 }
            }
            _ => Interference::None,
        }
    }

    fn skips_zeroing(self) -> bool {
        self == Self::ZeroingDropped
    }

    fn swallows(self, at: PhysAddr, bytes: &[u8]) -> bool {
        let is_field = |field: u64| bytes.len() == 8 && at.as_u64() % VMSA_BYTES as u64 == field;
        match self {
            Self::RipStays => is_field(VMSA_RIP),
            Self::ExitStays => is_field(VMSA_EXIT_CODE) && bytes == [0xff; 8],
            _ => false,
        }
    }

    fn keeps_bytes(self) -> bool {
        self == Self::PendingNotCleared
    }

    fn on_exchange(self, expected: u64, new: u64, found: u64) -> u64 {
        // The gate was never closed.
        let hides = self == Self::GateSkipped && Self::opens_gate(expected, new) && found == new;
        if hides { expected } else { found }
    }
}
