//! When silence means that a device is gone.

use std::time::Duration;

use crate::ring::pause;

/// How long a device must have been silent to be gone: longer than a reset of a function takes, after which it answers again. That is a tenth of a second for the
/// device (PCI Express Base Specification 4.0, 6.6.2), which Linux sleeps through, and what Linux does before and after with the registers out of reach.
const SILENCE: Duration = Duration::from_millis(250);

/// Whether a device is `silent` now and still is a quarter of a second later: one answer that did not come is no proof. Waits only for one that is silent now.
pub(crate) fn stays_silent(mut silent: impl FnMut() -> bool) -> bool {
    silent() && {
        pause(SILENCE);
        silent()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// What becomes of these answers, how many were asked for, and whether it waited for one.
    fn after(answers: &[bool]) -> (bool, usize, bool) {
        let mut asked = 0;
        let began = Instant::now();
        let gone = stays_silent(|| {
            asked += 1;
            answers[asked - 1]
        });
        (gone, asked, began.elapsed() >= SILENCE)
    }

    #[test]
    fn one_answer_that_did_not_come_is_no_proof() {
        assert_eq!(after(&[true, false]), (false, 2, true));
        assert_eq!(after(&[true, true]), (true, 2, true));
    }

    #[test]
    fn one_that_answers_is_not_waited_for() {
        let (gone, asked, _) = after(&[false]);
        assert_eq!((gone, asked), (false, 1));
    }
}
