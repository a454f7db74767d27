//! Registers of a level that has left for L1.

use coco_part_api::{Completion, Context, Event, GuestLevel, GuestMemory, GuestState};
use x86_64::structures::paging::PhysFrame;
use zerocopy::IntoBytes;

use super::L1;
use super::gate::Still;
use super::switch::Hold;
use crate::abi::vmsa::Vmsa;
use crate::error::SnpError;
use crate::instr::Port;
use crate::vmsa_image;

impl<P: Port, M: GuestMemory> GuestState for L1<'_, P, M> {
    /// Reads the VMSA while it stands still.
    ///
    /// # Errors
    /// [`SnpError::NoVcpu`]; [`SnpError::VcpuRuns`]; [`SnpError::FrameBusy`] while another vCPU retires it.
    fn context(&mut self, level: GuestLevel) -> Result<Context, SnpError> {
        self.while_still(level, |l1, frame| {
            let vmsa: Vmsa = l1.gate(frame).read(0)?;
            Ok(vmsa_image::context(&vmsa))
        })
    }

    /// Writes the registers that a [`Context`] has; all others keep their values.
    ///
    /// # Errors
    /// As [`context`](GuestState::context). Values that the processor refuses keep the level from running.
    fn set_context(&mut self, level: GuestLevel, context: &Context) -> Result<(), SnpError> {
        self.while_still(level, |l1, frame| {
            let gate = l1.gate(frame);
            let before: Vmsa = gate.read(0)?;
            let mut after = before.clone();
            vmsa_image::set_context(&mut after, context);
            // Only what changes: the rest of the page is the hardware's.
            for (index, (old, new)) in
                before.as_bytes().chunks_exact(8).zip(after.as_bytes().chunks_exact(8)).enumerate()
            {
                if let (true, Some(quad)) = (old != new, new.first_chunk::<8>()) {
                    gate.write(index * 8, &u64::from_le_bytes(*quad))?;
                }
            }
            Ok(())
        })
    }

    /// # Errors
    /// Always [`SnpError::Unsupported`]: no level here runs with alternate injection.
    fn inject(&mut self, level: GuestLevel, event: Event) -> Result<(), SnpError> {
        let _ = (level, event);
        Err(SnpError::Unsupported { what: "alternate injection" })
    }

    /// The end of the instruction is GUEST_NRIP. Pending single steps and debug breakpoints of the level are not taken.
    ///
    /// # Errors
    /// As [`context`](GuestState::context); [`SnpError::NoTrap`], [`SnpError::WrongCompletion`]; [`SnpError::NextRip`] where the
    /// processor does not say where the instruction ends.
    fn complete(&mut self, level: GuestLevel, with: Completion) -> Result<(), SnpError> {
        self.complete_trap(level, with)
    }

    /// The page that the firmware checked at launch, with what software has to put in ([`cpuid`](crate::cpuid)).
    ///
    /// # Errors
    /// As [`context`](GuestState::context); [`SnpError::Unsupported`] for a page that counts more than 64 entries.
    fn cpuid(&mut self, level: GuestLevel, leaf: u32, subleaf: u32) -> Result<Option<[u32; 4]>, SnpError> {
        self.cpuid_of(level, leaf, subleaf)
    }
}

impl<P: Port, M: GuestMemory> L1<'_, P, M> {
    /// Runs `work` on the current VMSA of a level with the gate closed. That it is closed takes no proof as long as the gate
    /// stays as the last exit left it.
    pub(super) fn while_still<T>(
        &mut self,
        level: GuestLevel,
        work: impl FnOnce(&mut Self, PhysFrame) -> Result<T, SnpError>,
    ) -> Result<T, SnpError> {
        let current = self.current(level)?;
        let frame = current.place().frame();
        let at = frame.start_address();
        if current.is_waiting() {
            return work(self, frame);
        }
        if self.hold(level)? == Hold::Contested {
            return Err(SnpError::FrameBusy { at });
        }
        let is_still = if current.is_still() { Ok(Still::Yes) } else { self.gate(frame).close() };
        let outcome = match is_still {
            Ok(Still::Yes) => work(self, frame),
            Ok(Still::No) => Err(SnpError::VcpuRuns { at }),
            Err(cause) => Err(cause),
        };
        // The next run opens the gate.
        self.release(level);
        outcome
    }
}
