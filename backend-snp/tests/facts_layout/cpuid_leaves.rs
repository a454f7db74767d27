//! Bits of CPUID leaves.

use backend_snp::abi::cpuid_leaves::{CpuidLeaf, EncryptionFeatures, EncryptionLimits, FlushFeatures};

use crate::compare::{Bits, Codes};
use crate::table::{Informative, expect, walk};

#[test]
fn cpuid_leaves() {
    const INFORMATIVE: Informative = &[("rule/", "what the code above has to do")];
    let mut leaves = Codes::of(CpuidLeaf::KNOWN, |leaf| leaf.0.into());
    let mut features = Bits::of_flags::<EncryptionFeatures>();
    let mut limits = Bits::of::<EncryptionLimits>();
    let mut flush = Bits::of_flags::<FlushFeatures>();
    walk("cpuid_leaves", INFORMATIVE, |row| {
        let (number, at, name) = (row.number("leaf"), row.get("bits"), row.get("name"));
        let (leaf, _) =
            CpuidLeaf::KNOWN.iter().find(|(_, known)| u64::from(known.0) == number).ok_or("no such leaf")?;
        leaves.check(leaf, number)?;
        match (*leaf, row.get("register")) {
            ("ENCRYPTION", "EAX") => features.check(if name == "64BitHost" { "HOST_64BIT" } else { name }, at),
            ("ENCRYPTION", "EBX") if name == "CbitPosition" => limits.check("c_bit_position", at),
            ("ENCRYPTION", "EBX") => limits.check(name, at),
            ("ADDRESS_SIZES", "EBX") => flush.check(name, at),
            // Whole registers, or bits of which this crate makes nothing.
            (_, register) => expect(!register.is_empty(), "no register"),
        }
    });
    leaves.finish();
    features.finish();
    limits.finish();
    flush.finish();
}
