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
    kind: Kind,
    subject: Subject,
    meeting: Option<MeetingId>,
    due_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into deadlines (kind, subject, app_id, meeting_id, due_at, version) values ($1, $2, $3, $4, $5, 1)
         on conflict (kind, subject) do update set due_at = excluded.due_at, version = deadlines.version + 1",
        kind as Kind,
        subject as Subject,
        app as AppId,
        meeting as Option<MeetingId>,
        due_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn cancel(conn: &mut PgConnection, app: AppId, key: Key) -> sqlx::Result<()> {
    sqlx::query!(
        "update deadlines set due_at = null, version = version + 1
         where kind = $1 and subject = $2 and app_id = $3 and due_at is not null",
        key.kind as Kind,
        key.subject as Subject,
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
           from deadlines where meeting_id is null and due_at <= $1 order by due_at limit $2"#,
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
        "select min(due_at) from deadlines where meeting_id is null and due_at is not null"
    )
    .fetch_one(&mut **conn)
    .await
}
