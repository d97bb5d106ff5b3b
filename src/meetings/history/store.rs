//! SQL of what is read of `meetings` and `participants`, and of what `participants` forget.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Filter, Meeting, Page, Stay, Who};
use crate::{
    id::{AppId, MeetingId, ParticipantId, RoomId},
    meetings::{Device, Identity, Role, Status},
    rooms::RoomName,
};

/// A query for meetings at `$2`.
macro_rules! select_meetings {
    ($condition:literal, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            Meeting,
            r#"select m.id, m.room_id, r.name as "room_name: RoomName", m.status as "status: Status", m.created_at,
                   m.started_at, m.ended_at, m.end_reason, m.participant_count, m.max_concurrent,
                   coalesce((
                       select sum(greatest(
                           floor(extract(epoch from coalesce(p.left_at, p.away_since, $2)))
                               - floor(extract(epoch from p.joined_at)), 0))
                       from participants p where p.meeting_id = m.id and p.app_id = m.app_id
                   ), 0)::bigint as "participant_seconds!"
               from meetings m join rooms r on r.id = m.room_id and r.app_id = m.app_id "# + $condition,
            $($argument),*
        )
    };
}

pub async fn meetings(
    conn: &mut PgConnection,
    app: AppId,
    filter: &Filter,
    page: Page<MeetingId>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Meeting>> {
    select_meetings!(
        "where m.app_id = $1
           and ($3::text is null or m.room_id in (
               select id from rooms where app_id = $1 and name = $3 and archived_at is null
               union all select id from rooms where app_id = $1 and name = $3 and archived_at is not null))
           and ($4::text is null or m.status = $4) and ($5::boolean is null or (m.status = 'live') = $5)
           and ($6::timestamptz is null or m.created_at >= $6) and ($7::timestamptz is null or m.created_at < $7)
           and ($8::bytea is null or m.id < $8)
         order by m.id desc limit $9",
        app as AppId,
        now,
        filter.room_name.as_ref() as Option<&RoomName>,
        filter.status as Option<Status>,
        filter.is_live,
        filter.from,
        filter.until,
        page.after as Option<MeetingId>,
        page.limit,
    )
    .fetch_all(conn)
    .await
}

pub async fn count(conn: &mut PgConnection, app: AppId, filter: &Filter) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from meetings m
           where m.app_id = $1
             and ($2::text is null or m.room_id in (
                 select id from rooms where app_id = $1 and name = $2 and archived_at is null
                 union all select id from rooms where app_id = $1 and name = $2 and archived_at is not null))
             and ($3::text is null or m.status = $3) and ($4::boolean is null or (m.status = 'live') = $4)
             and ($5::timestamptz is null or m.created_at >= $5) and ($6::timestamptz is null or m.created_at < $6)"#,
        app as AppId,
        filter.room_name.as_ref() as Option<&RoomName>,
        filter.status as Option<Status>,
        filter.is_live,
        filter.from,
        filter.until,
    )
    .fetch_one(conn)
    .await
}

pub async fn meeting(
    conn: &mut PgConnection,
    app: AppId,
    id: MeetingId,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Meeting>> {
    select_meetings!(
        "where m.app_id = $1 and m.id = $3",
        app as AppId,
        now,
        id as MeetingId,
    )
    .fetch_optional(conn)
    .await
}

pub async fn running(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
) -> sqlx::Result<Option<MeetingId>> {
    sqlx::query_scalar!(
        "select id from meetings where app_id = $1 and room_id = $2 and status <> 'ended'",
        app as AppId,
        room as RoomId,
    )
    .fetch_optional(conn)
    .await
}

/// A stay as it is stored.
struct Row {
    id: ParticipantId,
    meeting_id: MeetingId,
    name: Option<String>,
    role: Role,
    external_user_id: Option<String>,
    email: Option<String>,
    meta: Option<String>,
    browser: Option<String>,
    os: Option<String>,
    joined_at: DateTime<Utc>,
    away_since: Option<DateTime<Utc>>,
    left_at: Option<DateTime<Utc>>,
    leave_reason: Option<String>,
}

impl From<Row> for Stay {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            meeting: row.meeting_id,
            name: row.name,
            identity: Identity {
                external_user_id: row.external_user_id,
                email: row.email,
                meta: row.meta,
            },
            device: Device {
                browser: row.browser,
                os: row.os,
            },
            role: row.role,
            joined_at: row.joined_at,
            away_since: row.away_since,
            left_at: row.left_at,
            leave_reason: row.leave_reason,
        }
    }
}

/// A query for stays.
macro_rules! select_stays {
    ($condition:literal, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"select id, meeting_id, name, role as "role: Role", external_user_id, email, meta, browser, os, joined_at,
                   away_since, left_at, leave_reason
               from participants "# + $condition,
            $($argument),*
        )
    };
}

pub async fn stays(
    conn: &mut PgConnection,
    app: AppId,
    meeting: MeetingId,
    who: Who,
    page: Page<ParticipantId>,
) -> sqlx::Result<Vec<Stay>> {
    let rows = select_stays!(
        "where app_id = $1 and meeting_id = $2 and (left_at is null or not $3)
           and ($4::bytea is null or id > $4)
         order by id limit $5",
        app as AppId,
        meeting as MeetingId,
        who == Who::WhoIsIn,
        page.after as Option<ParticipantId>,
        page.limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Stay::from).collect())
}

pub async fn count_stays(
    conn: &mut PgConnection,
    app: AppId,
    meeting: MeetingId,
    who: Who,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from participants
           where app_id = $1 and meeting_id = $2 and (left_at is null or not $3)"#,
        app as AppId,
        meeting as MeetingId,
        who == Who::WhoIsIn,
    )
    .fetch_one(conn)
    .await
}

pub async fn stay(
    conn: &mut PgConnection,
    app: AppId,
    id: ParticipantId,
) -> sqlx::Result<Option<Stay>> {
    let row = select_stays!(
        "where app_id = $1 and id = $2",
        app as AppId,
        id as ParticipantId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Stay::from))
}

/// The columns that tell who somebody was are emptied; those by which an owner knows a stay that lasts, once it has ended.
macro_rules! forget {
    ($which:literal, $($argument:expr),* $(,)?) => {
        sqlx::query!(
            "with found as (select id from participants " + $which + ")
             update participants p
             set name = null, external_user_id = null, email = null, meta = null, browser = null, os = null,
                 token_id = case when p.left_at is null then p.token_id end,
                 resume_hash = case when p.left_at is null then p.resume_hash end
             from found where p.id = found.id returning p.meeting_id, p.id",
            $($argument),*
        )
    };
}

pub async fn forget_old(
    conn: &mut PgConnection,
    app: AppId,
    before: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<(MeetingId, ParticipantId)>> {
    let forgotten = forget!(
        "where app_id = $1 and left_at < $2 and name is not null order by left_at limit $3 for update skip locked",
        app as AppId,
        before,
        limit,
    )
    .fetch_all(conn)
    .await?;
    let stays = forgotten.into_iter().map(|row| (row.meeting_id, row.id));
    Ok(stays.collect())
}

pub async fn forget_person(
    conn: &mut PgConnection,
    app: AppId,
    external_user_id: &str,
    limit: i64,
) -> sqlx::Result<Vec<(MeetingId, ParticipantId)>> {
    let forgotten = forget!(
        "where app_id = $1 and external_user_id = $2 order by id limit $3 for update",
        app as AppId,
        external_user_id,
        limit,
    )
    .fetch_all(conn)
    .await?;
    let stays = forgotten.into_iter().map(|row| (row.meeting_id, row.id));
    Ok(stays.collect())
}
