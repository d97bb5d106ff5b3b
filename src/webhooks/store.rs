//! The SQL of the outbox and its dispatcher: `events`, `webhook_endpoints`, `webhook_deliveries` and `webhook_attempts`.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Connection, PgConnection};

use super::{
    Backlog,
    event::{Event, PERSONAL},
    guard,
};
use crate::{
    db,
    id::{AppId, DeliveryId, EndpointId, EventId, MeetingId},
};

/// Counts the deliveries that have not ended.
pub(super) async fn backlog(system: &mut db::System, now: DateTime<Utc>) -> sqlx::Result<Backlog> {
    sqlx::query_as!(
        Backlog,
        r#"select count(*) filter (where due_at <= $1) as "due!", count(*) filter (where due_at > $1) as "later!"
           from webhook_deliveries where due_at is not null"#,
        now,
    )
    .fetch_one(&mut **system)
    .await
}

/// Writes events with their bodies, where they have a URL the URL's endpoint, and the deliveries to it and to the app's own
/// endpoints.
///
/// The new ids have the event's time and six random bytes of Postgres, so that one statement can make any number of them.
/// Endpoints are locked, so that one which is being disabled is seen so: for that the conflict's update, which changes nothing;
/// and the app's own only as the deliveries' references do, so that its meetings do not wait for each other.
pub(super) async fn add(conn: &mut PgConnection, events: &[(&Event, String)]) -> sqlx::Result<()> {
    fn column<'a, T>(events: &'a [(&'a Event, String)], value: impl Fn(&'a Event) -> T) -> Vec<T> {
        events.iter().map(|(event, _)| value(event)).collect()
    }
    let urls = column(events, |event| event.url());
    let receivers: Vec<Option<String>> = urls.iter().map(|url| url.map(guard::receiver)).collect();
    let bodies: Vec<&str> = events.iter().map(|(_, body)| body.as_str()).collect();
    sqlx::query!(
        "with given as (
            select * from unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bigint[], $6::text[],
                $7::timestamptz[], $8::text[], $9::text[], $10::text[])
            as given (id, app_id, room_id, meeting_id, seq, kind, at, body, url, receiver)
        ), event as (
            insert into events (id, app_id, room_id, meeting_id, seq, kind, at, body)
            select id, app_id, room_id, meeting_id, seq, kind, at, body from given
        ), endpoint as (
            insert into webhook_endpoints as e (id, app_id, room_id, url, receiver, created_at)
            select distinct on (app_id, room_id, url)
                substring(id for 6) || substring(uuid_send(gen_random_uuid()) from 11), app_id, room_id, url, receiver, at
            from given where url is not null order by app_id, room_id, url, seq
            on conflict on constraint webhook_endpoints_room_url do update set disabled_at = e.disabled_at
            returning e.id, e.app_id, e.room_id, e.url, e.disabled_at
        ), subscribed as (
            select e.id, e.app_id, e.events, e.disabled_at from webhook_endpoints e
            where e.app_id = any ($2) and e.room_id is null and e.deleted_at is null
            for key share
        ), wanted as (
            select g.id as event_id, e.id, e.disabled_at
            from given g join endpoint e on e.app_id = g.app_id and e.room_id = g.room_id and e.url = g.url
            union all
            select g.id, e.id, e.disabled_at
            from given g join subscribed e on e.app_id = g.app_id and g.kind like any (e.events)
        )
        insert into webhook_deliveries
            (id, app_id, event_id, endpoint_id, meeting_id, seq, attempt, created_at, due_at, outcome, holds_line)
        select substring(g.id for 6) || substring(uuid_send(gen_random_uuid()) from 11), g.app_id, g.id, e.id,
            g.meeting_id, g.seq, 0, g.at,
            case when e.disabled_at is null then g.at end,
            case when e.disabled_at is not null then 'skipped' end,
            e.disabled_at is null and g.seq is not null
        from given g join wanted e on e.event_id = g.id",
        &column(events, |event| event.id.as_bytes().as_slice()) as &[&[u8]],
        &column(events, |event| event.app.as_bytes().as_slice()) as &[&[u8]],
        &column(events, |event| event.room.id.as_bytes().as_slice()) as &[&[u8]],
        &column(events, |event| event.meeting) as &[Option<MeetingId>],
        &column(events, |event| event.seq) as &[Option<i64>],
        &column(events, |event| event.name()) as &[&str],
        &column(events, |event| event.at),
        &bodies as &[&str],
        &urls as &[Option<&str>],
        &receivers as &[Option<String>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A delivery of which this process makes attempt number `attempt`.
pub(super) struct Claimed {
    pub id: DeliveryId,
    pub app_id: AppId,
    pub event_id: EventId,
    pub meeting_id: Option<MeetingId>,
    pub endpoint_id: EndpointId,
    /// From 1.
    pub attempt: i32,
    /// The same, counted from when it was sent again.
    pub try_number: i32,
    /// Host and port of the URL.
    pub receiver: String,
    pub url: String,
    pub body: String,
    /// For a room's URL, what signs those of the app, sealed.
    pub room_webhook_secret: Option<Vec<u8>>,
    /// What else signs, the newest first: the id of each secret, and behind it the secret, sealed.
    pub secrets: Vec<Vec<u8>>,
}

/// How many attempts may be under way in this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// In all, beyond those that are.
    pub free: i64,
    /// Of one app, with those that are.
    pub app: i64,
    /// Of one app to one receiver, with those that are.
    pub receiver: i64,
}

