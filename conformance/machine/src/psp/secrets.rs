//! The secrets page as the firmware writes it at launch (fact table `secrets_page`, version 3).
//!
//! The SVSM fields are zero: an SVSM fills them in the copy it makes for its guest. So is everything from 0x0a0 to
//! 0x15f and from 0x164 on.

use alloc::boxed::Box;

use super::{
    Page,
    bytes::put,
    platform::{FMS, TSC_FACTOR},
};

/// Version that has TSC_FACTOR.
const VERSION: u32 = 3;

const OFFSET_VERSION: usize = 0x000;
const OFFSET_FMS: usize = 0x008;
const OFFSET_VMPCK0: usize = 0x020;
const OFFSET_TSC_FACTOR: usize = 0x160;

pub(super) fn page(vmpcks: &[[u8; 32]; 4]) -> Box<Page> {
    let mut page = Box::new([0; 4096]);
    put(&mut page[..], OFFSET_VERSION, &VERSION.to_le_bytes());
    put(&mut page[..], OFFSET_FMS, &FMS.to_le_bytes());
    put(&mut page[..], OFFSET_VMPCK0, vmpcks.as_flattened());
    put(&mut page[..], OFFSET_TSC_FACTOR, &TSC_FACTOR.to_le_bytes());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_the_known_bytes_and_zeros_elsewhere() {
        let page = page(&[[0x11; 32], [0x22; 32], [0x33; 32], [0x44; 32]]);
        assert_eq!(page[0x000..0x010], [3, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x0f, 0xa0, 0, 0, 0, 0, 0]);
        assert_eq!(page[0x010..0x020], [0; 16]);
        assert_eq!(page[0x020..0x040], [0x11; 32]);
        assert_eq!(page[0x040..0x060], [0x22; 32]);
        assert_eq!(page[0x060..0x080], [0x33; 32]);
        assert_eq!(page[0x080..0x0a0], [0x44; 32]);
        assert!(page[0x0a0..0x160].iter().all(|&byte| byte == 0));
        assert_eq!(page[0x160..0x164], [200, 0, 0, 0]);
        assert!(page[0x164..].iter().all(|&byte| byte == 0));
    }
}
