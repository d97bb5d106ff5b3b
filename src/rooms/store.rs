//! The only SQL that touches `rooms`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};

use super::{
    AddressHash, CreatorHash, Error, PasswordHash, Privacy, Room, RoomName, RtmpUrl, Rules,
};
use crate::{
    db::{System, constraint},
    deadlines::Kind,
    id::{AppId, RoomId},
    sealed::{KeyId, Sealed},
    webhooks::RoomUrls,
};

/// A room as it is stored.
struct Row {
    id: RoomId,
    app_id: AppId,
    name: RoomName,
    rules: Json<Rules>,
    meeting_join_webhook: Option<String>,
    meeting_left_webhook: Option<String>,
    meeting_started_webhook: Option<String>,
    meeting_ended_webhook: Option<String>,
    password_hash: Option<PasswordHash>,
    rtmp_out_url: Option<Vec<u8>>,
    anonymous: bool,
    creator_token_hash: Option<Vec<u8>>,
    version: i32,
    created_at: DateTime<Utc>,
    archived_at: Option<DateTime<Utc>>,
}

impl From<Row> for Room {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            app_id: row.app_id,
            name: row.name,
            rules: row.rules.0,
            webhooks: RoomUrls {
                meeting_started: row.meeting_started_webhook,
                meeting_join: row.meeting_join_webhook,
                meeting_left: row.meeting_left_webhook,
                meeting_ended: row.meeting_ended_webhook,
            },
            password: row.password_hash,
            rtmp_out_url: row.rtmp_out_url.map(Sealed::from_stored),
            anonymous: row.anonymous,
            creator: row.creator_token_hash.and_then(CreatorHash::from_stored),
            version: row.version,
            created_at: row.created_at,
            archived_at: row.archived_at,
        }
    }
}

/// Which rooms of an app are meant; what is `None` does not matter. Archived rooms never are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Their names begin so.
    pub name_prefix: Option<String>,
    /// Who may join them.
    pub privacy: Option<Privacy>,
    /// They were made then or later.
    pub created_from: Option<DateTime<Utc>>,
    /// They were made before then.
    pub created_until: Option<DateTime<Utc>>,
    /// Whether a meeting runs in them.
    pub is_live: Option<bool>,
}

/// A part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The last room of the page before this one.
    pub after: Option<RoomId>,
    /// Rooms at most.
    pub limit: i64,
}

/// A query for rooms, whole.
macro_rules! select {
    ($condition:literal, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"select id, app_id, name, rules as "rules: Json<Rules>", meeting_join_webhook, meeting_left_webhook,
                 meeting_started_webhook, meeting_ended_webhook, password_hash, rtmp_out_url, anonymous,
                 creator_token_hash, version, created_at, archived_at
             from rooms r "# + $condition,
            $($argument),*
        )
    };
}

/// Stores a new room with the deadline of its expiry. One statement, which names its tenant itself: by itself it is a
/// transaction, in which both rows are written or none. `made_at` is the address that made an anonymous room.
pub async fn insert(
    conn: &mut PgConnection,
    room: &Room,
    made_at: Option<&AddressHash>,
) -> Result<(), Error> {
    let Room {
        rules, webhooks, ..
    } = room;
    sqlx::query!(
        r#"with tenant as materialized (
               select decode(set_config('plenum.app_id', encode($2, 'hex'), true), 'hex') as id
           ), room as (
               insert into rooms (id, app_id, name, rules, meeting_join_webhook, meeting_left_webhook,
                   meeting_started_webhook, meeting_ended_webhook, password_hash, rtmp_out_url, version, created_at,
                   anonymous, creator_token_hash, creator_address_hash)
               select $1, tenant.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $15, $16, $17 from tenant
               returning id, app_id
           )
           select case when $14::timestamptz is not null
               then plenum_new_room_deadline(app_id, id, $13, $14) end as "has_deadline?"
           from room"#,
        room.id as RoomId,
        room.app_id as AppId,
        &room.name as &RoomName,
        Json(rules) as _,
        webhooks.meeting_join,
        webhooks.meeting_left,
        webhooks.meeting_started,
        webhooks.meeting_ended,
        room.password.as_ref() as Option<&PasswordHash>,
        room.rtmp_out_url.as_ref().map(Sealed::as_stored),
        room.version,
        room.created_at,
        Kind::RoomExpires.as_str(),
        rules.expires_at(),
        room.anonymous,
        room.creator.as_ref().map(CreatorHash::as_bytes),
        made_at.map(|address| address.0.as_slice()),
    )
    .fetch_one(conn)
    .await
    .map_err(name_taken)?;
    Ok(())
}

