//! What an image runs: which cases, or how often each piece of work.

/// Most cases that a selection can name.
pub const MOST_CASES: usize = 64 * CASE_WORDS;

const CASE_WORDS: usize = 4;
const WORDS: usize = CASE_WORDS + 1;

/// A set of cases by their numbers and then how often each piece of work is done, as they stand in the image. Little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection([u64; WORDS]);

impl Selection {
    /// "cocoSEL" and the version of this layout; stands before the words.
    pub const MAGIC: u64 = 0x024c_4553_6f63_6f63;
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

    /// No case, but each piece of work so often.
    #[must_use]
    pub const fn work(rounds: u64) -> Self {
        Self([0, 0, 0, 0, rounds])
    }

    /// How often each piece of work is done.
    #[must_use]
    pub const fn rounds(&self) -> u64 {
        let [.., rounds] = self.0;
        rounds
    }

    fn cases(&self) -> &[u64] {
        let [cases @ .., _] = &self.0;
        cases
    }

    /// The same and one case more. A number from [`MOST_CASES`] on changes nothing.
    #[must_use]
    pub fn with(mut self, case: usize) -> Self {
        let [cases @ .., _] = &mut self.0;
        if let Some(word) = cases.get_mut(case / 64) {
            *word |= 1 << (case % 64);
        }
        self
    }

    /// Whether a case is in it.
    #[must_use]
    pub fn has(&self, case: usize) -> bool {
        self.cases().get(case / 64).is_some_and(|word| word >> (case % 64) & 1 == 1)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.cases().iter().map(|word| word.count_ones()).sum()
    }
}
