//! The only SQL that touches `apps` and `secret_keys`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{App, AppName, Error, KeySummary, NewApp, SecretKey};
use crate::{
    db::{System, constraint},
    id::{AppId, SecretKeyId},
    sealed::Sealed,
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
        "insert into apps (id, name, room_webhook_secret, is_default, created_at) values ($1, $2, $3, $4, $5)",
        id as AppId,
        &new.name as &AppName,
        webhook_secret.as_stored(),
        new.is_default,
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

pub async fn insert_key(
    conn: &mut PgConnection,
    id: SecretKeyId,
    app: AppId,
    key: &SecretKey,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let hash = key.hash();
    sqlx::query!(
        "insert into secret_keys (id, app_id, hash, last_four, created_at) values ($1, $2, $3, $4, $5)",
        id as SecretKeyId,
        app as AppId,
        hash.as_slice(),
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

pub async fn by_key(conn: &mut System, key: &SecretKey) -> sqlx::Result<Option<App>> {
    let hash = key.hash();
    sqlx::query_as!(
        App,
        r#"select a.id, a.name as "name: AppName", a.is_default, a.created_at
           from secret_keys k join apps a on a.id = k.app_id
           where k.hash = $1 and k.revoked_at is null"#,
        hash.as_slice(),
    )
    .fetch_optional(&mut **conn)
    .await
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

/// A sealed webhook secret and whose it is: the default app's, where there is one.
pub async fn any_webhook_secret(
    conn: &mut System,
) -> sqlx::Result<Option<(AppId, Sealed<SigningSecret>)>> {
    let row = sqlx::query!(
        r#"select id as "id: AppId", room_webhook_secret from apps order by is_default desc, id limit 1"#,
    )
    .fetch_optional(&mut **conn)
    .await?;
    Ok(row.map(|row| (row.id, Sealed::from_stored(row.room_webhook_secret))))
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
        "select id, last_four, created_at, revoked_at from secret_keys where app_id = $1 order by id",
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