/// Claims due deliveries until `lease_until`, in turn from every app that has some.
///
/// One whose process died is due again then. Within a meeting's line to an endpoint only the first is claimed, until it no
/// longer holds the others. `busy` are the app and receiver of each attempt that is under way.
pub(super) async fn claim(
    system: &mut db::System,
    now: DateTime<Utc>,
    lease_until: DateTime<Utc>,
    bounds: Bounds,
    busy: (&[AppId], &[String]),
) -> sqlx::Result<Vec<Claimed>> {
    sqlx::query_as!(
        Claimed,
        r#"with waiting as (
            select d.id, d.app_id, d.due_at, d.seq, e.receiver,
                row_number() over (partition by d.app_id, e.receiver order by d.due_at, d.seq) as of_receiver
            from webhook_deliveries d join webhook_endpoints e on e.id = d.endpoint_id
            where d.due_at <= $1 and e.disabled_at is null and not exists (
                select from webhook_deliveries earlier
                where earlier.endpoint_id = d.endpoint_id and earlier.meeting_id = d.meeting_id
                  and earlier.seq < d.seq and earlier.due_at is not null and earlier.holds_line)
        ), allowed as (
            select id, row_number() over (partition by app_id order by due_at, seq)
                + (select count(*) from unnest($6::bytea[]) as busy (app_id) where busy.app_id = w.app_id) as of_app
            from waiting w
            where of_receiver <= $5 - (
                select count(*) from unnest($6::bytea[], $7::text[]) as busy (app_id, receiver)
                where busy.app_id = w.app_id and busy.receiver = w.receiver)
        ), due as (
            select d.id from webhook_deliveries d join allowed using (id)
            where d.due_at <= $1 and of_app <= $4
            order by of_app, d.due_at, d.seq limit $3
            for update of d skip locked
        )
        update webhook_deliveries d set attempt = attempt + 1, due_at = $2
        from due, webhook_endpoints e, events v, apps a
        where d.id = due.id and e.id = d.endpoint_id and v.id = d.event_id and a.id = d.app_id
        returning d.id, d.app_id, d.event_id, d.meeting_id, d.endpoint_id, d.attempt,
            d.attempt - d.retries_from as "try_number!", e.receiver, e.url, v.body,
            case when e.room_id is not null then a.room_webhook_secret end as room_webhook_secret,
            array(
                select s.id || s.secret from webhook_secrets s
                where s.app_id = d.app_id
                  and s.endpoint_id is not distinct from case when e.room_id is null then e.id end
                  and (s.retires_at is null or s.retires_at > $1)
                order by s.retires_at desc nulls first, s.id desc) as "secrets!""#,
        now,
        lease_until,
        bounds.free,
        bounds.app,
        bounds.receiver,
        busy.0 as &[AppId],
        busy.1,
    )
    .fetch_all(&mut **system)
    .await
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attempt {
    pub at: DateTime<Utc>,
    pub latency: TimeDelta,
    pub status: Option<u16>,
    pub answer: Option<String>,
    pub error: Option<String>,
}

/// What becomes of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// It was taken.
    Delivered,
    /// It is tried again at `at`; meanwhile the later ones of its line wait, or not.
    Retry { at: DateTime<Utc>, holds_line: bool },
    /// It was the last attempt.
    Failed,
    /// The endpoint wants nothing more: it is disabled, and what waits for it is skipped.
    Gone,
}

/// Records an attempt of `delivery` and what follows from it; `false`, and nothing else, where the delivery has been claimed
/// again since.
pub(super) async fn record(
    system: &mut db::System,
    delivery: &Claimed,
    attempt: &Attempt,
    next: Next,
) -> sqlx::Result<bool> {
    let (due_at, outcome, holds_line) = match next {
        Next::Delivered => (None, Some("delivered"), false),
        Next::Retry { at, holds_line } => (Some(at), None, holds_line),
        Next::Failed => (None, Some("failed"), false),
        Next::Gone => return record_gone(system, delivery, attempt).await,
    };
    settle(system, delivery, attempt, due_at, outcome, holds_line).await
}

