//! The one clock of the platform: Postgres's time, carried by this process's monotonic clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// Tells the time and waits for instants. Clones tell the same time; it never runs back.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    System(System),
    Manual(Manual),
}

#[derive(Debug)]
struct System {
    started: Instant,
    /// Microseconds from `started` to the unix epoch's clock: what is added to the monotonic time.
    base: AtomicI64,
    /// How far it was behind Postgres's time when it last followed, in microseconds.
    offset: AtomicI64,
    /// Latest time told, in unix microseconds: what keeps the clock from running back.
    told: AtomicI64,
    /// What the kernel's clocks show, at the start and now.
    clocks: (Clocks, fn() -> Clocks),
}

#[derive(Debug)]
struct Manual {
    now: watch::Sender<DateTime<Utc>>,
    /// Microseconds of sleep so far.
    suspended: AtomicU64,
}

/// What two clocks of the kernel show at one moment. They go alike, but while the machine sleeps the first alone goes on.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    /// `CLOCK_BOOTTIME`.
    boot: Duration,
    /// `CLOCK_MONOTONIC`.
    monotonic: Duration,
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
            offset: AtomicI64::new(0),
            told: AtomicI64::new(i64::MIN),
            clocks: (Clocks::read(), Clocks::read),
        })))
    }

    /// A clock that stands at `now` until it is [advanced](Clock::advance).
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Source::Manual(Manual {
            now: watch::Sender::new(now),
            suspended: AtomicU64::new(0),
        })))
    }

    /// The time.
    pub fn now(&self) -> DateTime<Utc> {
        match &*self.0 {
            Source::System(system) => system.now(),
            Source::Manual(manual) => *manual.now.borrow(),
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
            Source::Manual(Manual { now, .. }) => {
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

    /// How far this clock was behind Postgres's when it last followed it; of a manual clock nothing.
    pub fn offset(&self) -> TimeDelta {
        match &*self.0 {
            Source::System(system) => TimeDelta::microseconds(system.offset.load(Relaxed)),
            Source::Manual(_) => TimeDelta::zero(),
        }
    }

    /// Moves a manual clock; a system clock is not moved.
    pub fn advance(&self, by: TimeDelta) {
        if let Source::Manual(manual) = &*self.0 {
            manual.now.send_modify(|now| *now += by);
        }
    }

    /// How long the machine has been suspended since this clock was made, all times together; it never shrinks.
    ///
    /// While it was, Postgres's time went on and leases ran out, and neither a timer nor a monotonic clock of this process
    /// tells. Who holds something that runs out compares this with what it was when they last renewed it, before they
    /// do anything else. A machine that is frozen from outside (a virtual one, by its host) does not know of it: there, the
    /// offset that [`Clock::follow`] returns has grown by as much.
    pub fn suspended(&self) -> Duration {
        match &*self.0 {
            Source::System(system) => system.suspended(),
            Source::Manual(manual) => Duration::from_micros(manual.suspended.load(Relaxed)),
        }
    }

    /// Suspends the machine of a manual clock for so long, and wakes it; a system clock is not moved.
    pub fn suspend(&self, time: Duration) {
        if let Source::Manual(manual) = &*self.0 {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            manual.suspended.fetch_add(micros, Relaxed);
            // Whoever wakes by the new time is to know already that there was a sleep.
            self.advance(TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX));
        }
    }
}

impl Clocks {
    fn read() -> Self {
        // Monotonic first: a pause between the two readings then counts as sleep, and never as its opposite.
        let monotonic = read(ClockId::CLOCK_MONOTONIC);
        let boot = read(ClockId::CLOCK_BOOTTIME);
        Self { boot, monotonic }
    }

    /// How much longer ago `earlier` is by the clock that sleeps do not stop.
    fn slept_since(self, earlier: Self) -> Duration {
        let real = self.boot.saturating_sub(earlier.boot);
        let awake = self.monotonic.saturating_sub(earlier.monotonic);
        real.saturating_sub(awake)
    }
}

/// What a clock of the kernel shows; zero where there is no such clock, and then there is no sleep to be seen either.
fn read(id: ClockId) -> Duration {
    clock_gettime(id).map_or(Duration::ZERO, Duration::from)
}

impl System {
    fn now(&self) -> DateTime<Utc> {
        let elapsed = i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX);
        let now = self.base.load(Relaxed).saturating_add(elapsed);
        let told = self.told.fetch_max(now, Relaxed).max(now);
        DateTime::from_timestamp_micros(told).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn suspended(&self) -> Duration {
        let (start, read) = self.clocks;
        read().slept_since(start)
    }

    fn follow(&self, sample: &Sample) -> TimeDelta {
        let middle = sample.sent + sample.round_trip() / 2;
        let elapsed = i64::try_from(middle.saturating_duration_since(self.started).as_micros())
            .unwrap_or(i64::MAX);
        let base = sample.theirs.timestamp_micros().saturating_sub(elapsed);
        let old = self.base.swap(base, Relaxed);
        let offset = base.saturating_sub(old);
        self.offset.store(offset, Relaxed);
        TimeDelta::microseconds(offset)
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
        assert_eq!(clock.offset(), off);

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

    #[test]
    fn a_machine_that_was_suspended_tells_for_how_long_and_one_that_was_only_busy_does_not() {
        let seconds = |boot, monotonic| Clocks {
            boot: Duration::from_secs(boot),
            monotonic: Duration::from_secs(monotonic),
        };
        // It had slept 100 s before the clock was made.
        let start = seconds(1100, 1000);
        for (now, slept) in [
            (start, 0),
            (seconds(1130, 1030), 0),
            (seconds(1130, 1020), 10),
            (seconds(9100, 1000), 8000),
            (seconds(1100, 1001), 0),
        ] {
            assert_eq!(now.slept_since(start), Duration::from_secs(slept));
        }
    }

    #[test]
    fn the_clocks_of_the_kernel_are_read_and_go_alike() {
        fn after_a_sleep_of_a_minute() -> Clocks {
            let Clocks { boot, monotonic } = Clocks::read();
            let boot = boot + Duration::from_secs(60);
            Clocks { boot, monotonic }
        }
        let clock = Clock::system();
        assert!(Clocks::read().monotonic > Duration::ZERO);
        assert!(clock.suspended() < Duration::from_secs(1));
        let Ok(Source::System(mut system)) = Arc::try_unwrap(clock.0) else {
            panic!("a system clock");
        };
        system.clocks.1 = after_a_sleep_of_a_minute;
        let slept = system.suspended();
        let minute = Duration::from_secs(60);
        assert!(slept.abs_diff(minute) < Duration::from_secs(1), "{slept:?}");
    }

    #[test]
    fn a_manual_clock_is_suspended_by_hand() {
        let start = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let clock = Clock::manual(start);
        clock.advance(TimeDelta::hours(1));
        assert_eq!(clock.suspended(), Duration::ZERO);
        clock.suspend(Duration::from_secs(7));
        clock.suspend(Duration::from_secs(2));
        assert_eq!(clock.suspended(), Duration::from_secs(9));
        assert_eq!(
            clock.now(),
            start + TimeDelta::hours(1) + TimeDelta::seconds(9)
        );
    }
}
