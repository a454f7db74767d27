//! Which cases an image runs.

/// Most cases that a selection can name.
pub const MOST_CASES: usize = 64 * WORDS;

const WORDS: usize = 4;

/// A set of cases by their numbers, as it stands in the image that runs them. Little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection([u64; WORDS]);

impl Selection {
    /// "cocoSEL" and the version of this layout; stands before the words.
    pub const MAGIC: u64 = 0x014c_4553_6f63_6f63;
    /// Words behind the magic.
    pub const WORDS: usize = WORDS;

    /// No case.
    pub const NONE: Self = Self([0; WORDS]);

    /// The selection that these words stand for.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// Its words.
    #[must_use]
    pub const fn words(&self) -> [u64; WORDS] {
        self.0
    }

    /// The same and one case more. A number from [`MOST_CASES`] on changes nothing.
    #[must_use]
    pub fn with(mut self, case: usize) -> Self {
        if let Some(word) = self.0.get_mut(case / 64) {
            *word |= 1 << (case % 64);
        }
        self
    }

    /// Whether a case is in it.
    #[must_use]
    pub fn has(&self, case: usize) -> bool {
        self.0.get(case / 64).is_some_and(|word| word >> (case % 64) & 1 == 1)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}
