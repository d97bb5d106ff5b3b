//! One transaction of a meeting's owner: its facts with their events, usage and deadlines, fenced by the epoch.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use rand::Rng;
use sqlx::PgConnection;

use super::{
    Answer, Fact, Participant, Role, State, decide::is_stored_deadline, owner::Lease, store,
};
use crate::{
    db::{self, Db},
    deadlines::{self, Key},
    id::{BatchId, EventId},
    rooms,
    usage::{self, Stay},
    webhooks,
};

/// What a transaction writes.
pub struct Change {
    /// The right to write it.
    pub lease: Lease,
    /// The transaction before it.
    pub previous: Option<BatchId>,
    /// By which an unknown outcome is looked up.
    pub batch: BatchId,
    /// The meeting without the facts.
    pub before: State,
    /// The meeting with them.
    pub after: State,
    /// What became true, in order.
    pub facts: Vec<Fact>,
    /// For each of them the id of the request that asked for it, where one did.
    pub requests: Vec<Option<Arc<str>>>,
    /// The commands that are obeyed by it, each with its answer, where somebody waits for one.
    pub commands: Vec<(i64, Option<Answer>)>,
}

/// Why a transaction did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another node owns the meeting by now.
    #[error("another node owns the meeting")]
    Fenced,
    /// The answer to the commit was lost: ask [`happened`].
    #[error("it is not known whether the transaction came about: {0}")]
    Unknown(String),
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Whether Postgres answered, and refused.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Database(error) if !db::is_away(error))
    }
}

/// Writes a change, whole or not at all.
///
/// # Errors
///
/// [`Error::Fenced`] when another node has claimed the meeting since; [`Error::Unknown`] when only the commit failed.
pub async fn commit(db: &Db, change: &Change, rng: &mut impl Rng) -> Result<(), Error> {
    // To wait for one's turn is no doubt: nothing has been asked yet. And to give up half-way what many wait for would be
    // work for nothing, which makes the others wait for longer still.
    let mut tx = db.begin(change.lease.app).await?;
    let stored = async {
        write(&mut tx, change, rng).await?;
        tx.commit()
            .await
            .map_err(|error| Error::Unknown(error.to_string()))
    };
    match tokio::time::timeout(PATIENCE, stored).await {
        Ok(stored) => stored,
        Err(_) => Err(Error::Unknown("no answer in time".to_owned())),
    }
}

/// Whether the transaction with this batch id came about. One that is still under way is waited for.
pub async fn happened(db: &Db, lease: &Lease, batch: BatchId) -> sqlx::Result<bool> {
    let mut tx = db.begin(lease.app).await?;
    Ok(store::last_batch(&mut tx, lease).await? == Some(batch))
}

/// Gives a meeting up, so that any node may claim it at once.
pub async fn release(db: &Db, lease: &Lease, now: DateTime<Utc>) -> sqlx::Result<()> {
    let mut tx = db.begin(lease.app).await?;
    store::release(&mut tx, lease, now).await?;
    tx.commit().await
}

/// A transaction that takes longer, once it has a connection, is in doubt.
pub const PATIENCE: Duration = Duration::from_secs(2);

async fn write(conn: &mut PgConnection, change: &Change, rng: &mut impl Rng) -> Result<(), Error> {
    let Change {
        lease,
        previous,
        batch,
        after,
        facts,
        commands,
        ..
    } = change;
    let ended = facts.iter().find_map(|fact| match fact {
        Fact::Ended { at, reason } => Some((*at, reason.as_str())),
        Fact::Abandoned { at } => Some((*at, "neverJoined")),
        _ => None,
    });
    if !store::advance(conn, lease, (*previous, *batch), after, ended).await? {
        return Err(Error::Fenced);
    }
    // A stay begins, is interrupted, and ends, in this order; so do the rows of a batch that has all of it.
    let mut left = Vec::new();
    for fact in facts {
        match fact {
            Fact::Joined(participant) => store::insert(conn, lease, participant).await?,
            Fact::WentAway { participant, away } => {
                store::set_away(conn, lease, *participant, Some(away.since)).await?;
            }
            Fact::Limited {
                participant,
                time_up_at,
            } => store::set_limit(conn, lease, *participant, *time_up_at).await?,
            Fact::Blocked(block) => store::block(conn, lease, block).await?,
            Fact::CameBack { participant } => {
                store::set_away(conn, lease, *participant, None).await?
            }
            Fact::Left {
                participant,
                at,
                reason,
            } => left.push((participant.id, *at, *reason)),
            Fact::Permitted {
                participant,
                role,
                permissions,
            } => store::permit(conn, lease, *participant, *role, permissions).await?,
            Fact::Started { .. }
            | Fact::Ended { .. }
            | Fact::Abandoned { .. }
            | Fact::OneLeft { .. }
            | Fact::Showed { .. }
            | Fact::Shares { .. }
            | Fact::Active { .. }
            | Fact::Warned { .. }
            | Fact::Connected(_)
            | Fact::Knocked(_)
            | Fact::WaitsNoMore { .. }
            // With the meeting's row.
            | Fact::Locked(_)
            | Fact::Extended(_)
            | Fact::Ruled { .. } => {}
        }
    }
    let erased = store::close(conn, lease, &left).await?;
    usage::append(conn, lease.app, lease.meeting, &stays(change)).await?;
    webhooks::emit(conn, &events(change, rng)).await?;
    // The events tell what the owner knew of them.
    webhooks::forget_stays(conn, lease.app, &[lease.meeting], &erased).await?;

    let (moved, gone) = moves(change);
    let moved: Vec<_> = moved.iter().map(|(key, due)| (key, due)).collect();
    deadlines::set_of_meeting(conn, lease.app, lease.meeting, &moved).await?;
    deadlines::cancel(conn, lease.app, &gone.iter().collect::<Vec<_>>()).await?;
    for (command, answer) in commands {
        match answer {
            Some(answer) => store::answer(conn, lease, *command, answer).await?,
            None => store::obeyed(conn, lease, *command).await?,
        }
    }
    if let Some((at, _)) = ended {
        rooms::meeting_ended(conn, lease.app, after.room.id, at).await?;
        store::forget_commands(conn, lease).await?;
        store::forget_blocks(conn, lease).await?;
        deadlines::forget(conn, lease.app, lease.meeting).await?;
    }
    Ok(())
}

