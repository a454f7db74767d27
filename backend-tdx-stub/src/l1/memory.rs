//! Verb 1: validate memory and grant it.
//!
//! A page of a level below is an alias: the level reaches it only while L1 has given it attributes for that level
//! (TDX-22). Taking rights away is removing the alias; what is left then are old translations, see [`crate::shared`].

use coco_part_api::range::SMALL;
use coco_part_api::{
    After, Block, FrameRange, Grant, Grants, GuestLevel, GuestMemory, HostState, NotYet, Origin, PageSize, Rights,
    Stopped, Validate,
};
use x86_64::PhysAddr;

use super::L1;
use crate::abi::attr::{Attributes, PageInfo, VmAttributes};
use crate::abi::leaves::Leaf;
use crate::abi::regs::Regs;
use crate::abi::status::Status;
use crate::error::Error;
use crate::port::Port;

/// Rights that were cut: the epoch that began after the last of them.
#[derive(Debug, Default)]
pub struct Cut {
    epoch: Option<u64>,
}

/// Proof that no vCPU can use the rights of a cut.
#[derive(Debug)]
pub struct Flushed(());

/// What a 2 MiB page that the module holds as small ones becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mismatch {
    /// Small steps.
    Split,
    /// An error.
    Report,
}

/// A value and a mask for TDG.MEM.PAGE.ATTR.WR.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    value: Attributes,
    mask: Attributes,
}

/// A leaf of the page tables as TDG.MEM.PAGE.ATTR.RD finds it.
struct Leafed {
    info: PageInfo,
    attributes: Attributes,
}

