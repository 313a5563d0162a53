//! Sending at a steady rate.

use std::time::{Duration, Instant};

/// The longest a caller is asked to sleep, so that it looks at its stop flag often enough.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// Says how many packets are due.
///
/// Bursts are what a millisecond brings, at most 32: small enough for the receive ring of a virtual Ethernet device (256 frames).
pub struct Pace {
    rate: Option<f64>,
    burst: u64,
    start: Instant,
    /// What was due before `start`: the clock starts anew after a stall, which a burst must not make up for.
    granted: u64,
}

impl Pace {
    /// A pace of `rate` packets a second; none is as fast as it goes.
    pub fn new(rate: Option<f64>) -> Self {
        let burst = rate.map_or(32, |rate| (rate / 1000.0).clamp(1.0, 32.0) as u64);
        Self {
            rate,
            burst,
            start: Instant::now(),
            granted: 0,
        }
    }

    /// How many packets may be sent now. Sleeps first if none may; 0 only after a sleep.
    pub fn due(&mut self) -> u64 {
        let Some(rate) = self.rate else {
            return self.burst;
        };
        let elapsed = self.start.elapsed().as_secs_f64();
        let mut owed = (elapsed * rate) as u64;
        // More than 20 ms behind: the machine stalled, or cannot send this fast.
        let slack = self.burst + (rate * 0.02) as u64;
        if owed > self.granted + slack {
            self.start = Instant::now();
            self.granted = 0;
            owed = self.burst;
        }
        if owed <= self.granted {
            let wait = (self.granted + self.burst) as f64 / rate - elapsed;
            std::thread::sleep(
                Duration::try_from_secs_f64(wait)
                    .unwrap_or_default()
                    .min(LONGEST_SLEEP),
            );
            owed = (self.start.elapsed().as_secs_f64() * rate) as u64;
        }
        let now = owed.saturating_sub(self.granted).min(self.burst);
        self.granted += now;
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept() {
        let mut pace = Pace::new(Some(20_000.0));
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < Duration::from_millis(300) {
            let due = pace.due();
            assert!(due <= 20);
            sent += due;
        }
        // Never faster; slower only as far as a busy machine makes it.
        assert!(sent <= 6_100, "{sent} in 300 ms");
        assert!(sent >= 600, "{sent} in 300 ms");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut pace = Pace::new(None);
        assert_eq!((0..1000).map(|_| pace.due()).sum::<u64>(), 32_000);
    }
}
