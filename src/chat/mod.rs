//! Chat: what people wrote to all, kept for who comes later.
//!
//! A message is relayed at once and written behind: a crash loses at most the last second of what was written, and no
//! message waits for Postgres.

mod store;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tracing::warn;

use crate::{
    db::{self, Db},
    id::{AppId, ChatMessageId, MeetingId, ParticipantId, RoomId},
};

/// A message to all, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which message.
    pub id: ChatMessageId,
    /// Who wrote it.
    pub participant: ParticipantId,
    /// Their display name at that time.
    pub name: Arc<str>,
    /// What they wrote.
    pub text: Arc<str>,
    /// The message that it answers, as clients name it.
    pub reply_to: Option<Arc<str>>,
    /// When.
    pub sent_at: DateTime<Utc>,
}

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Whose room it is.
    pub app: AppId,
    /// The room.
    pub room: RoomId,
    /// The meeting in it.
    pub meeting: MeetingId,
}

/// The last lines of a chat, bounded by number and bytes.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
}

/// Lines on their way to Postgres.
#[derive(Debug)]
pub struct Chat {
    db: Db,
    waiting: Mutex<Waiting>,
    /// Held by whoever writes.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<(Place, Arc<Line>)>,
    bytes: usize,
    /// How many have been dropped since Postgres took lines last.
    dropped: usize,
}

/// Removes what was written in a room.
pub async fn forget(conn: &mut PgConnection, app: AppId, room: RoomId) -> sqlx::Result<()> {
    store::delete(conn, app, room).await
}

/// Removes what was written in these stays.
pub async fn forget_people(
    conn: &mut PgConnection,
    app: AppId,
    stays: &[ParticipantId],
) -> sqlx::Result<()> {
    store::delete_of(conn, app, stays).await
}

impl Line {
    /// About how much of a frame it takes, in bytes.
    fn bytes(&self) -> usize {
        let reply_to = self.reply_to.as_ref().map_or(0, |reply_to| reply_to.len());
        LINE_OVERHEAD + self.name.len() + self.text.len() + reply_to
    }
}

impl Recent {
    /// Adds a line; the oldest ones go where there is no room for all.
    pub fn push(&mut self, line: Arc<Line>) {
        self.bytes += line.bytes();
        self.lines.push_back(line);
        while self.lines.len() > RECENT_LINES || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
        }
    }

    /// From the oldest to the newest.
    pub fn lines(&self) -> Arc<[Arc<Line>]> {
        self.lines.iter().cloned().collect()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl Chat {
    /// Nothing waits yet.
    pub fn new(db: Db) -> Self {
        Self {
            db,
            waiting: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Has a line written soon. While Postgres takes nothing for long, the oldest lines are dropped.
    pub fn keep(&self, place: Place, line: Arc<Line>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes += line.bytes();
        waiting.lines.push_back((place, line));
        while waiting.bytes > WAITING_BYTES {
            let Some((_, oldest)) = waiting.lines.pop_front() else {
                return;
            };
            waiting.bytes -= oldest.bytes();
            if waiting.dropped == 0 {
                warn!(
                    "Postgres takes no chat, and there is no room for more of it: the oldest is lost"
                );
            }
            waiting.dropped += 1;
        }
    }

    /// Writes what waits, each app's in a transaction of its own.
    ///
    /// Nothing is lost where this is given up in the middle: a line waits until it is known to be stored, and one that is
    /// written twice is stored once.
    pub async fn write(&self) -> sqlx::Result<()> {
        let _writing = self.writing.lock().await;
        loop {
            let batch = self.batch();
            if batch.is_empty() {
                return Ok(());
            }
            let mut by_app: HashMap<AppId, Vec<&(Place, Arc<Line>)>> = HashMap::new();
            for entry in &batch {
                by_app.entry(entry.0.app).or_default().push(entry);
            }
            for (app, lines) in by_app {
                match self.write_of(app, &lines).await {
                    Err(error) if db::is_away(&error) => return Err(error),
                    // Trying again would not help, and the lines behind these would wait for ever.
                    Err(error) => {
                        warn!(app.id = %app, lines = lines.len(), %error, "Postgres refuses chat: it is lost")
                    }
                    Ok(()) => {}
                }
            }
            self.written(&batch);
        }
    }

    async fn write_of(&self, app: AppId, lines: &[&(Place, Arc<Line>)]) -> sqlx::Result<()> {
        let mut tx = self.db.begin(app).await?;
        store::insert(&mut tx, app, lines).await?;
        tx.commit().await
    }

    /// Writes what waits again and again; never ends.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(WRITE_EVERY).await;
            if let Err(error) = self.write().await {
                warn!(%error, "chat cannot be written; trying again");
            }
        }
    }

    /// The last lines of a meeting, or of all meetings in its room.
    pub async fn recent(&self, place: Place, whole_room: bool) -> sqlx::Result<Recent> {
        // The meeting before this one may have ended a moment ago.
        self.write().await?;
        let meeting = (!whole_room).then_some(place.meeting);
        let mut tx = self.db.begin(place.app).await?;
        let lines =
            store::last(&mut tx, place.app, place.room, meeting, RECENT_LINES as i64).await?;
        let mut recent = Recent::default();
        lines
            .into_iter()
            .for_each(|line| recent.push(Arc::new(line)));
        Ok(recent)
    }

    fn batch(&self) -> Vec<(Place, Arc<Line>)> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.lines.iter().take(BATCH).cloned().collect()
    }

    /// Takes away what is stored; what was dropped meanwhile is not there any more.
    fn written(&self, batch: &[(Place, Arc<Line>)]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, line) in batch {
            if waiting
                .lines
                .front()
                .is_some_and(|(_, first)| first.id == line.id)
            {
                waiting.lines.pop_front();
                waiting.bytes -= line.bytes();
            }
        }
        waiting.dropped = 0;
    }
}

/// Lines that somebody who comes in is shown at most.
const RECENT_LINES: usize = 100;
/// About as many bytes of them at most.
const RECENT_BYTES: usize = 64 * 1024;
/// What a line takes in a frame beside its texts, in bytes.
const LINE_OVERHEAD: usize = 150;
/// What waits for Postgres at most, in bytes.
const WAITING_BYTES: usize = 16 * 1024 * 1024;
/// Lines of one transaction at most.
const BATCH: usize = 500;
/// How long a line waits before it is written.
const WRITE_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u8, text: &str) -> Arc<Line> {
        Arc::new(Line {
            id: ChatMessageId::from_bytes([number; 12]),
            participant: ParticipantId::from_bytes([1; 12]),
            name: "Ann".into(),
            text: text.into(),
            reply_to: None,
            sent_at: DateTime::from_timestamp(1_900_000_000, 0).unwrap(),
        })
    }

    #[test]
    fn the_newest_lines_are_kept_as_far_as_number_and_bytes_allow() {
        let mut recent = Recent::default();
        assert!(recent.is_empty());
        for number in 0..=RECENT_LINES {
            recent.push(line(number as u8, "hi"));
        }
        let lines = recent.lines();
        assert_eq!((lines.len(), lines[0].id.as_bytes()[0]), (RECENT_LINES, 1));
        recent.push(line(200, &"a".repeat(RECENT_BYTES / 2)));
        recent.push(line(201, &"b".repeat(RECENT_BYTES / 2)));
        let kept = recent.lines();
        assert_eq!(kept.len(), 1, "two do not fit beside what a line takes");
        recent.push(line(202, &"c".repeat(RECENT_BYTES)));
        assert!(recent.is_empty());
    }
}
