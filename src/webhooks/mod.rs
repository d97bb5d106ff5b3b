//! Webhooks: what happens in rooms and meetings, told to the systems of customers.
//!
//! An [`Event`] is written in the transaction that makes it true ([`emit`]), with one delivery per endpoint that wants it:
//! the URL that its room has for it, and the app's own [`endpoints`] whose filter lets it through.
//! The [`Dispatcher`] attempts deliveries until each is answered with 2xx or its schedule ends: at least once, in order
//! per meeting and endpoint, signed by [`signing`], and kept from private networks by [`guard`].

pub mod deliveries;
pub mod dispatcher;
pub mod endpoints;
pub mod event;
pub mod filter;
pub mod guard;
mod shares;
pub mod signing;
mod store;

use std::{num::NonZeroU16, time::Duration};

use chrono::{DateTime, Utc};
use clap::builder::BoolishValueParser;
use sqlx::PgConnection;

pub use self::{
    dispatcher::Dispatcher,
    event::{Event, Kind, Person, Room, RoomUrls, Stay},
    guard::{Reach, UrlError, check_url},
    signing::SigningSecret,
};
use crate::{
    db::Db,
    id::{AppId, MeetingId, ParticipantId},
    sealed::Unsealable,
};

/// Settings of webhooks.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Webhooks")]
#[group(skip)]
pub struct Config {
    /// Longest time one delivery attempt may take: 100ms to 1m.
    #[arg(long, env = "PLENUM_WEBHOOK_TIMEOUT", default_value = "10s", value_parser = timeout)]
    pub webhook_timeout: Duration,
    /// Delays between the attempts of one delivery; each gets up to a tenth more, at random.
    #[arg(long, env = "PLENUM_WEBHOOK_RETRIES", value_delimiter = ',', value_parser = delay)]
    #[arg(default_value = "5s,5m,30m,2h,5h,10h,14h,20h,24h")]
    pub webhook_retries: Vec<Duration>,
    /// Attempts under way at once. One app has at most a quarter of them, one receiver (host and port) a sixteenth, and half
    /// are kept for receivers that answer.
    #[arg(long, env = "PLENUM_WEBHOOK_CONCURRENCY", default_value = "512")]
    pub webhook_concurrency: NonZeroU16,
    /// Let webhooks go to private networks and to this machine. For development only.
    #[arg(long, env = "PLENUM_ALLOW_PRIVATE_WEBHOOKS", value_parser = BoolishValueParser::new())]
    pub allow_private_webhooks: bool,
}

impl Config {
    /// Which addresses webhooks may go to.
    pub fn reach(&self) -> Reach {
        if self.allow_private_webhooks {
            Reach::Anywhere
        } else {
            Reach::Public
        }
    }
}

/// Why an operation on webhooks was refused, or deliveries could not be attended to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The app has [`endpoints::MOST_ENDPOINTS`].
    #[error(
        "an app has at most {} webhooks: delete one that you do not need",
        endpoints::MOST_ENDPOINTS
    )]
    TooManyEndpoints,
    /// [`endpoints::MOST_SECRETS`] sign already.
    #[error(
        "{} secrets sign already: wait until the oldest is over, or send overlapSec 0, and only the new one signs",
        endpoints::MOST_SECRETS
    )]
    TooManySecrets,
    /// The endpoint is a room's URL.
    #[error(
        "this webhook is a URL of its room: change it there, and its secret with POST /api/v1/webhooks/room-secret/rotate"
    )]
    OfRoom,
    /// The endpoint gets nothing at the moment.
    #[error("this webhook is disabled: enable it first")]
    Disabled,
    /// A stored secret does not open, or cannot be sealed.
    #[error(transparent)]
    Sealed(#[from] Unsealable),
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The HTTP client could not be made.
    #[error(
        "the HTTP client for webhooks could not be made; are root certificates (ca-certificates) installed? {0}"
    )]
    Client(#[from] reqwest::Error),
}

