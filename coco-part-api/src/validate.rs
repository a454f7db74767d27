//! Verb 1: validate memory, and set what a level below may do with it.
//!
//! # For callers
//! [`Validate`] is for the own level and exists on both sides: L1 does it with an instruction, a guest by asking L1. For
//! a level below, L1 has [`Grant`]. Taking a page back goes in three steps that the types keep in order (rules M5, M6):
//!
//! 1. [`Grant::withdraw`] cuts the rights of all lower levels and notes in a [`Grant::Cut`] that old translations may live;
//! 2. [`Grant::redeem`] turns the cut into a [`Grant::Flushed`] once no vCPU can use an old right any more;
//! 3. only with that proof can the page be given up ([`Grant::rescind_from`]), granted again ([`Grant::regrant`]) or
//!    adopted as a state frame ([`AdmitVcpu::admit`](crate::AdmitVcpu::admit)).
//!
//! One cut may collect many ranges, so that a request of n pages costs one flush. A proof covers exactly what was withdrawn
//! into its cut; one of an empty cut serves for pages on which no lower level ever had a right. Backends do not note which
//! pages a proof is about: to use it for those only is the caller's part.
//!
//! # For backend authors
//! - A range is checked against the memory map before the first instruction; a bad one changes nothing (M1).
//! - "Already in that state" is [`ErrorKind::AlreadyInState`](crate::ErrorKind::AlreadyInState), never success (M2).
//! - A page is zero before any lower level can reach it (M3): zero after validating and before granting.
//! - Rights never exceed what was asked, nor what the own level has (M5).
//! - After a stop at frame n the frames before n are done; frame n and those behind it have the state and the rights they
//!   had before (M4). Two exceptions. Where rights are cut or changed, levels may have lost theirs on the block at frame n:
//!   what they had only the caller knows, and regrants. And a page that cannot be put back is taken out of everybody's reach
//!   as far as the machine lets, its contents with it; the error for the block at frame n is
//!   [`ErrorKind::Quarantined`](crate::ErrorKind::Quarantined), and nobody may use that block again.
//! - 2 MiB operations are used wherever both ends allow; where one 2 MiB block refuses with a size mismatch, that block
//!   alone is done in 4 KiB steps. For a guest's request ([`Origin::Request`]) the mismatch is reported instead: the call
//!   protocol has the guest ask again in 4 KiB entries.

use crate::error::{ErrorType, Stopped};
use crate::range::FrameRange;
use crate::rights::Grants;

/// What becomes of pages that are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// They stay assigned to the VM but hold nothing; nobody can use them until they are validated again.
    Unassigned,
    /// They are shared with the host.
    Shared,
}

/// Page states of the own level. Both sides.
pub trait Validate: ErrorType {
    /// Makes the pages private memory of the own level that reads as zeros.
    ///
    /// Whether the host holds them as shared or as unassigned before does not matter; the page state is agreed first.
    ///
    /// # Errors
    /// `OutOfRange`, `Misaligned`; `AlreadyInState` for a page that is valid (M2); `HostRefused`, `HostMisbehaved`,
    /// `Inaccessible` when the host does not do its part. See the module for what is left after a stop.
    #[doc(alias = "PVALIDATE")]
    #[doc(alias = "TDG.MEM.PAGE.ACCEPT")]
    fn validate(&mut self, range: FrameRange) -> Result<(), Stopped<Self::Error>>;

    /// Gives the pages up. Their contents are lost.
    ///
    /// They are the own level's: what a lower level has a right on goes through [`Grant::withdraw`] first. At L1 a backend
    /// takes rights that are left over away, or refuses the page as `InUse`; no right comes back when it is validated again.
    ///
    /// # Errors
    /// As [`validate`](Self::validate); `AlreadyInState` for a page that is not valid, where the machine tells L1. Where it
    /// does not, the caller has to know: an instruction on memory that the host holds may never come back from the host.
    /// `Unsupported` for [`After::Unassigned`] where [`Capabilities::rescind_unassigned`](crate::Capabilities) says no.
    fn rescind(&mut self, range: FrameRange, then: After) -> Result<(), Stopped<Self::Error>>;

    /// Shares pages with the host. What they held is lost, not shown.
    ///
    /// # Errors
    /// As [`rescind`](Self::rescind).
    fn share(&mut self, range: FrameRange) -> Result<(), Stopped<Self::Error>> {
        self.rescind(range, After::Shared)
    }

    /// Takes shared pages back as private memory that reads as zeros.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    fn unshare(&mut self, range: FrameRange) -> Result<(), Stopped<Self::Error>> {
        self.validate(range)
    }
}

impl<T: Validate + ?Sized> Validate for &mut T {
    fn validate(&mut self, range: FrameRange) -> Result<(), Stopped<Self::Error>> {
        (**self).validate(range)
    }

