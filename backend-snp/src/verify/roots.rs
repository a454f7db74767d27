//! The vendor's root keys.

use crate::evidence::Product;

/// SHA-256 of the subject public key info (DER) of the vendor's root certificates, ARK, by product.
///
/// Computed from the ARK certificates that the public repositories virtee/sev (9cf2adbf) and google/go-sev-guest
/// (af1c107a) embed, which agree; the vendor hands them out at `kdsintf.amd.com/vcek/v1/PRODUCT/cert_chain`.
pub const VENDOR_ROOTS: [(Product, [u8; 32]); 3] = [
    (Product::Milan, key(0x9f056bee44377e29308cb5ffa895bdfb, 0x62d18881fa6bed8d6f075b0204089cb9)),
    (Product::Genoa, key(0x429a69c9422aa258ee4d8db5fcda9c64, 0x70ef15f8cd5a9cebd6cbc7d90b863831)),
    (Product::Turin, key(0x4f125410563a2ab9a50356f9243f6fe0, 0xb6f73de98603f53f90339c70e9d7ad08)),
];

const fn key(high: u128, low: u128) -> [u8; 32] {
    let (high, low) = (high.to_be_bytes(), low.to_be_bytes());
    let mut out = [0; 32];
    let (first, second) = out.split_at_mut(16);
    first.copy_from_slice(&high);
    second.copy_from_slice(&low);
    out
}
