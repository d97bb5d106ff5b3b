//! The only SQL that touches `apps` and `secret_keys`.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, postgres::types::PgInterval, types::Json};

use super::{
    App, AppName, AppSettings, Configured, Credential, Environment, Error, KeySummary, NewApp,
    SecretKey,
};
use crate::{
    db::{System, constraint},
    id::{AppId, SecretKeyId},
    sealed::{KeyId, Sealed},
    webhooks::SigningSecret,
};

pub async fn insert(
    conn: &mut PgConnection,
    id: AppId,
    new: &NewApp,
    webhook_secret: &Sealed<SigningSecret>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "insert into apps (id, name, room_webhook_secret, is_default, settings, created_at)
         values ($1, $2, $3, $4, $5, $6)",
        id as AppId,
        &new.name as &AppName,
        webhook_secret.as_stored(),
        new.is_default,
        Json(&new.settings) as _,
        now,
    )
    .execute(conn)
    .await
    .map_err(|error| match constraint(&error) {
        Some("apps_name_key") => Error::NameTaken,
        _ => error.into(),
    })?;
    Ok(())
}

/// Takes localhost from the app that answers there.
pub async fn without_default(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("update apps set is_default = false where is_default")
        .execute(conn)
        .await?;
    Ok(())
}

/// An app with its settings, as it is stored.
struct Row {
    id: AppId,
    name: AppName,
    is_default: bool,
    created_at: DateTime<Utc>,
    settings: Json<AppSettings>,
    settings_version: i32,
}

impl From<Row> for Configured {
    fn from(row: Row) -> Self {
        Self {
            app: App {
                id: row.id,
                name: row.name,
                is_default: row.is_default,
                created_at: row.created_at,
            },
            settings: row.settings.0,
            version: row.settings_version,
        }
    }
}

/// A query for apps with their settings.
macro_rules! select {
    ($condition:literal, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"select id, name as "name: AppName", is_default, created_at, settings as "settings: Json<AppSettings>",
                 settings_version
               from apps "# + $condition,
            $($argument),*
        )
    };
}

pub async fn configured(conn: &mut PgConnection, app: AppId) -> sqlx::Result<Option<Configured>> {
    let row = select!("where id = $1", app as AppId)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(Configured::from))
}

/// The app's settings. The statement names its tenant itself, so `conn` needs neither a transaction nor a tenant.
pub async fn settings(conn: &mut PgConnection, app: AppId) -> sqlx::Result<Option<AppSettings>> {
    // The inner query is asked for the tenant's row, so after the tenant is set.
    let settings = sqlx::query_scalar!(
        r#"with tenant as materialized (
               select decode(set_config('plenum.app_id', encode($1, 'hex'), true), 'hex') as id
           )
           select (select a.settings from apps a where a.id = tenant.id) as "settings: Json<AppSettings>" from tenant"#,
        app as AppId,
    )
    .fetch_one(conn)
    .await?;
    Ok(settings.map(|Json(settings)| settings))
}

/// The app with its settings, locked against changes.
pub async fn lock_configured(
    conn: &mut PgConnection,
    app: AppId,
) -> sqlx::Result<Option<Configured>> {
    let row = select!("where id = $1 for no key update", app as AppId)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(Configured::from))
}

