//! What is known of people goes: once it is old ([`Retention`]), when an app asks for it ([`erase`]), and with the app
//! ([`remove_app`]). `docs/privacy.md` says what there is, and why.
//!
//! Each concept forgets in its own tables; here is said what belongs together. Usage is never touched: it names no person.

mod retention;

use std::time::Duration;

pub use self::retention::Retention;
use crate::{
    apps, chat,
    clock::Clock,
    db::Db,
    id::{AppId, MeetingId, ParticipantId},
    meetings::{self, history},
    rooms, webhooks,
};

/// Why people's data could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of apps.
    #[error(transparent)]
    Apps(#[from] apps::Error),
    /// Of rooms.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Removes what is known of a person, by the app's own id of them: from their stays, from events, and from what receivers
/// answered to these. Returns how many stays there were. Broken off, it goes on where it is called again.
///
/// One who is in a meeting stays in; of that stay nothing is stored any more but that it was, how long, and why it ended.
/// What comes after the call is new.
pub async fn erase(db: &Db, app: AppId, external_user_id: &str) -> sqlx::Result<usize> {
    let mut stays = 0;
    loop {
        let mut tx = db.begin(app).await?;
        let found = history::forget_person(&mut tx, app, external_user_id, BATCH).await?;
        forget_stays(&mut tx, app, &found).await?;
        // By age it goes with its room.
        let ids: Vec<ParticipantId> = found.iter().map(|(_, stay)| *stay).collect();
        chat::forget_people(&mut tx, app, &ids).await?;
        tx.commit().await?;
        stays += found.len();
        if found.is_empty() {
            break;
        }
    }
    // Of somebody who was refused there are events, and no stay.
    loop {
        let mut tx = db.begin(app).await?;
        let found = webhooks::forget_person(&mut tx, app, external_user_id, BATCH).await?;
        tx.commit().await?;
        if found == 0 {
            return Ok(stays);
        }
    }
}

/// Removes what else tells whose these stays were. Whatever is kept of what somebody did in a stay is removed here too.
async fn forget_stays(
    tx: &mut sqlx::PgTransaction<'_>,
    app: AppId,
    stays: &[(MeetingId, ParticipantId)],
) -> sqlx::Result<()> {
    let (mut meetings, ids): (Vec<MeetingId>, Vec<ParticipantId>) = stays.iter().copied().unzip();
    meetings.sort_unstable();
    meetings.dedup();
    webhooks::forget_stays(tx, app, &meetings, &ids).await
}

/// Removes an app with all that it has; whether there was one.
///
/// Its keys open nothing from the first moment on and its rooms are closed. Everybody who is in a meeting is told that it is
/// over, unless its owner takes too long. Then all rows go in one transaction. Broken off, it goes on where it is called
/// again.
pub async fn remove_app(db: &Db, clock: &Clock, app: AppId) -> Result<bool, Error> {
    let now = clock.now();
    apps::revoke_keys(&mut db.system().await?, app, now).await?;
    let mut tx = db.begin(app).await?;
    rooms::archive_all(&mut tx, app, now).await?;
    tx.commit().await?;
    for _ in 0..ENDING_POLLS {
        if meetings::running(&mut *db.begin(app).await?, app).await? == 0 {
            break;
        }
        tokio::time::sleep(ENDING_POLL).await;
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match apps::remove(&mut db.system().await?, app).await {
            // Something of the app was just being written.
            Err(apps::Error::Database(error))
                if crate::db::is_deadlock(&error) && tries < REMOVALS => {}
            removed => return Ok(removed?),
        }
    }
}

/// Rows that are changed in one transaction at most.
const BATCH: i64 = 500;
/// How often it is looked whether an app's meetings have ended, and how many times: five seconds.
const ENDING_POLL: Duration = Duration::from_millis(100);
const ENDING_POLLS: usize = 50;
/// Times that an app is tried to be removed.
const REMOVALS: usize = 5;
