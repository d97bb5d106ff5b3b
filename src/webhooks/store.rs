//! The SQL of the outbox and its dispatcher: `events`, `webhook_endpoints`, `webhook_deliveries` and `webhook_attempts`.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Connection, PgConnection};

use super::{
    Backlog, DisabledReason,
    event::{Event, PERSONAL},
    guard,
    shares::Room,
};
use crate::{
    db,
    id::{AppId, DeliveryId, EndpointId, EventId, MeetingId},
    mail,
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
            returning e.id, e.app_id, e.room_id, e.url, e.receiver, e.disabled_at
        ), subscribed as (
            select e.id, e.app_id, e.events, e.receiver, e.disabled_at from webhook_endpoints e
            where e.app_id = any ($2) and e.room_id is null and e.deleted_at is null
            for key share
        ), wanted as (
            select g.id as event_id, e.id, e.receiver, e.disabled_at
            from given g join endpoint e on e.app_id = g.app_id and e.room_id = g.room_id and e.url = g.url
            union all
            select g.id, e.id, e.receiver, e.disabled_at
            from given g join subscribed e on e.app_id = g.app_id and g.kind like any (e.events)
        )
        insert into webhook_deliveries
            (id, app_id, event_id, endpoint_id, receiver, meeting_id, seq, attempt, created_at, due_at, outcome, holds_line)
        select substring(g.id for 6) || substring(uuid_send(gen_random_uuid()) from 11), g.app_id, g.id, e.id,
            e.receiver, g.meeting_id, g.seq, 0, g.at,
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
#[derive(Clone)]
pub(super) struct Claimed {
    pub id: DeliveryId,
    pub app_id: AppId,
    pub event_id: EventId,
    pub meeting_id: Option<MeetingId>,
    /// Its place in the line of its meeting to the endpoint.
    pub seq: Option<i64>,
    pub endpoint_id: EndpointId,
    /// Whether nothing has succeeded there since something failed.
    pub is_failing: bool,
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

/// What came of a look at the queues.
pub(super) struct Claim {
    /// To be attempted.
    pub deliveries: Vec<Claimed>,
    /// Whether others were put aside, so that what is behind them can be seen now.
    pub moved: bool,
}

/// Claims queued deliveries until `lease_until`, as many as there is `room` for, in turn from every app that has some.
///
/// One whose process died is queued again then. Nothing here depends on how much waits, only on how many receivers have a
/// queue, at most [`MOST_QUEUES`] of each app: the walk along them begins at `start`, which is to be random and more than the
/// least. A delivery that finds another one before it in its line is put aside until that one lets it pass ([`record`]), and
/// one whose endpoint was disabled is skipped; so each is looked at a few times at most. Whoever holds a line is locked
/// meanwhile, that it does not end between the look and the putting aside.
pub(super) async fn claim(
    system: &mut db::System,
    now: DateTime<Utc>,
    lease_until: DateTime<Utc>,
    room: &Room,
    start: i32,
) -> sqlx::Result<Claim> {
    fn count(count: usize) -> i64 {
        i64::try_from(count).unwrap_or(i64::MAX)
    }
    sqlx::query!(
        "update webhook_deliveries set queued = true where id in (
            select id from webhook_deliveries where not queued and due_at <= $1
            order by due_at limit $2 for update skip locked)",
        now,
        MOST_QUEUED_AT_ONCE,
    )
    .execute(&mut **system)
    .await?;
    let receivers = &room.receivers;
    let rows = sqlx::query_file!(
        "src/webhooks/claim.sql",
        now,
        lease_until,
        count(room.free),
        &receivers
            .iter()
            .map(|((app, _), ..)| *app)
            .collect::<Vec<_>>() as &[AppId],
        &receivers
            .iter()
            .map(|((_, receiver), ..)| receiver.clone())
            .collect::<Vec<_>>(),
        &receivers
            .iter()
            .map(|(_, free, _)| count(*free))
            .collect::<Vec<_>>(),
        &receivers
            .iter()
            .map(|(.., proven)| *proven)
            .collect::<Vec<_>>(),
        &room.apps.iter().map(|(app, _)| *app).collect::<Vec<_>>() as &[AppId],
        &room
            .apps
            .iter()
            .map(|(_, of_app)| count(of_app.free))
            .collect::<Vec<_>>(),
        &room
            .apps
            .iter()
            .map(|(_, of_app)| count(of_app.unproven))
            .collect::<Vec<_>>(),
        count(room.unproven),
        count(room.app.free),
        count(room.app.unproven),
        count(room.receiver),
        start,
        MOST_QUEUES,
    )
    .fetch_all(&mut **system)
    .await?;
    let all = rows.len();
    let goes = rows.into_iter().filter(|row| row.goes);
    let deliveries: Vec<Claimed> = goes
        .map(|row| Claimed {
            id: row.id,
            app_id: row.app_id,
            event_id: row.event_id,
            meeting_id: row.meeting_id,
            seq: row.seq,
            endpoint_id: row.endpoint_id,
            is_failing: row.is_failing,
            attempt: row.attempt,
            receiver: row.receiver,
            url: row.url,
            body: row.body,
            try_number: row.try_number,
            room_webhook_secret: row.room_webhook_secret,
            secrets: row.secrets,
        })
        .collect();
    let moved = deliveries.len() < all;
    Ok(Claim { deliveries, moved })
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

/// An attempt that is over.
#[derive(Clone)]
pub(super) struct Ended {
    pub delivery: Claimed,
    pub attempt: Attempt,
    pub next: Next,
    /// Whether it tells of the endpoint, as against: of us.
    pub counts: bool,
}

/// What was recorded.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// The deliveries whose attempt was recorded. Of the others, which have been claimed again since, nothing was.
    pub deliveries: Vec<DeliveryId>,
    /// The endpoints that are to be disabled, since nothing has succeeded there for too long.
    pub failing: Vec<EndpointId>,
}