/// Has the rooms that are made from one address made one after the other, until the transaction ends.
pub async fn lock_creator(
    conn: &mut PgConnection,
    app: AppId,
    address: &AddressHash,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"select pg_advisory_xact_lock(hashtextextended('rooms of ' || encode($1, 'hex') || encode($2, 'hex'), 0)) is null
           as "locked!""#,
        app.as_bytes().as_slice(),
        address.0.as_slice(),
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// How many anonymous rooms that were made from this address have no meeting.
pub async fn count_unused_of(
    conn: &mut PgConnection,
    app: AppId,
    address: &AddressHash,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from rooms r
           where app_id = $1 and creator_address_hash = $2 and anonymous and archived_at is null
             and not exists (select from meetings m where m.app_id = $1 and m.room_id = r.id and m.status <> 'ended')"#,
        app as AppId,
        address.0.as_slice(),
    )
    .fetch_one(conn)
    .await
}

/// Stores what a change can change. Properties that are not known here, as after a newer version ran, stay.
pub async fn update(conn: &mut PgConnection, room: &Room) -> Result<(), Error> {
    let Room {
        rules, webhooks, ..
    } = room;
    sqlx::query!(
        "update rooms
         set name = $3, rules = rules || $4, meeting_join_webhook = $5, meeting_left_webhook = $6, meeting_started_webhook = $7,
             meeting_ended_webhook = $8, password_hash = $9, rtmp_out_url = $10, version = $11
         where id = $1 and app_id = $2",
        room.id as RoomId,
        room.app_id as AppId,
        &room.name as &RoomName,
        Json(rules) as _,
        webhooks.meeting_join,
        webhooks.meeting_left,
        webhooks.meeting_started,
        webhooks.meeting_ended,
        room.password.as_ref() as Option<&PasswordHash>,
        room.rtmp_out_url.as_ref().map(Sealed::as_stored),
        room.version,
    )
    .execute(conn)
    .await
    .map_err(name_taken)?;
    Ok(())
}

fn name_taken(error: sqlx::Error) -> Error {
    match constraint(&error) {
        Some("rooms_name_unless_archived") => Error::NameTaken,
        _ => error.into(),
    }
}

/// The newest rooms first.
pub async fn list(
    conn: &mut PgConnection,
    app: AppId,
    filter: &Filter,
    page: Page,
) -> sqlx::Result<Vec<Room>> {
    let rows = select!(
        "where app_id = $1 and archived_at is null
           and ($2::text is null or starts_with(name, $2)) and ($3::text is null or rules ->> 'privacy' = $3)
           and ($4::timestamptz is null or created_at >= $4) and ($5::timestamptz is null or created_at < $5)
           and ($6::boolean is null or $6 = exists (
               select from meetings m where m.app_id = $1 and m.room_id = r.id and m.status = 'live'))
           and ($7::bytea is null or id < $7)
         order by id desc limit $8",
        app as AppId,
        filter.name_prefix,
        filter.privacy.map(Privacy::as_str),
        filter.created_from,
        filter.created_until,
        filter.is_live,
        page.after as Option<RoomId>,
        page.limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Room::from).collect())
}

pub async fn count(conn: &mut PgConnection, app: AppId, filter: &Filter) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from rooms r
           where app_id = $1 and archived_at is null
             and ($2::text is null or starts_with(name, $2)) and ($3::text is null or rules ->> 'privacy' = $3)
             and ($4::timestamptz is null or created_at >= $4) and ($5::timestamptz is null or created_at < $5)
             and ($6::boolean is null or $6 = exists (
                 select from meetings m where m.app_id = $1 and m.room_id = r.id and m.status = 'live'))"#,
        app as AppId,
        filter.name_prefix,
        filter.privacy.map(Privacy::as_str),
        filter.created_from,
        filter.created_until,
        filter.is_live,
    )
    .fetch_one(conn)
    .await
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

/// The room with this name, unless archived, locked as by [`lock`].
pub async fn lock_named(
    conn: &mut PgConnection,
    app: AppId,
    name: &RoomName,
) -> sqlx::Result<Option<Room>> {
    let row = select!(
        "where app_id = $1 and name = $2 and archived_at is null for no key update",
        app as AppId,
        name as &RoomName,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Room::from))
}

/// The room, unless archived, locked against changes and against the opening of a meeting.
pub async fn lock(conn: &mut PgConnection, app: AppId, id: RoomId) -> sqlx::Result<Option<Room>> {
    let row = select!(
        "where app_id = $1 and id = $2 and archived_at is null for no key update",
        app as AppId,
        id as RoomId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Room::from))
}

