//! The only SQL that touches `idempotency_keys`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Key, Made};
use crate::id::{AppId, RoomId};

/// Claims a key that is not known, or was last used before `forgotten`; whether it was so. With each claim a few of the
/// app's keys that are forgotten are removed, which is more than come in.
pub async fn claim(
    conn: &mut PgConnection,
    app: AppId,
    key: &Key,
    request: &[u8; 32],
    now: DateTime<Utc>,
    forgotten: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let result = sqlx::query!(
        "with removed as (
             delete from idempotency_keys where (app_id, key) in (
                 select app_id, key from idempotency_keys
                 where app_id = $1 and created_at < $5 and key <> $2
                 order by created_at limit 4 for update skip locked)
         )
         insert into idempotency_keys (app_id, key, request, created_at) values ($1, $2, $3, $4)
         on conflict (app_id, key) do update set request = excluded.request, room_id = null, command_id = null,
             created_at = excluded.created_at
         where idempotency_keys.created_at < $5",
        app as AppId,
        key.0,
        request.as_slice(),
        now,
        forgotten,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

pub async fn find(
    conn: &mut PgConnection,
    app: AppId,
    key: &Key,
) -> sqlx::Result<(Vec<u8>, Option<Made>)> {
    let row = sqlx::query!(
        r#"select request, room_id as "room_id: RoomId", command_id from idempotency_keys where app_id = $1 and key = $2"#,
        app as AppId,
        key.0,
    )
    .fetch_one(conn)
    .await?;
    let room = row.room_id.map(Made::Room);
    Ok((row.request, room.or(row.command_id.map(Made::Command))))
}

pub async fn done(conn: &mut PgConnection, app: AppId, key: &Key, made: Made) -> sqlx::Result<()> {
    let (room, command) = match made {
        Made::Room(room) => (Some(room), None),
        Made::Command(command) => (None, Some(command)),
    };
    sqlx::query!(
        "update idempotency_keys set room_id = $3, command_id = $4 where app_id = $1 and key = $2",
        app as AppId,
        key.0,
        room as Option<RoomId>,
        command,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes up to `limit` keys that were last used before `forgotten`; how many there were.
pub async fn forget_old(
    conn: &mut PgConnection,
    app: AppId,
    forgotten: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    let removed = sqlx::query!(
        "delete from idempotency_keys where (app_id, key) in (
             select app_id, key from idempotency_keys where app_id = $1 and created_at < $2
             order by created_at limit $3 for update skip locked)",
        app as AppId,
        forgotten,
        limit,
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected())
}