    fn rescind(&mut self, range: FrameRange, then: After) -> Result<(), Stopped<Self::Error>> {
        (**self).rescind(range, then)
    }

    fn share(&mut self, range: FrameRange) -> Result<(), Stopped<Self::Error>> {
        (**self).share(range)
    }

    fn unshare(&mut self, range: FrameRange) -> Result<(), Stopped<Self::Error>> {
        (**self).unshare(range)
    }
}

/// On whose behalf L1 acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Its own: it also does the host's part (page state).
    Monitor,
    /// A guest's request: it does the host's part only where the guest cannot reach the host itself.
    Request,
}

/// The answer of [`Grant::redeem`] when some vCPU may still use an old right. Holds the cut for another try.
#[derive(Debug)]
pub struct NotYet<C>(pub C);

/// Page states and rights of the levels below. L1 only.
pub trait Grant: Validate {
    /// Rights that were cut and may still be used through stale translations. `default()` is "nothing was cut".
    type Cut: Default;

    /// Proof that nobody can use the rights of a cut any more. Only [`redeem`](Self::redeem) makes one.
    type Flushed;

    /// Validates pages for levels below: page state, validation, zeroing, then the rights, as one step per page.
    ///
    /// # Errors
    /// As [`Validate::validate`]; `InvalidArgument` for grants that are not legal.
    #[doc(alias = "RMPADJUST")]
    #[doc(alias = "TDG.MEM.PAGE.ATTR.WR")]
    fn validate_for(&mut self, range: FrameRange, grants: &Grants, by: Origin) -> Result<(), Stopped<Self::Error>>;

    /// Hands pages that L1 holds and filled on purpose to levels below. Their contents stay: this is the only way by
    /// which L1's bytes reach a lower level (M3).
    ///
    /// No lower level has a right on the pages: they were never granted, or withdrawn and redeemed. Backends do not check
    /// that, and what becomes of an older right of a level that `grants` does not name is not defined. To change rights
    /// there is [`set_rights`](Self::set_rights).
    ///
    /// # Errors
    /// `OutOfRange`, `InvalidArgument`; `Refused`, `Inaccessible` from the machine.
    fn publish(&mut self, range: FrameRange, grants: &Grants) -> Result<(), Stopped<Self::Error>>;

    /// Takes every right of every lower level on the pages away and notes it in `cut`. The contents stay.
    ///
    /// For [`Origin::Request`] a block of a size that [`rescind_from`](Self::rescind_from) would report is reported here, before
    /// anything behind it is cut: a request stops at it anyway, and what was cut in vain would have to be granted again.
    ///
    /// After an error the first `done` frames are cut, and `cut` covers them. On the block at frame `done` some levels may
    /// have lost their rights too, which `cut` covers as well: the caller regrants that block with the others.
    ///
    /// # Errors
    /// `OutOfRange`; `Refused`, `InUse`, `SizeMismatch`, `Inaccessible` from the machine.
    fn withdraw(&mut self, range: FrameRange, by: Origin, cut: &mut Self::Cut) -> Result<(), Stopped<Self::Error>>;

    /// Proves that no vCPU can use what was cut. Costs nothing for a cut of nothing, and one flush at most.
    ///
    /// # Errors
    /// [`NotYet`] when other vCPUs have to leave the lower levels first; see [`Processor::kick`](crate::Processor::kick).
    #[doc(alias = "INVLPGB")]
    #[doc(alias = "TDG.VP.INVEPT")]
    fn redeem(&mut self, cut: Self::Cut) -> Result<Self::Flushed, NotYet<Self::Cut>>;

    /// Grants withdrawn pages again, with their contents: for a request that was refused after the cut (M4), or when a
    /// page returns to the level that owned it (M3).
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    fn regrant(
        &mut self,
        range: FrameRange,
        grants: &Grants,
        proof: &Self::Flushed,
    ) -> Result<(), Stopped<Self::Error>>;

    /// Gives withdrawn pages up (M6). Their contents are lost. `proof` is that of the cut they were withdrawn into.
    ///
    /// # Errors
    /// As [`Validate::rescind`].
    fn rescind_from(
        &mut self,
        range: FrameRange,
        then: After,
        by: Origin,
        proof: &Self::Flushed,
    ) -> Result<(), Stopped<Self::Error>>;

    /// Changes the rights on valid pages. Rights that become fewer are noted in `cut`; the change is done when that cut
    /// is redeemed. After an error the block at frame `done` may have the new rights for some levels and the old ones for
    /// others.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    fn set_rights(
        &mut self,
        range: FrameRange,
        grants: &Grants,
        cut: &mut Self::Cut,
    ) -> Result<(), Stopped<Self::Error>>;
}
