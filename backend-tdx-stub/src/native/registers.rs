//! Where registers of a level wait while another one runs.

use core::fmt;

use super::{MSRS, Unswitched};

/// Bytes of a [`SaveArea`]: room for all user state components that processors have today, AMX tiles included.
pub const SAVE_AREA: usize = 12 * 1024;

/// An XSAVE area in the standard format.
#[repr(C, align(64))]
pub struct SaveArea([u8; SAVE_AREA]);

const MXCSR: usize = 24;
const MXCSR_INITIAL: [u8; 4] = 0x1f80_u32.to_le_bytes();

impl SaveArea {
    /// The initial configuration of every component.
    pub const fn new() -> Self {
        let mut bytes = [0; SAVE_AREA];
        // XSTATE_BV = 0 gives every component its initial value, but MXCSR is loaded all the same.
        let mut at = 0;
        while at < MXCSR_INITIAL.len() {
            bytes[MXCSR + at] = MXCSR_INITIAL[at];
            at += 1;
        }
        Self(bytes)
    }

    /// Makes it what [`new`](Self::new) gives, in place: it is large for a stack.
    fn reset(&mut self) {
        self.0.fill(0);
        for (byte, initial) in self.0.iter_mut().skip(MXCSR).zip(MXCSR_INITIAL) {
            *byte = initial;
        }
    }

    pub(super) const fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

impl Default for SaveArea {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SaveArea {
    /// No contents: they are registers of a level.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaveArea")
    }
}

/// The registers of one level on one vCPU that the module does not switch.
#[derive(Debug)]
pub struct GuestRegisters {
    pub(super) area: SaveArea,
    pub(super) xcr0: u64,
    pub(super) unswitched: Unswitched,
}

/// The rest of it after reset.
const AFTER_RESET: Unswitched = Unswitched { cr2: 0, dr: [0; 4], dr6: 0xffff_0ff0, msrs: [0; MSRS.len()] };
/// x87 state; always on.
const X87: u64 = 1;

impl GuestRegisters {
    /// What a vCPU has after reset, with MSRs of zero.
    pub const fn new() -> Self {
        Self { area: SaveArea::new(), xcr0: X87, unswitched: AFTER_RESET }
    }

    /// Makes it what [`new`](Self::new) gives.
    pub(super) fn reset(&mut self) {
        self.area.reset();
        (self.xcr0, self.unswitched) = (X87, AFTER_RESET);
    }

    /// XCR0.
    pub const fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Sets XCR0, as XSETBV of the level does. False, and nothing changed, for a value that XSETBV refuses everywhere.
    /// Components that L1 has not enabled are dropped at the next entry.
    pub const fn set_xcr0(&mut self, value: u64) -> bool {
        let legal = is_legal_xcr0(value);
        if legal {
            self.xcr0 = value;
        }
        legal
    }

    /// One of the MSRs that are switched here; `None` for another one.
    pub fn msr(&self, msr: u32) -> Option<u64> {
        let at = MSRS.iter().position(|known| *known == msr)?;
        self.unswitched.msrs.get(at).copied()
    }

    /// Sets one of them, as WRMSR of the level does. False, and nothing changed, for another MSR or for a value that
    /// WRMSR refuses: writing it would fault in L1.
    pub fn set_msr(&mut self, msr: u32, value: u64) -> bool {
        let legal = match msr {
            0xC000_0081 => true,
            // LSTAR, CSTAR, KERNEL_GS_BASE: canonical for every processor.
            0xC000_0082 | 0xC000_0083 | 0xC000_0102 => ((value << 16) as i64 >> 16) as u64 == value,
            // FMASK, TSC_AUX: 32 bits.
            0xC000_0084 | 0xC000_0103 => value >> 32 == 0,
            // XSS: no supervisor state.
            _ => value == 0,
        };
        let at = MSRS.iter().position(|known| *known == msr).filter(|_| legal);
        match at.and_then(|at| self.unswitched.msrs.get_mut(at)) {
            Some(slot) => {
                *slot = value;
                true
            }
            None => false,
        }
    }

    /// Drops components that `allowed` lacks, if what is left is legal, else all but x87.
    pub(super) const fn restrict(&mut self, allowed: u64) {
        let common = self.xcr0 & allowed;
        self.xcr0 = if is_legal_xcr0(common) { common } else { X87 };
    }
}

impl Default for GuestRegisters {
    fn default() -> Self {
        Self::new()
    }
}

/// The rules of XSETBV that hold on every processor.
const fn is_legal_xcr0(value: u64) -> bool {
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const MPX: u64 = 3 << 3;
    const AVX512: u64 = 7 << 5;
    const PKRU: u64 = 1 << 9;
    const AMX: u64 = 3 << 17;
    const KNOWN: u64 = X87 | SSE | AVX | MPX | AVX512 | PKRU | AMX;
    const fn whole(value: u64, group: u64) -> bool {
        value & group == 0 || value & group == group
    }
    value & X87 != 0
        && value & !KNOWN == 0
        && (value & AVX == 0 || value & SSE != 0)
        && (value & AVX512 == 0 || value & AVX != 0)
        && whole(value, MPX)
        && whole(value, AVX512)
        && whole(value, AMX)
}
