//! The ports with real opcodes: the only unsafe code of this crate.
//!
//! `raw` has one function per instruction, without a decision in it. Everything here needs CPL 0 in 64-bit mode; see
//! [`Native::new`].

#![allow(unsafe_code)]

mod raw;
mod registers;

#[cfg(test)]
mod tests;

use core::arch::x86_64::__cpuid_count;
use core::fmt;
use core::marker::PhantomData;

use coco_part_api::level::GUEST_LEVELS;
use coco_part_api::{CallRegs, GuestLevel};

pub use registers::{GuestRegisters, SAVE_AREA, SaveArea};

use crate::abi::regs::Regs;
use crate::abi::status::{Status, operand};
use crate::abi::vp_enter::vm_index;
use crate::port::{GuestCall, Port};

/// What the module does not switch and lies in no save area (TDX-20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unswitched {
    cr2: u64,
    dr: [u64; 4],
    dr6: u64,
    msrs: [u64; MSRS.len()],
}

/// The MSRs among it: STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX, XSS. XSS is last; not every TD has it.
const MSRS: [u32; 7] = [0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0102, 0xC000_0103, 0xDA0];

/// The processor or the TD lacks something that the native port needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsuitable {
    /// XSAVE is off.
    NoXsave,
    /// The enabled state components do not fit into a [`SaveArea`].
    AreaTooSmall {
        /// Bytes needed.
        needed: u32,
    },
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoXsave => f.write_str("XSAVE is not enabled"),
            Self::AreaTooSmall { needed } => write!(f, "a save area of {needed} bytes is needed"),
        }
    }
}

impl core::error::Error for Unsuitable {}

/// The instructions of L1 on the vCPU that executes this.
#[derive(Debug)]
pub struct Native<'a> {
    own: &'a mut SaveArea,
    guests: [Option<&'a mut GuestRegisters>; GUEST_LEVELS],
    xcr0: u64,
    msrs: usize,
    not_send: PhantomData<*mut ()>,
}

impl<'a> Native<'a> {
    /// The port of the executing vCPU. `own` and `guests` are used by no other vCPU.
    ///
    /// # Errors
    /// [`Unsuitable`].
    ///
    /// # Safety
    /// - The code runs as L1 of a TD, at CPL 0 in 64-bit mode, on this vCPU as long as the port lives.
    /// - CR4.OSXSAVE is set, CR0.TS and CR0.EM are clear, RDTSCP exists, and XCR0 has every component that any level may
    ///   use; nobody changes that as long as the port lives.
    /// - Handlers of NMI, #MC and #VE use none of the registers that are switched, from the first instruction to the
    ///   last. Interrupts are off meanwhile.
    /// - Debug registers are not armed.
    /// - Whoever holds the port makes only calls that break no Rust object: no leaf may write to, share or take away
    ///   memory of L1 that is in use. In this crate that is the code above the port, over a memory map and pages that
    ///   the integrator sets apart.
    pub unsafe fn new(
        own: &'a mut SaveArea,
        guests: [Option<&'a mut GuestRegisters>; GUEST_LEVELS],
    ) -> Result<Self, Unsuitable> {
        const OSXSAVE: u32 = 1 << 27;
        const XSAVES: u32 = 1 << 3;
        if __cpuid_count(1, 0).ecx & OSXSAVE == 0 {
            return Err(Unsuitable::NoXsave);
        }
        let needed = __cpuid_count(0xd, 0).ebx;
        if needed as usize > SAVE_AREA {
            return Err(Unsuitable::AreaTooSmall { needed });
        }
        let msrs = if __cpuid_count(0xd, 1).eax & XSAVES == 0 { MSRS.len() - 1 } else { MSRS.len() };
        // SAFETY: CR4.OSXSAVE is set, as CPUID just said.
        let xcr0 = unsafe { raw::xgetbv() };
        Ok(Self { own, guests, xcr0, msrs, not_send: PhantomData })
    }

    /// The registers of a level that the module does not switch, to emulate what the level does to them.
    pub fn guest(&mut self, level: GuestLevel) -> Option<&mut GuestRegisters> {
        self.guests[level.index()].as_deref_mut()
    }
}

impl Port for Native<'_> {
    fn tdcall(&mut self, regs: &mut Regs) {
        // SAFETY: `regs` is a register file, and `new` had the caller promise the rest.
        unsafe { raw::tdcall(regs) }
    }

    /// A VM index without [`GuestRegisters`] is answered as the module answers for one that does not exist: running it
    /// would show it L1's registers.
    fn enter(&mut self, regs: &mut Regs) {
        let index = usize::from(vm_index(regs.rcx)).checked_sub(1);
        let Some(guest) = index.and_then(|index| self.guests.get_mut(index)).and_then(Option::as_deref_mut) else {
            regs.rax = Status::OPERAND_INVALID.with_details(operand::RCX).0;
            return;
        };
        // A component that L1 has not enabled cannot be.
        guest.restrict(self.xcr0);
        let msrs = self.msrs;
        let mut frame = raw::EnterFrame {
            regs: *regs,
            own: self.own.as_mut_ptr(),
            guest: guest.area.as_mut_ptr(),
            own_xcr0: self.xcr0,
            guest_xcr0: guest.xcr0,
        };
        // SAFETY: CPL 0; switched on again below if they were on.
        let were_on = unsafe { raw::interrupts_off() };
        // SAFETY: CPL 0 and the registers exist, as `new` had the caller promise.
        let own = unsafe { raw::exchange(&guest.unswitched, msrs) };
        // SAFETY: both areas are aligned, hold `SAVE_AREA` bytes, enough for XCR0 as `new` has checked, and were written
        // by XSAVE or by `SaveArea::new` only. XCR0 of the guest is a legal subset of the own one: `set_xcr0` and
        // `restrict` see to it. The rest is what `new` had the caller promise.
        unsafe { raw::enter(&mut frame) };
        // SAFETY: as before; the values are those that were loaded then.
        guest.unswitched = unsafe { raw::exchange(&own, msrs) };
        if were_on {
            // SAFETY: they were on when this began.
            unsafe { raw::interrupts_on() };
        }
        *regs = frame.regs;
    }

    fn reset(&mut self, level: GuestLevel) {
        if let Some(guest) = self.guest(level) {
            guest.reset();
        }
    }

    fn pause(&mut self) {
        core::hint::spin_loop();
    }
}

/// The instruction of a guest level on the vCPU that executes this.
#[derive(Debug)]
pub struct NativeGuest {
    not_send: PhantomData<*mut ()>,
}

impl NativeGuest {
    /// The port of the executing vCPU.
    ///
    /// # Safety
    /// - The code runs in an L2 of a TD at CPL 0, and L1 speaks the call protocol.
    /// - Whoever holds the port makes only calls that break no Rust object: no page in use is given up, no other vCPU is
    ///   started on unprepared state.
    pub const unsafe fn new() -> Self {
        Self { not_send: PhantomData }
    }
}

impl GuestCall for NativeGuest {
    fn vmcall(&mut self, regs: &mut CallRegs) {
        // SAFETY: `new` had the caller promise that L1 serves the call and that it breaks nothing.
        *regs = unsafe { raw::vmcall(*regs) };
    }
}
