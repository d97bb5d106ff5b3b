//! The only SQL that writes `meetings`, `participants`, `meeting_blocks` and `meeting_commands`, but for what `history`
//! forgets.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    Answer, Away, Block, Command, Connection, Identity, LeaveReason, Participant, Permissions,
    ResumeHash, Role, State, Status, owner::Lease,
};
use crate::{
    db::System,
    id::{AppId, BatchId, MeetingId, NodeId, ParticipantId, RoomId, TokenId},
    rooms::AddressHash,
};

/// A meeting that this node has just made its own.
#[derive(Clone, Copy, Debug)]
pub struct Claimed {
    /// Whose meeting it is.
    pub app_id: AppId,
    /// Which meeting.
    pub id: MeetingId,
    /// Of which room.
    pub room_id: RoomId,
    /// The epoch that the claim raised.
    pub epoch: i64,
    /// When its owner before is last known to have lived.
    pub renewed_at: DateTime<Utc>,
    /// Whether that owner gave it up in order.
    pub given_up: bool,
}

/// A meeting that has not ended.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Which.
    pub id: MeetingId,
    /// How far it has come.
    pub status: Status,
}

/// A meeting's row.
pub struct Row {
    pub status: Status,
    pub next_seq: i64,
    pub participant_count: i32,
    pub max_concurrent: i32,
    pub empty_since: Option<DateTime<Utc>>,
    pub one_left_since: Option<DateTime<Utc>>,
    pub quiet_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub last_at: DateTime<Utc>,
    pub batch_id: Option<BatchId>,
    pub locked: Option<bool>,
    pub extended_by_sec: i64,
}

/// A command that is to be carried.
pub struct Carried {
    pub meeting: MeetingId,
    pub id: i64,
    pub command: serde_json::Value,
}

/// Opens a meeting that `lease.node` owns; `false` where the room already has one.
pub async fn open(
    conn: &mut PgConnection,
    lease: &Lease,
    room: RoomId,
    created_at: DateTime<Utc>,
    lasts: Duration,
) -> sqlx::Result<bool> {
    let result = sqlx::query!(
        "insert into meetings (id, app_id, room_id, status, owner_node, epoch, lease_until, renewed_at, next_seq,
             participant_count, empty_since, last_at, created_at)
         values ($1, $2, $3, 'open', $4, $5, clock_timestamp() + make_interval(secs => $7), $6, 1, 0, $6, $6, $6)
         on conflict (room_id) where status <> 'ended' do nothing",
        lease.meeting as MeetingId,
        lease.app as AppId,
        room as RoomId,
        lease.node as NodeId,
        lease.epoch,
        created_at,
        lasts.as_secs_f64(),
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Opens a meeting that nobody owns yet and nobody has joined; where the room already has one, that one. Whoever is to keep its
/// deadlines claims it.
pub async fn open_unowned(
    conn: &mut PgConnection,
    app: AppId,
    meeting: MeetingId,
    room: RoomId,
    created_at: DateTime<Utc>,
) -> sqlx::Result<Opened> {
    sqlx::query!(
        "insert into meetings (id, app_id, room_id, status, epoch, renewed_at, next_seq, participant_count, last_at,
             created_at)
         values ($1, $2, $3, 'open', 0, $4, 1, 0, $4, $4)
         on conflict (room_id) where status <> 'ended' do nothing",
        meeting as MeetingId,
        app as AppId,
        room as RoomId,
        created_at,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query_as!(
        Opened,
        r#"select id, status as "status: Status" from meetings
           where app_id = $1 and room_id = $2 and status <> 'ended'"#,
        app as AppId,
        room as RoomId,
    )
    .fetch_one(conn)
    .await
}

/// Makes the room's meeting this node's own, if nobody owns it.
pub async fn claim_unowned(
    conn: &mut PgConnection,
    node: NodeId,
    app: AppId,
    room: RoomId,
    lasts: Duration,
) -> sqlx::Result<Option<Claimed>> {
    sqlx::query_as!(
        Claimed,
        r#"update meetings
           set owner_node = $1, epoch = epoch + 1, lease_until = clock_timestamp() + make_interval(secs => $4)
           where app_id = $2 and room_id = $3 and status <> 'ended' and owner_node is null
           returning app_id, id, room_id, epoch, renewed_at, true as "given_up!""#,
        node as NodeId,
        app as AppId,
        room as RoomId,
        lasts.as_secs_f64(),
    )
    .fetch_optional(conn)
    .await
}

/// Whether the room has a meeting that has not ended.
pub async fn is_running(conn: &mut PgConnection, app: AppId, room: RoomId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from meetings where app_id = $1 and room_id = $2 and status <> 'ended') as "exists!""#,
        app as AppId,
        room as RoomId,
    )
    .fetch_one(conn)
    .await
}

