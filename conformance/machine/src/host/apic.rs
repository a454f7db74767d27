//! The x2APIC that the host emulates: one per vCPU and VMPL, so that a level never sees the interrupts of another.
//!
//! Registers are reached by MSR events alone (0x800 and up, and 0x6e0 for the TSC deadline). There are no external interrupts:
//! what arrives comes from the timer, or from a vCPU of the same level by the interrupt command register. Ticks of timer and bus
//! are those of the host's clock. The machine only says what is pending; who runs real code takes it when the guest can be
//! interrupted, and programs on the step machine are never interrupted.

use crate::op::Vcpu;

/// TSC deadline.
const TSC_DEADLINE: u64 = 0x6e0;
/// Identification.
const ID: u64 = 0x802;
/// Version.
const VERSION: u64 = 0x803;
/// Task priority.
const TPR: u64 = 0x808;
/// Processor priority.
const PPR: u64 = 0x80a;
/// End of interrupt.
const EOI: u64 = 0x80b;
/// Logical destination.
const LDR: u64 = 0x80d;
/// Spurious interrupt vector, and the switch of it all.
const SPURIOUS: u64 = 0x80f;
/// In service, 8 registers of 32 bits.
const ISR: u64 = 0x810;
/// Trigger mode: always edge here.
const TMR: u64 = 0x818;
/// Requested.
const IRR: u64 = 0x820;
/// Errors.
const ESR: u64 = 0x828;
/// Timer entry of the local vector table.
const TIMER: u64 = 0x832;
/// Thermal monitor; the first of four entries that hold what is written to them.
const THERMAL: u64 = 0x833;
/// Error entry.
const ERROR: u64 = 0x837;
/// Initial count.
const INITIAL: u64 = 0x838;
/// Current count.
const CURRENT: u64 = 0x839;
/// Divide configuration.
const DIVIDE: u64 = 0x83e;
/// IPI to oneself.
const SELF: u64 = 0x83f;

/// Version register: six entries, 0x14 as any integrated APIC.
const VERSION_VALUE: u64 = 5 << 16 | 0x14;
/// Local vector table: masked.
const MASKED: u64 = 1 << 16;
/// Timer: bits 18:17 are its mode.
const MODE: u64 = 3 << 17;
const PERIODIC: u64 = 1 << 17;
const DEADLINE: u64 = 2 << 17;
/// Spurious vector: software enable.
const ENABLED: u64 = 1 << 8;

/// 256 bits.
#[derive(Clone, Copy, Debug, Default)]
struct Vectors([u64; 4]);

impl Vectors {
    fn set(&mut self, vector: u8, value: bool) {
        let (word, bit) = (usize::from(vector / 64), 1 << (vector % 64));
        if value { self.0[word] |= bit } else { self.0[word] &= !bit }
    }

    fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|word| *word != 0)?;
        // At most 3 * 64 + 63.
        Some((word as u32 * 64 + 63 - self.0[word].leading_zeros()) as u8)
    }

    /// One of 8 registers of 32 bits.
    fn register(&self, index: u64) -> u64 {
        let word = self.0.get((index / 2) as usize).copied().unwrap_or(0);
        word >> (index % 2 * 32) & 0xffff_ffff
    }
}

/// The APIC of one level of one vCPU.
#[derive(Clone, Debug)]
pub(super) struct Apic {
    id: u8,
    tpr: u64,
    spurious: u64,
    timer: u64,
    entries: [u64; 5],
    divide: u64,
    initial: u64,
    /// When the timer fires next, in ticks.
    due: Option<u64>,
    requested: Vectors,
    in_service: Vectors,
}

impl Apic {
    pub(super) fn new(vcpu: Vcpu) -> Self {
        Self {
            id: vcpu.0,
            tpr: 0,
            spurious: 0xff,
            timer: MASKED,
            entries: [MASKED; 5],
            divide: 0,
            initial: 0,
            due: None,
            requested: Vectors::default(),
            in_service: Vectors::default(),
        }
    }

    /// Whether an MSR belongs to it, but for the interrupt command register.
    pub(super) fn has(number: u64) -> bool {
        number == TSC_DEADLINE || (0x800..0x840).contains(&number)
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.spurious & ENABLED != 0
    }

