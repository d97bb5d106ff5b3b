//! The only SQL that touches `rooms`.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::{Error, Privacy, Room, RoomName, Rules};
use crate::{
    db::constraint,
    id::{AppId, RoomId},
    webhooks::RoomUrls,
};

/// A room as it is stored.
struct Row {
    id: RoomId,
    app_id: AppId,
    name: RoomName,
    privacy: Privacy,
    expires_at: Option<DateTime<Utc>>,
    eject_at_expiry: bool,
    eject_after_seconds: Option<i32>,
    max_participants: Option<i32>,
    auto_join: bool,
    meeting_join_webhook: Option<String>,
    meeting_left_webhook: Option<String>,
    meeting_started_webhook: Option<String>,
    meeting_ended_webhook: Option<String>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Room {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            app_id: row.app_id,
            name: row.name,
            rules: Rules {
                privacy: row.privacy,
                expires_at: row.expires_at,
                eject_at_expiry: row.eject_at_expiry,
                eject_after: row
                    .eject_after_seconds
                    .map(|seconds| TimeDelta::seconds(seconds.into())),
                max_participants: row.max_participants.map(i32::unsigned_abs),
                auto_join: row.auto_join,
            },
            webhooks: RoomUrls {
                meeting_started: row.meeting_started_webhook,
                meeting_join: row.meeting_join_webhook,
                meeting_left: row.meeting_left_webhook,
                meeting_ended: row.meeting_ended_webhook,
            },
            created_at: row.created_at,
        }
    }
}

/// A query for rooms, whole.
macro_rules! select {
    ($condition:literal, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            Row,
            "select id, app_id, name, privacy, expires_at, eject_at_expiry, eject_after_seconds, max_participants,
                 auto_join, meeting_join_webhook, meeting_left_webhook, meeting_started_webhook,
                 meeting_ended_webhook, created_at
             from rooms " + $condition,
            $($argument),*
        )
    };
}

pub async fn insert(conn: &mut PgConnection, room: &Room) -> Result<(), Error> {
    let Room {
        rules, webhooks, ..
    } = room;
    sqlx::query!(
        "insert into rooms (id, app_id, name, privacy, expires_at, eject_at_expiry, eject_after_seconds,
             max_participants, auto_join, meeting_join_webhook, meeting_left_webhook, meeting_started_webhook,
             meeting_ended_webhook, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        room.id as RoomId,
        room.app_id as AppId,
        &room.name as &RoomName,
        rules.privacy as Privacy,
        rules.expires_at,
        rules.eject_at_expiry,
        rules.eject_after.and_then(|limit| i32::try_from(limit.num_seconds()).ok()),
        rules.max_participants.and_then(|limit| i32::try_from(limit).ok()),
        rules.auto_join,
        webhooks.meeting_join,
        webhooks.meeting_left,
        webhooks.meeting_started,
        webhooks.meeting_ended,
        room.created_at,
    )
    .execute(conn)
    .await
    .map_err(|error| match constraint(&error) {
        Some("rooms_name_unless_archived") => Error::NameTaken,
        _ => error.into(),
    })?;
    Ok(())
}

pub async fn find(
    conn: &mut PgConnection,
    app: AppId,
    name: &RoomName,
) -> sqlx::Result<Option<Room>> {
    let row = select!(
        "where app_id = $1 and name = $2 and archived_at is null",
        app as AppId,
        name as &RoomName,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Room::from))
}

pub async fn get(conn: &mut PgConnection, app: AppId, id: RoomId) -> sqlx::Result<Option<Room>> {
    let row = select!("where app_id = $1 and id = $2", app as AppId, id as RoomId,)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(Room::from))
}

/// The room, unless archived, locked against changes and against the opening of a meeting.
pub async fn lock(conn: &mut PgConnection, app: AppId, id: RoomId) -> sqlx::Result<Option<Room>> {
    let row = select!(
        "where app_id = $1 and id = $2 and archived_at is null for update",
        app as AppId,
        id as RoomId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Room::from))
}

/// Keeps the room from being archived or expired until the transaction ends; whether it is there.
pub async fn hold(conn: &mut PgConnection, app: AppId, id: RoomId) -> sqlx::Result<bool> {
    let row = sqlx::query_scalar!(
        r#"select true as "there!" from rooms where app_id = $1 and id = $2 and archived_at is null for share"#,
        app as AppId,
        id as RoomId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

pub async fn archive(
    conn: &mut PgConnection,
    app: AppId,
    name: &RoomName,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<RoomId>> {
    sqlx::query_scalar!(
        "update rooms set archived_at = $3 where app_id = $1 and name = $2 and archived_at is null returning id",
        app as AppId,
        name as &RoomName,
        now,
    )
    .fetch_optional(conn)
    .await
}
