//! Our decoder against the other one, on the same bytes.

use std::collections::HashMap;
use std::format;

use iced_x86::Register as OtherRegister;

use super::super::*;
use super::expected::{Listed, expected, segment};
use super::samples::{MODES, Random, Sample, random, systematic};

/// Random samples, each in three modes.
const SAMPLES: usize = 500_000;

/// Lists the operations, and tells them apart.
macro_rules! kinds {
    ($($Kind:ident)*) => {
        const KINDS: &[&str] = &[$(stringify!($Kind)),*];

        fn kind(operation: &Operation) -> &'static str {
            match operation {
                $(Operation::$Kind { .. } => stringify!($Kind),)*
            }
        }
    };
}

kinds! {
    Cpuid Rdmsr Wrmsr Rdtsc Rdtscp Rdpmc Invd Wbinvd Wbnoinvd Monitor Monitorx Mwait Mwaitx Vmmcall Hlt
    In Out Ins Outs Movs Stos ReadDebug WriteDebug ReadControl WriteControl Load Store
}

/// What came out, by kind and mode.
#[derive(Default)]
struct Seen(HashMap<(Mode, &'static str), usize>);

impl Seen {
    fn count(&mut self, mode: Mode, what: &'static str) {
        *self.0.entry((mode, what)).or_default() += 1;
    }

    fn of(&self, mode: Mode, what: &'static str) -> usize {
        self.0.get(&(mode, what)).copied().unwrap_or(0)
    }

    /// Every kind of operation has to have occurred in every mode.
    fn assert_enough(&self, least: usize) {
        for kind in KINDS.iter().copied().chain(["refused", "cut off", "too long"]) {
            for mode in MODES {
                let count = self.of(mode, kind);
                assert!(count >= least, "{mode:?} {kind}: {count}");
            }
        }
    }
}

/// Compares one sample in one mode, with all its truncations.
fn compare(bytes: &Sample, mode: Mode, random: &mut Random, seen: &mut Seen) {
    let ours = decode(bytes, mode);
    let (ours, (listed, other)) = match (ours, expected(bytes, mode)) {
        (Ok(ours), Some(theirs)) => (ours, theirs),
        (Err(error), None) => {
            let what = if error == DecodeError::TooLong { "too long" } else { "refused" };
            return seen.count(mode, what);
        }
        (ours, theirs) => panic!("{mode:?} {bytes:02x?}\nours   {ours:?}\ntheirs {theirs:?}"),
    };
    let context = || format!("{mode:?} {bytes:02x?} {ours:?} {other:?}");
    assert_eq!(usize::from(ours.len), other.len(), "{}", context());
    assert_eq!(Listed::from(ours.operation), listed, "{}", context());
    if let Operation::Load { from: memory, .. } | Operation::Store { to: memory, .. } = ours.operation {
        let mut registers = Registers { rip: random.next(), ..Registers::default() };
        registers.gprs.fill_with(|| random.next());
        // The other decoder started at address 0.
        let ours = memory.offset(&registers, u64::from(ours.len));
        let theirs = theirs_offset(&other, &registers);
        assert_eq!((ours, memory.segment), (theirs, segment(&other)), "{}", context());
    }
    for cut in 0..usize::from(ours.len) {
        assert_eq!(decode(&bytes[..cut], mode), Err(DecodeError::Truncated), "{cut} of {}", context());
        seen.count(mode, "cut off");
    }
    assert_eq!(decode(&bytes[..usize::from(ours.len)], mode), Ok(ours));
    seen.count(mode, kind(&ours.operation));
}

/// The offset of the memory operand, as the other decoder computes it.
fn theirs_offset(other: &iced_x86::Instruction, registers: &Registers) -> u64 {
    let operand = (0..2).find(|&operand| other.op_kind(operand) == iced_x86::OpKind::Memory).unwrap();
    let value = |register: OtherRegister, _, _| match register {
        register if register.is_segment_register() => Some(0),
        register => {
            let mask = u64::MAX >> (64 - 8 * register.size());
            Some(registers.gprs[register.full_register().number()] & mask)
        }
    };
    other.virtual_address(operand, 0, value).unwrap()
}

fn compare_all(seen: &mut Seen, samples: impl FnOnce(&mut dyn FnMut(&Sample))) {
    let mut values = Random(0x5eed_0003);
    samples(&mut |bytes| {
        for mode in MODES {
            compare(bytes, mode, &mut values, seen);
        }
    });
}

#[test]
fn agrees_with_the_other_decoder_on_every_opcode_and_modrm() {
    let mut seen = Seen::default();
    compare_all(&mut seen, |each| systematic(each));
    let accepted: usize = MODES.iter().flat_map(|mode| KINDS.iter().map(|kind| seen.of(*mode, kind))).sum();
    let refused: usize = MODES.iter().map(|mode| seen.of(*mode, "refused")).sum();
    assert!(accepted > 100_000 && refused > 1_000_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn agrees_with_the_other_decoder_on_random_bytes_with_any_prefixes() {
    let mut seen = Seen::default();
    compare_all(&mut seen, |each| random(SAMPLES, each));
    seen.assert_enough(100);
}
