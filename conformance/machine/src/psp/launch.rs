//! Launch: the digest over the pages the host loads, and what the host states at the end.
//!
//! Layouts and rules: fact table `launch_measurement`. The digest starts as 48 zero bytes; every page makes it the
//! SHA-384 of a PAGE_INFO that holds the digest before. Permissions of lower VMPLs and migration images are not
//! modelled: those fields are zero, as they are in practice.

use sha2::{Digest, Sha384};

use super::{
    Page,
    bytes::put,
    platform::{CURRENT_VERSION, PLATFORM_INFO},
    status,
};

/// Page types of a launch update.
pub mod page_type {
    numbers! {
        pub u8:
        /// Contents are measured.
        NORMAL = 1;
        /// Contents are measured and the page becomes a VMSA.
        VMSA = 2;
        /// The firmware zeroes the page.
        ZERO = 3;
        /// Encrypted but its contents are not measured.
        UNMEASURED = 4;
        /// The firmware fills it with the secrets page.
        SECRETS = 5;
        /// The firmware checks it.
        CPUID = 6;
    }
}

/// A guest policy the platform keeps: SMT allowed and the bit that must be one.
pub const DEFAULT_POLICY: u64 = POLICY_SMT | POLICY_MUST_BE_ONE;

const POLICY_SMT: u64 = 1 << 16;
const POLICY_MUST_BE_ONE: u64 = 1 << 17;
const POLICY_MEM_AES_256_XTS: u64 = 1 << 22;
const POLICY_RAPL_DIS: u64 = 1 << 23;
const POLICY_CIPHERTEXT_HIDING: u64 = 1 << 24;
const POLICY_RESERVED: u64 = !0 << 26;

const PLATFORM_SMT_EN: u64 = 1 << 0;
const PLATFORM_RAPL_DIS: u64 = 1 << 3;
const PLATFORM_CIPHERTEXT_HIDING_EN: u64 = 1 << 4;

const PAGE_INFO_LEN: usize = 0x70;

/// What the guest's owner states about the launch. The model takes the fields and does not check a signature over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdBlock {
    /// The launch digest the owner expects.
    pub launch_digest: [u8; 48],
    /// FAMILY_ID for the report.
    pub family_id: [u8; 16],
    /// IMAGE_ID for the report.
    pub image_id: [u8; 16],
    /// GUEST_SVN for the report.
    pub guest_svn: u32,
    /// The policy the owner expects.
    pub policy: u64,
    /// SHA-384 of the ID key.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the author key, if one certified the ID key.
    pub author_key_digest: Option<[u8; 48]>,
}

/// What is fixed once the launch is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Launched {
    pub(super) policy: u64,
    pub(super) host_data: [u8; 32],
    pub(super) id_block: Option<IdBlock>,
    pub(super) digest: [u8; 48],
}

impl Launched {
    /// Checks what the host states at LAUNCH_FINISH.
    pub(super) fn try_new(
        digest: [u8; 48],
        policy: u64,
        host_data: [u8; 32],
        id_block: Option<&IdBlock>,
    ) -> Result<Self, u32> {
        check_policy(policy)?;
        if let Some(block) = id_block {
            if block.policy != policy {
                return Err(status::POLICY_FAILURE);
            }
            if block.launch_digest != digest {
                return Err(status::BAD_MEASUREMENT);
            }
        }
        Ok(Self { policy, host_data, id_block: id_block.cloned(), digest })
    }
}

/// The digest after one more page.
pub(super) fn extend(digest: [u8; 48], page_type: u8, gpa: u64, contents: &Page) -> Result<[u8; 48], u32> {
    if !(page_type::NORMAL..=page_type::CPUID).contains(&page_type) {
        return Err(status::INVALID_PARAMETER);
    }
    if !gpa.is_multiple_of(0x1000) {
        return Err(status::INVALID_ADDRESS);
    }
    let mut info = [0; PAGE_INFO_LEN];
    put(&mut info, 0x00, &digest);
    if matches!(page_type, page_type::NORMAL | page_type::VMSA) {
        put(&mut info, 0x30, &Sha384::digest(contents));
    }
    put(&mut info, 0x60, &(PAGE_INFO_LEN as u16).to_le_bytes());
    info[0x62] = page_type;
    put(&mut info, 0x68, &gpa.to_le_bytes());
    Ok(Sha384::digest(info).into())
}

