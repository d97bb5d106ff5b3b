//! How much a client may send.

use std::time::Instant;

/// A token bucket: what flows in at a rate may be taken, and what is not taken is kept up to a limit.
#[derive(Debug)]
pub struct Meter {
    per_second: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl Meter {
    /// A full bucket: `per_second` on average, `most` at once.
    pub fn new(per_second: f64, most: f64, now: Instant) -> Self {
        Self {
            per_second,
            most,
            left: most,
            at: now,
        }
    }

    /// Takes so much; `false`, and nothing is taken, where there is not as much.
    pub fn take(&mut self, amount: f64, now: Instant) -> bool {
        let flowed = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + flowed).min(self.most);
        self.at = now;
        let enough = amount <= self.left;
        if enough {
            self.left -= amount;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_burst_is_taken_and_then_only_the_rate() {
        let start = Clock::system().instant();
        let mut meter = Meter::new(10.0, 20.0, start);
        assert!((0..20).all(|_| meter.take(1.0, start)));
        assert!(!meter.take(1.0, start));
        let later = start + Duration::from_millis(100);
        assert!(meter.take(1.0, later) && !meter.take(1.0, later));
        let much_later = start + Duration::from_secs(3600);
        assert!(
            meter.take(20.0, much_later) && !meter.take(1.0, much_later),
            "no more than a burst is kept"
        );
    }
}
