//! How often an app may ask, and how often an address may ask without a valid key.
//!
//! Each node counts for itself. A limit is a bucket that holds `quota` requests and fills evenly (GCRA); of a bucket only
//! one instant is kept, that at which it will be full.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    HttpMessage, HttpRequest,
    http::{
        StatusCode,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
};
use chrono::{DateTime, Utc};

use super::{Shared, auth::AuthenticatedApp, error::ApiError, peer::Origin};
use crate::id::AppId;

/// Settings of how often may be asked.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "HTTP")]
#[group(skip)]
pub struct Config {
    /// Requests per second that an app may send to each node, on average: 1 to 1000000.
    #[arg(long, env = "PLENUM_RATE_PER_SECOND", default_value = "100", value_parser = rate)]
    pub rate_per_second: NonZeroU32,
    /// Requests that an app may send at once, after a pause: 1 to 1000000.
    #[arg(long, env = "PLENUM_RATE_BURST", default_value = "1000", value_parser = rate)]
    pub rate_burst: NonZeroU32,
    /// Requests that an address (of IPv6, a /64 network) may send per minute with a wrong key, or to check a token: 1 to
    /// 1000000. With more, it gets no answer about them until a minute's share has come back. Valid keys are not concerned.
    #[arg(long, env = "PLENUM_UNAUTHORIZED_PER_MINUTE", default_value = "60", value_parser = rate)]
    pub unauthorized_per_minute: NonZeroU32,
}

/// Who has asked how often.
pub struct Limits {
    of_app: Limit,
    of_address: Limit,
    apps: Mutex<Apps>,
    addresses: Addresses,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    limit: Limit,
    /// Until all is there again.
    full_in: Nanos,
}

/// A bucket of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    /// What it is called in headers.
    name: &'static str,
    /// How many it holds.
    quota: u32,
    /// How long one takes to come back.
    each: Nanos,
}

/// Nanoseconds, of a time since the unix epoch.
type Nanos = i64;

impl Limit {
    /// `quota` at once, and `rate` per `period`.
    fn new(name: &'static str, quota: NonZeroU32, rate: NonZeroU32, period: Duration) -> Self {
        let period = Nanos::try_from(period.as_nanos()).unwrap_or(Nanos::MAX);
        Self {
            name,
            quota: quota.get(),
            each: (period / i64::from(rate.get())).max(1),
        }
    }

    /// How long `cost` requests take to come back. What costs more than there ever is costs all there is.
    fn worth(self, cost: u32) -> Nanos {
        i64::from(cost.min(self.quota)).saturating_mul(self.each)
    }

    /// When a bucket will be full that would have been `full_at`, once `cost` are taken from it.
    fn take(self, full_at: Nanos, now: Nanos, cost: u32) -> Nanos {
        full_at.max(now).saturating_add(self.worth(cost))
    }

    /// What is left in a bucket that will be `full_at`.
    fn quota(self, full_at: Nanos, now: Nanos) -> Quota {
        let full_in = full_at.saturating_sub(now).max(0);
        Quota {
            limit: self,
            full_in,
        }
    }
}

impl Quota {
    /// Requests that would be answered now.
    fn left(self) -> i64 {
        let free = self.limit.worth(u32::MAX).saturating_sub(self.full_in);
        free.max(0) / self.limit.each
    }

    /// How long until `cost` requests would be answered; zero where they would be now.
    fn wait(self, cost: u32) -> Nanos {
        let full_in = self.full_in.saturating_add(self.limit.worth(cost));
        full_in.saturating_sub(self.limit.worth(u32::MAX)).max(0)
    }

    /// Refuses what would have to wait.
    fn check(self, cost: u32) -> Result<(), ApiError> {
        match self.wait(cost) {
            0 => Ok(()),
            wait => Err(ApiError::rate_limited(seconds(wait).unsigned_abs())),
        }
    }