async fn record_gone(
    system: &mut db::System,
    delivery: &Claimed,
    attempt: &Attempt,
) -> sqlx::Result<bool> {
    let mut tx = system.begin().await?;
    // First of all, so that whoever disables the endpoint as well waits here, and not for one of our deliveries.
    sqlx::query!(
        "update webhook_endpoints set disabled_at = coalesce(disabled_at, $2) where id = $1",
        delivery.endpoint_id as EndpointId,
        attempt.at,
    )
    .execute(&mut *tx)
    .await?;
    if !settle(&mut tx, delivery, attempt, None, Some("failed"), false).await? {
        return Ok(false); // and the transaction is rolled back
    }
    sqlx::query!(
        "update webhook_deliveries set due_at = null, outcome = 'skipped', holds_line = false
        where endpoint_id = $1 and due_at is not null",
        delivery.endpoint_id as EndpointId,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(true)
}

/// Where the endpoint was disabled while the attempt was under way, a retry becomes a skip.
async fn settle(
    conn: &mut PgConnection,
    delivery: &Claimed,
    attempt: &Attempt,
    due_at: Option<DateTime<Utc>>,
    outcome: Option<&str>,
    holds_line: bool,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "with recorded as (
            update webhook_deliveries d
            set due_at = case when e.disabled_at is null then $3::timestamptz end,
                outcome = case when e.disabled_at is null then $4 else coalesce($4, 'skipped') end,
                holds_line = $5 and d.holds_line and e.disabled_at is null
            from webhook_endpoints e
            where d.id = $1 and d.attempt = $2 and e.id = d.endpoint_id
            returning d.id, d.attempt, d.app_id
        )
        insert into webhook_attempts (delivery_id, attempt, app_id, at, latency_ms, status, answer, error)
        select id, attempt, app_id, $6, $7, $8, $9, $10 from recorded",
        delivery.id as DeliveryId,
        delivery.attempt,
        due_at,
        outcome,
        holds_line,
        attempt.at,
        i32::try_from(attempt.latency.num_milliseconds().max(0)).unwrap_or(i32::MAX),
        attempt.status.and_then(|status| i16::try_from(status).ok()),
        attempt.answer.as_deref(),
        attempt.error.as_deref(),
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes what tells of people from the events of these stays, and what receivers answered to them.
pub(super) async fn forget_stays(
    conn: &mut PgConnection,
    app: AppId,
    meetings: &[MeetingId],
    stays: &[String],
) -> sqlx::Result<()> {
    sqlx::query!(
        "with forgotten as (
            update events set body = (body::jsonb - $4::text[])::text
            where app_id = $1 and meeting_id = any($2) and body::jsonb ->> 'participantSessionId' = any($3)
            returning id
        )
        update webhook_attempts a set answer = null
        from forgotten f join webhook_deliveries d on d.event_id = f.id
        where a.app_id = $1 and a.delivery_id = d.id",
        app as AppId,
        meetings as &[MeetingId],
        stays,
        &PERSONAL as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The same of up to `limit` events that tell of one person; how many there were.
pub(super) async fn forget_person(
    conn: &mut PgConnection,
    app: AppId,
    external_user_id: &str,
    limit: i64,
) -> sqlx::Result<u64> {
    let forgotten = sqlx::query_scalar!(
        r#"with found as (
            select id from events where app_id = $1 and body::jsonb ->> 'externalUserId' = $2
            order by id limit $3 for update
        ), forgotten as (
            update events e set body = (body::jsonb - $4::text[])::text
            from found where e.id = found.id
            returning e.id
        ), answers as (
            update webhook_attempts a set answer = null
            from forgotten f join webhook_deliveries d on d.event_id = f.id
            where a.app_id = $1 and a.delivery_id = d.id
        )
        select count(*) as "count!" from forgotten"#,
        app as AppId,
        external_user_id,
        limit,
        &PERSONAL as &[&str],
    )
    .fetch_one(conn)
    .await?;
    Ok(forgotten.unsigned_abs())
}

/// Removes up to `limit` events from before `before`, with their deliveries and attempts; how many there were. One of which
/// a delivery has not ended stays until that has.
pub(super) async fn forget_old(
    conn: &mut PgConnection,
    app: AppId,
    before: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    let removed = sqlx::query!(
        "delete from events where id in (
            select id from events e
            where app_id = $1 and at < $2
              and not exists (select from webhook_deliveries d where d.event_id = e.id and d.due_at is not null)
            order by at limit $3 for update skip locked)",
        app as AppId,
        before,
        limit,
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected())
}
