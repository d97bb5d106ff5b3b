//! What is known of meetings, live and over, and of the stays in them; and how stays forget whose they were.
//!
//! The rows of meetings and stays are kept, for they are what usage was counted from. What tells who somebody was is
//! removed from them; from then on it reads as `None`.

mod store;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Device, Identity, Role, Status};
use crate::{
    id::{AppId, MeetingId, ParticipantId, RoomId},
    rooms::RoomName,
    usage,
};

/// A meeting as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// Its id.
    pub id: MeetingId,
    /// Of which room.
    pub room_id: RoomId,
    /// The room's name, as it is now.
    pub room_name: RoomName,
    /// How far it has come.
    pub status: Status,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When the first participant joined.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why.
    pub end_reason: Option<String>,
    /// Stays so far, those that ended included.
    pub participant_count: i32,
    /// People who were in at the same time, at most.
    pub max_concurrent: i32,
    /// The seconds of all its stays, as they are metered; of those that last, until now.
    pub participant_seconds: i64,
}

/// One person's stay in a meeting, as it is now. Nothing tells who it was once that has been removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Its id.
    pub id: ParticipantId,
    /// In which meeting.
    pub meeting: MeetingId,
    /// Display name.
    pub name: Option<String>,
    /// Who the app said that they are.
    pub identity: Identity,
    /// What they joined with.
    pub device: Device,
    /// What they may do, or might.
    pub role: Role,
    /// When they joined.
    pub joined_at: DateTime<Utc>,
    /// Since when their connection is lost; they may come back.
    pub away_since: Option<DateTime<Utc>>,
    /// When they left.
    pub left_at: Option<DateTime<Utc>>,
    /// Why.
    pub leave_reason: Option<String>,
}

/// Which meetings of an app are meant; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The name of their room, or one that it had when it was archived.
    pub room_name: Option<RoomName>,
    /// How far they have come.
    pub status: Option<Status>,
    /// Whether they are live.
    pub is_live: Option<bool>,
    /// They were opened then or later.
    pub from: Option<DateTime<Utc>>,
    /// They were opened before then.
    pub until: Option<DateTime<Utc>>,
}

/// Which stays of a meeting are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// All.
    Everyone,
    /// Those that have not ended. Whoever lost their connection and may come back is in.
    WhoIsIn,
}

/// A part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<Id> {
    /// The last one of the page before this one.
    pub after: Option<Id>,
    /// How many at most.
    pub limit: i64,
}

impl Meeting {
    /// Whole seconds from the first join to the end, or to `now`: the difference of both in unix seconds.
    pub fn duration_sec(&self, now: DateTime<Utc>) -> i64 {
        let end = self.ended_at.unwrap_or(now).timestamp();
        self.started_at
            .map_or(0, |start| (end - start.timestamp()).max(0))
    }
}

impl Stay {
    /// The seconds of the stay, as they are metered; of one that lasts, until `now`, or until the connection was lost.
    pub fn duration_sec(&self, now: DateTime<Utc>) -> i64 {
        let stay = usage::Stay {
            participant: self.id,
            joined_at: self.joined_at,
            left_at: self.left_at.or(self.away_since).unwrap_or(now),
        };
        stay.seconds()
    }
}

/// Meetings of an app, the newest first.
pub async fn meetings(
    conn: &mut PgConnection,
    app: AppId,
    filter: &Filter,
    page: Page<MeetingId>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Meeting>> {
    store::meetings(conn, app, filter, page, now).await
}

/// How many meetings the filter lets through.
pub async fn count(conn: &mut PgConnection, app: AppId, filter: &Filter) -> sqlx::Result<i64> {
    store::count(conn, app, filter).await
}

/// One meeting.
pub async fn meeting(
    conn: &mut PgConnection,
    app: AppId,
    id: MeetingId,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Meeting>> {
    store::meeting(conn, app, id, now).await
}

/// The room's meeting that has not ended.
pub async fn running(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
) -> sqlx::Result<Option<MeetingId>> {
    store::running(conn, app, room).await
}

/// Stays in a meeting, in the order of their joins.
pub async fn stays(
    conn: &mut PgConnection,
    app: AppId,
    meeting: MeetingId,
    who: Who,
    page: Page<ParticipantId>,
) -> sqlx::Result<Vec<Stay>> {
    store::stays(conn, app, meeting, who, page).await
}

/// How many there are.
pub async fn count_stays(
    conn: &mut PgConnection,
    app: AppId,
    meeting: MeetingId,
    who: Who,
) -> sqlx::Result<i64> {
    store::count_stays(conn, app, meeting, who).await
}

/// One stay.
pub async fn stay(
    conn: &mut PgConnection,
    app: AppId,
    id: ParticipantId,
) -> sqlx::Result<Option<Stay>> {
    store::stay(conn, app, id).await
}

/// Removes who it was from up to `limit` stays that ended before `before`; returns which.
pub async fn forget_old(
    conn: &mut PgConnection,
    app: AppId,
    before: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<(MeetingId, ParticipantId)>> {
    store::forget_old(conn, app, before, limit).await
}

/// Removes a person, by the app's own id of them, from up to `limit` of their stays; returns which.
///
/// One who is in stays in: what the meeting's owner knows of them is gone with the end of the stay, from the events of which
/// it is removed in the transaction that ends it.
pub async fn forget_person(
    conn: &mut PgConnection,
    app: AppId,
    external_user_id: &str,
    limit: i64,
) -> sqlx::Result<Vec<(MeetingId, ParticipantId)>> {
    store::forget_person(conn, app, external_user_id, limit).await
}
