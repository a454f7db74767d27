//! Reads IGVM files, versions 1 and 2 of the format, for an SNP guest.
//!
//! The structures are those of the crate `igvm_defs`. A file is checked as a whole before anything of it is told: [`Igvm::try_new`]
//! accepts or names what is wrong, [`Igvm::steps`] then cannot fail. Headers of other platforms are checked as far as their
//! shape goes and left out. Of a type that is not known it is the file that says whether it may be ignored.
//!
//! What the format leaves open is decided here so: a page is used once; every platform a header names was declared; a range
//! is not empty; ID block, policy and platform are given once. Relocation is not supported. There are at most [`MAX_PAGES`]
//! pages in [`MAX_RANGES`] separate ranges and [`MAX_AREAS`] parameter areas, so that work and memory are bounded.
//!
//! Contents of VMSAs, the policy and signatures are not checked here: the firmware does that, and the digest tells.
//!
//! ```
//! use backend_snp::launch::Igvm;
//!
//! fn digest(file: &[u8]) -> Result<[u8; 48], backend_snp::launch::IgvmError> {
//!     Ok(*Igvm::try_new(file)?.digest().bytes())
//! }
//! assert!(digest(b"no such file").is_err());
//! ```

mod areas;
mod directive;
mod error;
mod file;
mod places;
mod step;
mod walk;

#[cfg(test)]
mod tests;

use igvm_defs::IGVM_VHS_SNP_ID_BLOCK;
use zerocopy::FromBytes;

use super::digest::{LaunchDigest, Update};
use crate::abi::launch::IdBlock;
use crate::abi::report::GuestPolicy;
use file::File;
use walk::Walk;

pub use areas::MAX_AREAS;
pub use error::IgvmError;
pub use file::FileFault;
pub use places::{MAX_PAGES, MAX_RANGES, PlaceFault};
pub use step::{Contents, Parameter, Step};

/// What a file says about SNP as its platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The bit by which headers name this platform.
    pub compatibility_mask: u32,
    /// Highest VTL, 0 or 2. Levels of this project are VMPLs; the file's number is told as it is.
    pub highest_vtl: u8,
    /// Guest-physical address from which on memory is shared; 0 if the guest decides.
    pub shared_gpa_boundary: u64,
}

/// An IGVM file that is right in every respect that this reader checks.
#[derive(Clone, Copy, Debug)]
pub struct Igvm<'a> {
    file: File<'a>,
    platform: Platform,
    policy: GuestPolicy,
    id_block: Option<&'a [u8]>,
}

impl<'a> Igvm<'a> {
    /// Checks the whole file.
    ///
    /// # Errors
    /// [`IgvmError`] for the first thing that is wrong, in the order of the file.
    pub fn try_new(bytes: &'a [u8]) -> Result<Self, IgvmError> {
        let file = File::try_new(bytes)?;
        let mut walk = Walk::new(file);
        walk.try_for_each(|step| step.map(drop))?;
        Ok(Self {
            file,
            platform: walk.platform.ok_or(IgvmError::NotForSnp)?,
            policy: walk.policy.ok_or(IgvmError::NoPolicy)?,
            id_block: walk.id_block,
        })
    }

    /// What the file says about SNP as its platform.
    pub const fn platform(&self) -> Platform {
        self.platform
    }

    /// The policy that the guest is launched with.
    pub const fn policy(&self) -> GuestPolicy {
        self.policy
    }

    /// The ID block of the owner, if the file has one.
    pub fn id_block(&self) -> Option<IdBlock> {
        let block = self.signed_id_block()?;
        Some(IdBlock {
            launch_digest: block.ld,
            family_id: block.family_id,
            image_id: block.image_id,
            version: block.version,
            guest_svn: block.guest_svn,
            policy: self.policy,
        })
    }

    /// The same with its keys and signatures, as the file has it.
    pub fn signed_id_block(&self) -> Option<IGVM_VHS_SNP_ID_BLOCK> {
        IGVM_VHS_SNP_ID_BLOCK::read_from_bytes(self.id_block?).ok()
    }

    /// What a host does to load the file, in the order of the file.
    pub fn steps(&self) -> impl Iterator<Item = Step<'a>> + use<'a> {
        // The same bytes were walked to their end before.
        Walk::new(self.file).map_while(Result::ok)
    }

    /// The pages that are added at launch, in their order.
    pub fn updates(&self) -> impl Iterator<Item = Update<'a>> + use<'a> {
        self.steps().flat_map(Step::updates)
    }

    /// The launch digest: MEASUREMENT of the reports of a guest that was loaded from this file and nothing else.
    pub fn digest(&self) -> LaunchDigest {
        let mut digest = LaunchDigest::new();
        digest.extend(self.updates());
        digest
    }
}