    /// Tells of it, in the headers of draft-ietf-httpapi-ratelimit-headers-10.
    pub fn tell(self, headers: &mut HeaderMap) {
        let Self { limit, full_in } = self;
        let window = seconds(limit.worth(u32::MAX));
        let policy = format!("\"{}\";q={};w={window}", limit.name, limit.quota);
        let state = format!(
            "\"{}\";r={};t={}",
            limit.name,
            self.left(),
            seconds(full_in)
        );
        for (name, value) in [(POLICY, policy), (STATE, state)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

impl Limits {
    /// Nobody has asked yet.
    pub fn new(config: &Config) -> Self {
        let minute = Duration::from_mins(1);
        let guesses = config.unauthorized_per_minute;
        Self {
            of_app: Limit::new(
                "app",
                config.rate_burst,
                config.rate_per_second,
                Duration::from_secs(1),
            ),
            of_address: Limit::new("address", guesses, guesses, minute),
            apps: Mutex::default(),
            addresses: Addresses::new(),
        }
    }

    /// Takes `cost` requests from what `app` may ask, or nothing where that is too much.
    ///
    /// # Errors
    ///
    /// What the app is to be told: `RATE_LIMITED`. The quota is to be told in either case.
    pub fn charge(
        &self,
        app: AppId,
        cost: u32,
        now: DateTime<Utc>,
    ) -> (Quota, Result<(), ApiError>) {
        let (limit, now) = (self.of_app, nanos(now));
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = apps.get(app, now);
        let outcome = limit.quota(*full_at, now).check(cost);
        if outcome.is_ok() {
            *full_at = limit.take(*full_at, now, cost);
        }
        (limit.quota(*full_at, now), outcome)
    }

    /// What `address` may still ask without a valid key.
    fn guesses_left(&self, address: IpAddr, now: DateTime<Utc>) -> Quota {
        let now = nanos(now);
        self.of_address
            .quota(self.addresses.update(address, |full_at| full_at), now)
    }

    /// Takes one from what `address` may ask without a valid key. Those that were under way at once may take more than there
    /// was, and what they took too much comes back as slowly.
    fn guessed(&self, address: IpAddr, now: DateTime<Utc>) -> Quota {
        let now = nanos(now);
        let take = |full_at| self.of_address.take(full_at, now, 1);
        self.of_address
            .quota(self.addresses.update(address, take), now)
    }
}

/// `authenticate`, within the limits of the request's address and of the app that is found. Its answer will tell of the
/// quota that counts.
///
/// # Errors
///
/// Those of `authenticate`, and `RATE_LIMITED`: for an app that asks too often, and for an address that has no guess left, whose
/// wrong keys are not even called wrong. A valid key is never refused for what others send from its address.
pub async fn limited(
    request: &HttpRequest,
    shared: &Shared,
    authenticate: impl Future<Output = Result<AuthenticatedApp, ApiError>>,
) -> Result<AuthenticatedApp, ApiError> {
    let app = match authenticate.await {
        Err(error) if error.status() == StatusCode::UNAUTHORIZED => {
            charge_address(request, shared)?;
            return Err(error);
        }
        outcome => outcome?,
    };
    charge(request, shared, app.id, 1)?;
    Ok(app)
}

/// Charges an app, for its call or, as for the items of a batch, for more than the one request that it is.
///
/// # Errors
///
/// `RATE_LIMITED`.
pub fn charge(
    request: &HttpRequest,
    shared: &Shared,
    app: AppId,
    cost: usize,
) -> Result<(), ApiError> {
    let cost = u32::try_from(cost).unwrap_or(u32::MAX);
    let (quota, outcome) = shared.limits.charge(app, cost, shared.clock.now());
    request.extensions_mut().insert(quota);
    outcome
}

/// Charges the address of a request with a wrong key or a wrong token.
///
/// # Errors
///
/// `RATE_LIMITED`.
pub fn charge_address(request: &HttpRequest, shared: &Shared) -> Result<(), ApiError> {
    let (limits, now) = (&shared.limits, shared.clock.now());
    let address = Origin::of(request, &shared.trusted_proxies).address;
    let left = limits.guesses_left(address, now);
    request.extensions_mut().insert(left);
    left.check(1)?;
    request
        .extensions_mut()
        .insert(limits.guessed(address, now));
    Ok(())
}

/// When the buckets of the apps will be full that asked lately. There are no more than valid keys were used for in the time
/// that a bucket takes to fill.
#[derive(Debug, Default)]
struct Apps {
    full_at: HashMap<AppId, Nanos>,
    /// With this many, those that are full again are forgotten.
    forget_at: usize,
}

impl Apps {
    fn get(&mut self, app: AppId, now: Nanos) -> &mut Nanos {
        if self.full_at.len() >= self.forget_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            // Twice as many, so that each entry pays for being looked at once.
            self.forget_at = (self.full_at.len() * 2).max(FEW_APPS);
        }
        self.full_at.entry(app).or_insert(now)
    }
}

/// When the buckets of addresses will be full, in memory of a fixed size however many there are (a count-min sketch).
///
/// An address has two places, which it shares with others; it has what the fuller of the two buckets has, so that it is
/// kept from asking by others only where both of its places are theirs. The hash is secret: nobody can choose addresses
/// that meet somebody else's.
struct Addresses {
    places: Mutex<Box<[Nanos]>>,
    hasher: RandomState,
}

impl Addresses {
    fn new() -> Self {
        Self {
            places: Mutex::new(vec![0; PLACES].into()),
            hasher: RandomState::new(),
        }
    }

    fn places(&self, address: IpAddr) -> [usize; 2] {
        let [a, b, c, d, ..] = self.hasher.hash_one(network(address)).to_le_bytes();
        [[a, b], [c, d]].map(|place| u16::from_le_bytes(place).into())
    }

    /// Changes when the bucket of `address` will be full, to no earlier time, and returns it.
    fn update(&self, address: IpAddr, change: impl FnOnce(Nanos) -> Nanos) -> Nanos {
        let [one, other] = self.places(address);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = change(places[one].min(places[other]));
        // What else is there stands where it is fuller already.
        for place in [one, other] {
            places[place] = places[place].max(full_at);
        }
        full_at
    }
}

/// What counts as one address: of IPv6 the network that one customer of a provider has.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// A number for a rate.
fn rate(text: &str) -> Result<NonZeroU32, String> {
    let rate = text
        .parse()
        .ok()
        .filter(|rate: &NonZeroU32| rate.get() <= 1_000_000);
    rate.ok_or_else(|| "must be a number from 1 to 1000000".to_owned())
}

fn nanos(time: DateTime<Utc>) -> Nanos {
    time.timestamp_micros().saturating_mul(1000)
}

/// Whole seconds, the part of one counted as one.
fn seconds(nanos: Nanos) -> i64 {
    nanos.max(0).saturating_add(999_999_999) / 1_000_000_000
}

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");
/// As many as two bytes of a hash tell apart: half a mebibyte.
const PLACES: usize = 1 << 16;
/// Fewer are not worth looking for those that can be forgotten.
const FEW_APPS: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(quota: u32, rate: u32) -> Limit {
        let number = |number| NonZeroU32::new(number).unwrap();
        Limit::new("app", number(quota), number(rate), Duration::from_secs(1))
    }

    fn limits() -> Limits {
        let number = |number| NonZeroU32::new(number).unwrap();
        Limits::new(&Config {
            rate_per_second: number(2),
            rate_burst: number(4),
            unauthorized_per_minute: number(3),
        })
    }

    const NOW: DateTime<Utc> = DateTime::from_timestamp(1_900_000_000, 0).unwrap();
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

    #[test]
    fn apps_have_buckets_of_their_own_and_full_ones_are_forgotten() {
        let (limits, mut rng) = (limits(), rand::rng());
        let mut app = || AppId::new(NOW, &mut rng);
        let (busy, other) = (app(), app());
        for _ in 0..4 {
            assert!(limits.charge(busy, 1, NOW).1.is_ok());
        }
        assert!(limits.charge(busy, 1, NOW).1.is_err());
        assert!(
            limits.charge(other, 9, NOW).1.is_ok(),
            "as much as there is"
        );
        assert!(limits.charge(other, 1, NOW).1.is_err());
        let mut now = NOW;
        for _ in 0..10 * FEW_APPS {
            now += chrono::TimeDelta::seconds(1);
            let _ = limits.charge(app(), 4, now);
        }
        let kept = limits.apps.lock().unwrap().full_at.len();
        assert!(kept <= FEW_APPS, "{kept}");
    }

    #[test]
    fn an_address_is_kept_from_guessing_and_its_neighbours_are_not() {
        let limits = limits();
        let left = |address: &str| limits.guesses_left(address.parse().unwrap(), NOW).left();
        let guess = |address: &str| limits.guessed(address.parse().unwrap(), NOW);
        for address in ["203.0.113.9", "2001:db8:0:1::1"] {
            for used in 1..=3 {
                assert_eq!(guess(address).left(), 3 - used);
            }
            assert_eq!(left(address), 0);
        }
        assert_eq!(left("203.0.113.8"), 3);
        assert_eq!(left("2001:db8:0:1:ffff::1"), 0, "the same network");
        assert_eq!(left("2001:db8:0:2::1"), 3);
        // Guesses that were under way at once are paid for.
        guess("203.0.113.9");
        let later = NOW + chrono::TimeDelta::seconds(20);
        let address = "203.0.113.9".parse().unwrap();
        assert_eq!(limits.guesses_left(address, later).left(), 0);
        let later = NOW + chrono::TimeDelta::seconds(40);
        assert_eq!(limits.guesses_left(address, later).left(), 1);
    }

    #[test]
    fn a_flood_from_many_addresses_gives_no_address_its_guesses_back_and_hardly_takes_anybody_elses()
     {
        let limits = limits();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for _ in 0..3 {
            limits.guessed(address(1), NOW);
        }
        for number in 1000..5000 {
            for _ in 0..3 {
                limits.guessed(address(number), NOW);
            }
        }
        assert_eq!(limits.guesses_left(address(1), NOW).left(), 0);
        let refused = (10_000..20_000)
            .filter(|number| limits.guesses_left(address(*number), NOW).left() == 0);
        assert!(
            refused.count() < 300,
            "more than 3 of 100 share both places with the flood"
        );
    }
}
