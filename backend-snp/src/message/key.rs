//! Keys in the secrets page.

use core::mem::offset_of;

use coco_part_api::{GuestMemory, RangeError};
use x86_64::structures::paging::PhysFrame;
use zeroize::Zeroize;

use crate::abi::secrets::{SecretsPage, Vmpck};
use crate::abi::vmpl::Vmpl;
use crate::error::SnpError;

/// Offsets of the key of a level, and of both halves of the message number last used with it.
const fn places(number: Vmpl) -> [usize; 3] {
    macro_rules! of {
        ($key:ident, $low:ident, $high:ident) => {
            [offset_of!(SecretsPage, $key), offset_of!(SecretsPage, $low), offset_of!(SecretsPage, $high)]
        };
    }
    match number.number() {
        0 => of!(vmpck0, os_msg_seqno_0_lo, os_msg_seqno_0_hi),
        1 => of!(vmpck1, os_msg_seqno_1_lo, os_msg_seqno_1_hi),
        2 => of!(vmpck2, os_msg_seqno_2_lo, os_msg_seqno_2_hi),
        _ => of!(vmpck3, os_msg_seqno_3_lo, os_msg_seqno_3_hi),
    }
}

/// Moves the key of `number` out of the secrets page at `secrets` into `key`, and gives the last message number that the
/// page says was used with it. The key in the page is zero afterwards, so that there is no second user.
///
/// # Errors
/// [`SnpError::Range`], [`SnpError::Memory`]; `key` is wiped then.
pub fn take_key<M: GuestMemory>(
    memory: &M,
    secrets: PhysFrame,
    number: Vmpl,
    key: &mut Vmpck,
) -> Result<u64, SnpError> {
    let page = secrets.start_address();
    let place = |field: usize| {
        coco_part_api::memory::offset(page, field as u64).ok_or(SnpError::Range(RangeError::OutsideMap { at: page }))
    };
    let half = |field: usize| {
        let at = place(field)?;
        memory.read_value::<u32>(at).map(u64::from).map_err(SnpError::memory(at))
    };
    let [at, low, high] = places(number);
    let last = half(high)? << 32 | half(low)?;
    let at = place(at)?;
    // Read where it is to stay: a move would leave a copy on the stack.
    let taken = memory.read(at, &mut key.0).and_then(|()| memory.write(at, &[0; size_of::<Vmpck>()]));
    taken.map_err(|fault| {
        key.zeroize();
        SnpError::memory(at)(fault)
    })?;
    Ok(last)
}
