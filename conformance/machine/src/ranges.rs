//! A set of page numbers, kept as disjoint ranges.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Disjoint half-open ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// start -> end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    pub(crate) fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut low, mut high) = (start, end);
        let touching: Vec<u64> = self.ranges.range(..=end).filter(|(_, e)| **e >= start).map(|(s, _)| *s).collect();
        for s in touching {
            if let Some(e) = self.ranges.remove(&s) {
                low = low.min(s);
                high = high.max(e);
            }
        }
        self.ranges.insert(low, high);
    }

    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        let touching: Vec<(u64, u64)> =
            self.ranges.range(..end).filter(|(_, e)| **e > start).map(|(s, e)| (*s, *e)).collect();
        for (s, e) in touching {
            self.ranges.remove(&s);
            if s < start {
                self.ranges.insert(s, start);
            }
            if e > end {
                self.ranges.insert(end, e);
            }
        }
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        self.ranges.range(..=page).next_back().is_some_and(|(_, end)| page < *end)
    }

    /// Whether all of `start..end` is in the set.
    pub(crate) fn covers(&self, start: u64, end: u64) -> bool {
        start < end && self.ranges.range(..=start).next_back().is_some_and(|(_, e)| end <= *e)
    }

    /// First page of the set in `start..end`.
    pub(crate) fn first_within(&self, start: u64, end: u64) -> Option<u64> {
        if start < end && self.contains(start) {
            return Some(start);
        }
        self.ranges.range(start..end.max(start)).next().map(|(s, _)| *s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_touching_ranges_and_cuts_holes() {
        let mut set = RangeSet::default();
        set.insert(10, 20);
        set.insert(20, 30);
        assert!(set.covers(10, 30));
        set.remove(15, 16);
        assert!(!set.contains(15) && set.contains(14) && set.contains(16));
        assert_eq!(set.first_within(0, 100), Some(10));
        assert_eq!(set.first_within(15, 16), None);
        assert_eq!(set.first_within(15, 17), Some(16));
        assert_eq!(set.ranges.len(), 2);
    }
}
