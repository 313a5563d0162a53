//! One live line on a terminal, nothing elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the line changes.
const EVERY: Duration = Duration::from_millis(100);
/// How often a log gets a line, where there is no terminal but lines are wanted.
const EVERY_LOGGED: Duration = Duration::from_secs(1);

/// A line on stderr that says how far the work is.
pub struct Line {
    bar: ProgressBar,
    next: Instant,
    /// Without a terminal: print lines to the log.
    logged: bool,
}

impl Line {
    /// A line; hidden where stderr is no terminal, or when `quiet`.
    pub fn new(quiet: bool) -> Self {
        let bar = ProgressBar::new_spinner();
        if quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.set_style(
            ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Self {
            bar,
            next: Instant::now(),
            logged: false,
        }
    }

    /// As [`new`](Self::new), but where stderr is no terminal a line is printed every second.
    pub fn logged(quiet: bool) -> Self {
        let line = Self::new(quiet);
        let logged = !quiet && line.bar.is_hidden();
        Self { logged, ..line }
    }

    /// Shows what `text` answers, if the line is due for a change.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + if self.logged { EVERY_LOGGED } else { EVERY };
            if self.logged {
                tell!("{}", text());
            } else if !self.bar.is_hidden() {
                self.bar.set_message(text());
                self.bar.tick();
            }
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
