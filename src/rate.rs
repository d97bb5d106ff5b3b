//! How often somebody may do something.
//!
//! A limit is a bucket that holds `quota` and fills evenly (GCRA); of a bucket only one instant is kept, that at which it
//! will be full. Each node counts for itself.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    marker::PhantomData,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};

/// What a bucket holds, and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What it is called in headers.
    pub name: &'static str,
    /// How many it holds.
    pub quota: u32,
    /// How long one takes to come back.
    each: Nanos,
}

/// What is left in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Of which limit.
    pub limit: Limit,
    /// Until all is there again.
    full_in: Nanos,
}

/// Nanoseconds, of a time since the unix epoch.
pub type Nanos = i64;

impl Limit {
    /// `quota` at once, and `rate` per `period`.
    pub fn new(name: &'static str, quota: NonZeroU32, rate: NonZeroU32, period: Duration) -> Self {
        let period = Nanos::try_from(period.as_nanos()).unwrap_or(Nanos::MAX);
        Self {
            name,
            quota: quota.get(),
            each: (period / i64::from(rate.get())).max(1),
        }
    }

    /// `rate` at once, and as many per minute.
    pub fn per_minute(name: &'static str, rate: NonZeroU32) -> Self {
        Self::new(name, rate, rate, Duration::from_mins(1))
    }

    /// How long `cost` take to come back. What costs more than there ever is costs all there is.
    pub fn worth(self, cost: u32) -> Nanos {
        i64::from(cost.min(self.quota)).saturating_mul(self.each)
    }

    /// When a bucket will be full that would have been `full_at`, once `cost` are taken from it.
    pub fn take(self, full_at: Nanos, now: Nanos, cost: u32) -> Nanos {
        full_at.max(now).saturating_add(self.worth(cost))
    }

    /// What is left in a bucket that will be `full_at`.
    pub fn quota(self, full_at: Nanos, now: Nanos) -> Quota {
        let full_in = full_at.saturating_sub(now).max(0);
        Quota {
            limit: self,
            full_in,
        }
    }
}

impl Quota {
    /// How many may be taken now.
    pub fn left(self) -> i64 {
        let free = self.limit.worth(u32::MAX).saturating_sub(self.full_in);
        free.max(0) / self.limit.each
    }

    /// How long until `cost` may be taken; zero where they may be now.
    pub fn wait(self, cost: u32) -> Nanos {
        let full_in = self.full_in.saturating_add(self.limit.worth(cost));
        full_in.saturating_sub(self.limit.worth(u32::MAX)).max(0)
    }

    /// How many whole seconds until `cost` may be taken; `None` where they may be now.
    pub fn wait_seconds(self, cost: u32) -> Option<u64> {
        let wait = self.wait(cost);
        (wait > 0).then(|| seconds(wait).unsigned_abs())
    }

    /// How many whole seconds until all is there again.
    pub fn full_in_seconds(self) -> i64 {
        seconds(self.full_in)
    }
}

/// Buckets of one limit for any number of keys, in memory of a fixed size (a count-min sketch).
///
/// A key has two places, which it shares with others; it has what the fuller of the two buckets has, so that it is kept
/// from asking by others only where both of its places are theirs. The hash is secret: nobody can choose keys that meet
/// somebody else's.
pub struct Buckets<K> {
    limit: Limit,
    /// When each will be full.
    places: Mutex<Box<[Nanos]>>,
    hasher: RandomState,
    of: PhantomData<fn(K)>,
}

/// One that was taken from a bucket, and can be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "where it is not to be given back, say so"]
pub struct Taken([(usize, Nanos); 2]);

/// The same, with the buckets that it goes back into.
pub struct Toll {
    buckets: Arc<Buckets<IpAddr>>,
    taken: Taken,
}

impl Toll {
    /// Takes one from the bucket of an address, where there is one.
    ///
    /// # Errors
    ///
    /// What is left, in which there is none.
    pub fn take(
        buckets: &Arc<Buckets<IpAddr>>,
        address: &IpAddr,
        now: DateTime<Utc>,
    ) -> Result<Self, Quota> {
        let taken = buckets.try_take(address, now)?;
        let buckets = buckets.clone();
        Ok(Self { buckets, taken })
    }

    /// Gives it back.
    pub fn give_back(self) {
        self.buckets.give_back(self.taken);
    }
}

impl<K: Hash> Buckets<K> {
    /// Full ones.
    pub fn new(limit: Limit) -> Self {
        Self {
            limit,
            places: Mutex::new(vec![0; PLACES].into()),
            hasher: RandomState::new(),
            of: PhantomData,
        }
    }

    /// What is left in the bucket of `key`.
    pub fn left(&self, key: &K, now: DateTime<Utc>) -> Quota {
        let [one, other] = self.places_of(key);
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        self.limit.quota(places[one].min(places[other]), nanos(now))
    }

    /// Takes one, whatever is left: those that were under way at once may take more than there was, and what they took too
    /// much comes back as slowly. Returns what is left.
    pub fn charge(&self, key: &K, now: DateTime<Utc>) -> Quota {
        let _kept = self.take(key, now, |_| true);
        self.left(key, now)
    }

