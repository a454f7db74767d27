//! Registers and events of a level that has left for L1.

use coco_part_api::memory::offset;
use coco_part_api::{Completion, Context, Event, GuestLevel, GuestMemory, GuestState};

use super::{L1, LevelPages, admission};
use crate::abi::fields::{VmcsField, interruption};
use crate::abi::guest_state::gpr;
use crate::error::Error;
use crate::port::Port;

/// Offset of the interrupt request register in a virtual-APIC page: 32 vectors in each 16 bytes.
const IRR: u64 = 0x200;

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// The pages of a level that has a vCPU here.
    fn installed(&self, level: GuestLevel) -> Result<LevelPages, Error<M::Fault>> {
        let pages = self.level_pages(level)?;
        if self.slot.is_installed(level) { Ok(pages) } else { Err(Error::NoVcpu { level }) }
    }

    fn set_context_from(
        &mut self,
        level: GuestLevel,
        pages: LevelPages,
        to: &Context,
        now: Option<&Context>,
    ) -> Result<(), Error<M::Fault>> {
        self.write_fields(level, to, now)?;
        let mut state = self.registers(pages.registers)?;
        (state.gpr, state.rip, state.rflags) = (to.gpr, to.rip, to.rflags);
        self.set_registers(pages.registers, &state)
    }

    /// Sets the vector in the virtual APIC and raises RVI to it (TDX-41). The processor delivers it when the level can
    /// take it.
    fn post(&mut self, pages: LevelPages, vector: u8) -> Result<(), Error<M::Fault>> {
        let base = pages.vapic.start_address();
        // At most 0x270 behind the start of a page.
        let at = offset(base, IRR + u64::from(vector / 32) * 0x10).unwrap_or(base);
        let fault = |fault| Error::Memory { at, fault };
        // Neither the level nor the host reaches the page, and the level does not run: no atomic access is needed.
        let word = self.memory.read_value::<u32>(at).map_err(fault)?;
        self.memory.write_value(at, &(word | 1 << (vector % 32))).map_err(fault)?;
        let mut state = self.registers(pages.registers)?;
        state.rvi = state.rvi.max(vector);
        self.set_registers(pages.registers, &state)
    }

    /// Has the next entry deliver an event. One fits; an older one goes first.
    fn deliver(&mut self, level: GuestLevel, event: u32, error_code: u32) -> Result<(), Error<M::Fault>> {
        let waiting = self.vmcs_read(level, VmcsField::ENTRY_INTERRUPTION)?;
        if waiting & u64::from(interruption::VALID) != 0 {
            return Err(Error::EventPending { level });
        }
        if event & interruption::ERROR_CODE != 0 {
            self.vmcs_write(level, VmcsField::ENTRY_ERROR_CODE, error_code.into(), u64::MAX)?;
        }
        self.vmcs_write(level, VmcsField::ENTRY_INTERRUPTION, (event | interruption::VALID).into(), u64::MAX)
    }
}

impl<P: Port, M: GuestMemory> GuestState for L1<'_, P, M> {
    /// Reads the VMCS field by field, and the register page.
    fn context(&mut self, level: GuestLevel) -> Result<Context, Self::Error> {
        let pages = self.installed(level)?;
        self.read_context(level, pages)
    }

    /// Writes what differs. If the module refuses a value, what was written before it is put back; if even that fails,
    /// the level has no vCPU here any more.
    fn set_context(&mut self, level: GuestLevel, context: &Context) -> Result<(), Self::Error> {
        let pages = self.installed(level)?;
        admission::check(context, self.td.shared_bit)?;
        let before = self.read_context(level, pages)?;
        let result = self.set_context_from(level, pages, context, Some(&before));
        if result.is_err() && self.set_context_from(level, pages, &before, None).is_err() {
            self.slot.clear(level);
        }
        result
    }

    /// An interrupt goes through the virtual APIC and stays pending there; the others are delivered by the next entry.
    ///
    /// # Errors
    /// As the trait says; `InvalidArgument` for a vector below 32; `Busy` while another event waits for the next entry
    /// or the level cannot take an NMI.
    fn inject(&mut self, level: GuestLevel, event: Event) -> Result<(), Self::Error> {
        let pages = self.installed(level)?;
        match event {
            Event::Interrupt(vector @ 32..) => self.post(pages, vector),
            Event::Interrupt(vector) => Err(Error::BadVector { vector }),
            Event::Nmi => {
                let cannot =
                    interruption::BLOCKED_BY_STI | interruption::BLOCKED_BY_MOV_SS | interruption::BLOCKED_BY_NMI;
                // Entering with such an event would fail, and that would be the end of the vCPU.
                if self.vmcs_read(level, VmcsField::INTERRUPTIBILITY)? & cannot != 0 {
                    return Err(Error::EventPending { level });
                }
                self.deliver(level, interruption::NMI | 2, 0)
            }
            Event::GeneralProtection(code) => {
                self.deliver(level, interruption::EXCEPTION | interruption::ERROR_CODE | 13, code)
            }
            Event::InvalidOpcode => self.deliver(level, interruption::EXCEPTION | 6, 0),
        }
    }

    /// The length is the module's word, in the same registers that told of the exit.
    ///
    /// # Errors
    /// As the trait says; `Refused` for an instruction without a length.
    fn complete(&mut self, level: GuestLevel, with: Completion) -> Result<(), Self::Error> {
        let pages = self.installed(level)?;
        let (trap, length) = self.levels[level.index()].trapped.ok_or(Error::NoTrap { level })?;
        let length = length.ok_or(Error::NoLength { level })?;
        let mut state = self.registers(pages.registers)?;
        let registers = with.registers(trap, state.gpr[gpr::RAX]).ok_or(Error::NoTrap { level })?;
        for (register, value) in state.gpr.iter_mut().zip(registers) {
            *register = value.unwrap_or(*register);
        }
        self.step_over(level, pages, &mut state, length)?;
        self.levels[level.index()].trapped = None;
        Ok(())
    }

    /// Always `None`: CPUID of L1 itself is about L1, and for part of the leaves raises #VE. What its guests find is the
    /// integrator's to say.
    fn cpuid(&mut self, level: GuestLevel, _leaf: u32, _subleaf: u32) -> Result<Option<[u32; 4]>, Self::Error> {
        self.installed(level).map(|_| None)
    }
}
