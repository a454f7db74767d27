//! Conformance cases from a guest's side, written once.
//!
//! They run in a bare-metal image at a level of a guest, with real instructions, and as a program on the step machine. What
//! they need is a guest's side of a backend under the shim, memory, and a [`Bed`]: what whoever runs them supplies. A case
//! knows nothing of either machine, so what it finds can be compared.
//!
//! ```text
//! case M2-validate-twice begin         before a case
//! case M2-validate-twice pass          or: fail TEXT, or: skip TEXT
//! cases done 63                        after the last one
//! expects a nested page fault at 0x100000   before an access that ends the boot
//! ```
//!
//! A case leaves the guest usable, so that many run in one boot. Some say how the boot ends instead ([`End`]), and some need
//! a host that lies ([`About::host`]): those have a boot of their own. Those that need programs at the other levels of the vCPU
//! ([`About::companions`]) share another one. [`Selection`] is what a measured image is told. It may ask for [`Work`] that is
//! done many times instead.
//!
//! | file | rules |
//! |---|---|
//! | `memory` | M1 to M4, M6 |
//! | `places` | M7, H1: addresses that are not the guest's to name |
//! | `lists` | H1, M4: lists and their bits |
//! | `deposits` | memory that the guest lends L1 |
//! | `vcpus` | V1 to V4 |
//! | `calls` | S1, S2 |
//! | `evidence` | A1 to A3 |
//! | `level` | H3, M5: who the guest is, and instructions that are not its to use |
//! | `denied` | accesses that end the boot |
//! | `liars` | hosts that lie |
//! | `two` | what two vCPUs do at once |
//! | `companions` | S3, M5, M7, S1, H2 where other levels run beside the guest, under honest and lying hosts |

#![no_std]
#![forbid(unsafe_code)]

mod bed;
mod calls;
mod check;
mod companions;
mod denied;
mod deposits;
mod evidence;
mod further;
mod guest;
mod level;
mod liars;
mod lists;
mod memory;
mod places;
mod selection;
mod session;
mod two;
mod vcpus;
mod work;

use coco_part_api::GuestPort;

pub use bed::{Bed, Found, Instruction, MonitorPages, Places, View};
pub use check::{Check, Failed, Value};
pub use further::further;
pub use guest::{Guest, OWN_PAGES};
pub use selection::{MOST_CASES, Selection};
pub use session::run;
pub use work::Work;

/// The host that keeps every rule, by its name.
pub const HONEST: &str = "honest";

/// How the boot of a case ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The case reports, and the guest goes on.
    Reports,
    /// The guest says where it will reach, or a companion, who never comes back from there: a nested page fault, which the
    /// host does not repair.
    Faults {
        /// VMPL that reaches there.
        vmpl: u8,
        /// EXITINFO1.
        info: u64,
    },
}

/// What is known of a case without running it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Stable id; begins with its rule. That of the main suite where it is the same case.
    pub id: &'static str,
    /// The rule of the contract.
    pub rule: &'static str,
    /// What must hold, in one sentence.
    pub text: &'static str,
    /// vCPUs it needs: 1 or 2.
    pub vcpus: u8,
    /// How the host behaves: a name of the machine's list of policies, or [`HONEST`].
    pub host: &'static str,
    /// How its boot ends.
    pub end: End,
    /// Whether programs run at the other levels of vCPU 0 (`image_companions`).
    pub companions: bool,
}

impl About {
    /// A case on one vCPU under an honest host that reports.
    const fn new(id: &'static str, rule: &'static str, text: &'static str) -> Self {
        Self { id, rule, text, vcpus: 1, host: HONEST, end: End::Reports, companions: false }
    }

    const fn on_two(self) -> Self {
        Self { vcpus: 2, ..self }
    }

    const fn under(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    const fn faults(self, info: u64) -> Self {
        self.faults_at(2, info)
    }

    const fn faults_at(self, vmpl: u8, info: u64) -> Self {
        Self { end: End::Faults { vmpl, info }, ..self }
    }

    const fn beside_companions(self) -> Self {
        Self { companions: true, ..self }
    }

    /// True if it shares its boot with others, with or without companions as itself.
    #[must_use]
    pub fn shares_boot(&self) -> bool {
        self.host == HONEST && self.end == End::Reports
    }
}

/// A case.
pub struct Case<P: GuestPort, B: Bed> {
    /// What is known of it.
    pub about: About,
    /// The case.
    pub run: fn(&mut Guest<'_, '_, P, B>) -> Check,
}

/// Every case, always in the same order.
pub fn cases<P: GuestPort, B: Bed>() -> impl Iterator<Item = Case<P, B>> {
    memory::cases()
        .into_iter()
        .chain(lists::cases())
        .chain(places::cases())
        .chain(deposits::cases())
        .chain(vcpus::cases())
        .chain(calls::cases())
        .chain(evidence::cases())
        .chain(level::cases())
        .chain(two::cases())
        .chain(liars::cases())
        .chain(denied::cases())
        .chain(companions::cases())
}

/// A row of a table of cases.
macro_rules! case {
    ($id:literal, $rule:literal, $text:literal, $run:path $(, $method:ident $(($($argument:expr),+))?)*) => {
        $crate::Case { about: $crate::About::new($id, $rule, $text)$(.$method($($($argument),+)?))*, run: $run }
    };
}
pub(crate) use case;
