//! The only SQL that touches `chat_messages`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Line, Place};
use crate::id::{AppId, MeetingId, ParticipantId, RoomId};

/// Writes lines of an app; those of rooms that are gone or people who are forgotten, and those that are written already, are
/// left out.
pub async fn insert(
    conn: &mut PgConnection,
    app: AppId,
    lines: &[&(Place, Arc<Line>)],
) -> sqlx::Result<()> {
    let ids: Vec<&[u8]> = lines
        .iter()
        .map(|(_, line)| line.id.as_bytes().as_slice())
        .collect();
    let rooms: Vec<&[u8]> = lines
        .iter()
        .map(|(place, _)| place.room.as_bytes().as_slice())
        .collect();
    let meetings: Vec<&[u8]> = lines
        .iter()
        .map(|(place, _)| place.meeting.as_bytes().as_slice())
        .collect();
    let participants: Vec<&[u8]> = lines
        .iter()
        .map(|(_, line)| line.participant.as_bytes().as_slice())
        .collect();
    let names: Vec<&str> = lines.iter().map(|(_, line)| &*line.name).collect();
    let texts: Vec<&str> = lines.iter().map(|(_, line)| &*line.text).collect();
    let answered: Vec<Option<&str>> = lines
        .iter()
        .map(|(_, line)| line.reply_to.as_deref())
        .collect();
    let times: Vec<DateTime<Utc>> = lines.iter().map(|(_, line)| line.sent_at).collect();
    sqlx::query!(
        "insert into chat_messages (id, app_id, room_id, meeting_id, participant_id, name, text, reply_to, sent_at)
         select l.id, $1, l.room, l.meeting, l.participant, l.name, l.text, l.reply_to, l.sent_at
         from unnest($2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
             with ordinality as l (id, room, meeting, participant, name, text, reply_to, sent_at, number)
         join rooms r on r.app_id = $1 and r.id = l.room and r.archived_at is null
         join participants p on p.app_id = $1 and p.id = l.participant and p.name is not null
         order by l.number
         for share of r, p
         on conflict (id) do nothing",
        app as AppId,
        &ids as &[&[u8]],
        &rooms as &[&[u8]],
        &meetings as &[&[u8]],
        &participants as &[&[u8]],
        &names as &[&str],
        &texts as &[&str],
        &answered as &[Option<&str>],
        &times,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The last lines of a room, or of one meeting in it, from the oldest to the newest.
pub async fn last(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
    meeting: Option<MeetingId>,
    limit: i64,
) -> sqlx::Result<Vec<Line>> {
    let rows = sqlx::query!(
        "select id, participant_id, name, text, reply_to, sent_at from chat_messages
         where app_id = $1 and room_id = $2 and ($3::bytea is null or meeting_id = $3)
         order by number desc limit $4",
        app as AppId,
        room as RoomId,
        meeting as Option<MeetingId>,
        limit,
    )
    .fetch_all(conn)
    .await?;
    let lines = rows.into_iter().rev().map(|row| Line {
        id: row.id,
        participant: row.participant_id,
        name: row.name.into(),
        text: row.text.into(),
        reply_to: row.reply_to.map(Arc::from),
        sent_at: row.sent_at,
    });
    Ok(lines.collect())
}

pub async fn delete(conn: &mut PgConnection, app: AppId, room: RoomId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from chat_messages where app_id = $1 and room_id = $2",
        app as AppId,
        room as RoomId,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn delete_of(
    conn: &mut PgConnection,
    app: AppId,
    participants: &[ParticipantId],
) -> sqlx::Result<()> {
    let ids: Vec<&[u8]> = participants
        .iter()
        .map(|id| id.as_bytes().as_slice())
        .collect();
    sqlx::query!(
        "delete from chat_messages where app_id = $1 and participant_id = any($2::bytea[])",
        app as AppId,
        &ids as &[&[u8]],
    )
    .execute(conn)
    .await?;
    Ok(())
}