/// The stays that end by a change: what is billed of it.
pub fn stays(change: &Change) -> Vec<Stay> {
    let stays = change.facts.iter().filter_map(|fact| match fact {
        Fact::Left {
            participant, at, ..
        } => Some(stay(participant, *at)),
        _ => None,
    });
    stays.collect()
}

/// What webhooks tell of a change, numbered.
pub fn events(change: &Change, rng: &mut impl Rng) -> Vec<webhooks::Event> {
    let Change {
        lease,
        before,
        after,
        facts,
        requests,
        ..
    } = change;
    let room = after.room.told();
    let told = facts
        .iter()
        .zip(requests)
        .filter_map(|(fact, request)| Some((event(after, fact)?, request)));
    let events = told
        .zip(before.next_seq..)
        .map(|(((at, kind), request), seq)| webhooks::Event {
            id: EventId::new(at, rng),
            app: lease.app,
            room: room.clone(),
            meeting: Some(lease.meeting),
            seq: Some(seq),
            at,
            request_id: request.as_deref().map(str::to_owned),
            kind,
        });
    events.collect()
}

/// Which stored deadlines a change sets or moves, and which it cancels.
pub fn moves(change: &Change) -> (Vec<(Key, DateTime<Utc>)>, Vec<Key>) {
    let (old, new) = (change.before.deadlines(), change.after.deadlines());
    let moved = new
        .iter()
        .filter(|(key, due)| is_stored_deadline(key) && old.get(key) != Some(due));
    let gone = old
        .keys()
        .filter(|key| is_stored_deadline(key) && !new.contains_key(key));
    (
        moved.map(|(key, due)| (*key, *due)).collect(),
        gone.copied().collect(),
    )
}

fn stay(participant: &Participant, left_at: DateTime<Utc>) -> Stay {
    Stay {
        participant: participant.id,
        joined_at: participant.joined_at,
        left_at,
    }
}

/// What webhooks tell of a fact.
fn event(after: &State, fact: &Fact) -> Option<(DateTime<Utc>, webhooks::Kind)> {
    let told = |participant: &Participant| webhooks::Stay {
        id: participant.id,
        name: participant.name.clone(),
        email: participant.identity.email.clone(),
        external_user_id: participant.identity.external_user_id.clone(),
        meta: participant.identity.meta.clone(),
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
            let kind = webhooks::Kind::ParticipantLeft {
                stay: told(participant),
                left_at: *at,
                duration_sec: stay(participant, *at).seconds(),
                reason: reason.as_str().to_owned(),
            };
            Some((*at, kind))
        }
        Fact::Ended { at, reason } => {
            // One that nobody joined has not lasted.
            let started_at = after.started_at.unwrap_or(*at);
            let kind = webhooks::Kind::MeetingEnded {
                duration_sec: (at.timestamp() - started_at.timestamp()).max(0),
                participant_count: after.participant_count.into(),
                reason: reason.as_str().to_owned(),
            };
            Some((*at, kind))
        }
        Fact::Knocked(waiting) => {
            let request = &waiting.request;
            let identity = request.grant.as_ref().map(|grant| &grant.identity);
            let kind = webhooks::Kind::Knock(webhooks::Person {
                name: request.shown_name().to_owned(),
                email: identity.and_then(|identity| identity.email.clone()),
                external_user_id: identity.and_then(|identity| identity.external_user_id.clone()),
                meta: identity.and_then(|identity| identity.meta.clone()),
            });
            Some((waiting.since, kind))
        }
        Fact::Abandoned { .. }
        | Fact::WaitsNoMore { .. }
        | Fact::Locked(_)
        | Fact::Extended(_)
        | Fact::Blocked(_)
        | Fact::Permitted { .. }
        | Fact::WentAway { .. }
        | Fact::CameBack { .. }
        | Fact::Limited { .. }
        | Fact::OneLeft { .. }
        | Fact::Showed { .. }
        | Fact::Shares { .. }
        | Fact::Active { .. }
        | Fact::Warned { .. }
        | Fact::Connected(_)
        | Fact::Ruled { .. } => None,
    }
}
