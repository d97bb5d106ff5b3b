//! One transaction of a meeting's owner: its facts with their events, usage and deadlines, fenced by the epoch.

use rand::Rng;
use sqlx::{Acquire, PgConnection};

use super::{Fact, LeaveReason, Role, State, owner::Lease, store};
use crate::{
    db::Db,
    deadlines,
    id::{BatchId, EventId},
    usage::{self, Stay},
    webhooks,
};

/// What a transaction writes.
pub struct Change<'a> {
    /// The right to write it.
    pub lease: &'a Lease,
    /// By which an unknown outcome is looked up.
    pub batch: BatchId,
    /// The meeting without the facts.
    pub before: &'a State,
    /// The meeting with them.
    pub after: &'a State,
    /// What became true, in order.
    pub facts: &'a [&'a Fact],
    /// The commands that are obeyed by it.
    pub commands: &'a [i64],
}

/// Why a transaction did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another node owns the meeting by now.
    #[error("another node owns the meeting")]
    Fenced,
    /// The answer to the commit was lost: ask [`happened`].
    #[error("it is not known whether the transaction came about: {0}")]
    Unknown(#[source] sqlx::Error),
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Writes a change, whole or not at all.
///
/// # Errors
///
/// [`Error::Fenced`] when another node has claimed the meeting since; [`Error::Unknown`] when only the commit failed.
pub async fn commit(db: &Db, change: &Change<'_>, rng: &mut impl Rng) -> Result<(), Error> {
    let mut tx = db.begin(change.lease.app).await?;
    write(&mut tx, change, rng).await?;
    tx.commit().await.map_err(Error::Unknown)
}

/// Whether the transaction with this batch id came about.
pub async fn happened(db: &Db, lease: &Lease, batch: BatchId) -> sqlx::Result<bool> {
    let mut tx = db.begin(lease.app).await?;
    store::has_batch(&mut tx, lease, batch).await
}

/// Gives a meeting up, so that any node may claim it at once.
pub async fn release(
    db: &Db,
    lease: &Lease,
    now: chrono::DateTime<chrono::Utc>,
) -> sqlx::Result<()> {
    let mut tx = db.begin(lease.app).await?;
    store::release(&mut tx, lease, now).await?;
    tx.commit().await
}

async fn write(
    conn: &mut PgConnection,
    change: &Change<'_>,
    rng: &mut impl Rng,
) -> Result<(), Error> {
    let Change {
        lease,
        before,
        after,
        ..
    } = *change;
    let conn = conn.acquire().await?;
    let ended = change.facts.iter().find_map(|fact| match fact {
        Fact::Ended { at, reason } => Some((*at, reason.as_str())),
        Fact::Abandoned { at } => Some((*at, "neverJoined")),
        _ => None,
    });
    if !store::advance(conn, lease, change.batch, after, ended).await? {
        return Err(Error::Fenced);
    }
    let mut seq = before.next_seq;
    for fact in change.facts {
        store::record(conn, lease, fact).await?;
        if let Fact::Left {
            participant, at, ..
        } = fact
        {
            usage::append(conn, &stay(lease, participant, *at)).await?;
        }
        if let Some((at, kind)) = event(lease, after, fact) {
            let room = &after.room;
            let room = webhooks::Room {
                id: room.id,
                name: room.name.to_string(),
                urls: room.webhooks.clone(),
            };
            let id = EventId::new(at, rng);
            let event = webhooks::Event {
                id,
                app: lease.app,
                room,
                meeting: lease.meeting,
                seq,
                at,
                kind,
            };
            webhooks::emit(conn, &event).await?;
            seq += 1;
        }
    }
    let (old, new) = (before.deadlines(), after.deadlines());
    for (key, due_at) in &new {
        if old.get(key) != Some(due_at) {
            deadlines::set_of_meeting(conn, lease.app, lease.meeting, *key, *due_at).await?;
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        deadlines::cancel(conn, lease.app, *key).await?;
    }
    if ended.is_some() {
        store::forget_commands(conn, lease).await?;
    }
    for command in change.commands {
        store::obeyed(conn, lease, *command).await?;
    }
    Ok(())
}

fn stay(
    lease: &Lease,
    participant: &super::Participant,
    left_at: chrono::DateTime<chrono::Utc>,
) -> Stay {
    Stay {
        app: lease.app,
        meeting: lease.meeting,
        participant: participant.id,
        joined_at: participant.joined_at,
        left_at,
    }
}

/// What webhooks tell of a fact.
fn event(
    lease: &Lease,
    after: &State,
    fact: &Fact,
) -> Option<(chrono::DateTime<chrono::Utc>, webhooks::Kind)> {
    let told = |participant: &super::Participant| webhooks::Stay {
        id: participant.id,
        name: participant.name.clone(),
        email: None,
        external_user_id: None,
        meta: None,
        is_admin: participant.role == Role::Moderator,
        joined_at: participant.joined_at,
    };
    match fact {
        Fact::Started { at } => Some((*at, webhooks::Kind::MeetingStarted)),
        Fact::Joined(participant) => Some((
            participant.joined_at,
            webhooks::Kind::ParticipantJoined(told(participant)),
        )),
        Fact::Left {
            participant,
            at,
            reason,
        } => {
            let duration_sec = stay(lease, participant, *at).seconds();
            let reason = LeaveReason::as_str(*reason).to_owned();
            let kind = webhooks::Kind::ParticipantLeft {
                stay: told(participant),
                left_at: *at,
                duration_sec,
                reason,
            };
            Some((*at, kind))
        }
        Fact::Ended { at, reason } => {
            let started_at = after.started_at.unwrap_or(after.created_at);
            let duration_sec = (at.timestamp() - started_at.timestamp()).max(0);
            let participant_count = after.participant_count.into();
            let reason = reason.as_str().to_owned();
            Some((
                *at,
                webhooks::Kind::MeetingEnded {
                    duration_sec,
                    participant_count,
                    reason,
                },
            ))
        }
        Fact::Abandoned { .. }
        | Fact::WentAway { .. }
        | Fact::CameBack { .. }
        | Fact::Showed { .. }
        | Fact::Ruled(_) => None,
    }
}
