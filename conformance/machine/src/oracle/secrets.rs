//! Byte strings that are secret, and a quick search for them.

use alloc::vec::Vec;

/// Shortest string that is looked for: a shorter one would match by chance.
const SHORTEST: usize = 8;
/// Most bytes between two places that are looked at.
const MOST: usize = 32;

/// Secret byte strings.
///
/// Wherever a string stands, it covers one of the places that are a multiple of `stride` apart, and the byte behind it. So
/// only those pairs of bytes are looked at, and a whole string is compared only where one of its own pairs may stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets {
    strings: Vec<Vec<u8>>,
    stride: usize,
    /// A bit per [`place_of`] a pair: some string has such a pair at one of its first `stride` bytes.
    probes: [u64; 16],
}

impl Secrets {
    /// Adds a string. Fewer than 8 bytes are ignored.
    pub(super) fn add(&mut self, secret: &[u8]) {
        if secret.len() < SHORTEST {
            return;
        }
        self.strings.push(secret.to_vec());
        self.stride = self.strings.iter().map(|secret| secret.len() - 1).min().unwrap_or(1).min(MOST);
        self.probes = [0; 16];
        for pair in self.strings.iter().flat_map(|secret| secret.windows(2).take(self.stride)) {
            let (word, bit) = place_of(pair);
            self.probes[word] |= 1 << bit;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.strings.is_empty()
    }

    /// Length of the longest string.
    pub(super) fn longest(&self) -> usize {
        self.strings.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Whether one of the strings stands in `bytes`.
    pub(super) fn stand_in(&self, bytes: &[u8]) -> bool {
        (0..bytes.len())
            .step_by(self.stride.max(1))
            .filter(|place| {
                bytes.get(*place..*place + 2).map(place_of).is_some_and(|(word, bit)| self.probes[word] >> bit & 1 == 1)
            })
            .any(|place| self.strings.iter().any(|secret| self.covers(bytes, place, secret)))
    }

    /// Whether `secret` stands in `bytes` so that one of its first `stride` bytes is at `place`.
    fn covers(&self, bytes: &[u8], place: usize, secret: &[u8]) -> bool {
        (0..self.stride.min(place + 1)).any(|within| {
            bytes.get(place) == secret.get(within)
                && bytes.get(place - within..).is_some_and(|rest| rest.starts_with(secret))
        })
    }
}

/// Word and bit that stand for a pair of bytes.
fn place_of(pair: &[u8]) -> (usize, u8) {
    match pair {
        [first, second, ..] => (usize::from(first >> 6 | (second & 3) << 2), first & 63),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_string_at_every_offset_and_no_part_of_it() {
        let mut secrets = Secrets::default();
        let [long, short]: [Vec<u8>; 2] = [(100..140).collect(), (1..=9).collect()];
        secrets.add(&long);
        secrets.add(&short);
        secrets.add(&[7; 7]);
        assert!(!secrets.is_empty());
        assert_eq!((secrets.longest(), secrets.strings.len()), (40, 2));
        for secret in [&long, &short] {
            for offset in 0..=200 - secret.len() {
                let mut bytes = [0; 200];
                bytes[offset..offset + secret.len()].copy_from_slice(secret);
                assert!(secrets.stand_in(&bytes), "at {offset}");
                bytes[offset + secret.len() - 1] ^= 0xff;
                assert!(!secrets.stand_in(&bytes), "without its end at {offset}");
            }
        }
        assert!(!Secrets::default().stand_in(&[0; 64]));
        assert!(!secrets.stand_in(&[]));
    }
}
