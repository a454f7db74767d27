//! One block of pages at a time: PVALIDATE, RMPADJUST and what undoes them.

use coco_part_api::range::{FRAMES_PER_LARGE, PageSize as BlockSize};
use coco_part_api::{
    Block, Error, ErrorKind, FrameRange, Grants, GuestLevel, GuestMemory, HostState, Origin, RangeError, Rights,
    Stopped,
};

use super::{L1, permissions, vmpl};
use crate::error::SnpError;
use crate::host::HostChannel;
use crate::instr::{Invlpgb, Page, PageSize, Port, PvalidateCode, PvalidateOp, RmpAttributes, RmpCode};

/// 2 MiB pages whose state is agreed with the host at once.
const LARGE_PER_PART: u64 = 32;

/// What a size mismatch of a 2 MiB block leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnMismatch {
    /// That block is done in 4 KiB steps.
    Split,
    /// It is reported.
    Report,
}

impl OnMismatch {
    /// What a request is told, L1 sees to itself.
    pub(super) const fn of(by: Origin) -> Self {
        match by {
            Origin::Monitor => Self::Split,
            Origin::Request => Self::Report,
        }
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Runs a step on every block of a range. A step that fails must have changed nothing.
    pub(super) fn each(
        &mut self,
        range: FrameRange,
        mismatch: OnMismatch,
        mut step: impl FnMut(&mut Self, Block) -> Result<(), SnpError>,
    ) -> Result<(), Stopped<SnpError>> {
        let mut done = 0;
        for block in range.blocks() {
            let frames = block.size().frames();
            match step(self, block) {
                Ok(()) => done += frames,
                Err(cause) if may_split(block, mismatch, &cause) => {
                    for (small, before) in block.range().small_blocks().zip(0..) {
                        step(self, small).map_err(|cause| Stopped { done: done + before, cause })?;
                    }
                    done += frames;
                }
                Err(cause) => return Err(Stopped { done, cause }),
            }
        }
        Ok(())
    }

    /// PVALIDATE of one block. That nothing changed is an error (M2).
    pub(super) fn pvalidate(&mut self, block: Block, op: PvalidateOp) -> Result<(), SnpError> {
        let result = self.port.pvalidate(page(block)?, op)?;
        match result.code {
            PvalidateCode::SUCCESS if result.carry => Err(SnpError::NoChange),
            PvalidateCode::SUCCESS => Ok(()),
            code => Err(SnpError::Pvalidate { code }),
        }
    }

    /// RMPADJUST of one block for one level.
    pub(super) fn adjust(&mut self, block: Block, level: GuestLevel, rights: Rights) -> Result<(), SnpError> {
        let attributes = RmpAttributes::new(vmpl(level), permissions(rights));
        match self.port.rmpadjust(page(block)?, attributes)? {
            RmpCode::SUCCESS => Ok(()),
            code => Err(SnpError::Rmpadjust { code }),
        }
    }

    /// Grants a block on which no lower level has a right. After an error none has one.
    ///
    /// If a right that was given cannot be taken back, the block is made invalid instead, so that nobody reaches it, and is
    /// [`SnpError::Quarantined`]. Its contents are lost then.
    pub(super) fn grant_block(&mut self, block: Block, grants: &Grants) -> Result<(), SnpError> {
        let mut given = false;
        for &level in self.levels {
            let rights = grants.of(level);
            if rights.is_empty() {
                continue;
            }
            if let Err(cause) = self.adjust(block, level, rights) {
                if given {
                    let revoked = self.revoke_block(block);
                    if revoked.is_err() {
                        // What else could be done if the machine refuses this too?
                        let _ = self.invalidate_block(block);
                    }
                    // Somebody may have used the right already.
                    self.flush();
                    revoked.map_err(|_| SnpError::Quarantined { at: block.start() })?;
                }
                return Err(cause);
            }
            given = true;
        }
        Ok(())
    }

    /// Takes all rights of all levels in use on a block.
    pub(super) fn revoke_block(&mut self, block: Block) -> Result<(), SnpError> {
        let revoke = |l1: &mut Self, block: Block| {
            l1.levels.iter().try_for_each(|&level| l1.adjust(block, level, Rights::empty()))
        };
        self.each(block.range(), OnMismatch::Split, revoke).map_err(|stopped| stopped.cause)
    }

    /// PVALIDATE of one block to not valid, in 4 KiB steps if need be.
    fn invalidate_block(&mut self, block: Block) -> Result<(), SnpError> {
        let rescind = |l1: &mut Self, block: Block| l1.pvalidate(block, PvalidateOp::Rescind);
        self.each(block.range(), OnMismatch::Split, rescind).map_err(|stopped| stopped.cause)
    }

    /// Validates one block, zeroes the whole of it and grants it, in this order. After an error it is not valid, and no
    /// lower level has a right, or it is [`SnpError::Quarantined`].
    pub(super) fn validate_block(&mut self, block: Block, grants: &Grants) -> Result<(), SnpError> {
        self.pvalidate(block, PvalidateOp::Validate)?;
        let zeroed = self.memory.zero(block.range()).map_err(SnpError::memory(block.start()));
        match zeroed.and_then(|()| self.grant_block(block, grants)) {
            Ok(()) => Ok(()),
            Err(cause @ SnpError::Quarantined { .. }) => Err(cause),
            Err(cause) => {
                self.invalidate_block(block).map_err(|_| SnpError::Quarantined { at: block.start() })?;
                Err(cause)
            }
        }
    }

    /// Drops every stale translation of this VM on every vCPU (M5).
    pub(super) fn flush(&mut self) {
        self.port.invlpgb(Invlpgb::everything());
        self.port.tlbsync();
    }

    /// Agrees the pages of a range as private, part by part, and runs a step on each block of them. Where a step stops, the
    /// pages from there on go back to the host.
    pub(super) fn with_private(
        &mut self,
        range: FrameRange,
        mut step: impl FnMut(&mut Self, Block) -> Result<(), SnpError>,
    ) -> Result<(), Stopped<SnpError>> {
        let mut done = 0;
        while let Some(part) = range.skip(done).map(next_part) {
            let agreed = self.host.page_state(&mut self.port, part, HostState::Private);
            // What the host did before it stopped is used.
            let ready = match &agreed {
                Ok(()) => Some(part),
                Err(stopped) => part.take(stopped.done),
            };
            if let Some(ready) = ready {
                if let Err(stopped) = self.each(ready, OnMismatch::Split, &mut step) {
                    if let Some(rest) = ready.skip(stopped.done) {
                        self.give_back(rest);
                    }
                    return Err(Stopped { done: done + stopped.done, cause: stopped.cause });
                }
                done += ready.frames();
            }
            agreed.map_err(|stopped| Stopped { done, cause: stopped.cause })?;
        }
        Ok(())
    }

    /// Shares pages that were agreed as private in vain. A page that turns out to be valid was so before, and stays as it is:
    /// making it shared would destroy it. Where machine or host does not let, the rest stays unassigned, within nobody's
    /// reach.
    fn give_back(&mut self, range: FrameRange) {
        if let Err(stopped) = self.each(range, OnMismatch::Split, Self::give_back_block) {
            log::debug!("{range:?} not given back from frame {:#x} on: {}", stopped.done, stopped.cause);
        }
    }

    fn give_back_block(&mut self, block: Block) -> Result<(), SnpError> {
        match self.pvalidate(block, PvalidateOp::Validate) {
            Ok(()) => self.pvalidate(block, PvalidateOp::Rescind)?,
            Err(SnpError::NoChange) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::SizeMismatch => return Err(error),
            // It is not valid.
            Err(_) => {}
        }
        let shared = self.host.page_state(&mut self.port, block.range(), HostState::Shared);
        shared.map_err(|stopped| stopped.cause)
    }
}

/// A part of a range that is agreed with the host at once: large pages only, or small ones up to the next large one.
pub(super) fn next_part(rest: FrameRange) -> FrameRange {
    let before_large = FRAMES_PER_LARGE - rest.first_number() % FRAMES_PER_LARGE;
    let frames = if before_large == FRAMES_PER_LARGE && rest.frames() >= FRAMES_PER_LARGE {
        (rest.frames() / FRAMES_PER_LARGE).min(LARGE_PER_PART) * FRAMES_PER_LARGE
    } else {
        before_large
    };
    rest.take(frames).unwrap_or(rest)
}

fn may_split(block: Block, mismatch: OnMismatch, cause: &SnpError) -> bool {
    mismatch == OnMismatch::Split && block.size() == BlockSize::Large && cause.kind() == ErrorKind::SizeMismatch
}

fn page(block: Block) -> Result<Page, SnpError> {
    let size = match block.size() {
        BlockSize::Small => PageSize::Size4KiB,
        BlockSize::Large => PageSize::Size2MiB,
    };
    Ok(Page::try_new(block.start(), size).map_err(|error| RangeError::Unaligned { at: error.at })?)
}
