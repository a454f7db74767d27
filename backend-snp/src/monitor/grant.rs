//! Pages of the levels below L1.

use coco_part_api::{After, Block, FrameRange, Grants, GuestLevel, GuestMemory, NotYet, Origin, Rights, Stopped};

use super::L1;
use super::blocks::{Masks, OnMismatch};
use super::validate::at_start;
use crate::error::SnpError;
use crate::instr::Port;

/// Whether rights were cut that TLBs may still hold.
#[derive(Debug, Default)]
#[must_use = "a cut right lives on in TLBs until the cut is redeemed"]
pub struct Cut {
    pending: bool,
}

impl Cut {
    /// Whether there is something to flush.
    pub(super) const fn is_pending(&self) -> bool {
        self.pending
    }
}

/// Proof that a flush of all TLBs came after the cut.
#[derive(Debug)]
pub struct Flushed(());

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Per block: PVALIDATE, zero, RMPADJUST for each level that gets a right. A page that becomes valid has no rights of
    /// lower levels (RMP-005, and `rescind_from` comes after `withdraw`), so nothing is revoked first.
    ///
    /// For [`Origin::Request`] the guest has agreed the page state itself, and a size mismatch is reported. The error
    /// [`SnpError::Quarantined`] says that the block at `done` is valid, unreachable for lower levels, and to be given up.
    pub fn validate_for(&mut self, range: FrameRange, grants: &Grants, by: Origin) -> Result<(), Stopped<SnpError>> {
        let mut masks = Masks::new();
        self.check(range, grants, &mut masks)?;
        let step = |l1: &mut Self, block: Block| l1.validate_block(block, masks.as_slice());
        match by {
            Origin::Monitor => self.with_private(range, step),
            Origin::Request => self.each(range, OnMismatch::of(by), step),
        }
    }

    /// RMPADJUST for each level that gets a right. On pages where no lower level has one: the rights of a level that
    /// `grants` does not name are not touched.
    pub fn publish(&mut self, range: FrameRange, grants: &Grants) -> Result<(), Stopped<SnpError>> {
        let mut masks = Masks::new();
        self.check(range, grants, &mut masks)?;
        self.each(range, OnMismatch::Split, |l1, block| l1.grant_block(block, masks.as_slice()))
    }

    /// RMPADJUST to no rights, for each level in use. For [`Origin::Request`] a size mismatch is reported.
    ///
    /// At the block where it stops, the levels before the one that failed have no rights any more, and `cut` covers them.
    /// What they had is not known here: the caller, who knows the grants, regrants that block as well.
    pub fn withdraw(&mut self, range: FrameRange, by: Origin, cut: &mut Cut) -> Result<(), Stopped<SnpError>> {
        self.map.check(range).map_err(at_start)?;
        self.each(range, OnMismatch::of(by), |l1, block| {
            for &level in l1.levels {
                l1.adjust(block, level, Rights::empty())?;
                cut.pending = true;
            }
            Ok(())
        })
    }

    /// One INVLPGB for everything and one TLBSYNC, if there is something to flush. Never [`NotYet`].
    ///
    /// The proof does not know its pages: it is the caller's part to use it for those of its cut only.
    pub fn redeem(&mut self, cut: Cut) -> Result<Flushed, NotYet<Cut>> {
        if cut.pending {
            self.flush();
        }
        Ok(Flushed(()))
    }

    /// As [`publish`](Self::publish), for pages whose cut is redeemed.
    ///
    /// # Errors
    /// As there.
    pub fn regrant(&mut self, range: FrameRange, grants: &Grants, _proof: &Flushed) -> Result<(), Stopped<SnpError>> {
        self.publish(range, grants)
    }

    /// PVALIDATE to not valid. The guest does the host's part of its own request.
    pub fn rescind_from(
        &mut self,
        range: FrameRange,
        then: After,
        by: Origin,
        _proof: &Flushed,
    ) -> Result<(), Stopped<SnpError>> {
        self.map.check(range).map_err(at_start)?;
        self.give_up(range, OnMismatch::of(by), by == Origin::Monitor && then == After::Shared)
    }

    /// RMPADJUST for each level in use. The old rights are not known, so everything but all rights counts as a cut.
    ///
    /// The block at which it stops may have the new rights for some levels and the old ones for others: the caller sets it
    /// again, or regrants it.
    pub fn set_rights(&mut self, range: FrameRange, grants: &Grants, cut: &mut Cut) -> Result<(), Stopped<SnpError>> {
        // Levels without a right are set too.
        self.check(range, grants, &mut Masks::new())?;
        self.each(range, OnMismatch::Split, |l1, block| {
            for &level in l1.levels {
                let rights = grants.of(level);
                l1.adjust(block, level, rights)?;
                cut.pending |= !rights.contains(l1.all_rights());
            }
            Ok(())
        })
    }

    /// Every right that the masks of this processor have.
    #[inline]
    const fn all_rights(&self) -> Rights {
        if self.has_shadow_stack_right { Rights::all() } else { Rights::RAM }
    }

    /// Range inside the map (M1); grants legal, and for levels in use only. Their masks are added to `masks`: a result of that
    /// size would be copied.
    #[inline(always)]
    fn check(&self, range: FrameRange, grants: &Grants, masks: &mut Masks) -> Result<(), Stopped<SnpError>> {
        self.map.check(range).map_err(at_start)?;
        for level in GuestLevel::ALL {
            let rights = grants.of(level);
            if rights.is_empty() {
                continue;
            }
            if !rights.is_legal() || !self.levels.contains(&level) {
                return Err(at_start(SnpError::IllegalGrants));
            }
            if !self.all_rights().contains(rights) {
                return Err(at_start(SnpError::Unsupported { what: "the right to supervisor shadow stacks" }));
            }
            masks.push(level, rights);
        }
        Ok(())
    }
}
