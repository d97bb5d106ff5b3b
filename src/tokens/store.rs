//! The only SQL that touches `token_secrets`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::TokenSecret;
use crate::{
    db::System,
    id::{AppId, TokenSecretId},
    sealed::{KeyId, Sealed},
};

/// Stores the secret that signs from now on; nothing where the app has one that does.
pub async fn insert(
    conn: &mut PgConnection,
    id: TokenSecretId,
    app: AppId,
    secret: &Sealed<TokenSecret>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into token_secrets (id, app_id, secret, created_at) values ($1, $2, $3, $4)
         on conflict (app_id) where retires_at is null do nothing",
        id as TokenSecretId,
        app as AppId,
        secret.as_stored(),
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The secret that signs.
pub async fn signing(
    conn: &mut PgConnection,
    app: AppId,
) -> sqlx::Result<Option<(TokenSecretId, Sealed<TokenSecret>)>> {
    let row = sqlx::query!(
        "select id, secret from token_secrets where app_id = $1 and retires_at is null",
        app as AppId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.id, Sealed::from_stored(row.secret))))
}

/// The secret of this id, if it is the app's and not retired at `now`.
pub async fn find(
    conn: &mut PgConnection,
    app: AppId,
    id: TokenSecretId,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Sealed<TokenSecret>>> {
    let secret = sqlx::query_scalar!(
        "select secret from token_secrets where app_id = $1 and id = $2 and (retires_at is null or retires_at > $3)",
        app as AppId,
        id as TokenSecretId,
        now,
    )
    .fetch_optional(conn)
    .await?;
    Ok(secret.map(Sealed::from_stored))
}

/// Whose secret it is.
pub async fn app_of(conn: &mut System, id: TokenSecretId) -> sqlx::Result<Option<AppId>> {
    sqlx::query_scalar!(
        "select app_id from token_secrets where id = $1",
        id as TokenSecretId
    )
    .fetch_optional(&mut **conn)
    .await
}

/// Lets no secret of the app open anything from `at` on, and forgets those that do not at `now`.
pub async fn retire(
    conn: &mut PgConnection,
    app: AppId,
    at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update token_secrets set retires_at = $2 where app_id = $1 and (retires_at is null or retires_at > $2)",
        app as AppId,
        at,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "delete from token_secrets where app_id = $1 and retires_at <= $2",
        app as AppId,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Secrets, of ids beyond `after`, that are sealed under another master key than `key`.
pub async fn not_under(
    conn: &mut System,
    key: KeyId,
    after: Option<TokenSecretId>,
    limit: i64,
) -> sqlx::Result<Vec<(TokenSecretId, Sealed<TokenSecret>)>> {
    let rows = sqlx::query!(
        "select id, secret from token_secrets
         where ($2::bytea is null or id > $2) and substring(secret from 2 for 4) <> $1
         order by id limit $3",
        key.as_bytes(),
        after as Option<TokenSecretId>,
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
pub async fn replace(
    conn: &mut System,
    id: TokenSecretId,
    old: &Sealed<TokenSecret>,
    new: &Sealed<TokenSecret>,
) -> sqlx::Result<u64> {
    let result = sqlx::query!(
        "update token_secrets set secret = $3 where id = $1 and secret = $2",
        id as TokenSecretId,
        old.as_stored(),
        new.as_stored(),
    )
    .execute(&mut **conn)
    .await?;
    Ok(result.rows_affected())
}