/// Records attempts, none of which is [`Next::Gone`], and what follows from them. Who was held by a delivery that holds its
/// line no longer is queued.
///
/// Where an endpoint was disabled while the attempt was under way, a retry becomes a skip.
pub(super) async fn record(
    system: &mut db::System,
    ended: &[Ended],
    now: DateTime<Utc>,
    failing_before: DateTime<Utc>,
) -> sqlx::Result<Recorded> {
    let mut tx = system.begin().await?;
    // Before the deliveries: whoever disables an endpoint takes the same order.
    let changes = ended
        .iter()
        .filter(|one| one.counts && (one.next == Next::Delivered) == one.delivery.is_failing);
    let changes: Vec<&Ended> = changes.collect();
    if !changes.is_empty() {
        sqlx::query!(
            "update webhook_endpoints e set failing_since = case when not given.succeeded then given.at end
            from (
                select endpoint_id, bool_or(succeeded) as succeeded, min(at) as at
                from unnest($1::bytea[], $2::boolean[], $3::timestamptz[]) as given (endpoint_id, succeeded, at)
                group by endpoint_id order by endpoint_id
            ) given where e.id = given.endpoint_id and given.succeeded = (e.failing_since is not null)",
            &changes.iter().map(|one| one.delivery.endpoint_id).collect::<Vec<_>>() as &[EndpointId],
            &changes.iter().map(|one| one.next == Next::Delivered).collect::<Vec<_>>(),
            &changes.iter().map(|one| one.attempt.at).collect::<Vec<_>>(),
        )
        .execute(&mut *tx)
        .await?;
    }
    let deliveries = settle(&mut tx, ended).await?;
    release(&mut tx, ended, now).await?;
    let failed: Vec<EndpointId> = ended
        .iter()
        .filter(|one| one.counts && one.next != Next::Delivered && one.delivery.is_failing)
        .map(|one| one.delivery.endpoint_id)
        .collect();
    let mut failing = Vec::new();
    if !failed.is_empty() {
        failing = sqlx::query_scalar!(
            r#"select id from webhook_endpoints where id = any($1) and failing_since <= $2 and disabled_at is null"#,
            &failed as &[EndpointId],
            failing_before,
        )
        .fetch_all(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(Recorded {
        deliveries,
        failing,
    })
}

/// Records an attempt that was answered with 410 Gone, and disables its endpoint; `false`, and nothing else, where the
/// delivery has been claimed again since.
pub(super) async fn record_gone(
    system: &mut db::System,
    ended: &Ended,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let mut tx = system.begin().await?;
    let Ended { delivery, .. } = ended;
    let was_enabled = disable(
        &mut tx,
        delivery.app_id,
        delivery.endpoint_id,
        DisabledReason::Gone,
        now,
    )
    .await?;
    if settle(&mut tx, std::slice::from_ref(ended))
        .await?
        .is_empty()
    {
        return Ok(false); // and the transaction is rolled back
    }
    if was_enabled {
        tell(&mut tx, ended, DisabledReason::Gone, now).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Disables an endpoint at which nothing has succeeded for too long, `last` being what failed last.
pub(super) async fn record_failing(
    system: &mut db::System,
    last: &Ended,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let Ended { delivery, .. } = last;
    let mut tx = system.begin().await?;
    let reason = DisabledReason::Failing;
    let was_enabled = disable(&mut tx, delivery.app_id, delivery.endpoint_id, reason, now).await?;
    if was_enabled {
        tell(&mut tx, last, reason, now).await?;
    }
    tx.commit().await?;
    Ok(was_enabled)
}

/// Writes to the app's people that an endpoint was disabled. One that receives at the same host and port as others, for the
/// same reason and on the same day, is one of many: they are told once.
async fn tell(
    conn: &mut PgConnection,
    last: &Ended,
    reason: DisabledReason,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let Ended {
        delivery, attempt, ..
    } = last;
    let failing_since = sqlx::query_scalar!(
        "select failing_since from webhook_endpoints where id = $1",
        delivery.endpoint_id as EndpointId,
    )
    .fetch_one(&mut *conn)
    .await?;
    let message = mail::Message::WebhookDisabled(mail::WebhookDisabled {
        endpoint: delivery.endpoint_id,
        url: guard::without_query(&delivery.url),
        is_gone: reason == DisabledReason::Gone,
        failing_since: failing_since.unwrap_or(attempt.at),
        disabled_at: now,
        error: attempt.error.clone().unwrap_or_default(),
    });
    let topic = format!(
        "webhook-disabled/{}/{}/{}",
        reason.as_str(),
        delivery.receiver,
        now.date_naive()
    );
    mail::enqueue(conn, delivery.app_id, &topic, &message, now).await?;
    Ok(())
}

/// Disables an endpoint: what waits for it is skipped, and so is what happens from now on; `false` where it was disabled, or
/// is not the app's.
///
/// What is being claimed or recorded at this moment is skipped by whoever does that.
pub(super) async fn disable(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: EndpointId,
    reason: DisabledReason,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let disabled = sqlx::query!(
        "update webhook_endpoints set disabled_at = $3, disabled_reason = $4
        where id = $2 and app_id = $1 and disabled_at is null",
        app as AppId,
        endpoint as EndpointId,
        now,
        reason.as_str(),
    )
    .execute(&mut *conn)
    .await?;
    if disabled.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!(
        "update webhook_deliveries set due_at = null, outcome = 'skipped', holds_line = false
        where id in (
            select id from webhook_deliveries
            where endpoint_id = $2 and app_id = $1 and due_at is not null for update skip locked)",
        app as AppId,
        endpoint as EndpointId,
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// Writes the attempts and what becomes of their deliveries; returns those that have not been claimed again since.
async fn settle(conn: &mut PgConnection, ended: &[Ended]) -> sqlx::Result<Vec<DeliveryId>> {
    let next = |one: &Ended| match one.next {
        Next::Delivered => (None, Some("delivered"), false),
        Next::Retry { at, holds_line } => (Some(at), None, holds_line),
        Next::Failed | Next::Gone => (None, Some("failed"), false),
    };
    let latency = |one: &Ended| {
        i32::try_from(one.attempt.latency.num_milliseconds().max(0)).unwrap_or(i32::MAX)
    };
    let status = |one: &Ended| {
        one.attempt
            .status
            .and_then(|status| i16::try_from(status).ok())
    };
    sqlx::query_scalar!(
        r#"with given as (
            select * from unnest($1::bytea[], $2::integer[], $3::timestamptz[], $4::text[], $5::boolean[],
                $6::timestamptz[], $7::integer[], $8::smallint[], $9::text[], $10::text[])
            as given (id, attempt, due_at, outcome, holds_line, at, latency_ms, status, answer, error)
        ), settled as (
            update webhook_deliveries d
            set due_at = case when e.disabled_at is null then g.due_at end,
                outcome = case when e.disabled_at is null then g.outcome else coalesce(g.outcome, 'skipped') end,
                holds_line = g.holds_line and d.holds_line and e.disabled_at is null, queued = false
            from given g, webhook_endpoints e
            where d.id = g.id and d.attempt = g.attempt and e.id = d.endpoint_id
            returning d.id, d.app_id
        )
        insert into webhook_attempts (delivery_id, attempt, app_id, at, latency_ms, status, answer, error)
        select s.id, g.attempt, s.app_id, g.at, g.latency_ms, g.status, g.answer, g.error
        from settled s join given g using (id)
        returning delivery_id as "id: DeliveryId""#,
        &ended.iter().map(|one| one.delivery.id).collect::<Vec<_>>() as &[DeliveryId],
        &ended.iter().map(|one| one.delivery.attempt).collect::<Vec<_>>(),
        &ended.iter().map(|one| next(one).0).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &ended.iter().map(|one| next(one).1).collect::<Vec<_>>() as &[Option<&str>],
        &ended.iter().map(|one| next(one).2).collect::<Vec<_>>(),
        &ended.iter().map(|one| one.attempt.at).collect::<Vec<_>>(),
        &ended.iter().map(latency).collect::<Vec<_>>(),
        &ended.iter().map(status).collect::<Vec<_>>() as &[Option<i16>],
        &ended.iter().map(|one| one.attempt.answer.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &ended.iter().map(|one| one.attempt.error.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
    )
    .fetch_all(conn)
    .await
}

/// Queues the next of each line that is held no longer. It comes after [`settle`], as a statement of its own: who puts one
/// aside meanwhile has locked the one before it, and is seen here.
async fn release(conn: &mut PgConnection, ended: &[Ended], now: DateTime<Utc>) -> sqlx::Result<()> {
    let holds = |one: &&Ended| {
        !matches!(
            one.next,
            Next::Retry {
                holds_line: true,
                ..
            }
        )
    };
    let free: Vec<&Claimed> = ended
        .iter()
        .filter(holds)
        .map(|one| &one.delivery)
        .collect();
    if free.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update webhook_deliveries set queued = true, due_at = $4 where id in (
            select next.id from unnest($1::bytea[], $2::bytea[], $3::bigint[]) as line (endpoint_id, meeting_id, seq)
            cross join lateral (
                select d.id, d.attempt, d.queued from webhook_deliveries d
                where d.endpoint_id = line.endpoint_id and d.meeting_id = line.meeting_id and d.seq > line.seq
                    and d.holds_line
                order by d.seq limit 1
            ) next where next.attempt = 0 and not next.queued)",
        &free.iter().map(|one| one.endpoint_id).collect::<Vec<_>>() as &[EndpointId],
        &free.iter().map(|one| one.meeting_id).collect::<Vec<_>>() as &[Option<MeetingId>],
        &free.iter().map(|one| one.seq).collect::<Vec<_>>() as &[Option<i64>],
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
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

/// Receivers of one app whose queues are looked at in one claim: more than an app can have attempts under way.
const MOST_QUEUES: i32 = 128;
/// Deliveries whose time has come that are queued in one claim. What is left is queued in the next one.
const MOST_QUEUED_AT_ONCE: i64 = 1000;
