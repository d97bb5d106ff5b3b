//! The SQL of endpoints as their apps see them, and of `webhook_secrets`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::Endpoint;
use crate::{
    db::System,
    id::{AppId, EndpointId, RoomId, WebhookSecretId},
    sealed::{KeyId, Sealed},
    webhooks::{filter::Pattern, signing::SigningSecret},
};

/// An endpoint as it is stored, with its room's name.
struct Row {
    id: EndpointId,
    room_id: Option<RoomId>,
    room_name: Option<String>,
    url: String,
    events: Option<Vec<String>>,
    description: Option<String>,
    created_at: DateTime<Utc>,
    disabled_at: Option<DateTime<Utc>>,
}

impl From<Row> for Endpoint {
    fn from(row: Row) -> Self {
        let patterns = |events: Vec<String>| {
            events
                .iter()
                .map(|event| Pattern::from_like(event))
                .collect()
        };
        Self {
            id: row.id,
            room: row.room_id.zip(row.room_name),
            url: row.url,
            events: row.events.map(patterns),
            description: row.description,
            created_at: row.created_at,
            disabled_at: row.disabled_at,
        }
    }
}

/// A query for endpoints that are not deleted.
macro_rules! select {
    ($condition:literal, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"select e.id, e.room_id, r.name as "room_name?: String", e.url, e.events, e.description, e.created_at,
                 e.disabled_at
               from webhook_endpoints e left join rooms r on r.id = e.room_id
               where e.deleted_at is null and e.app_id = $1 and "# + $condition,
            $($argument),*
        )
    };
}

/// How many endpoints of its own the app has, which nobody else can make more until the transaction ends.
pub async fn lock_and_count(conn: &mut PgConnection, app: AppId) -> sqlx::Result<i64> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('webhook_endpoints ' || encode($1, 'hex'), 0))",
        app as AppId,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from webhook_endpoints
           where app_id = $1 and room_id is null and deleted_at is null"#,
        app as AppId,
    )
    .fetch_one(conn)
    .await
}

pub async fn insert(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: &Endpoint,
    receiver: &str,
) -> sqlx::Result<()> {
    let likes = likes(endpoint);
    sqlx::query!(
        "insert into webhook_endpoints (id, app_id, url, receiver, events, description, created_at, disabled_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        endpoint.id as EndpointId,
        app as AppId,
        endpoint.url,
        receiver,
        likes.as_deref(),
        endpoint.description,
        endpoint.created_at,
        endpoint.disabled_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The app's own endpoints, or those of one of its rooms; the newest first.
pub async fn list(
    conn: &mut PgConnection,
    app: AppId,
    room: Option<RoomId>,
    limit: i64,
) -> sqlx::Result<Vec<Endpoint>> {
    let rows = select!(
        "e.room_id is not distinct from $2 order by e.id desc limit $3",
        app as AppId,
        room as Option<RoomId>,
        limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Endpoint::from).collect())
}

pub async fn find(
    conn: &mut PgConnection,
    app: AppId,
    id: EndpointId,
) -> sqlx::Result<Option<Endpoint>> {
    let row = select!("e.id = $2", app as AppId, id as EndpointId)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(Endpoint::from))
}

/// The endpoint, locked: events that are being written for it are waited for, and those after them see what becomes of it.
pub async fn lock(
    conn: &mut PgConnection,
    app: AppId,
    id: EndpointId,
) -> sqlx::Result<Option<Endpoint>> {
    let row = select!("e.id = $2 for update of e", app as AppId, id as EndpointId)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(Endpoint::from))
}

