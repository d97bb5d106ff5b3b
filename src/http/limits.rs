//! How often an app may ask, and how often an address may ask without a valid key, or open a signaling socket without a
//! valid token.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
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
use crate::{
    id::AppId,
    rate::{self, Buckets, Limit, Nanos, Quota, Toll},
};

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
    /// Signaling sockets that an address (of IPv6, a /64 network) may open per minute without a valid token, and as many rooms
    /// that it may make without a credential: 1 to 1000000. A socket counts no more once somebody has come into a room by it.
    #[arg(long, env = "PLENUM_ANONYMOUS_RATE_PER_MINUTE", default_value = "10", value_parser = rate)]
    pub anonymous_rate_per_minute: NonZeroU32,
}

/// Who has asked how often.
pub struct Limits {
    of_app: Limit,
    apps: Mutex<Apps>,
    guesses: Buckets<IpAddr>,
    sockets: Arc<Buckets<IpAddr>>,
}

/// Refuses what would have to wait.
///
/// # Errors
///
/// `RATE_LIMITED`.
fn check(quota: Quota, cost: u32) -> Result<(), ApiError> {
    match quota.wait_seconds(cost) {
        None => Ok(()),
        Some(seconds) => Err(ApiError::rate_limited(seconds)),
    }
}

/// Tells of a quota, in the headers of draft-ietf-httpapi-ratelimit-headers-10.
pub fn tell(quota: Quota, headers: &mut HeaderMap) {
    let limit = quota.limit;
    let window = rate::seconds(limit.worth(u32::MAX));
    let policy = format!("\"{}\";q={};w={window}", limit.name, limit.quota);
    let state = format!(
        "\"{}\";r={};t={}",
        limit.name,
        quota.left(),
        quota.full_in_seconds()
    );
    for (name, value) in [(POLICY, policy), (STATE, state)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

impl Limits {
    /// Nobody has asked yet.
    pub fn new(config: &Config) -> Self {
        let guesses = Limit::per_minute("address", config.unauthorized_per_minute);
        let sockets = Limit::per_minute("sockets", config.anonymous_rate_per_minute);
        Self {
            of_app: Limit::new(
                "app",
                config.rate_burst,
                config.rate_per_second,
                Duration::from_secs(1),
            ),
            apps: Mutex::default(),
            guesses: Buckets::new(guesses),
            sockets: Arc::new(Buckets::new(sockets)),
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
        let (limit, now) = (self.of_app, rate::nanos(now));
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = apps.get(app, now);
        let outcome = check(limit.quota(*full_at, now), cost);
        if outcome.is_ok() {
            *full_at = limit.take(*full_at, now, cost);
        }
        (limit.quota(*full_at, now), outcome)
    }

    /// What `address` may still ask without a valid key.
    fn guesses_left(&self, address: IpAddr, now: DateTime<Utc>) -> Quota {
        self.guesses.left(&rate::network(address), now)
    }

    /// Takes one from what `address` may ask without a valid key.
    fn guessed(&self, address: IpAddr, now: DateTime<Utc>) -> Quota {
        self.guesses.charge(&rate::network(address), now)
    }

    /// Takes one from the sockets that `address` may open without a valid token.
    ///
    /// # Errors
    ///
    /// `RATE_LIMITED`.
    pub fn open_socket(&self, address: IpAddr, now: DateTime<Utc>) -> Result<Toll, ApiError> {
        let toll = Toll::take(&self.sockets, &rate::network(address), now);
        toll.map_err(|quota| ApiError::rate_limited(quota.wait_seconds(1).unwrap_or_default()))
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
    check(left, 1)?;
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

/// A number for a rate.
fn rate(text: &str) -> Result<NonZeroU32, String> {
    let rate = text
        .parse()
        .ok()
        .filter(|rate: &NonZeroU32| rate.get() <= 1_000_000);
    rate.ok_or_else(|| "must be a number from 1 to 1000000".to_owned())
}

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");
/// Fewer are not worth looking for those that can be forgotten.
const FEW_APPS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let number = |number| NonZeroU32::new(number).unwrap();
        Limits::new(&Config {
            rate_per_second: number(2),
            rate_burst: number(4),
            unauthorized_per_minute: number(3),
            anonymous_rate_per_minute: number(3),
        })
    }

    const NOW: DateTime<Utc> = DateTime::from_timestamp(1_900_000_000, 0).unwrap();
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
