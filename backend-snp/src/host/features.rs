//! Features of the host: which count, and which must be there (GH-07).

use crate::abi::nae::HvFeatures;
use crate::error::SnpError;

/// Checks that `needed`, with all that those features need in turn, is among what the host claims. Gives the features that
/// count: one whose needs the host does not claim as well is left out.
///
/// # Errors
/// [`SnpError::MissingFeatures`] with those that are missing.
pub(super) fn demand(claimed: HvFeatures, needed: HvFeatures) -> Result<HvFeatures, SnpError> {
    let missing = with_needs(needed).difference(claimed);
    if missing.is_empty() { Ok(usable(claimed)) } else { Err(SnpError::MissingFeatures { missing: missing.bits() }) }
}

/// These features and all that they need.
fn with_needs(features: HvFeatures) -> HvFeatures {
    let needs = HvFeatures::NEEDS.iter().filter(|(feature, _)| features.contains(*feature));
    needs.fold(features, |all, (_, needs)| all | *needs)
}

/// These features without those that lack what they need.
fn usable(features: HvFeatures) -> HvFeatures {
    let lame = HvFeatures::NEEDS.iter().filter(|(_, needs)| !features.contains(*needs));
    lame.fold(features, |all, (feature, _)| all.difference(*feature))
}
