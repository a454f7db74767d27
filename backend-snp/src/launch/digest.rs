//! The launch digest, as the firmware chains it (56860, SNP_LAUNCH_UPDATE; `facts/launch_measurement.csv`).

use core::fmt;

use sha2::{Digest, Sha384};
use x86_64::structures::paging::{PhysFrame, Size4KiB};
use zerocopy::IntoBytes;

use crate::abi::launch::{LowerPermissions, PageInfo, PageType};

/// One 4 KiB page that a host adds at launch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    /// Type of the page.
    pub page_type: PageType,
    /// Guest-physical frame at which it is added.
    pub frame: PhysFrame<Size4KiB>,
    /// Contents as the host gives them. They count for the measured types alone.
    pub contents: &'a [u8; 4096],
    /// Whether the page belongs to an initial migration image.
    pub is_migration_image: bool,
    /// Rights of the lower levels.
    pub permissions: LowerPermissions,
}

impl<'a> Update<'a> {
    /// A page without rights for lower levels and of no migration image.
    pub const fn new(page_type: PageType, frame: PhysFrame<Size4KiB>, contents: &'a [u8; 4096]) -> Self {
        Self { page_type, frame, contents, is_migration_image: false, permissions: LowerPermissions::NONE }
    }
}

impl fmt::Debug for Update<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:#x}", self.page_type, self.frame.start_address().as_u64())
    }
}

/// The digest of the pages so far. It is the same exactly when pages of the same types were added at the same places, with the
/// same rights and in the same order, and with the same contents where the type is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchDigest([u8; 48]);

impl LaunchDigest {
    /// The digest before the first page: zeros.
    pub const fn new() -> Self {
        Self([0; 48])
    }

    /// Adds a page.
    pub fn update(&mut self, update: &Update<'_>) {
        let contents = if update.page_type.is_measured() { Sha384::digest(update.contents).into() } else { [0; 48] };
        let info = PageInfo {
            digest_cur: self.0,
            contents,
            length: size_of::<PageInfo>() as u16,
            page_type: update.page_type.number(),
            imi_page: update.is_migration_image.into(),
            vmpl_perms: update.permissions.bytes(),
            gpa: update.frame.start_address().as_u64(),
        };
        self.0 = Sha384::digest(info.as_bytes()).into();
    }

    /// The digest, which becomes MEASUREMENT of every report when the launch is finished now.
    pub const fn bytes(&self) -> &[u8; 48] {
        &self.0
    }
}

impl Default for LaunchDigest {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Extend<Update<'a>> for LaunchDigest {
    fn extend<I: IntoIterator<Item = Update<'a>>>(&mut self, updates: I) {
        for update in updates {
            self.update(&update);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::frame;

    fn digest_of(updates: &[Update<'_>]) -> LaunchDigest {
        let mut digest = LaunchDigest::new();
        digest.extend(updates.iter().copied());
        digest
    }

    /// Known answer, computed with another implementation of SHA-384.
    #[test]
    fn digest_of_three_pages_has_the_known_value() {
        let digest = digest_of(&[
            Update::new(PageType::Normal, frame(0x1000), &[0x5a; 4096]),
            Update::new(PageType::Vmsa, frame(0xffff_ffff_f000), &[0xa5; 4096]),
            Update::new(PageType::Secrets, frame(0x2000), &[0xff; 4096]),
        ]);
        let known = [
            0x4f9d4b7a_d46010bc_050d7e01_ebac8568_u128,
            0xd1616235_c71b5ae3_909b5376_94d6a942_u128,
            0x75713440_9f4ee361_bbffa017_a7bf6511_u128,
        ];
        assert_eq!(digest.bytes(), known.map(u128::to_be_bytes).as_flattened());
    }

    #[test]
    fn the_digest_before_the_first_page_is_zero() {
        assert_eq!(LaunchDigest::new().bytes(), &[0; 48]);
        assert_eq!(LaunchDigest::default(), LaunchDigest::new());
    }

    #[test]
    fn contents_count_for_the_measured_types_alone() {
        for page_type in PageType::ALL {
            let [one, other] = [[0; 4096], [1; 4096]].map(|page| digest_of(&[Update::new(page_type, frame(0), &page)]));
            assert_eq!(one != other, page_type.is_measured(), "{page_type:?}");
        }
    }

    #[test]
    fn every_type_address_permission_and_order_changes_the_digest() {
        let page = [7; 4096];
        let plain = Update::new(PageType::Unmeasured, frame(0x1000), &page);
        let mut all: std::vec::Vec<LaunchDigest> =
            PageType::ALL.iter().map(|&page_type| digest_of(&[Update { page_type, ..plain }])).collect();
        all.push(digest_of(&[Update { frame: frame(0x2000), ..plain }]));
        all.push(digest_of(&[Update { is_migration_image: true, ..plain }]));
        all.push(digest_of(&[Update { permissions: LowerPermissions::vmpl1_first([1, 3, 7]), ..plain }]));
        all.push(digest_of(&[Update { permissions: LowerPermissions::vmpl3_first([1, 3, 7]), ..plain }]));
        let later = Update { frame: frame(0x2000), ..plain };
        all.push(digest_of(&[plain, later]));
        all.push(digest_of(&[later, plain]));
        for (index, digest) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(digest), "{index}");
        }
    }
}
