//! Instruction bytes to try: systematic ones and random ones, from a fixed seed.

use super::super::{MAX_LEN, Mode};

pub(super) type Sample = [u8; MAX_LEN];

pub(super) const MODES: [Mode; 3] = [Mode::Bits64, Mode::Bits32, Mode::Bits16];

/// A small generator of numbers (xorshift), so that a failure repeats.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick(&mut self, from: &[u8]) -> u8 {
        from[self.below(from.len())]
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.next() as u8);
    }
}

/// Everything that can stand before an opcode; bytes 40 to 4f are instructions outside of 64-bit mode.
const PREFIXES: [u8; 27] = [
    0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47,
    0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f,
];

/// Prefixes of the systematic samples, with an even share of each effect.
const COMBINATIONS: [&[u8]; 10] = [
    &[],
    &[0x66],
    &[0x67],
    &[0xf0],
    &[0xf2, 0x36],
    &[0xf3, 0x66],
    &[0x65, 0x41],
    &[0x66, 0x48],
    &[0x48, 0x66],
    &[0xf2, 0xf3, 0x67, 0x64, 0x4f],
];

/// First bytes of listed opcodes.
const ONE_BYTE: [u8; 29] = [
    0x63, 0x6c, 0x6d, 0x6e, 0x6f, 0x88, 0x89, 0x8a, 0x8b, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xaa, 0xab, 0xc6, 0xc7,
    0xe4, 0xe5, 0xe6, 0xe7, 0xec, 0xed, 0xee, 0xef, 0xf4, 0x90,
];

/// Second bytes of listed opcodes.
const TWO_BYTES: [u8; 17] =
    [0x01, 0x08, 0x09, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x33, 0xa2, 0xb6, 0xb7, 0xbe, 0xbf, 0x01];

/// Third bytes of listed opcodes.
const THREE_BYTES: [u8; 8] = [0xc8, 0xc9, 0xd9, 0xf9, 0xfa, 0xfb, 0xd8, 0xc1];

/// Every opcode of the first two maps with every ModRM byte and every one of [`COMBINATIONS`].
pub(super) fn systematic(mut each: impl FnMut(&Sample)) {
    let mut random = Random(0x5eed_0001);
    for prefixes in COMBINATIONS {
        for opcode in 0..=0xffu8 {
            for modrm in 0..=0xffu8 {
                each(&sample(&mut random, &[prefixes, &[opcode, modrm]]));
                each(&sample(&mut random, &[prefixes, &[0x0f, opcode, modrm]]));
            }
        }
    }
}

/// Any prefixes in any order, then a listed opcode or any byte, then random bytes.
pub(super) fn random(count: usize, mut each: impl FnMut(&Sample)) {
    let mut random = Random(0x5eed_0002);
    for _ in 0..count {
        let mut prefixes = [0; MAX_LEN];
        // Long ones in all modes, or short ones.
        let (most, from) = if random.below(8) == 0 { (MAX_LEN + 1, &PREFIXES[..11]) } else { (5, &PREFIXES[..]) };
        let prefixes = &mut prefixes[..random.below(most)];
        prefixes.fill_with(|| random.pick(from));
        let opcode: &[u8] = match random.below(8) {
            0 => &[],
            1..=3 => &[random.pick(&ONE_BYTE)],
            4 => &[0x0f, 0x01, random.pick(&THREE_BYTES)],
            _ => &[0x0f, random.pick(&TWO_BYTES)],
        };
        each(&sample(&mut random, &[prefixes, opcode]));
    }
}

fn sample(random: &mut Random, parts: &[&[u8]]) -> Sample {
    let mut bytes = [0; MAX_LEN];
    random.fill(&mut bytes);
    for (to, from) in bytes.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
    bytes
}
