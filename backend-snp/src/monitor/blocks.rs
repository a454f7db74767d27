//! One block of pages at a time: PVALIDATE, RMPADJUST and what undoes them.

use coco_part_api::level::GUEST_LEVELS;
use coco_part_api::range::{FRAMES_PER_LARGE, PageSize as BlockSize};
use coco_part_api::{Block, Error, ErrorKind, FrameRange, GuestLevel, GuestMemory, HostState, Origin, Rights, Stopped};

use super::{L1, permissions, vmpl};
use crate::error::SnpError;
use crate::host::HostChannel;
use crate::instr::{Invlpgb, Port, PvalidateCode, PvalidateOp, RmpAttributes, RmpCode};

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

/// Grants as RMPADJUST takes them: a mask for each level that gets a right.
#[derive(Debug)]
pub(super) struct Masks {
    all: [RmpAttributes; GUEST_LEVELS],
    count: usize,
}

impl Masks {
    /// No right for anybody.
    #[inline]
    pub(super) const fn new() -> Self {
        Self { all: [RmpAttributes::from_bits_retain(0); GUEST_LEVELS], count: 0 }
    }

    /// Adds these rights of a level.
    #[inline]
    pub(super) fn push(&mut self, level: GuestLevel, rights: Rights) {
        if let Some(slot) = self.all.get_mut(self.count) {
            *slot = mask(level, rights);
            self.count += 1;
        }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[RmpAttributes] {
        self.all.get(..self.count).unwrap_or_default()
    }
}

/// What RMPADJUST is told to give a level these rights.
#[inline]
fn mask(level: GuestLevel, rights: Rights) -> RmpAttributes {
    RmpAttributes::new(vmpl(level), permissions(rights))
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Runs a step on every block of a range. A step that fails must have changed nothing.
    #[inline]
    pub(super) fn each(
        &mut self,
        range: FrameRange,
        mismatch: OnMismatch,
        mut step: impl FnMut(&mut Self, Block) -> Result<(), SnpError>,
    ) -> Result<(), Stopped<SnpError>> {
        let mut next = Some(range);
        // Blocks are small while more frames are left.
        let mut behind_split = u64::MAX;
        while let Some(rest) = next {
            let largest = if rest.frames() > behind_split { BlockSize::Small } else { BlockSize::Large };
            let block = rest.first_block(largest);
            match step(self, block) {
                Ok(()) => next = rest.skip(block.size().frames()),
                Err(cause) if may_split(block, mismatch, &cause) => {
                    behind_split = rest.frames() - block.size().frames();
                }
                Err(cause) => return Err(Stopped { done: range.frames() - rest.frames(), cause }),
            }
        }
        Ok(())
    }

    /// PVALIDATE of one block. That nothing changed is an error (M2).
    pub(super) fn pvalidate(&mut self, block: Block, op: PvalidateOp) -> Result<(), SnpError> {
        let result = self.port.pvalidate(block.into(), op)?;
        match result.code {
            PvalidateCode::SUCCESS if result.carry => Err(SnpError::NoChange),
            PvalidateCode::SUCCESS => Ok(()),
            code => Err(SnpError::Pvalidate { code }),
        }
    }

    /// RMPADJUST of one block for one level.
    pub(super) fn adjust(&mut self, block: Block, level: GuestLevel, rights: Rights) -> Result<(), SnpError> {
        self.rmpadjust(block, mask(level, rights))
    }

    fn rmpadjust(&mut self, block: Block, mask: RmpAttributes) -> Result<(), SnpError> {
        match self.port.rmpadjust(block.into(), mask)? {
            RmpCode::SUCCESS => Ok(()),
            code => Err(SnpError::Rmpadjust { code }),
        }
    }

    /// Grants a block on which no lower level has a right. After an error none has one.
    ///
    /// If a right that was given cannot be taken back, the block is made invalid instead, so that nobody reaches it, and is
    /// [`SnpError::Quarantined`]. Its contents are lost then.
    #[inline]
    pub(super) fn grant_block(&mut self, block: Block, masks: &[RmpAttributes]) -> Result<(), SnpError> {
        let mut given = false;
        for mask in masks {
            if let Err(cause) = self.rmpadjust(block, *mask) {
                return Err(if given { self.undo_grant(block, cause) } else { cause });
            }
            given = true;
        }
        Ok(())
    }

    /// Takes back what levels before the one that failed were given.
    #[cold]
    fn undo_grant(&mut self, block: Block, cause: SnpError) -> SnpError {
        let revoked = self.revoke_block(block);
        if revoked.is_err() {
            // What else could be done if the machine refuses this too?
            let _ = self.invalidate_block(block);
        }
        // Somebody may have used the right already.
        self.flush();
        match revoked {
            Ok(()) => cause,
            Err(_) => SnpError::Quarantined { at: block.start() },
        }
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
    #[inline]
    pub(super) fn validate_block(&mut self, block: Block, masks: &[RmpAttributes]) -> Result<(), SnpError> {
        self.pvalidate(block, PvalidateOp::Validate)?;
        let cause = match self.memory.zero(block.range()) {
            Ok(()) => match self.grant_block(block, masks) {
                Ok(()) => return Ok(()),
                Err(cause) => cause,
            },
            Err(fault) => SnpError::memory(block.start())(fault),
        };
        Err(self.undo_validate(block, cause))
    }

    /// Makes a block invalid again that could not be zeroed or granted, unless there is nothing left to do about it.
    #[cold]
    fn undo_validate(&mut self, block: Block, cause: SnpError) -> SnpError {
        if matches!(cause, SnpError::Quarantined { .. }) {
            return cause;
        }
        match self.invalidate_block(block) {
            Ok(()) => cause,
            Err(_) => SnpError::Quarantined { at: block.start() },
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