fn check_policy(policy: u64) -> Result<(), u32> {
    let [minor, major, ..] = policy.to_le_bytes();
    let has = |bit| policy & bit != 0;
    let platform_has = |bit| PLATFORM_INFO & bit != 0;
    let is_kept = has(POLICY_MUST_BE_ONE)
        && !has(POLICY_RESERVED)
        && [major, minor] <= [CURRENT_VERSION[0], CURRENT_VERSION[1]]
        && (has(POLICY_SMT) || !platform_has(PLATFORM_SMT_EN))
        && !has(POLICY_MEM_AES_256_XTS)
        && (!has(POLICY_RAPL_DIS) || platform_has(PLATFORM_RAPL_DIS))
        && (!has(POLICY_CIPHERTEXT_HIDING) || platform_has(PLATFORM_CIPHERTEXT_HIDING_EN));
    is_kept.then_some(()).ok_or(status::POLICY_FAILURE)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// PAGE_INFO put together field after field, without offsets.
    fn by_hand(before: [u8; 48], contents: [u8; 48], page_type: u8, gpa: u64) -> [u8; 48] {
        let mut info = Vec::new();
        info.extend_from_slice(&before);
        info.extend_from_slice(&contents);
        info.extend_from_slice(&[0x70, 0x00]);
        info.extend_from_slice(&[page_type, 0]);
        info.extend_from_slice(&[0, 0, 0, 0]);
        info.extend_from_slice(&gpa.to_le_bytes());
        assert_eq!(info.len(), 112);
        Sha384::digest(&info).into()
    }

    #[test]
    fn digest_of_every_page_type_matches_a_computation_by_hand() {
        let contents = [0x5a; 4096];
        let hash: [u8; 48] = Sha384::digest([0x5a; 4096]).into();
        let mut digest = [0; 48];
        let mut expected = [0; 48];
        for page_type in 1..=6 {
            let gpa = 0x10_0000 + u64::from(page_type) * 0x1000;
            digest = extend(digest, page_type, gpa, &contents).unwrap();
            let contents = if page_type <= 2 { hash } else { [0; 48] };
            expected = by_hand(expected, contents, page_type, gpa);
            assert_eq!(digest, expected, "type {page_type}");
        }
    }

    /// Known answer from another implementation of SHA-384.
    #[test]
    fn digest_of_three_pages_has_the_known_value() {
        let digest = extend([0; 48], 1, 0x1000, &[0x5a; 4096]).unwrap();
        let digest = extend(digest, 2, 0xffff_ffff_f000, &[0xa5; 4096]).unwrap();
        let digest = extend(digest, 5, 0x2000, &[0xff; 4096]).unwrap();
        let known = [
            0x4f9d4b7a_d46010bc_050d7e01_ebac8568_u128,
            0xd1616235_c71b5ae3_909b5376_94d6a942_u128,
            0x75713440_9f4ee361_bbffa017_a7bf6511_u128,
        ];
        assert_eq!(digest, known.map(u128::to_be_bytes).as_flattened());
    }

    #[test]
    fn refuses_unknown_types_and_unaligned_pages() {
        for page_type in [0, 7, 0xff] {
            let result = extend([0; 48], page_type, 0, &[0; 4096]);
            assert_eq!(result, Err(status::INVALID_PARAMETER));
        }
        let result = extend([0; 48], 1, 0x1008, &[0; 4096]);
        assert_eq!(result, Err(status::INVALID_ADDRESS));
    }

    #[test]
    fn policy_is_kept_or_refused() {
        for policy in [0x3_0000, 0x3_0137, 0x1_0000 | 1 << 17 | 1 << 19, 0x23_0000, 1 << 25 | 0x3_0000] {
            assert_eq!(check_policy(policy), Ok(()), "{policy:#x}");
        }
        for policy in [0, 0x1_0000, 0x2_0000, 0x3_0138, 0x3_0200, 1 << 26 | 0x3_0000, 1 << 22 | 0x3_0000] {
            assert_eq!(check_policy(policy), Err(status::POLICY_FAILURE), "{policy:#x}");
        }
    }

    #[test]
    fn id_block_must_agree_with_digest_and_policy() {
        let block = IdBlock {
            launch_digest: [1; 48],
            family_id: [2; 16],
            image_id: [3; 16],
            guest_svn: 4,
            policy: DEFAULT_POLICY,
            id_key_digest: [5; 48],
            author_key_digest: None,
        };
        let finish = |digest, policy| Launched::try_new(digest, policy, [0; 32], Some(&block)).map(drop);
        assert_eq!(finish([1; 48], DEFAULT_POLICY), Ok(()));
        assert_eq!(finish([9; 48], DEFAULT_POLICY), Err(status::BAD_MEASUREMENT));
        assert_eq!(finish([1; 48], DEFAULT_POLICY | 1 << 20), Err(status::POLICY_FAILURE));
    }
}
