//! The one clock of the platform: Postgres's time, carried by this process's monotonic clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

/// Tells the time and waits for instants. Clones tell the same time; it never runs back.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    System(System),
    Manual(watch::Sender<DateTime<Utc>>),
}

#[derive(Debug)]
struct System {
    started: Instant,
    /// Microseconds from `started` to the unix epoch's clock: what is added to the monotonic time.
    base: AtomicI64,
    /// Latest time told, in unix microseconds: what keeps the clock from running back.
    told: AtomicI64,
}

/// One question to Postgres for its time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When the question was sent.
    pub sent: Instant,
    /// When the answer came.
    pub received: Instant,
    /// The answer.
    pub theirs: DateTime<Utc>,
}

impl Sample {
    /// How long the question took; the shorter, the better is the sample.
    pub fn round_trip(&self) -> Duration {
        self.received.saturating_duration_since(self.sent)
    }
}

impl Clock {
    /// The machine's clock, to be led by [`Clock::follow`].
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        let (started, now) = (Instant::now(), Utc::now());
        let base = AtomicI64::new(now.timestamp_micros());
        Self(Arc::new(Source::System(System {
            started,
            base,
            told: AtomicI64::new(i64::MIN),
        })))
    }

    /// A clock that stands at `now` until it is [advanced](Clock::advance).
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Source::Manual(watch::Sender::new(now))))
    }

    /// The time.
    pub fn now(&self) -> DateTime<Utc> {
        match &*self.0 {
            Source::System(system) => system.now(),
            Source::Manual(now) => *now.borrow(),
        }
    }

    /// The monotonic time, for a [`Sample`].
    pub fn instant(&self) -> Instant {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        Instant::now()
    }

    /// Returns once it is `due`, never before.
    pub async fn sleep_until(&self, due: DateTime<Utc>) {
        match &*self.0 {
            // In steps, because the offset may change meanwhile.
            Source::System(system) => {
                while let Ok(left) = (due - system.now()).to_std()
                    && !left.is_zero()
                {
                    tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
                }
            }
            Source::Manual(now) => {
                // The sender lives in `self`, so the wait can only end by the condition.
                let _ = now.subscribe().wait_for(|now| *now >= due).await;
            }
        }
    }

    /// Follows Postgres's time by the best of some samples; returns how far this clock was off.
    ///
    /// A manual clock follows nobody.
    pub fn follow(&self, samples: &[Sample]) -> TimeDelta {
        let best = samples.iter().min_by_key(|sample| sample.round_trip());
        match (&*self.0, best) {
            (Source::System(system), Some(best)) => system.follow(best),
            _ => TimeDelta::zero(),
        }
    }

    /// Moves a manual clock; a system clock is not moved.
    pub fn advance(&self, by: TimeDelta) {
        if let Source::Manual(now) = &*self.0 {
            now.send_modify(|now| *now += by);
        }
    }
}

impl System {
    fn now(&self) -> DateTime<Utc> {
        let elapsed = i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX);
        let now = self.base.load(Relaxed).saturating_add(elapsed);
        let told = self.told.fetch_max(now, Relaxed).max(now);
        DateTime::from_timestamp_micros(told).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn follow(&self, sample: &Sample) -> TimeDelta {
        let middle = sample.sent + sample.round_trip() / 2;
        let elapsed = i64::try_from(middle.saturating_duration_since(self.started).as_micros())
            .unwrap_or(i64::MAX);
        let base = sample.theirs.timestamp_micros().saturating_sub(elapsed);
        let old = self.base.swap(base, Relaxed);
        TimeDelta::microseconds(base.saturating_sub(old))
    }
}

/// A sleeper looks at the clock at least this often, so that a corrected clock moves its waits too.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_follows_the_sample_with_the_shortest_round_trip_and_never_runs_back() {
        let clock = Clock::system();
        let (before, sent) = (clock.now(), clock.instant());
        let slow = Sample {
            sent,
            received: sent + Duration::from_secs(3),
            theirs: before + TimeDelta::days(9),
        };
        let quick = Sample {
            sent,
            received: sent,
            theirs: before - TimeDelta::minutes(5),
        };
        let off = clock.follow(&[slow, quick]);
        assert!(
            (off + TimeDelta::minutes(5)).abs() < TimeDelta::seconds(1),
            "{off}"
        );
        assert!(clock.now() >= before);

        clock.follow(&[Sample {
            sent,
            received: sent,
            theirs: before + TimeDelta::minutes(5),
        }]);
        assert!(clock.now() >= before + TimeDelta::minutes(5));
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_when_it_is_advanced_and_not_before() {
        let start = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let clock = Clock::manual(start);
        let mut sleep = std::pin::pin!(clock.sleep_until(start + TimeDelta::seconds(2)));
        clock.advance(TimeDelta::milliseconds(1999));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        clock.advance(TimeDelta::milliseconds(1));
        sleep.await;
    }
}
