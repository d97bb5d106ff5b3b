//! The SQL of deliveries as their apps see them. Their ids begin with the time of their events, and so tell it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};

use super::{Delivery, Details, Events, Filter, Outcome, Page, Resend, Tried};
use crate::id::{AppId, DeliveryId, EndpointId, EventId, RoomId};

pub async fn list(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: EndpointId,
    filter: &Filter,
    page: Page,
) -> sqlx::Result<Vec<Delivery>> {
    let event = filter.event.as_ref().map(|event| match event {
        Events::Like(pattern) => pattern.to_like(),
        Events::Test => "test".to_owned(),
    });
    sqlx::query_as!(
        Delivery,
        r#"select d.id, d.event_id, v.kind as event, v.room_id as "room_id: RoomId", d.meeting_id, d.seq,
             coalesce(d.outcome, 'pending') as "outcome!: Outcome", d.attempt as attempts, d.due_at, d.created_at
           from webhook_deliveries d join events v on v.id = d.event_id
           where d.app_id = $1 and d.endpoint_id = $2
             and ($3::text is null or coalesce(d.outcome, 'pending') = $3) and ($4::text is null or v.kind like $4)
             and ($5::bytea is null or d.id >= $5) and ($6::bytea is null or d.id < $6)
             and ($7::bytea is null or d.id < $7)
           order by d.id desc limit $8"#,
        app as AppId,
        endpoint as EndpointId,
        filter.outcome.map(Outcome::as_str),
        event,
        filter.from.map(DeliveryId::first_at) as Option<DeliveryId>,
        filter.until.map(DeliveryId::first_at) as Option<DeliveryId>,
        page.after as Option<DeliveryId>,
        page.limit,
    )
    .fetch_all(conn)
    .await
}

/// The delivery, with what is sent and its latest attempts. One statement: its attempts are those of its outcome.
pub async fn find(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: EndpointId,
    id: DeliveryId,
) -> sqlx::Result<Option<Details>> {
    let row = sqlx::query!(
        r#"select d.id, d.event_id, v.kind as event, v.room_id as "room_id: RoomId", d.meeting_id, d.seq,
             coalesce(d.outcome, 'pending') as "outcome!: Outcome", d.attempt as attempts, d.due_at, d.created_at, v.body,
             coalesce((
                 select jsonb_agg(a order by a.attempt) from (
                     select attempt, at, latency_ms, status, answer, error from webhook_attempts
                     where delivery_id = d.id order by attempt desc limit $4) a
             ), '[]') as "tried!: Json<Vec<Tried>>"
           from webhook_deliveries d join events v on v.id = d.event_id
           where d.app_id = $1 and d.endpoint_id = $2 and d.id = $3"#,
        app as AppId,
        endpoint as EndpointId,
        id as DeliveryId,
        MOST_TRIED,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Details {
        delivery: Delivery {
            id: row.id,
            event_id: row.event_id,
            event: row.event,
            room_id: row.room_id,
            meeting_id: row.meeting_id,
            seq: row.seq,
            outcome: row.outcome,
            attempts: row.attempts,
            due_at: row.due_at,
            created_at: row.created_at,
        },
        body: row.body,
        tried: row.tried.0,
    }))
}

/// Writes a test event and its delivery to this endpoint alone.
pub async fn insert_test(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: EndpointId,
    (event, body): (EventId, &str),
    id: DeliveryId,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with event as (insert into events (id, app_id, kind, at, body) values ($1, $2, 'test', $3, $4))
         insert into webhook_deliveries
             (id, app_id, event_id, endpoint_id, receiver, attempt, created_at, due_at, holds_line)
         select $5, $2, $1, id, receiver, 0, $3, $3, false from webhook_endpoints where id = $6 and app_id = $2",
        event as EventId,
        app as AppId,
        now,
        body,
        id as DeliveryId,
        endpoint as EndpointId,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends up to `limit` deliveries to this endpoint that wait, if it is disabled; how many.
pub async fn skip(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: EndpointId,
    limit: i64,
) -> sqlx::Result<u64> {
    let skipped = sqlx::query!(
        "with waiting as (
            select d.id from webhook_deliveries d join webhook_endpoints e on e.id = d.endpoint_id
            where d.app_id = $1 and d.endpoint_id = $2 and d.due_at is not null and e.disabled_at is not null
            limit $3 for update of d
        )
        update webhook_deliveries d set due_at = null, outcome = 'skipped', holds_line = false
        from waiting where d.id = waiting.id",
        app as AppId,
        endpoint as EndpointId,
        limit,
    )
    .execute(conn)
    .await?;
    Ok(skipped.rows_affected())
}

/// Makes a delivery due at `now`, unless it is being attempted, as an attempt of its number that has not been recorded tells.
pub async fn resend(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: EndpointId,
    id: DeliveryId,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update webhook_deliveries d
         set due_at = least(d.due_at, $4), outcome = null,
             retries_from = case when d.due_at is null then d.attempt else d.retries_from end
         where d.app_id = $1 and d.endpoint_id = $2 and d.id = $3 and (d.due_at is null or d.attempt = 0
            or exists (select from webhook_attempts a where a.delivery_id = d.id and a.attempt = d.attempt))",
        app as AppId,
        endpoint as EndpointId,
        id as DeliveryId,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes deliveries that ended due at `now`, the oldest first; their ids.
pub async fn resend_range(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: EndpointId,
    which: &Resend,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<DeliveryId>> {
    let outcomes: Vec<&str> = which
        .outcomes
        .iter()
        .map(|outcome| outcome.as_str())
        .collect();
    sqlx::query_scalar!(
        "with chosen as (
            select id from webhook_deliveries
            where app_id = $1 and endpoint_id = $2 and id >= $3 and id < $4 and ($5::bytea is null or id > $5)
              and outcome = any ($6)
            order by id limit $7 for update
        )
        update webhook_deliveries d set due_at = $8, outcome = null, retries_from = d.attempt
        from chosen where d.id = chosen.id
        returning d.id",
        app as AppId,
        endpoint as EndpointId,
        DeliveryId::first_at(which.from) as DeliveryId,
        DeliveryId::first_at(which.until) as DeliveryId,
        which.after as Option<DeliveryId>,
        &outcomes as &[&str],
        limit,
        now,
    )
    .fetch_all(conn)
    .await
}

/// Attempts of one delivery that are told: a schedule's, several times over.
const MOST_TRIED: i64 = 100;
