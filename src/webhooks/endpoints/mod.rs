//! Endpoints: where webhooks go. An app makes some itself; each URL of a room is one too, made by the room's first event.

mod store;

use chrono::{DateTime, TimeDelta, Utc};
use rand::CryptoRng;
use sqlx::{PgConnection, PgTransaction};
use url::Url;

use super::{Error, deliveries, event, filter::Pattern, guard, signing::SigningSecret};
use crate::{
    db::{Db, System},
    id::{AppId, DeliveryId, EndpointId, EventId, RoomId, WebhookSecretId},
    sealed::{MasterKey, Place, Sealed},
};

/// Where webhooks go.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The room whose URL it is, with its name; `None` for the app's own.
    pub room: Option<(RoomId, String)>,
    /// Where it is.
    pub url: String,
    /// Which events it gets; a room's URL gets those for which the room has it.
    pub events: Option<Vec<Pattern>>,
    /// What its app says of it.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Since when it gets nothing.
    pub disabled_at: Option<DateTime<Utc>>,
}

/// An endpoint that is to be made.
#[derive(Clone, Debug)]
pub struct NewEndpoint {
    /// Where it is, as [`check_url`](super::check_url) accepted it.
    pub url: Url,
    /// Which events it gets.
    pub events: Vec<Pattern>,
    /// What its app says of it.
    pub description: Option<String>,
    /// Whether it gets anything yet.
    pub enabled: bool,
}

/// What of an endpoint is to change: what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct EndpointChange {
    /// Where it is, as [`check_url`](super::check_url) accepted it.
    pub url: Option<Url>,
    /// Which events it gets.
    pub events: Option<Vec<Pattern>>,
    /// What its app says of it.
    pub description: Option<Option<String>>,
    /// Whether it gets anything.
    pub enabled: Option<bool>,
}

/// What came of a secret's rotation.
#[derive(Debug)]
pub struct RotatedSecret {
    /// What signs from now on.
    pub secret: SigningSecret,
    /// Until when the old one signs along.
    pub old_until: DateTime<Utc>,
}