pub async fn configure(
    conn: &mut PgConnection,
    app: AppId,
    settings: &AppSettings,
    version: i32,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update apps set settings = settings || $2, settings_version = $3 where id = $1",
        app as AppId,
        Json(settings) as _,
        version,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn insert_key(
    conn: &mut PgConnection,
    id: SecretKeyId,
    app: AppId,
    key: &SecretKey,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let hash = key.hash();
    sqlx::query!(
        "insert into secret_keys (id, app_id, hash, environment, prefix, last_four, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        id as SecretKeyId,
        app as AppId,
        hash.as_slice(),
        key.environment() as Environment,
        key.prefix(),
        key.last_four(),
        now,
    )
    .execute(conn)
    .await
    .map_err(|error| match constraint(&error) {
        Some("secret_keys_hash_key") => Error::KeyTaken,
        _ => error.into(),
    })?;
    Ok(())
}

pub async fn by_key(conn: &mut System, key: &SecretKey) -> sqlx::Result<Option<Credential>> {
    let hash = key.hash();
    let row = sqlx::query!(
        r#"select k.id, k.expires_at, k.last_used_at,
                  a.id as app_id, a.name as "name: AppName", a.is_default, a.created_at
           from secret_keys k join apps a on a.id = k.app_id
           where k.hash = $1 and k.revoked_at is null"#,
        hash.as_slice(),
    )
    .fetch_optional(&mut **conn)
    .await?;
    Ok(row.map(|row| Credential {
        key: row.id,
        app: App {
            id: row.app_id,
            name: row.name,
            is_default: row.is_default,
            created_at: row.created_at,
        },
        expires_at: row.expires_at,
        last_used_at: row.last_used_at,
    }))
}

pub async fn by_name(conn: &mut System, name: &AppName) -> sqlx::Result<Option<App>> {
    sqlx::query_as!(
        App,
        r#"select id, name as "name: AppName", is_default, created_at from apps where name = $1"#,
        name as &AppName,
    )
    .fetch_optional(&mut **conn)
    .await
}

pub async fn default(conn: &mut System) -> sqlx::Result<Option<App>> {
    sqlx::query_as!(
        App,
        r#"select id, name as "name: AppName", is_default, created_at from apps where is_default"#,
    )
    .fetch_optional(&mut **conn)
    .await
}

/// A sealed webhook secret and whose it is: one under none of `keys`, where there is one, or else the default app's.
pub async fn any_webhook_secret(
    conn: &mut System,
    keys: &[KeyId],
) -> sqlx::Result<Option<(AppId, Sealed<SigningSecret>)>> {
    let keys: Vec<&[u8]> = keys.iter().map(KeyId::as_bytes).collect();
    let row = sqlx::query!(
        "select id, room_webhook_secret from apps
         order by substring(room_webhook_secret from 2 for 4) = any ($1::bytea[]), is_default desc, id limit 1",
        &keys as &[&[u8]],
    )
    .fetch_optional(&mut **conn)
    .await?;
    Ok(row.map(|row| (row.id, Sealed::from_stored(row.room_webhook_secret))))
}

/// The secret of the webhooks of the app's rooms, locked against changes.
pub async fn lock_webhook_secret(
    conn: &mut PgConnection,
    app: AppId,
) -> sqlx::Result<Option<Sealed<SigningSecret>>> {
    let secret = sqlx::query_scalar!(
        "select room_webhook_secret from apps where id = $1 for no key update",
        app as AppId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(secret.map(Sealed::from_stored))
}

pub async fn set_webhook_secret(
    conn: &mut PgConnection,
    app: AppId,
    secret: &Sealed<SigningSecret>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update apps set room_webhook_secret = $2 where id = $1",
        app as AppId,
        secret.as_stored(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Sealed webhook secrets under another key than this one, up to `limit`, of the apps after `after`.
pub async fn webhook_secrets_not_under(
    conn: &mut System,
    key: KeyId,
    after: Option<AppId>,
    limit: i64,
) -> sqlx::Result<Vec<(AppId, Sealed<SigningSecret>)>> {
    let rows = sqlx::query!(
        "select id, room_webhook_secret from apps
         where ($2::bytea is null or id > $2) and substring(room_webhook_secret from 2 for 4) <> $1
         order by id limit $3",
        key.as_bytes(),
        after as Option<AppId>,
        limit,
    )
    .fetch_all(&mut **conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| (row.id, Sealed::from_stored(row.room_webhook_secret)))
        .collect())
}

/// Puts `new` where `old` still is.
pub async fn replace_webhook_secret(
    conn: &mut System,
    app: AppId,
    old: &Sealed<SigningSecret>,
    new: &Sealed<SigningSecret>,
) -> sqlx::Result<u64> {
    let result = sqlx::query!(
        "update apps set room_webhook_secret = $3 where id = $1 and room_webhook_secret = $2",
        app as AppId,
        old.as_stored(),
        new.as_stored(),
    )
    .execute(&mut **conn)
    .await?;
    Ok(result.rows_affected())
}

pub async fn list(conn: &mut System) -> sqlx::Result<Vec<App>> {
    sqlx::query_as!(
        App,
        r#"select id, name as "name: AppName", is_default, created_at from apps order by name"#,
    )
    .fetch_all(&mut **conn)
    .await
}

pub async fn keys(conn: &mut System, app: AppId) -> sqlx::Result<Vec<KeySummary>> {
    sqlx::query_as!(
        KeySummary,
        "select id, environment, prefix, last_four, created_at, last_used_at, expires_at, revoked_at
         from secret_keys where app_id = $1 order by id",
        app as AppId,
    )
    .fetch_all(&mut **conn)
    .await
}

pub async fn revoke_key(
    conn: &mut System,
    id: SecretKeyId,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let result = sqlx::query!(
        "update secret_keys set revoked_at = $2 where id = $1 and revoked_at is null",
        id as SecretKeyId,
        now,
    )
    .execute(&mut **conn)
    .await?;
    Ok(result.rows_affected() > 0)
}

/// Lets a key that opens run out by `expires_at` at the latest; whose it is, of which environment, and when it runs out.
pub async fn expire_key(
    conn: &mut PgConnection,
    id: SecretKeyId,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> sqlx::Result<Option<(AppId, Environment, DateTime<Utc>)>> {
    let row = sqlx::query!(
        r#"update secret_keys set expires_at = least(expires_at, $3)
         where id = $1 and revoked_at is null and (expires_at is null or expires_at > $2)
         returning app_id, environment, expires_at as "expires_at!""#,
        id as SecretKeyId,
        now,
        expires_at,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.app_id, row.environment, row.expires_at)))
}

/// Writes when keys were used, where the last use that was written is `every` so long before.
pub async fn write_uses(
    conn: &mut System,
    used: &HashMap<SecretKeyId, DateTime<Utc>>,
    every: TimeDelta,
) -> sqlx::Result<()> {
    let (ids, times): (Vec<SecretKeyId>, Vec<DateTime<Utc>>) = used.iter().unzip();
    let every = PgInterval::try_from(every).map_err(sqlx::Error::Encode)?;
    sqlx::query!(
        "update secret_keys k set last_used_at = u.at
         from unnest($1::bytea[], $2::timestamptz[]) u (id, at)
         where k.id = u.id and (k.last_used_at is null or k.last_used_at <= u.at - $3::interval)",
        &ids as &[SecretKeyId],
        &times,
        every,
    )
    .execute(&mut **conn)
    .await?;
    Ok(())
}

pub async fn take_for_retention(
    conn: &mut System,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> sqlx::Result<Option<(AppId, AppSettings)>> {
    let row = sqlx::query!(
        r#"update apps set retention_due_at = $2
           where id = (
               select id from apps where retention_due_at <= $1
               order by retention_due_at, id limit 1 for no key update skip locked)
           returning id, settings as "settings: Json<AppSettings>""#,
        now,
        until,
    )
    .fetch_optional(&mut **conn)
    .await?;
    Ok(row.map(|row| (row.id, row.settings.0)))
}

pub async fn set_retention(
    conn: &mut System,
    app: AppId,
    due_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update apps set retention_due_at = $2 where id = $1",
        app as AppId,
        due_at,
    )
    .execute(&mut **conn)
    .await?;
    Ok(())
}

pub async fn next_retention(conn: &mut System) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!("select min(retention_due_at) from apps")
        .fetch_one(&mut **conn)
        .await
}

pub async fn revoke_keys(conn: &mut System, app: AppId, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!(
        "update secret_keys set revoked_at = $2 where app_id = $1 and revoked_at is null",
        app as AppId,
        now,
    )
    .execute(&mut **conn)
    .await?;
    Ok(())
}

/// Removes an app and, since all that it has refers to it, that too.
pub async fn remove(conn: &mut PgConnection, app: AppId) -> sqlx::Result<bool> {
    // One statement, and there may be a lot to remove.
    sqlx::query!("select set_config('statement_timeout', '0', true)")
        .fetch_one(&mut *conn)
        .await?;
    let removed = sqlx::query!("delete from apps where id = $1", app as AppId)
        .execute(conn)
        .await?;
    Ok(removed.rows_affected() == 1)
}
