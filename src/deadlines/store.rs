//! The only SQL that touches `deadlines`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Due, Key, Kind, Subject};
use crate::{
    db::System,
    id::{AppId, MeetingId},
};

pub async fn set(
    conn: &mut PgConnection,
    app: AppId,
    meeting: Option<MeetingId>,
    deadlines: &[(&Key, &DateTime<Utc>)],
) -> sqlx::Result<()> {
    if deadlines.is_empty() {
        return Ok(());
    }
    let kinds: Vec<&str> = deadlines.iter().map(|(key, _)| key.kind.as_str()).collect();
    let subjects: Vec<&[u8]> = deadlines
        .iter()
        .map(|(key, _)| key.subject.0.as_slice())
        .collect();
    let times: Vec<DateTime<Utc>> = deadlines.iter().map(|(_, due_at)| **due_at).collect();
    sqlx::query!(
        "insert into deadlines (kind, subject, app_id, meeting_id, due_at, version)
         select kind, subject, $1, $2, due_at, 1
         from unnest($3::text[], $4::bytea[], $5::timestamptz[]) as given (kind, subject, due_at)
         on conflict (kind, subject) do update set due_at = excluded.due_at, version = deadlines.version + 1",
        app as AppId,
        meeting as Option<MeetingId>,
        &kinds as &[&str],
        &subjects as &[&[u8]],
        &times,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn cancel(conn: &mut PgConnection, app: AppId, keys: &[&Key]) -> sqlx::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let kinds: Vec<&str> = keys.iter().map(|key| key.kind.as_str()).collect();
    let subjects: Vec<&[u8]> = keys.iter().map(|key| key.subject.0.as_slice()).collect();
    sqlx::query!(
        "update deadlines d set due_at = null, version = version + 1
         from unnest($2::text[], $3::bytea[]) as given (kind, subject)
         where d.kind = given.kind and d.subject = given.subject and d.app_id = $1 and d.due_at is not null",
        app as AppId,
        &kinds as &[&str],
        &subjects as &[&[u8]],
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn forget(conn: &mut PgConnection, app: AppId, meeting: MeetingId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from deadlines where meeting_id = $1 and app_id = $2",
        meeting as MeetingId,
        app as AppId,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn take(conn: &mut PgConnection, due: &Due) -> sqlx::Result<bool> {
    let result = sqlx::query!(
        "update deadlines set due_at = null, version = version + 1
         where (kind, subject) = (
             select kind, subject from deadlines
             where kind = $1 and subject = $2 and app_id = $3 and version = $4 and due_at is not null
             for update skip locked)",
        due.kind as Kind,
        Subject::from(due.room) as Subject,
        due.app as AppId,
        due.version,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The deadlines of rooms that are due, the oldest first.
pub async fn due_of_rooms(
    conn: &mut System,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Due>> {
    let rows = sqlx::query!(
        r#"select app_id, kind as "kind: Kind", subject as "subject: Subject", due_at as "due_at!", version
           from deadlines where meeting_id is null and kind in ('roomExpires', 'roomUnused') and due_at <= $1
           order by due_at limit $2"#,
        now,
        limit,
    )
    .fetch_all(&mut **conn)
    .await?;
    let due = rows.into_iter().map(|row| Due {
        app: row.app_id,
        kind: row.kind,
        room: row.subject.into(),
        at: row.due_at,
        version: row.version,
    });
    Ok(due.collect())
}

/// When the next deadline of a room is due.
pub async fn next_of_rooms(conn: &mut System) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        "select min(due_at) from deadlines
         where meeting_id is null and kind in ('roomExpires', 'roomUnused') and due_at is not null"
    )
    .fetch_one(&mut **conn)
    .await
}
