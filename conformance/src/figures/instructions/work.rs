//! The pieces of work that are counted. Each is done once, in a process of its own, and has to succeed.

use clap::ValueEnum;
use coco_part_api::svsm::list::{Action, Entry, WORD};
use coco_part_api::svsm::{CALL_BUFFER, CORE, CREATE_VCPU, CallId, CallResult, PVALIDATE};
use coco_part_api::{Block, CallRegs, Context, PageSize};
use x86_64::PhysAddr;

use super::counted;
use super::snp::NullSnp;
use super::tdx::NullTdx;
use super::verbs;
use super::vm::{NullVendor, Vm};
use crate::world::layout::{CALL_AREA, ENTRY_FURTHER, FREE, PAGE, STATE, page};

/// A protocol that nobody speaks.
const UNKNOWN: u32 = 0x99;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// A call that validates 4 KiB pages that lie side by side
    Validate,
    /// A call that validates 4 KiB pages no two of which lie side by side
    Scattered,
    /// A call that creates a vCPU
    Create,
    /// A call of a protocol that is not spoken
    Refused,
    /// The verbs through the traits
    Traits,
    /// The verbs as functions of the backend's own
    Inherent,
}

/// On which backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Vendor {
    /// backend-snp
    Snp,
    /// backend-tdx-stub
    Tdx,
}

/// One piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What is done.
    pub work: Work,
    /// On which backend.
    pub vendor: Vendor,
    /// Entries of its list, or pages of a verb.
    pub entries: u64,
}

impl Job {
    /// The words of the command line that name it.
    pub(super) fn words(&self) -> Result<[String; 3], String> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).ok_or_else(|| format!("{self:?} has no name"))
        };
        Ok([name(self.work.to_possible_value())?, name(self.vendor.to_possible_value())?, self.entries.to_string()])
    }

    /// Does it.
    ///
    /// # Errors
    /// It did not come to what it should.
    pub fn run(self) -> Result<(), String> {
        match (self.work, self.vendor) {
            (Work::Traits, Vendor::Snp) => verbs::through_traits(&mut Vm::<NullSnp>::new()?, self.entries),
            (Work::Inherent, Vendor::Snp) => verbs::inherent(&mut Vm::<NullSnp>::new()?, self.entries),
            (Work::Traits | Work::Inherent, Vendor::Tdx) => {
                Err("its verbs are functions of the traits alone".to_owned())
            }
            (_, Vendor::Snp) => self.call(Vm::<NullSnp>::new()?),
            (_, Vendor::Tdx) => self.call(Vm::<NullTdx>::new()?),
        }
    }

    fn call<V: NullVendor>(self, mut vm: Vm<V>) -> Result<(), String> {
        let (regs, wanted) = match self.work {
            Work::Validate => (self.list(&vm, 1)?, CallResult::SUCCESS),
            Work::Scattered => (self.list(&vm, 2)?, CallResult::SUCCESS),
            Work::Create => {
                vm.put(STATE, &V::image(&Context::long_mode(ENTRY_FURTHER, 0, 0)))?;
                let regs = CallRegs::call(CallId::new(CORE, CREATE_VCPU), STATE, page(CALL_AREA, 1), 1);
                (regs, CallResult::SUCCESS)
            }
            Work::Refused | Work::Traits | Work::Inherent => {
                (CallRegs::call(CallId::new(UNKNOWN, 0), 0, 0, 0), CallResult::UNSUPPORTED_PROTOCOL)
            }
        };
        vm.call(regs)?;
        let mut done = Ok(());
        counted(&mut || done = vm.step(wanted));
        done?;
        self.check(&vm)
    }

    /// Writes a list to the buffer of the call area, where a Linux guest has it; its pages lie `stride` pages apart.
    fn list<V: NullVendor>(self, vm: &Vm<V>, stride: u64) -> Result<CallRegs, String> {
        let at = CALL_AREA + CALL_BUFFER;
        vm.put(at, &self.entries.to_le_bytes())?;
        for index in 0..self.entries {
            let start = PhysAddr::new(page(FREE, index * stride));
            let block = Block::new(start, PageSize::Small).map_err(|error| error.to_string())?;
            let entry = Entry { block, action: Action::Validate, ignore_cf: false };
            vm.put(at + WORD * (1 + index), &entry.encode().to_le_bytes())?;
        }
        Ok(CallRegs::call(CallId::new(CORE, PVALIDATE), at, 0, 0))
    }

    /// Every page of a list has become the guest's.
    fn check<V: NullVendor>(self, vm: &Vm<V>) -> Result<(), String> {
        let pages = match self.work {
            Work::Validate => self.entries,
            Work::Scattered => 2 * self.entries,
            _ => return Ok(()),
        };
        let stride = pages / self.entries.max(1);
        let wrong = (0..pages).find(|index| vm.is_guests(FREE + index * PAGE) != index.is_multiple_of(stride));
        wrong.map_or(Ok(()), |index| Err(format!("page {index} of the list is not as it should be")))
    }
}
