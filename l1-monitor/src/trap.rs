//! Guests that trap instead of calling: what they try is played by the integrator's [`Emulate`] and completed by the backend.

use coco_part_api::{
    Completion, Direction, Emulate, Error, ErrorKind, Event, GuestLevel, Monitor as Backend, MsrAccess, PortAccess,
    Processor,
};

use crate::monitor::{Monitor, Step, Stop};
use crate::storage::Record;

/// An instruction that trapped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tried {
    Cpuid { leaf: u32, subleaf: u32 },
    Msr(MsrAccess),
    Port(PortAccess),
}

/// What is to become of the instruction.
enum Verdict {
    Complete(Completion),
    /// #GP.
    Refuse,
}

impl<B: Backend, P: Processor + Emulate, const VCPUS: usize> Monitor<'_, B, P, VCPUS> {
    /// Plays an instruction and completes it, once (S1). Its frame cannot be deleted meanwhile.
    #[inline(never)]
    pub(crate) fn emulate(&mut self, tried: Tried, current: &Record) -> Step {
        let level = current.terms.level;
        let Some(record) = self.hold(current, level) else { return Step::Again };
        let done = self.play(tried, level);
        self.release(&record);
        match done {
            Ok(()) => Step::Emulated,
            Err(stop) => self.stop(stop, &record),
        }
    }

    fn play(&mut self, tried: Tried, level: GuestLevel) -> Result<(), Stop> {
        let verdict = self.verdict(tried, level)?;
        let (done, what) = match verdict {
            Verdict::Complete(with) => (self.backend.complete(level, with), Stop::NotCompleted),
            // RIP stays at the instruction: #GP is a fault.
            Verdict::Refuse => match self.backend.inject(level, Event::GeneralProtection(0)) {
                // Another event comes first; the instruction is executed again after it.
                Err(error) if error.kind() == ErrorKind::Busy => (Ok(()), Stop::Msr),
                injected => (injected, Stop::Msr),
            },
        };
        done.map_err(|error| {
            log::debug!("{}: an instruction was not completed: {:?}", self.own(), error.kind());
            what
        })
    }

    fn verdict(&mut self, tried: Tried, level: GuestLevel) -> Result<Verdict, Stop> {
        let vcpu = self.own();
        let processor = &mut self.processor;
        let completion = match tried {
            Tried::Cpuid { leaf, subleaf } => {
                let vouched = self.backend.cpuid(level, leaf, subleaf).map_err(|error| {
                    log::debug!("{vcpu}: no CPUID: {:?}", error.kind());
                    Stop::NotCompleted
                })?;
                Some(Completion::Cpuid(processor.cpuid(vcpu, leaf, subleaf, vouched)))
            }
            Tried::Msr(MsrAccess::Read { msr }) => processor.read_msr(vcpu, msr).map(Completion::Msr),
            Tried::Msr(MsrAccess::Write { msr, value }) => {
                processor.write_msr(vcpu, msr, value).map(|()| Completion::Plain)
            }
            Tried::Port(PortAccess { port, size, direction: Direction::In, .. }) => {
                Some(Completion::In(processor.read_port(vcpu, port, size)))
            }
            Tried::Port(PortAccess { port, size, direction: Direction::Out, value }) => {
                processor.write_port(vcpu, port, size, value);
                Some(Completion::Plain)
            }
        };
        Ok(completion.map_or(Verdict::Refuse, Verdict::Complete))
    }
}