/// Keeps the room from being changed, archived or expired until the transaction ends; its version, if it is there.
pub async fn hold(conn: &mut PgConnection, app: AppId, id: RoomId) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar!(
        "select version from rooms where app_id = $1 and id = $2 and archived_at is null for share",
        app as AppId,
        id as RoomId,
    )
    .fetch_optional(conn)
    .await
}

pub async fn archive(
    conn: &mut PgConnection,
    app: AppId,
    id: RoomId,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update rooms set archived_at = $3 where app_id = $1 and id = $2 and archived_at is null",
        app as AppId,
        id as RoomId,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn archive_all(
    conn: &mut PgConnection,
    app: AppId,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update rooms set archived_at = $2 where app_id = $1 and archived_at is null",
        app as AppId,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Asks for the removal of a room whose meeting ended `at`: at once where it has expired with `deleteOnExp`, at `unused_at`
/// where it is anonymous. The room is locked, so that whoever changes or expires it at this moment either finds the meeting
/// ended or is seen here.
pub async fn meeting_ended(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
    at: DateTime<Utc>,
    unused_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with room as (
             select id, app_id, is_over
             from rooms, lateral (select coalesce(
                 (rules ->> 'deleteOnExp')::boolean
                     and (rules ->> 'expireUnixSec')::bigint <= extract(epoch from $3::timestamptz),
                 false)) as over (is_over)
             where app_id = $1 and id = $2 and archived_at is null and (anonymous or is_over)
             for share of rooms
         )
         insert into deadlines (kind, subject, app_id, due_at, version)
         select $5, id, app_id, case when is_over then $3 else $4::timestamptz end, 1 from room
         on conflict (kind, subject) do update set due_at = excluded.due_at, version = deadlines.version + 1",
        app as AppId,
        room as RoomId,
        at,
        unused_at,
        Kind::RoomUnused.as_str(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether the room is anonymous and was neither made nor used since `since`.
pub async fn is_unused(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
    since: DateTime<Utc>,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select (anonymous and created_at <= $3 and not exists (
               select from meetings m where m.app_id = $1 and m.room_id = $2 and m.ended_at > $3)) as "is_unused!"
           from rooms where app_id = $1 and id = $2"#,
        app as AppId,
        room as RoomId,
        since,
    )
    .fetch_one(conn)
    .await
}

/// When these rooms open, those that are there: at no time, where joins are allowed at any.
pub async fn opening_times(
    conn: &mut System,
    rooms: &[(AppId, RoomName)],
) -> sqlx::Result<Vec<((AppId, RoomName), Option<DateTime<Utc>>)>> {
    let apps: Vec<&[u8]> = rooms
        .iter()
        .map(|(app, _)| app.as_bytes().as_slice())
        .collect();
    let names: Vec<&str> = rooms.iter().map(|(_, name)| name.as_str()).collect();
    let rows = sqlx::query!(
        r#"select r.app_id, r.name, (r.rules ->> 'notBeforeUnixSec')::bigint as opens_at
           from rooms r join unnest($1::bytea[], $2::text[]) as wanted (app_id, name)
             on r.app_id = wanted.app_id and r.name = wanted.name
           where r.archived_at is null"#,
        &apps as &[&[u8]],
        &names as &[&str],
    )
    .fetch_all(&mut **conn)
    .await?;
    let rows = rows.into_iter().map(|row| {
        let opens_at = row
            .opens_at
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        ((row.app_id, row.name), opens_at)
    });
    Ok(rows.collect())
}

/// Sealed RTMP URLs under another key than this one, up to `limit`, of the rooms after `after`, archived or not.
pub async fn rtmp_urls_not_under(
    conn: &mut System,
    key: KeyId,
    after: Option<RoomId>,
    limit: i64,
) -> sqlx::Result<Vec<(RoomId, Sealed<RtmpUrl>)>> {
    let rows = sqlx::query!(
        r#"select id, rtmp_out_url as "rtmp_out_url!" from rooms
           where ($2::bytea is null or id > $2) and substring(rtmp_out_url from 2 for 4) <> $1
           order by id limit $3"#,
        key.as_bytes(),
        after as Option<RoomId>,
        limit,
    )
    .fetch_all(&mut **conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| (row.id, Sealed::from_stored(row.rtmp_out_url)))
        .collect())
}

/// Puts `new` where `old` still is.
pub async fn replace_rtmp_url(
    conn: &mut System,
    room: RoomId,
    old: &Sealed<RtmpUrl>,
    new: &Sealed<RtmpUrl>,
) -> sqlx::Result<u64> {
    let result = sqlx::query!(
        "update rooms set rtmp_out_url = $3 where id = $1 and rtmp_out_url = $2",
        room as RoomId,
        old.as_stored(),
        new.as_stored(),
    )
    .execute(&mut **conn)
    .await?;
    Ok(result.rows_affected())
}