type Step<F> = Result<(), Stopped<Error<F>>>;

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    fn check(&self, range: FrameRange) -> Step<M::Fault> {
        self.map.check(range).map_err(|error| Stopped::at_start(Error::Range(error)))
    }

    /// Grants that the machine takes and that name no L2 VM which is not there.
    fn check_grants(&self, grants: &Grants) -> Step<M::Fault> {
        let absent = |level: &GuestLevel| level.number() > self.td.levels;
        let for_nobody = GuestLevel::ALL.into_iter().filter(absent).all(|level| grants.of(level).is_empty());
        if !grants.is_legal() || !for_nobody {
            return Err(Stopped::at_start(Error::BadGrants));
        }
        if GuestLevel::ALL.into_iter().any(|level| grants.of(level).contains(Rights::SHADOW_STACK)) {
            return Err(Stopped::at_start(Error::Unsupported { reason: "levels without shadow stacks" }));
        }
        Ok(())
    }

    /// Exactly these rights for every L2 VM of the TD. Without a right a VM's alias goes.
    fn exactly(&self, grants: &Grants) -> Change {
        self.present().fold(Change::default(), |change, level| Change {
            value: change.value.with(level, VmAttributes::of(grants.of(level))),
            mask: change.mask.with(level, VmAttributes::MANAGED - VmAttributes::VALID),
        })
    }

    /// Does `step` for each page of the range, in 2 MiB where both ends allow. Exact about how far it came.
    fn each_page(
        &mut self,
        range: FrameRange,
        mismatch: Mismatch,
        mut step: impl FnMut(&mut Self, Block) -> Step<M::Fault>,
    ) -> Step<M::Fault> {
        let mut done = 0;
        for block in range.blocks() {
            let mut result = step(self, block);
            let refused = matches!(result, Err(Stopped { done: 0, cause: Error::SizeMismatch { .. } }));
            if refused && mismatch == Mismatch::Split && block.size() == PageSize::Large {
                result = Ok(());
                for (index, small) in (0..).zip(block.range().small_blocks()) {
                    result = step(self, small).map_err(|stop| Stopped { done: index, ..stop });
                    if result.is_err() {
                        break;
                    }
                }
            }
            result.map_err(|stop| Stopped { done: done + stop.done, ..stop })?;
            done += block.size().frames();
        }
        Ok(())
    }

    /// A leaf that changes one page.
    fn change(&mut self, leaf: Leaf, block: Block, operands: Regs) -> Result<(), Error<M::Fault>> {
        match self.call(leaf, Regs { rcx: PageInfo::of(block).0, ..operands }) {
            // No page is smaller than a small one: splitting would not help.
            Err(Error::SizeMismatch { leaf, status }) if block.size() == PageSize::Small => {
                Err(Error::Unexpected { leaf, status })
            }
            result => result.map(drop),
        }
    }

    fn accept(&mut self, block: Block) -> Result<(), Error<M::Fault>> {
        self.change(Leaf::MEM_PAGE_ACCEPT, block, Regs::default())
    }

    fn write_attributes(&mut self, block: Block, change: Change) -> Result<(), Error<M::Fault>> {
        let operands = Regs { rdx: change.value.0, r8: change.mask.0, ..Regs::default() };
        self.change(Leaf::MEM_PAGE_ATTR_WR, block, operands)
    }

    fn read_attributes(&mut self, at: PhysAddr) -> Result<Leafed, Error<M::Fault>> {
        let operands = Regs { rcx: PageInfo::at(at).0, ..Regs::default() };
        let regs = self.call(Leaf::MEM_PAGE_ATTR_RD, operands)?;
        Ok(Leafed { info: PageInfo(regs.rcx), attributes: Attributes(regs.rdx) })
    }

    fn write_each(&mut self, range: FrameRange, change: Change) -> Step<M::Fault> {
        self.each_page(range, Mismatch::Split, |l1, block| {
            l1.write_attributes(block, change).map_err(Stopped::at_start)
        })
    }

    /// Notes that rights were cut before now: every vCPU, this one too, invalidates before it runs a level again.
    fn note(&self, cut: &mut Cut) {
        cut.epoch = Some(self.shared.begin_epoch());
    }

    /// Agrees "private" with the host, then does `step` for each page as far as the host came.
    fn make_private(
        &mut self,
        range: FrameRange,
        mismatch: Mismatch,
        step: impl FnMut(&mut Self, Block) -> Step<M::Fault>,
    ) -> Step<M::Fault> {
        let agreed = self.map_gpa(range, HostState::Private);
        let part = match &agreed {
            Ok(()) => Some(range),
            Err(stop) => range.take(stop.done),
        };
        if let Some(part) = part {
            self.each_page(part, mismatch, step)?;
        }
        agreed
    }

    fn give_up(&mut self, range: FrameRange, then: After) -> Step<M::Fault> {
        match then {
            After::Shared => self.map_gpa(range, HostState::Shared),
            After::Unassigned => Err(Stopped::at_start(Error::Unsupported {
                reason: "TDX module 1.5 has no TDG.MEM.PAGE.RELEASE: a page leaves the TD by being shared",
            })),
        }
    }

    /// Every page of the range is accepted and reached by nobody below. Counts nothing: nothing is done to a page.
    fn check_own(&mut self, range: FrameRange) -> Result<(), Error<M::Fault>> {
        let mut rest = Some(range);
        while let Some(part) = rest {
            let at = part.start();
            let leaf = self.read_attributes(at)?;
            let bad = Error::BadAnswer { leaf: Leaf::MEM_PAGE_ATTR_RD, value: leaf.info.0 };
            let frames = leaf.info.frames().ok_or(bad)?;
            if leaf.info.is_pending() {
                return Err(Error::NotAccepted { at });
            }
            if self.present().any(|level| leaf.attributes.of(level).contains(VmAttributes::VALID)) {
                return Err(Error::StillGranted { at });
            }
            // `at` may lie inside of a larger leaf: go to its end.
            rest = part.skip(frames - at.as_u64() / SMALL % frames);
        }
        Ok(())
    }
}

impl<P: Port, M: GuestMemory> Validate for L1<'_, P, M> {
    /// MapGPA to private, then TDG.MEM.PAGE.ACCEPT, which zeroes.
    fn validate(&mut self, range: FrameRange) -> Step<M::Fault> {
        self.check(range)?;
        self.make_private(range, Mismatch::Split, |l1, block| l1.accept(block).map_err(Stopped::at_start))
    }

    /// MapGPA to shared, for pages that no lower level reaches: `InUse` for one that does, and nothing changed.
    fn rescind(&mut self, range: FrameRange, then: After) -> Step<M::Fault> {
        self.check(range)?;
        if then == After::Shared {
            self.check_own(range).map_err(Stopped::at_start)?;
        }
        self.give_up(range, then)
    }
}

