//! Deliberate defects: a backend that leaves one step out, made by its port or its memory window.

use backend_tdx_stub::abi::leaves::Leaf;
use backend_tdx_stub::abi::regs::Regs;
use backend_tdx_stub::abi::status::Status;
use backend_tdx_stub::abi::vmcall::SubFunction;
use x86_64::PhysAddr;

use crate::window::{Interference, Tamper};

/// Bits of the attributes of one L2 VM: R, W, Xs, Xu (`page_attr`).
const RIGHTS: u64 = 0xf;
/// Bits of RCX of VP.ENTER that ask for invalidation (`l2_vp_enter`).
const INVALIDATE: u64 = 3;
/// Bits of R12 after VP.ENTER that hold the CPL of the L2.
const CPL: u64 = 3;
/// Bytes of a list header.
const LIST_HEADER: usize = 8;
/// Offset of the level in a neutral state frame, and bytes of the head of one.
const FRAME_LEVEL: usize = 8;
const FRAME_BYTES: usize = size_of::<coco_part_api::svsm::state_frame::StateFrame>();
const PAGE: u64 = 0x1000;

/// One step that is left out or done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Rights are not cut: an ATTR.WR without a right for anybody is swallowed.
    AliasKept,
    /// No translation is invalidated on the way into a level.
    InveptDropped,
    /// A cut does not wait for other vCPUs: nobody sees who is inside.
    TicketAtOnce,
    /// The CPL of whoever calls L1 is not looked at.
    CplNotChecked,
    /// A page that was accepted before looks freshly accepted.
    AcceptedAgainHidden,
    /// A level runs with whatever L1 left in the state that the module does not switch.
    UnswitchedLeft,
    /// A new vCPU begins with what the one before it left in that state.
    UnswitchedNotReset,
    /// A page granted to one level is granted to the next one too.
    RightsForEverybody,
    /// A state frame's level is not checked: every frame looks as if it were for level 2.
    LevelNotChecked,
    /// An operand that is busy looks as if the leaf had succeeded.
    BusyIgnored,
    /// The host is not asked to share or unshare memory.
    PageStateSkipped,
    /// A return that the host brought about looks as if the level had left by itself.
    HostReturnBelieved,
    /// Lists are read twice: counts and flags of the first reading go with cursors and addresses of the second.
    ListReadTwice,
}

impl Defect {
    /// All of them with their names in reports.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("alias-kept", Self::AliasKept),
        ("invept-dropped", Self::InveptDropped),
        ("ticket-at-once", Self::TicketAtOnce),
        ("cpl-not-checked", Self::CplNotChecked),
        ("accepted-again-hidden", Self::AcceptedAgainHidden),
        ("unswitched-left", Self::UnswitchedLeft),
        ("unswitched-not-reset", Self::UnswitchedNotReset),
        ("rights-for-everybody", Self::RightsForEverybody),
        ("level-not-checked", Self::LevelNotChecked),
        ("busy-ignored", Self::BusyIgnored),
        ("page-state-skipped", Self::PageStateSkipped),
        ("host-return-believed", Self::HostReturnBelieved),
        ("list-read-twice", Self::ListReadTwice),
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

    /// True when a leaf is pretended instead of executed.
    pub(super) fn swallows(self, regs: &Regs) -> bool {
        match self {
            Self::AliasKept => is(regs, Leaf::MEM_PAGE_ATTR_WR) && of_each(regs.rdx).all(|vm| vm & RIGHTS == 0),
            Self::PageStateSkipped => is(regs, Leaf::VP_VMCALL) && regs.r11 == SubFunction::MAP_GPA.0,
            _ => false,
        }
    }

    /// What it does to the operands of a leaf.
    pub(super) fn before(self, regs: &mut Regs) {
        match self {
            Self::InveptDropped if is(regs, Leaf::VP_ENTER) => regs.rcx &= !INVALIDATE,
            Self::RightsForEverybody if is(regs, Leaf::MEM_PAGE_ATTR_WR) => {
                let [one, two, three] = [16, 32, 48].map(|shift| regs.rdx >> shift & 0xffff);
                regs.rdx = (one | three) << 16 | (two | one) << 32 | (three | two) << 48;
            }
            _ => {}
        }
    }

    /// What it does to the result of a leaf whose operands began with `leaf`.
    pub(super) fn after(self, leaf: u64, regs: &mut Regs) {
        let status = Status(regs.rax);
        match self {
            Self::CplNotChecked if leaf == Leaf::VP_ENTER.to_rax() => regs.r12 &= !CPL,
            Self::AcceptedAgainHidden if status.name() == Status::PAGE_ALREADY_ACCEPTED => {
                regs.rax = Status::SUCCESS.0;
            }
            Self::BusyIgnored if status.is_busy() => regs.rax = Status::SUCCESS.0,
            Self::HostReturnBelieved if status.name() == Status::L2_EXIT_HOST_ROUTED_ASYNC => {
                regs.rax = u64::from(status.details());
            }
            _ => {}
        }
    }
}

fn is(regs: &Regs, leaf: Leaf) -> bool {
    regs.rax == leaf.to_rax()
}

/// The attributes of each L2 VM in a word.
fn of_each(word: u64) -> impl Iterator<Item = u64> {
    [16, 32, 48].into_iter().map(move |shift| word >> shift & 0xffff)
}

impl Tamper for Defect {
    fn on_read(self, at: PhysAddr, bytes: &[u8]) -> Interference {
        match self {
            // Behind the count of a header.
            Self::ListReadTwice if bytes.len() == LIST_HEADER => Interference::Again { from: 2 },
            // Behind the flags of the first entry.
            Self::ListReadTwice if bytes.len() > LIST_HEADER && bytes.len() < FRAME_BYTES => {
                Interference::Again { from: 1 }
            }
            Self::LevelNotChecked if bytes.len() == FRAME_BYTES && at.is_aligned(PAGE) => {
                Interference::Patch { offset: FRAME_LEVEL, byte: 2 }
            }
            _ => Interference::None,
        }
    }
}