    /// Takes one, where there is one.
    ///
    /// # Errors
    ///
    /// What is left, in which there is none.
    pub fn try_take(&self, key: &K, now: DateTime<Utc>) -> Result<Taken, Quota> {
        self.take(key, now, |quota| quota.wait(1) == 0)
    }

    fn take(
        &self,
        key: &K,
        now: DateTime<Utc>,
        may: impl FnOnce(Quota) -> bool,
    ) -> Result<Taken, Quota> {
        let now = nanos(now);
        let at = self.places_of(key);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = places[at[0]].min(places[at[1]]);
        let quota = self.limit.quota(full_at, now);
        if !may(quota) {
            return Err(quota);
        }
        let full_at = self.limit.take(full_at, now, 1);
        // What else is there stands where it is fuller already.
        Ok(Taken(at.map(|place| {
            let before = places[place].max(now);
            places[place] = before.max(full_at);
            (place, places[place].saturating_sub(before))
        })))
    }

    /// Gives back what was taken.
    pub fn give_back(&self, Taken(taken): Taken) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, amount) in taken {
            places[place] = places[place].saturating_sub(amount);
        }
    }

    fn places_of(&self, key: &K) -> [usize; 2] {
        let [a, b, c, d, ..] = self.hasher.hash_one(key).to_le_bytes();
        [[a, b], [c, d]].map(|place| u16::from_le_bytes(place).into())
    }
}

/// What counts as one address: of IPv6 the network that one customer of a provider has.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// A time as buckets count it.
pub fn nanos(time: DateTime<Utc>) -> Nanos {
    time.timestamp_micros().saturating_mul(1000)
}

/// Whole seconds, the part of one counted as one.
pub fn seconds(nanos: Nanos) -> i64 {
    nanos.max(0).saturating_add(999_999_999) / 1_000_000_000
}

/// As many as two bytes of a hash tell apart: half a mebibyte.
const PLACES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(quota: u32, rate: u32) -> Limit {
        let number = |number| NonZeroU32::new(number).unwrap();
        Limit::new("app", number(quota), number(rate), Duration::from_secs(1))
    }

    const SECOND: Nanos = 1_000_000_000;

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_quota_and_what_came_back_nor_waits_longer_than_told(
            quota in 1_u32..50, rate in 1_u32..50, asks in prop::collection::vec((0..3 * SECOND, 1_u32..60), 1..60),
        ) {
            let limit = limit(quota, rate);
            let (mut now, mut full_at, mut taken) = (0, 0, 0_i64);
            for (pause, cost) in asks {
                now += pause;
                let wait = limit.quota(full_at, now).wait(cost);
                if wait > 0 {
                    prop_assert!(limit.quota(full_at, now + wait - 1).wait(cost) > 0);
                    prop_assert_eq!(limit.quota(full_at, now + wait).wait(cost), 0);
                    continue;
                }
                full_at = limit.take(full_at, now, cost);
                taken += i64::from(cost.min(quota));
                prop_assert!(taken <= i64::from(quota) + now / limit.each, "{taken} at {now}");
                let left = limit.quota(full_at, now).left();
                prop_assert!((0..=i64::from(quota)).contains(&left));
                let fits = |cost| limit.quota(full_at, now).wait(cost) == 0;
                let left = u32::try_from(left).unwrap();
                prop_assert!(left == 0 || fits(left));
                prop_assert!(left == quota || !fits(left + 1));
            }
        }

        #[test]
        fn whoever_asks_no_faster_than_the_rate_is_never_refused(
            quota in 1_u32..50, rate in 1_u32..1000, count in 1_usize..200,
        ) {
            let limit = limit(quota, rate);
            let (mut now, mut full_at) = (0, 0);
            for _ in 0..count {
                prop_assert_eq!(limit.quota(full_at, now).wait(1), 0);
                full_at = limit.take(full_at, now, 1);
                now += limit.each;
            }
        }
    }

    const NOW: DateTime<Utc> = DateTime::from_timestamp(1_900_000_000, 0).unwrap();

    #[test]
    fn what_is_given_back_can_be_taken_again_and_nobody_has_more_by_it() {
        let buckets = Buckets::<u32>::new(limit(3, 1));
        let mut taken: Vec<Taken> = (0..3).map(|_| buckets.try_take(&1, NOW).unwrap()).collect();
        assert_eq!(buckets.try_take(&1, NOW).unwrap_err().left(), 0);
        buckets.give_back(taken.pop().unwrap());
        assert_eq!(buckets.left(&1, NOW).left(), 1);
        let _again = buckets.try_take(&1, NOW).unwrap();
        assert!(buckets.try_take(&1, NOW).is_err());
        // Long after they have come back by themselves, there are no more than there ever are.
        let later = NOW + chrono::TimeDelta::hours(1);
        taken.into_iter().for_each(|taken| buckets.give_back(taken));
        for _ in 0..3 {
            let _kept = buckets.try_take(&1, later).unwrap();
        }
        assert!(buckets.try_take(&1, later).is_err());
    }
}