/// Why an endpoint was disabled, where its owner did not ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DisabledReason {
    /// It answered 410 Gone.
    Gone,
    /// Nothing succeeded there for five days.
    Failing,
}

impl DisabledReason {
    /// As it is stored.
    fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

/// Deliveries that have not ended.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    /// How many may be attempted now.
    pub due: i64,
    /// How many wait for their next attempt, or for the end of the one under way.
    pub later: i64,
}

/// The deliveries of all apps that have not ended at `now`.
pub async fn backlog(db: &Db, now: DateTime<Utc>) -> sqlx::Result<Backlog> {
    store::backlog(&mut db.system().await?, now).await
}

/// Writes `events`, and the delivery of each to every endpoint that wants it.
///
/// Takes the transaction, of the events' app, in which they come true. After the commit, [`Dispatcher`]'s wake hint makes it
/// start at once.
pub async fn emit(conn: &mut PgConnection, events: &[Event]) -> sqlx::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let with_body = |event| Event::body(event).map(|body| (event, body));
    let bodies: Result<Vec<_>, _> = events.iter().map(with_body).collect();
    store::add(
        conn,
        &bodies.map_err(|error| sqlx::Error::Encode(error.into()))?,
    )
    .await
}

/// Removes what tells of people from the events of these stays in these meetings. A delivery that has not been attempted yet
/// goes out without it.
pub async fn forget_stays(
    conn: &mut PgConnection,
    app: AppId,
    meetings: &[MeetingId],
    stays: &[ParticipantId],
) -> sqlx::Result<()> {
    if stays.is_empty() {
        return Ok(());
    }
    let stays: Vec<String> = stays.iter().map(ToString::to_string).collect();
    store::forget_stays(conn, app, meetings, &stays).await
}

/// The same of up to `limit` events that tell of one person, by the app's own id of them: also of who was refused, and had
/// no stay. Returns how many there were.
pub async fn forget_person(
    conn: &mut PgConnection,
    app: AppId,
    external_user_id: &str,
    limit: i64,
) -> sqlx::Result<u64> {
    store::forget_person(conn, app, external_user_id, limit).await
}

/// Removes up to `limit` events from before `before`, with their deliveries and attempts; how many there were. One of which
/// a delivery has not ended stays until that has.
pub async fn forget_old(
    conn: &mut PgConnection,
    app: AppId,
    before: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    store::forget_old(conn, app, before, limit).await
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("must be from 100ms to 1m".to_owned())
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    let delay = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if delay <= LONGEST_DELAY {
        Ok(delay)
    } else {
        Err("must be at most 7d".to_owned())
    }
}

/// Beyond it a retry tells nobody anything new.
const LONGEST_DELAY: Duration = Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        Cli::try_parse_from([&["plenum"], args].concat()).map(|cli| cli.config)
    }

    #[test]
    fn by_default_a_delivery_has_ten_attempts_over_three_days_and_public_receivers() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.webhook_timeout, Duration::from_secs(10));
        let hours = [
            5.0 / 3600.0,
            1.0 / 12.0,
            0.5,
            2.0,
            5.0,
            10.0,
            14.0,
            20.0,
            24.0,
        ];
        assert_eq!(
            config.webhook_retries,
            hours.map(|hours| Duration::from_secs_f64(hours * 3600.0))
        );
        assert_eq!(config.reach(), Reach::Public);
    }

    #[test]
    fn settings_are_checked_when_they_are_read() {
        let config = parse(&[
            "--webhook-retries",
            "1s,2m",
            "--webhook-timeout",
            "500ms",
            "--allow-private-webhooks",
        ])
        .unwrap();
        assert_eq!(
            config.webhook_retries,
            [Duration::from_secs(1), Duration::from_secs(120)]
        );
        assert_eq!(config.reach(), Reach::Anywhere);
        for wrong in [
            ["--webhook-timeout", "10"],
            ["--webhook-timeout", "0s"],
            ["--webhook-timeout", "2m"],
            ["--webhook-retries", "soon"],
            ["--webhook-retries", "5s,30d"],
            ["--webhook-concurrency", "0"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
