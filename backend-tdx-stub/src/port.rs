//! Where instructions live: what L1 and a guest level execute.
//!
//! # For implementers
//! A port takes guest-physical addresses and decides nothing: it executes one instruction with the registers given and
//! gives back what it left in them.

use coco_part_api::{CallRegs, GuestLevel};

use crate::abi::regs::Regs;

/// The instructions of L1 on one vCPU.
pub trait Port {
    /// Executes TDCALL with these registers and leaves in them what it gave back.
    #[doc(alias = "TDCALL")]
    fn tdcall(&mut self, regs: &mut Regs);

    /// Executes TDCALL with the leaf TDG.VP.ENTER in `regs`, as [`tdcall`](Self::tdcall) would, and switches around it
    /// what the module does not switch (TDX-20).
    ///
    /// Before it: L1's values of x87/SSE/AVX state, XCR0, CR2, DR0 to DR3, DR6, the syscall MSRs, TSC_AUX, XSS and
    /// KERNEL_GS_BASE are put aside and those of the L2 that `regs` names are loaded. After it the other way round. It
    /// must not execute the instruction with L1's values loaded (rule S4).
    #[doc(alias = "TDG.VP.ENTER")]
    fn enter(&mut self, regs: &mut Regs);

    /// Gives a level the values of a processor after reset in what [`enter`](Self::enter) switches: a new vCPU begins there,
    /// not with what the one before it left (rule S4).
    fn reset(&mut self, level: GuestLevel);

    /// Lets another vCPU or the host go on; in every loop that waits for one.
    fn pause(&mut self);
}

impl<T: Port + ?Sized> Port for &mut T {
    fn tdcall(&mut self, regs: &mut Regs) {
        (**self).tdcall(regs);
    }

    fn enter(&mut self, regs: &mut Regs) {
        (**self).enter(regs);
    }

    fn reset(&mut self, level: GuestLevel) {
        (**self).reset(level);
    }

    fn pause(&mut self) {
        (**self).pause();
    }
}

/// The one instruction of a guest level.
pub trait GuestCall {
    /// Executes VMCALL with these registers and leaves in them what L1 answered.
    #[doc(alias = "VMCALL")]
    fn vmcall(&mut self, regs: &mut CallRegs);
}

impl<T: GuestCall + ?Sized> GuestCall for &mut T {
    fn vmcall(&mut self, regs: &mut CallRegs) {
        (**self).vmcall(regs);
    }
}
