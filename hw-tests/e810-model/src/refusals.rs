//! What was refused, and why.

use std::collections::VecDeque;

/// So many are kept.
const KEPT: usize = 1024;

/// The newest refusals, and how many there were.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    kept: VecDeque<String>,
    total: u64,
}

impl Refusals {
    pub(crate) fn push(&mut self, why: String) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(why);
        self.total += 1;
    }

    /// How many there were.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Those after the first `told`, as far as they are kept.
    pub(crate) fn after(&self, told: u64) -> Vec<String> {
        let gone = self.total - self.kept.len() as u64;
        let skip = usize::try_from(told.saturating_sub(gone)).unwrap_or(usize::MAX);
        self.kept.iter().skip(skip).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_however_much_was_forgotten() {
        let mut refusals = Refusals::default();
        let mut told = 0;
        for number in 0..3000 {
            refusals.push(number.to_string());
            let new = refusals.after(told);
            assert_eq!(new, [number.to_string()]);
            told = refusals.total();
        }
        assert!(refusals.after(told).is_empty());
        assert_eq!(refusals.after(0).len(), KEPT);
        assert_eq!(refusals.after(2998), ["2998", "2999"]);
    }
}