/// Which node owns the room's meeting that has not ended; `None` where there is no such meeting.
pub async fn owner_node(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
) -> sqlx::Result<Option<Option<NodeId>>> {
    sqlx::query_scalar!(
        r#"select owner_node as "owner_node: NodeId" from meetings where app_id = $1 and room_id = $2 and status <> 'ended'"#,
        app as AppId,
        room as RoomId,
    )
    .fetch_optional(conn)
    .await
}

/// Makes up to `limit` meetings this node's own: those that nobody owns, and those whose owner's lease is over.
///
/// For one lease time after Postgres started nobody's lease counts as over, since nobody could renew it before.
pub async fn claim(
    conn: &mut System,
    node: NodeId,
    lasts: Duration,
    limit: i64,
) -> sqlx::Result<Vec<Claimed>> {
    sqlx::query_as!(
        Claimed,
        r#"with free as (
               select id, owner_node is null as given_up from meetings
               where status <> 'ended'
                 and (owner_node is null
                      or (lease_until < clock_timestamp()
                          and pg_postmaster_start_time() + make_interval(secs => $3) < clock_timestamp()))
               order by id limit $2 for update skip locked
           )
           update meetings m
           set owner_node = $1, epoch = epoch + 1, lease_until = clock_timestamp() + make_interval(secs => $3)
           from free where m.id = free.id
           returning m.app_id, m.id, m.room_id, m.epoch, m.renewed_at, free.given_up as "given_up!""#,
        node as NodeId,
        limit,
        lasts.as_secs_f64(),
    )
    .fetch_all(&mut **conn)
    .await
}

