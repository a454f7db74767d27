//! What whoever runs the cases supplies.

use core::fmt;

use coco_part_api::{Context, FrameRange, PageSize};
use image_companions::Pages;

/// How an access sees a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// With the C-bit.
    Private,
    /// Without it.
    Shared,
}

/// An instruction whose exception is wanted. Addresses are guest-physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// A load of 8 bytes.
    Load {
        /// Where; a multiple of 8.
        at: u64,
        /// As what.
        view: View,
    },
    /// A store of 8 bytes.
    Store {
        /// Where; a multiple of 8.
        at: u64,
        /// As what.
        view: View,
        /// What.
        value: u64,
    },
    /// A call of code at CPL 0. A page that may be executed has a near return there.
    Fetch {
        /// Where.
        at: u64,
    },
    /// PVALIDATE.
    Pvalidate {
        /// The page.
        at: u64,
        /// Its size.
        size: PageSize,
        /// Validate, else rescind.
        validate: bool,
    },
    /// RMPADJUST of a 4 KiB page.
    Rmpadjust {
        /// The page.
        at: u64,
        /// Attributes: RDX as it is.
        rdx: u64,
    },
    /// RMPQUERY.
    Rmpquery {
        /// The page.
        at: u64,
        /// Target level.
        target: u64,
    },
    /// CPUID.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
    },
    /// RDMSR.
    ReadMsr(u32),
    /// WRMSR.
    WriteMsr(u32, u64),
    /// IN of one byte.
    In(u16),
    /// OUT of one byte.
    Out(u16, u8),
    /// WBINVD.
    Wbinvd,
    /// INVD.
    Invd,
    /// RDPMC.
    Rdpmc,
    /// MONITOR.
    Monitor,
    /// MWAIT.
    Mwait,
    /// VMMCALL.
    Vmmcall,
}

/// What an instruction left. After an exception its registers are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing but that it is over.
    Done,
    /// A value: of a register, or of memory.
    Value(u64),
    /// EAX of an instruction with a status.
    Status(u32),
    /// #GP.
    GeneralProtection,
    /// #UD.
    InvalidOpcode,
    /// #VC with this code.
    Vc(u64),
    /// Another exception, by its vector.
    Exception(u8),
}

/// Pages of L1, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorPages {
    /// The first page of its image.
    pub first: u64,
    /// A page of its data.
    pub data: u64,
    /// The last page of its memory.
    pub last: u64,
    /// The original secrets page.
    pub secrets: u64,
    /// The original CPUID page.
    pub features: u64,
    /// Where the launch put its first state frame.
    pub launch_state: u64,
}

/// Where things lie in the memory of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// [`OWN_PAGES`](crate::OWN_PAGES) pages of the guest that nobody else uses, for every case anew. None is aligned to
    /// 2 MiB.
    pub own: FrameRange,
    /// A page of the guest by which its vCPUs talk.
    pub mailbox: u64,
    /// RAM that nobody has validated: whole 2 MiB.
    pub fresh: FrameRange,
    /// A multiple of 2 MiB in nobody's memory map.
    pub hole: u64,
    /// The guest's copy of the secrets page.
    pub secrets: u64,
    /// Pages of L1.
    pub monitor: MonitorPages,
    /// Pages of the companions, if there are any.
    pub companions: Pages,
    /// vCPUs of the VM.
    pub vcpus: u8,
}

/// What a vCPU of the guest gets from whoever runs the cases.
pub trait Bed {
    /// Executes an instruction and survives its exception.
    fn execute(&mut self, instruction: Instruction) -> Found;

    /// Writes a line of the report.
    fn say(&mut self, line: fmt::Arguments<'_>);

    /// Has whoever counts instructions write the counts down, under this number.
    fn mark(&mut self, number: u8);

    /// Asks the host for something that L1 has no part in. False if it does not answer.
    fn ask_host(&mut self) -> bool;

    /// Lets others run.
    fn pause(&mut self);

    /// What a further vCPU begins with: the entry of a program that goes to [`further`](crate::further()), and executes
    /// nothing of the guest's any more when it comes back from there.
    fn further(&self) -> Context;
}