impl<P: Port, M: GuestMemory> Grant for L1<'_, P, M> {
    type Cut = Cut;
    type Flushed = Flushed;

    /// MapGPA to private, TDG.MEM.PAGE.ACCEPT, TDG.MEM.PAGE.ATTR.WR for all L2 VMs in one call. A guest cannot reach the
    /// host itself, so L1 does the host's part for either origin.
    ///
    /// A page that was accepted and then could not be granted cannot be put back: it stays zero and without an alias, and
    /// the error is `Quarantined`. Of a 2 MiB page that is what lies behind the frames that are done.
    fn validate_for(&mut self, range: FrameRange, grants: &Grants, by: Origin) -> Step<M::Fault> {
        self.check(range)?;
        self.check_grants(grants)?;
        let change = self.exactly(grants);
        let mismatch = match by {
            Origin::Monitor => Mismatch::Split,
            Origin::Request => Mismatch::Report,
        };
        self.make_private(range, mismatch, |l1, block| {
            l1.accept(block).map_err(Stopped::at_start)?;
            // The host may have split the page since. It is accepted, so asking again in small pages would be refused:
            // the rights are given in small steps for either origin.
            l1.write_each(block.range(), change).map_err(|stop| stop.map(Error::after_accepting))
        })
    }

    fn publish(&mut self, range: FrameRange, grants: &Grants) -> Step<M::Fault> {
        self.check(range)?;
        self.check_grants(grants)?;
        let change = self.exactly(grants);
        self.write_each(range, change)
    }

    /// TDG.MEM.PAGE.ATTR.WR with no right for any VM; INVEPT is left to the next entry, so that a cut of many pages costs
    /// one. Giving up knows no sizes, so none is reported.
    fn withdraw(&mut self, range: FrameRange, _by: Origin, cut: &mut Cut) -> Step<M::Fault> {
        self.check(range)?;
        let change = self.exactly(&Grants::NONE);
        let result = self.write_each(range, change);
        // Also after an error: the frames before it are cut.
        self.note(cut);
        result
    }

    fn redeem(&mut self, cut: Cut) -> Result<Flushed, NotYet<Cut>> {
        match cut.epoch {
            Some(epoch) if !self.shared.all_left_since(epoch) => Err(NotYet(cut)),
            _ => Ok(Flushed(())),
        }
    }

    fn regrant(&mut self, range: FrameRange, grants: &Grants, _proof: &Flushed) -> Step<M::Fault> {
        self.publish(range, grants)
    }

    /// MapGPA to shared by L1, for either origin. The proof does not know its pages, so they are looked at again: `InUse` for
    /// one that a lower level reaches, and nothing changed.
    fn rescind_from(&mut self, range: FrameRange, then: After, _by: Origin, _proof: &Flushed) -> Step<M::Fault> {
        self.rescind(range, then)
    }

    /// TDG.MEM.PAGE.ATTR.RD and ATTR.WR per page; a cut is noted only where some VM loses a right.
    fn set_rights(&mut self, range: FrameRange, grants: &Grants, cut: &mut Cut) -> Step<M::Fault> {
        self.check(range)?;
        self.check_grants(grants)?;
        let change = self.exactly(grants);
        let mut fewer = false;
        let result = self.each_page(range, Mismatch::Split, |l1, block| {
            let page = l1.read_attributes(block.start()).map_err(Stopped::at_start)?;
            let cuts = l1.present().any(|level| {
                let kept = VmAttributes::of(grants.of(level));
                !kept.contains(page.attributes.of(level) & VmAttributes::RIGHTS)
            });
            if page.info.is_pending() {
                return Err(Stopped::at_start(Error::NotAccepted { at: block.start() }));
            }
            // A block of small pages: only the first has been read. ATTR.WR would say that it has to be split or, if the
            // host has merged them meanwhile, would change rights unread; so small steps, decided here.
            if page.info.level() < PageInfo::of(block).level() {
                let status = Status::PAGE_SIZE_MISMATCH;
                return Err(Stopped::at_start(Error::SizeMismatch { leaf: Leaf::MEM_PAGE_ATTR_RD, status }));
            }
            fewer |= cuts;
            l1.write_attributes(block, change).map_err(Stopped::at_start)
        });
        if fewer {
            self.note(cut);
        }
        result
    }
}