pub async fn update(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: &Endpoint,
    receiver: &str,
) -> sqlx::Result<()> {
    let likes = likes(endpoint);
    sqlx::query!(
        "with waiting as (
             update webhook_deliveries set receiver = $4
             where endpoint_id = $1 and app_id = $2 and due_at is not null and receiver <> $4
         )
         update webhook_endpoints set url = $3, receiver = $4, events = $5, description = $6, disabled_at = $7,
             disabled_reason = case when $7::timestamptz is not null then coalesce(disabled_reason, 'request') end,
             failing_since = case when disabled_at is null or $7 is not null then failing_since end
         where id = $1 and app_id = $2",
        endpoint.id as EndpointId,
        app as AppId,
        endpoint.url,
        receiver,
        likes.as_deref(),
        endpoint.description,
        endpoint.disabled_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the endpoint with its secrets; its deliveries stay as long as others do.
pub async fn delete(
    conn: &mut PgConnection,
    app: AppId,
    id: EndpointId,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update webhook_endpoints set deleted_at = $3, disabled_at = coalesce(disabled_at, $3)
         where id = $1 and app_id = $2",
        id as EndpointId,
        app as AppId,
        now,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "delete from webhook_secrets where app_id = $1 and endpoint_id = $2",
        app as AppId,
        id as EndpointId,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets deleted endpoints of the app to which no delivery is left.
pub async fn forget_deleted(conn: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from webhook_endpoints e where app_id = $1 and deleted_at is not null
           and not exists (select from webhook_deliveries d where d.endpoint_id = e.id)",
        app as AppId,
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn likes(endpoint: &Endpoint) -> Option<Vec<String>> {
    let events = endpoint.events.as_ref()?;
    Some(events.iter().map(Pattern::to_like).collect())
}

pub async fn insert_secret(
    conn: &mut PgConnection,
    id: WebhookSecretId,
    app: AppId,
    endpoint: Option<EndpointId>,
    secret: &Sealed<SigningSecret>,
    now: DateTime<Utc>,
    retires_at: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into webhook_secrets (id, app_id, endpoint_id, secret, created_at, retires_at)
         values ($1, $2, $3, $4, $5, $6)",
        id as WebhookSecretId,
        app as AppId,
        endpoint as Option<EndpointId>,
        secret.as_stored(),
        now,
        retires_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets no secret of the endpoint, or with none of the URLs of the app's rooms, sign from `at` on.
pub async fn retire(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: Option<EndpointId>,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update webhook_secrets set retires_at = least(retires_at, $3)
         where app_id = $1 and endpoint_id is not distinct from $2",
        app as AppId,
        endpoint as Option<EndpointId>,
        at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets the secrets of the endpoint, or of the URLs of the app's rooms, that do not sign at `now`; how many do.
pub async fn forget_retired(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: Option<EndpointId>,
    now: DateTime<Utc>,
) -> sqlx::Result<i64> {
    sqlx::query!(
        "delete from webhook_secrets
         where app_id = $1 and endpoint_id is not distinct from $2 and retires_at <= $3",
        app as AppId,
        endpoint as Option<EndpointId>,
        now,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from webhook_secrets
           where app_id = $1 and endpoint_id is not distinct from $2"#,
        app as AppId,
        endpoint as Option<EndpointId>,
    )
    .fetch_one(conn)
    .await
}

/// Secrets, of ids beyond `after`, that are sealed under another master key than `key`.
pub async fn secrets_not_under(
    conn: &mut System,
    key: KeyId,
    after: Option<WebhookSecretId>,
    limit: i64,
) -> sqlx::Result<Vec<(WebhookSecretId, Sealed<SigningSecret>)>> {
    let rows = sqlx::query!(
        "select id, secret from webhook_secrets
         where ($2::bytea is null or id > $2) and substring(secret from 2 for 4) <> $1
         order by id limit $3",
        key.as_bytes(),
        after as Option<WebhookSecretId>,
        limit,
    )
    .fetch_all(&mut **conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| (row.id, Sealed::from_stored(row.secret)))
        .collect())
}

/// Puts `new` where `old` still is.
pub async fn replace_secret(
    conn: &mut System,
    id: WebhookSecretId,
    old: &Sealed<SigningSecret>,
    new: &Sealed<SigningSecret>,
) -> sqlx::Result<u64> {
    let result = sqlx::query!(
        "update webhook_secrets set secret = $3 where id = $1 and secret = $2",
        id as WebhookSecretId,
        old.as_stored(),
        new.as_stored(),
    )
    .execute(&mut **conn)
    .await?;
    Ok(result.rows_affected())
}