    /// A vector arrives. Vectors below 16 are illegal and get lost; so does everything while it is off.
    pub(super) fn post(&mut self, vector: u8) -> bool {
        let taken = self.is_enabled() && vector >= 16;
        if taken {
            self.requested.set(vector, true);
        }
        taken
    }

    fn priority(&self) -> u64 {
        let served = self.in_service.highest().map_or(0, |vector| u64::from(vector & 0xf0));
        if self.tpr & 0xf0 >= served { self.tpr & 0xff } else { served }
    }

    /// The vector that interrupts next, if any may.
    pub(super) fn pending(&self) -> Option<u8> {
        self.requested.highest().filter(|vector| u64::from(vector & 0xf0) > self.priority() & 0xf0)
    }

    /// Puts it into service.
    pub(super) fn take(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.requested.set(vector, false);
        self.in_service.set(vector, true);
        Some(vector)
    }

    /// A vector that was taken has not reached the guest after all.
    pub(super) fn give_back(&mut self, vector: u8) {
        self.in_service.set(vector, false);
        self.requested.set(vector, true);
    }

    fn divisor(&self) -> u64 {
        let index = self.divide & 3 | self.divide >> 1 & 4;
        if index == 7 { 1 } else { 2 << index }
    }

    fn mode(&self) -> u64 {
        self.timer & MODE
    }

