//! The x2APIC of a vCPU, which is the host's: it may do with it what it likes, and a guest believes it nothing.
//!
//! Source: 24593, x2APIC registers.

use backend_snp::SnpError;
use coco_part_api::VcpuId;

use crate::link::Link;

/// Deadline of the timer.
const TSC_DEADLINE: u32 = 0x6e0;
/// End of interrupt.
const EOI: u32 = 0x80b;
/// Spurious interrupt vector, and the switch of it all.
const SPURIOUS: u32 = 0x80f;
/// First of eight registers with the interrupts in service.
const IN_SERVICE: u32 = 0x810;
/// Interrupt command.
const ICR: u32 = 0x830;
/// Entry of the timer in the local vector table.
const TIMER: u32 = 0x832;
/// Initial count of the timer.
const INITIAL: u32 = 0x838;
/// Divider of the timer.
const DIVIDE: u32 = 0x83e;

/// Spurious interrupt vector: on, with the last vector.
const ON: u64 = 0x1ff;
/// Divider: by 1.
const BY_1: u64 = 0xb;
/// Timer: fires when the time stamp counter has the value of the deadline.
const DEADLINE: u64 = 2 << 17;
/// The vector by which vCPUs wake each other: any above the exceptions.
const WAKE: u8 = 0xf2;

/// The interrupt controller. All errors are those of [`Link::read_msr`] and [`Link::write_msr`].
impl Link {
    /// Turns it on.
    ///
    /// # Errors
    /// As above.
    pub fn enable_interrupts(&mut self) -> Result<(), SnpError> {
        self.write_msr(SPURIOUS, ON)
    }

    /// Interrupts this vCPU once, after so many ticks of the controller's clock.
    ///
    /// # Errors
    /// As above.
    pub fn interrupt_after(&mut self, ticks: u32, vector: u8) -> Result<(), SnpError> {
        self.write_msr(DIVIDE, BY_1)?;
        self.write_msr(TIMER, vector.into())?;
        self.write_msr(INITIAL, ticks.into())
    }

    /// Interrupts this vCPU once the time stamp counter has reached a value.
    ///
    /// # Errors
    /// As above.
    pub fn interrupt_at(&mut self, deadline: u64, vector: u8) -> Result<(), SnpError> {
        self.write_msr(TIMER, DEADLINE | u64::from(vector))?;
        self.write_msr(TSC_DEADLINE, deadline)
    }

    /// Interrupts a vCPU of the same level.
    ///
    /// # Errors
    /// As above.
    pub fn interrupt(&mut self, who: VcpuId, vector: u8) -> Result<(), SnpError> {
        self.write_msr(ICR, u64::from(who.0) << 32 | u64::from(vector))
    }

    /// Interrupts a vCPU that waits for anything.
    ///
    /// # Errors
    /// As above.
    pub fn wake(&mut self, who: VcpuId) -> Result<(), SnpError> {
        self.interrupt(who, WAKE)
    }

    /// Whether an interrupt was taken and has not ended.
    ///
    /// # Errors
    /// As above.
    pub fn is_in_service(&mut self, vector: u8) -> Result<bool, SnpError> {
        let register = self.read_msr(IN_SERVICE + u32::from(vector / 32))?;
        Ok(register >> (vector % 32) & 1 != 0)
    }

    /// Says that the last interrupt taken has ended.
    ///
    /// # Errors
    /// As above.
    pub fn end_of_interrupt(&mut self) -> Result<(), SnpError> {
        self.write_msr(EOI, 0)
    }
}