/// Renews the leases of these meetings, where they are still this node's; returns which are.
pub async fn renew(
    conn: &mut System,
    node: NodeId,
    meetings: &[MeetingId],
    lasts: Duration,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<MeetingId>> {
    let ids: Vec<&[u8]> = meetings.iter().map(|id| id.as_bytes().as_slice()).collect();
    sqlx::query_scalar!(
        "update meetings set lease_until = clock_timestamp() + make_interval(secs => $4), renewed_at = $3
         where id = any($1::bytea[]) and owner_node = $2 and status <> 'ended' returning id",
        &ids as &[&[u8]],
        node as NodeId,
        now,
        lasts.as_secs_f64(),
    )
    .fetch_all(&mut **conn)
    .await
}

/// Gives a meeting up, so that any node may claim it at once.
pub async fn release(
    conn: &mut PgConnection,
    lease: &Lease,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update meetings set owner_node = null, lease_until = null, renewed_at = $5
         where id = $1 and app_id = $2 and owner_node = $3 and epoch = $4 and status <> 'ended'",
        lease.meeting as MeetingId,
        lease.app as AppId,
        lease.node as NodeId,
        lease.epoch,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn load(conn: &mut PgConnection, app: AppId, id: MeetingId) -> sqlx::Result<Row> {
    sqlx::query_as!(
        Row,
        r#"select status as "status: Status", next_seq, participant_count, max_concurrent, empty_since, one_left_since,
               quiet_since, created_at, started_at, last_at, batch_id, locked, extended_by_sec
           from meetings where app_id = $1 and id = $2"#,
        app as AppId,
        id as MeetingId,
    )
    .fetch_one(conn)
    .await
}

/// The stays that have not ended, in the order of their joins.
pub async fn participants(
    conn: &mut PgConnection,
    app: AppId,
    id: MeetingId,
) -> sqlx::Result<Vec<Participant>> {
    let rows = sqlx::query!(
        r#"select id, name, role as "role: Role", token_id, external_user_id, email, meta, joined_at, time_up_at,
               has_own_limit, token_expires_at, resume_hash, away_since, address_hash, permissions
           from participants where app_id = $1 and meeting_id = $2 and left_at is null order by joined_at, id"#,
        app as AppId,
        id as MeetingId,
    )
    .fetch_all(conn)
    .await?;
    let participants = rows.into_iter().map(|row| Participant {
        id: row.id,
        name: row.name.unwrap_or_else(|| NAMELESS.to_owned()),
        role: row.role,
        token: row.token_id,
        identity: Arc::new(Identity {
            external_user_id: row.external_user_id,
            email: row.email,
            meta: row.meta,
        }),
        device: Arc::default(),
        address: row.address_hash.and_then(address),
        joined_at: row.joined_at,
        time_up_at: row.time_up_at,
        has_own_limit: row.has_own_limit,
        token_expires_at: row.token_expires_at,
        resume: row
            .resume_hash
            .and_then(|hash| ResumeHash::try_from(hash).ok()),
        // Until when it may come back is said by whoever claims the meeting.
        away: row.away_since.map(|since| Away {
            since,
            until: since,
            reason: LeaveReason::ConnectionLost,
        }),
        connection: Connection::default(),
        shown: super::Shown::default(),
        permissions: permissions(&row.permissions),
        sharing: super::Sharing::default(),
        warned: Vec::new(),
    });
    Ok(participants.collect())
}

/// Of a newer version there may be some that are not known here.
fn permissions(stored: &serde_json::Value) -> Permissions {
    let stored = stored.as_object().into_iter().flatten();
    let read = stored.filter_map(|(name, may)| {
        let name = serde_json::from_value(name.as_str().into()).ok()?;
        Some((name, may.as_bool()?))
    });
    read.collect()
}

/// Writes how far the meeting has come; `false` where `lease` is no longer the owner's, or the owner's last transaction
/// was not `previous`.
pub async fn advance(
    conn: &mut PgConnection,
    lease: &Lease,
    (previous, batch): (Option<BatchId>, BatchId),
    state: &State,
    ended: Option<(DateTime<Utc>, &str)>,
) -> sqlx::Result<bool> {
    let result = sqlx::query!(
        "update meetings set status = $5, next_seq = $6, participant_count = $7, empty_since = $8, started_at = $9,
             ended_at = $10, end_reason = $11, batch_id = $12, last_at = $14, max_concurrent = $15, locked = $16,
             extended_by_sec = $17, one_left_since = $18, quiet_since = $19,
             owner_node = case when $10::timestamptz is null then owner_node end,
             lease_until = case when $10::timestamptz is null then lease_until end
         where id = $1 and app_id = $2 and owner_node = $3 and epoch = $4 and status <> 'ended'
           and batch_id is not distinct from $13",
        lease.meeting as MeetingId,
        lease.app as AppId,
        lease.node as NodeId,
        lease.epoch,
        state.status as Status,
        state.next_seq,
        i32::try_from(state.participant_count).unwrap_or(i32::MAX),
        state.empty_since,
        state.started_at,
        ended.map(|(at, _)| at),
        ended.map(|(_, reason)| reason),
        batch as BatchId,
        previous as Option<BatchId>,
        state.last_at,
        i32::try_from(state.max_concurrent).unwrap_or(i32::MAX),
        state.locked,
        state.extended_by.num_seconds(),
        state.one_left_since,
        state.quiet_since().filter(|_| state.minds_quiet()),
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The owner's last transaction. One that is still under way holds the row, and is waited for.
pub async fn last_batch(conn: &mut PgConnection, lease: &Lease) -> sqlx::Result<Option<BatchId>> {
    sqlx::query_scalar!(
        "select batch_id from meetings where id = $1 and app_id = $2 for update",
        lease.meeting as MeetingId,
        lease.app as AppId,
    )
    .fetch_one(conn)
    .await
}

pub async fn insert(
    conn: &mut PgConnection,
    lease: &Lease,
    participant: &Participant,
) -> sqlx::Result<()> {
    let Identity {
        external_user_id,
        email,
        meta,
    } = &*participant.identity;
    sqlx::query!(
        "insert into participants (id, app_id, meeting_id, name, role, resume_hash, joined_at, time_up_at, token_id,
             external_user_id, email, meta, has_own_limit, token_expires_at, browser, os, address_hash)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        participant.id as ParticipantId,
        lease.app as AppId,
        lease.meeting as MeetingId,
        participant.name,
        participant.role as Role,
        participant.resume.as_ref().map(|hash| hash.as_slice()),
        participant.joined_at,
        participant.time_up_at,
        participant.token as Option<TokenId>,
        external_user_id.as_deref(),
        email.as_deref(),
        meta.as_deref(),
        participant.has_own_limit,
        participant.token_expires_at,
        participant.device.browser,
        participant.device.os,
        participant.address.as_ref().map(|address| address.0.as_slice()),
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn set_away(
    conn: &mut PgConnection,
    lease: &Lease,
    participant: ParticipantId,
    since: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update participants set away_since = $3 where app_id = $1 and id = $2",
        lease.app as AppId,
        participant as ParticipantId,
        since,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn set_limit(
    conn: &mut PgConnection,
    lease: &Lease,
    participant: ParticipantId,
    time_up_at: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update participants set time_up_at = $3 where app_id = $1 and id = $2",
        lease.app as AppId,
        participant as ParticipantId,
        time_up_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what a participant may do.
pub async fn permit(
    conn: &mut PgConnection,
    lease: &Lease,
    participant: ParticipantId,
    role: Role,
    permissions: &Permissions,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update participants set role = $3, permissions = $4 where app_id = $1 and id = $2",
        lease.app as AppId,
        participant as ParticipantId,
        role as Role,
        sqlx::types::Json(permissions) as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps somebody out until the meeting ends.
pub async fn block(conn: &mut PgConnection, lease: &Lease, block: &Block) -> sqlx::Result<()> {
    let (kind, value) = match block {
        Block::Token(token) => ("token", token.as_bytes().as_slice()),
        Block::Resume(hash) => ("resume", hash.as_slice()),
        Block::Person(id) => ("person", id.as_bytes()),
        Block::Address(AddressHash(hash)) => ("address", hash.as_slice()),
    };
    sqlx::query!(
        "insert into meeting_blocks (app_id, meeting_id, kind, value) values ($1, $2, $3, $4) on conflict do nothing",
        lease.app as AppId,
        lease.meeting as MeetingId,
        kind,
        value,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Who is kept out of a meeting. What a newer version kept them out by, this one does not know.
pub async fn blocks(
    conn: &mut PgConnection,
    app: AppId,
    id: MeetingId,
) -> sqlx::Result<HashSet<Block>> {
    let rows = sqlx::query!(
        "select kind, value from meeting_blocks where app_id = $1 and meeting_id = $2",
        app as AppId,
        id as MeetingId,
    )
    .fetch_all(conn)
    .await?;
    let block = |kind: &str, value: Vec<u8>| match kind {
        "token" => Some(Block::Token(TokenId::from_bytes(value.try_into().ok()?))),
        "resume" => Some(Block::Resume(value.try_into().ok()?)),
        "person" => Some(Block::Person(String::from_utf8(value).ok()?)),
        "address" => address(value).map(Block::Address),
        _ => None,
    };
    let blocks = rows
        .into_iter()
        .filter_map(|row| block(&row.kind, row.value));
    Ok(blocks.collect())
}

/// Forgets whom a meeting that is over kept out.
pub async fn forget_blocks(conn: &mut PgConnection, lease: &Lease) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from meeting_blocks where meeting_id = $1 and app_id = $2",
        lease.meeting as MeetingId,
        lease.app as AppId,
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn address(stored: Vec<u8>) -> Option<AddressHash> {
    stored.try_into().ok().map(AddressHash)
}

/// Ends these stays; returns those whose person was erased while they were in.
pub async fn close(
    conn: &mut PgConnection,
    lease: &Lease,
    left: &[(ParticipantId, DateTime<Utc>, LeaveReason)],
) -> sqlx::Result<Vec<ParticipantId>> {
    if left.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&[u8]> = left
        .iter()
        .map(|(id, ..)| id.as_bytes().as_slice())
        .collect();
    let times: Vec<DateTime<Utc>> = left.iter().map(|(_, at, _)| *at).collect();
    let reasons: Vec<&str> = left.iter().map(|(.., reason)| reason.as_str()).collect();
    let closed = sqlx::query!(
        r#"update participants p
         set left_at = l.at, leave_reason = l.reason, address_hash = null,
             token_id = case when p.name is not null then p.token_id end,
             resume_hash = case when p.name is not null then p.resume_hash end
         from unnest($2::bytea[], $3::timestamptz[], $4::text[]) as l (id, at, reason)
         where p.app_id = $1 and p.id = l.id and p.left_at is null
         returning p.id, p.name is null as "is_erased!""#,
        lease.app as AppId,
        &ids as &[&[u8]],
        &times,
        &reasons as &[&str],
    )
    .fetch_all(conn)
    .await?;
    let erased = closed.into_iter().filter(|stay| stay.is_erased);
    Ok(erased.map(|stay| stay.id).collect())
}

/// Leaves a command for the owner of the room's meeting; nothing where the room has none.
pub async fn command(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
    command: &Command,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into meeting_commands (app_id, meeting_id, command, created_at)
         select app_id, id, $3, $4 from meetings where app_id = $1 and room_id = $2 and status <> 'ended'",
        app as AppId,
        room as RoomId,
        sqlx::types::Json(command) as _,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Leaves a command for the owners of all meetings of an app that have not ended.
pub async fn command_all(
    conn: &mut PgConnection,
    app: AppId,
    command: &Command,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into meeting_commands (app_id, meeting_id, command, created_at)
         select app_id, id, $2, $3 from meetings where app_id = $1 and status <> 'ended'",
        app as AppId,
        sqlx::types::Json(command) as _,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Leaves a command whose answer somebody waits for, until `keep_until` at least; `None` where the room has no meeting.
///
/// The transaction's commit does not wait for the disk: a command is no fact yet, and what obeys it waits.
pub async fn ask(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
    command: &Command,
    keep_until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<(i64, MeetingId)>> {
    sqlx::query!("set local synchronous_commit = off")
        .execute(&mut *conn)
        .await?;
    let row = sqlx::query!(
        "insert into meeting_commands (app_id, meeting_id, command, created_at, keep_until)
         select app_id, id, $3, $4, $5 from meetings where app_id = $1 and room_id = $2 and status <> 'ended'
         returning id, meeting_id",
        app as AppId,
        room as RoomId,
        sqlx::types::Json(command) as _,
        now,
        keep_until,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.id, row.meeting_id)))
}

/// Writes the answer to a command that is obeyed.
pub async fn answer(
    conn: &mut PgConnection,
    lease: &Lease,
    command: i64,
    answer: &Answer,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update meeting_commands set answer = $3 where id = $1 and app_id = $2",
        command,
        lease.app as AppId,
        sqlx::types::Json(answer) as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn running(conn: &mut PgConnection, app: AppId) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from meetings where app_id = $1 and status <> 'ended'"#,
        app as AppId,
    )
    .fetch_one(conn)
    .await
}

/// A command's answer; `Some(None)` while there is none yet, `None` where the command is gone.
pub async fn answered(
    conn: &mut PgConnection,
    app: AppId,
    command: i64,
) -> sqlx::Result<Option<Option<serde_json::Value>>> {
    sqlx::query_scalar!(
        "select answer from meeting_commands where id = $1 and app_id = $2",
        command,
        app as AppId,
    )
    .fetch_optional(conn)
    .await
}

/// The commands for these meetings that nobody has obeyed yet, in the order in which they were given.
pub async fn commands(conn: &mut System, meetings: &[MeetingId]) -> sqlx::Result<Vec<Carried>> {
    let ids: Vec<&[u8]> = meetings.iter().map(|id| id.as_bytes().as_slice()).collect();
    sqlx::query_as!(
        Carried,
        r#"select meeting_id as "meeting!: MeetingId", id, command from meeting_commands
           where meeting_id = any($1::bytea[]) and answer is null order by id limit 1000"#,
        &ids as &[&[u8]],
    )
    .fetch_all(&mut **conn)
    .await
}

/// Removes commands that came when their meetings were just over, and answers that nobody waits for any more.
pub async fn forget_late_commands(conn: &mut System, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from meeting_commands c using meetings m
         where m.id = c.meeting_id and m.status = 'ended' and c.answer is null"
    )
    .execute(&mut **conn)
    .await?;
    sqlx::query!(
        "delete from meeting_commands where id in (
             select id from meeting_commands where answer is not null and keep_until < $1 limit 1000)",
        now,
    )
    .execute(&mut **conn)
    .await?;
    Ok(())
}

/// Removes a command that has been obeyed.
pub async fn obeyed(conn: &mut PgConnection, lease: &Lease, command: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from meeting_commands where id = $1 and app_id = $2",
        command,
        lease.app as AppId
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes the commands of a meeting that is over, but for the answers.
pub async fn forget_commands(conn: &mut PgConnection, lease: &Lease) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from meeting_commands where meeting_id = $1 and app_id = $2 and answer is null",
        lease.meeting as MeetingId,
        lease.app as AppId,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How many meetings are live, and how many people are in them.
pub async fn totals(conn: &mut System) -> sqlx::Result<(i64, i64)> {
    let row = sqlx::query!(
        r#"select (select count(*) from meetings where status = 'live') as "meetings!",
                  (select count(*) from participants where left_at is null) as "participants!""#
    )
    .fetch_one(&mut **conn)
    .await?;
    Ok((row.meetings, row.participants))
}

/// Live meetings of an app, and the people who are in them.
pub async fn totals_of(conn: &mut PgConnection, app: AppId) -> sqlx::Result<(i64, i64)> {
    let row = sqlx::query!(
        r#"select count(*) as "meetings!", coalesce(sum((
               select count(*) from participants p where p.meeting_id = m.id and p.left_at is null)), 0)::bigint
               as "participants!"
           from meetings m where app_id = $1 and status = 'live'"#,
        app as AppId,
    )
    .fetch_one(conn)
    .await?;
    Ok((row.meetings, row.participants))
}

pub async fn people_in(
    conn: &mut PgConnection,
    app: AppId,
    rooms: &[RoomId],
) -> sqlx::Result<HashMap<RoomId, i64>> {
    let rows = sqlx::query!(
        r#"select m.room_id, count(*) as "people!"
           from meetings m join participants p on p.meeting_id = m.id and p.left_at is null
           where m.app_id = $1 and m.room_id = any($2) and m.status <> 'ended' group by 1"#,
        app as AppId,
        rooms as &[RoomId],
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.room_id, row.people))
        .collect())
}

/// What somebody is called who was erased while they were in.
const NAMELESS: &str = "–";
