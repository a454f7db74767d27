//! `cargo conformance measure`: what a file measures.

use std::path::Path;

use backend_snp::abi::launch::PageType;
use backend_snp::launch::Igvm;

use crate::hex;

/// Prints the launch digest of an IGVM file and its pages by type. False if an ID block in it expects another digest.
///
/// # Errors
/// One sentence: the file cannot be read, or is no IGVM file for SNP.
pub(crate) fn print(path: &Path) -> Result<bool, String> {
    let complaint = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = std::fs::read(path).map_err(|error| complaint(&error))?;
    let igvm = Igvm::try_new(&file).map_err(|error| complaint(&error))?;
    let digest = igvm.digest();
    println!("launch digest: {}", hex::encode(digest.bytes()));
    println!("policy: {:#x}", igvm.policy().bits());
    for page_type in PageType::ALL {
        let pages = igvm.updates().filter(|update| update.page_type == page_type).count();
        println!("pages of type {}: {pages}", format!("{page_type:?}").to_lowercase());
    }
    let Some(block) = igvm.id_block() else {
        println!("ID block: none");
        return Ok(true);
    };
    let is_expected = block.launch_digest == *digest.bytes();
    let verdict = if is_expected { "this digest" } else { "another digest, so that the launch fails" };
    println!("ID block: expects {verdict}");
    Ok(is_expected)
}