/// Makes an endpoint of the app's own, with the secret that signs its deliveries.
///
/// # Errors
///
/// [`Error::TooManyEndpoints`].
pub async fn create(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    new: NewEndpoint,
    master_key: &MasterKey,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<(Endpoint, SigningSecret), Error> {
    let endpoint = Endpoint {
        id: EndpointId::new(now, rng),
        room: None,
        url: new.url.into(),
        events: Some(new.events),
        description: new.description,
        created_at: now,
        disabled_at: (!new.enabled).then_some(now),
    };
    if store::lock_and_count(tx, app).await? >= MOST_ENDPOINTS {
        return Err(Error::TooManyEndpoints);
    }
    store::forget_deleted(tx, app).await?;
    let receiver = guard::receiver(&endpoint.url);
    store::insert(tx, app, &endpoint, &receiver).await?;
    let secret = SigningSecret::generate(rng);
    let id = WebhookSecretId::new(now, rng);
    let sealed = Sealed::seal(&secret, master_key, &secret_place(&id))?;
    store::insert_secret(tx, id, app, Some(endpoint.id), &sealed, now, None).await?;
    Ok((endpoint, secret))
}

/// The app's own endpoints, or those that the URLs of a room have made; the newest first, 100 at most.
pub async fn list(
    conn: &mut PgConnection,
    app: AppId,
    room: Option<RoomId>,
) -> Result<Vec<Endpoint>, Error> {
    Ok(store::list(conn, app, room, MOST_LISTED).await?)
}

/// The endpoint of `app` with this id; `None` when it is absent, deleted or another app's.
pub async fn find(
    conn: &mut PgConnection,
    app: AppId,
    id: EndpointId,
) -> Result<Option<Endpoint>, Error> {
    Ok(store::find(conn, app, id).await?)
}

/// Changes an endpoint. `None` where there is no such endpoint.
///
/// What waits for it goes to its new URL. After it was disabled, and the transaction committed, [`skip_waiting`] ends what
/// waits for it.
///
/// # Errors
///
/// [`Error::OfRoom`] where anything but `enabled` of a room's URL is to change.
pub async fn change(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    id: EndpointId,
    change: EndpointChange,
    now: DateTime<Utc>,
) -> Result<Option<Endpoint>, Error> {
    let Some(mut endpoint) = store::lock(tx, app, id).await? else {
        return Ok(None);
    };
    let EndpointChange {
        url,
        events,
        description,
        enabled,
    } = change;
    if endpoint.room.is_some() && (url.is_some() || events.is_some() || description.is_some()) {
        return Err(Error::OfRoom);
    }
    if let Some(url) = url {
        endpoint.url = url.into();
    }
    if let Some(events) = events {
        endpoint.events = Some(events);
    }
    if let Some(description) = description {
        endpoint.description = description;
    }
    endpoint.disabled_at = match enabled {
        Some(true) => None,
        Some(false) => endpoint.disabled_at.or(Some(now)),
        None => endpoint.disabled_at,
    };
    let receiver = guard::receiver(&endpoint.url);
    store::update(tx, app, &endpoint, &receiver).await?;
    Ok(Some(endpoint))
}

/// Deletes an endpoint of the app's own; whether there was one. After the commit, [`skip_waiting`] ends what waits for it.
///
/// # Errors
///
/// [`Error::OfRoom`].
pub async fn delete(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    id: EndpointId,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    match store::lock(tx, app, id).await? {
        None => Ok(false),
        Some(endpoint) if endpoint.room.is_some() => Err(Error::OfRoom),
        Some(_) => {
            store::delete(tx, app, id, now).await?;
            Ok(true)
        }
    }
}

/// Ends what waits for an endpoint that is disabled or deleted, as skipped.
///
/// In transactions of its own, so that no meeting waits for it: whoever writes an event locks the endpoints that get it.
pub async fn skip_waiting(db: &Db, app: AppId, id: EndpointId) -> Result<(), Error> {
    loop {
        let mut tx = db.begin(app).await?;
        let skipped = deliveries::skip(&mut tx, app, id, SKIP_BATCH).await?;
        tx.commit().await?;
        if skipped < SKIP_BATCH.unsigned_abs() {
            return Ok(());
        }
    }
}

/// Gives an endpoint of the app's own a new secret; those before it sign along for `overlap`. `None` where there is no such
/// endpoint.
///
/// # Errors
///
/// [`Error::OfRoom`], [`Error::TooManySecrets`].
pub async fn rotate(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    id: EndpointId,
    overlap: TimeDelta,
    master_key: &MasterKey,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<Option<RotatedSecret>, Error> {
    match store::lock(tx, app, id).await? {
        None => return Ok(None),
        Some(endpoint) if endpoint.room.is_some() => return Err(Error::OfRoom),
        Some(_) => {}
    }
    let old_until = now + overlap;
    retire(tx, app, Some(id), old_until, now).await?;
    let secret = SigningSecret::generate(rng);
    let row = WebhookSecretId::new(now, rng);
    let sealed = Sealed::seal(&secret, master_key, &secret_place(&row))?;
    store::insert_secret(tx, row, app, Some(id), &sealed, now, None).await?;
    Ok(Some(RotatedSecret { secret, old_until }))
}

/// Lets the secret of the URLs of an app's rooms, which has been replaced, sign along for `overlap`; until when that is.
///
/// # Errors
///
/// [`Error::TooManySecrets`].
pub async fn retire_room_secret(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    old: &SigningSecret,
    overlap: TimeDelta,
    master_key: &MasterKey,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<DateTime<Utc>, Error> {
    let until = now + overlap;
    retire(tx, app, None, until, now).await?;
    let row = WebhookSecretId::new(now, rng);
    let sealed = Sealed::seal(old, master_key, &secret_place(&row))?;
    store::insert_secret(tx, row, app, None, &sealed, now, Some(until)).await?;
    Ok(until)
}

/// Lets no secret that there is sign longer than `until`, and forgets those that sign no more.
async fn retire(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: Option<EndpointId>,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    store::retire(conn, app, endpoint, until).await?;
    if store::forget_retired(conn, app, endpoint, now).await? >= MOST_SECRETS {
        return Err(Error::TooManySecrets);
    }
    Ok(())
}

/// Sends an endpoint a test event, by the way that all events go. `None` where there is no such endpoint.
///
/// # Errors
///
/// [`Error::Disabled`].
pub async fn test(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    id: EndpointId,
    request_id: &str,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<Option<DeliveryId>, Error> {
    match store::lock(tx, app, id).await? {
        None => return Ok(None),
        Some(endpoint) if endpoint.disabled_at.is_some() => return Err(Error::Disabled),
        Some(_) => {}
    }
    let event = EventId::new(now, rng);
    let body = event::test_body(event, app, now, request_id)
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    let delivery = DeliveryId::new(now, rng);
    deliveries::insert_test(tx, app, id, (event, &body), delivery, now).await?;
    Ok(Some(delivery))
}

/// Where a secret is stored, which is what it is sealed for.
pub(super) fn secret_place(id: &WebhookSecretId) -> Place<'_> {
    Place::new("webhook_secrets", "secret", id.as_bytes())
}

/// Seals all secrets anew that are under another key than the one `master_key` seals with; how many there were. Broken off,
/// it goes on where it is called again.
///
/// # Errors
///
/// [`Error::Sealed`] for one that `master_key` does not open.
pub async fn rewrap(conn: &mut System, master_key: &MasterKey) -> Result<u64, Error> {
    let (mut count, mut last) = (0, None);
    loop {
        let batch = store::secrets_not_under(conn, master_key.id(), last, REWRAP_BATCH).await?;
        if batch.is_empty() {
            return Ok(count);
        }
        for (id, old) in batch {
            let new = old.reseal(master_key, &secret_place(&id))?;
            count += store::replace_secret(conn, id, &old, &new).await?;
            last = Some(id);
        }
    }
}

/// Endpoints that an app makes itself, at most: each gets a delivery of each event.
pub const MOST_ENDPOINTS: i64 = 50;
/// Secrets that sign a delivery at most: its header holds a signature of each.
pub const MOST_SECRETS: i64 = 5;
/// The four URLs of a room, and those that it had before.
const MOST_LISTED: i64 = 100;
/// Deliveries that are ended at a time.
const SKIP_BATCH: i64 = 5000;
/// Secrets sealed anew with one look-up.
const REWRAP_BATCH: i64 = 100;
