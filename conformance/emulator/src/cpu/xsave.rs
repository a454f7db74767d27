//! x87, SSE and AVX state, which no VMCB has: each VMSA has its own, as on silicon.

use alloc::boxed::Box;
use core::arch::asm;

/// All of it that there is.
const EVERYTHING: u64 = 7;
/// Bytes of an area: legacy region, header, AVX.
const BYTES: usize = 1024;

/// The extended state of one VMSA, and its XCR0.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Extended {
    area: [u8; BYTES],
    xcr0: u64,
}

impl Extended {
    /// The state after reset, with the XCR0 of a VMSA.
    pub(crate) fn new(xcr0: u64) -> Box<Self> {
        let mut area = [0; BYTES];
        // FCW and MXCSR as after reset; the header says that nothing else is there.
        area[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        Box::new(Self { area, xcr0: xcr0 | 1 })
    }

    /// Stores the registers here.
    pub(crate) fn save(&mut self) {
        let (low, high): (u32, u32);
        // SAFETY: OSXSAVE is on; reads a register.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
        self.xcr0 = u64::from(high) << 32 | u64::from(low);
        set_xcr0(EVERYTHING);
        let area = self.area.as_mut_ptr();
        // SAFETY: the area is aligned to 64 bytes and large enough for the three components.
        unsafe { asm!("xsave64 [{}]", in(reg) area, in("eax") EVERYTHING as u32, in("edx") 0, options(nostack)) };
    }

    /// Loads the registers from here.
    pub(crate) fn restore(&self) {
        set_xcr0(EVERYTHING);
        let area = self.area.as_ptr();
        // SAFETY: the area was written by `save` or is that of a reset; our own code uses none of these registers.
        unsafe { asm!("xrstor64 [{}]", in(reg) area, in("eax") EVERYTHING as u32, in("edx") 0, options(nostack)) };
        set_xcr0(self.xcr0);
    }
}

fn set_xcr0(value: u64) {
    let value = value & EVERYTHING | 1;
    // SSE is part of AVX.
    let value = if value & 4 != 0 { value | 2 } else { value };
    // SAFETY: OSXSAVE is on and the value is legal; our own code uses none of these registers.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack));
    }
}