    /// Lets the timer fire if it is due. True if it has posted something.
    pub(super) fn tick(&mut self, now: u64) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else { return false };
        let period = self.initial.saturating_mul(self.divisor());
        self.due = (self.mode() == PERIODIC && period != 0).then(|| {
            let missed = (now - due) / period;
            due.saturating_add(missed.saturating_add(1).saturating_mul(period))
        });
        // Bits 7:0.
        self.timer & MASKED == 0 && self.post(self.timer as u8)
    }

    /// A register; `None` if it cannot be read.
    pub(super) fn read(&self, number: u64, now: u64) -> Option<u64> {
        Some(match number {
            TSC_DEADLINE if self.mode() == DEADLINE => self.due.unwrap_or(0),
            TSC_DEADLINE | ESR => 0,
            ID => u64::from(self.id),
            VERSION => VERSION_VALUE,
            TPR => self.tpr,
            PPR => self.priority(),
            LDR => u64::from(self.id >> 4) << 16 | 1 << (self.id & 15),
            SPURIOUS => self.spurious,
            ISR..TMR => self.in_service.register(number - ISR),
            TMR..IRR => 0,
            IRR..ESR => self.requested.register(number - IRR),
            TIMER => self.timer,
            THERMAL..=ERROR => self.entries[(number - THERMAL) as usize],
            INITIAL => self.initial,
            CURRENT => match self.due {
                Some(due) if self.mode() != DEADLINE => due.saturating_sub(now) / self.divisor(),
                _ => 0,
            },
            DIVIDE => self.divide,
            _ => return None,
        })
    }

    /// Writes a register; `None` if it cannot be written, or not so.
    pub(super) fn write(&mut self, number: u64, value: u64, now: u64) -> Option<()> {
        match number {
            TSC_DEADLINE => {
                if self.mode() == DEADLINE {
                    self.due = (value != 0).then_some(value);
                }
                return Some(());
            }
            _ if value >> 32 != 0 => return None,
            TPR if value <= 0xff => self.tpr = value,
            EOI if value == 0 => {
                if let Some(vector) = self.in_service.highest() {
                    self.in_service.set(vector, false);
                }
            }
            SPURIOUS => self.spurious = value & 0x1ff,
            ESR if value == 0 => {}
            TIMER => {
                if (self.timer ^ value) & MODE != 0 {
                    self.due = None;
                }
                self.timer = value & (MASKED | MODE | 0xff);
            }
            THERMAL..=ERROR => self.entries[(number - THERMAL) as usize] = value,
            INITIAL => {
                self.initial = value;
                if self.mode() != DEADLINE {
                    let ticks = value.saturating_mul(self.divisor());
                    self.due = (value != 0).then(|| now.saturating_add(ticks));
                }
            }
            DIVIDE => self.divide = value & 0xb,
            SELF if value <= 0xff => {
                // Checked to be one byte.
                self.post(value as u8);
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Apic {
        let mut apic = Apic::new(Vcpu(3));
        assert_eq!(apic.write(SPURIOUS, 0x1ff, 0), Some(()));
        apic
    }

    #[test]
    fn interrupts_nest_by_class_and_end_in_order() {
        let mut apic = enabled();
        assert!(apic.post(0x31) && apic.post(0x45) && apic.post(0x47));
        assert_eq!(apic.take(), Some(0x47));
        assert_eq!(apic.take(), None, "the same class waits");
        assert!(apic.post(0xec));
        assert_eq!(apic.take(), Some(0xec));
        assert_eq!(apic.read(ISR + 7, 0), Some(1 << 12));
        assert_eq!(apic.write(EOI, 0, 0), Some(()));
        assert_eq!(apic.pending(), None);
        assert_eq!(apic.write(EOI, 0, 0), Some(()));
        assert_eq!(apic.take(), Some(0x45));
        apic.give_back(0x45);
        assert_eq!((apic.read(IRR + 2, 0), apic.take()), (Some(1 << 5), Some(0x45)));
    }

    #[test]
    fn the_task_priority_holds_interrupts_back() {
        let mut apic = enabled();
        apic.post(0x45);
        assert_eq!(apic.write(TPR, 0x40, 0), Some(()));
        assert_eq!((apic.pending(), apic.read(PPR, 0)), (None, Some(0x40)));
        assert_eq!(apic.write(TPR, 0x3f, 0), Some(()));
        assert_eq!(apic.pending(), Some(0x45));
    }

    #[test]
    fn nothing_arrives_while_it_is_off_and_no_illegal_vector_ever() {
        let mut apic = Apic::new(Vcpu(0));
        assert!(!apic.post(0x40));
        let mut apic = enabled();
        assert!(!apic.post(0xf));
        assert_eq!(apic.pending(), None);
    }

    #[test]
    fn one_shot_periodic_and_deadline_fire_when_they_are_due() {
        let mut apic = enabled();
        apic.write(TIMER, 0x40, 0);
        apic.write(DIVIDE, 0xb, 0);
        apic.write(INITIAL, 100, 1000);
        assert_eq!(apic.read(CURRENT, 1040), Some(60));
        assert!(!apic.tick(1099) && apic.tick(1100) && !apic.tick(5000));
        assert_eq!(apic.take(), Some(0x40));
        apic.write(EOI, 0, 0);

        apic.write(TIMER, 0x41 | PERIODIC, 0);
        apic.write(DIVIDE, 0, 0);
        apic.write(INITIAL, 100, 1000);
        assert!(!apic.tick(1199) && apic.tick(1200) && apic.tick(1950) && !apic.tick(1999) && apic.tick(2000));

        apic.write(TIMER, 0x42 | DEADLINE, 0);
        assert_eq!(apic.write(TSC_DEADLINE, 1 << 40, 0), Some(()));
        assert_eq!(apic.read(TSC_DEADLINE, 0), Some(1 << 40));
        assert!(!apic.tick((1 << 40) - 1) && apic.tick(1 << 40) && !apic.tick(u64::MAX));
        assert_eq!(apic.read(TSC_DEADLINE, 0), Some(0));
    }

    #[test]
    fn a_masked_timer_fires_for_nobody() {
        let mut apic = enabled();
        apic.write(INITIAL, 1, 0);
        assert!(!apic.tick(100));
        assert_eq!(apic.pending(), None);
    }

    #[test]
    fn no_value_of_any_register_breaks_it() {
        for value in [0, 1, 0xb, 0x1ff, 0x2_00ff, 0xffff_ffff, 0x1_0000_0000, u64::MAX] {
            let mut apic = enabled();
            for number in (0x800..0x840).chain([TSC_DEADLINE]) {
                let _ = apic.write(number, value, u64::MAX - 5);
                let _ = apic.read(number, u64::MAX);
                apic.tick(u64::MAX);
                apic.take();
            }
        }
        let mut apic = enabled();
        assert_eq!(apic.write(TPR, 0x100, 0), None);
        assert_eq!(apic.write(EOI, 1, 0), None);
        assert_eq!((apic.write(ID, 0, 0), apic.write(0x801, 0, 0)), (None, None));
        assert_eq!((apic.read(EOI, 0), apic.read(SELF, 0)), (None, None));
    }
}
