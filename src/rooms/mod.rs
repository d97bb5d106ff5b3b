//! Rooms: named, reusable places with rules; meetings come and go in them.

mod store;

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, seq::IndexedRandom};
use sqlx::{PgConnection, PgTransaction};

use crate::{
    deadlines::{self, Due, Kind},
    id::{AppId, RoomId},
    meetings::{self, EndReason},
    webhooks::RoomUrls,
};

/// A room's stored definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its id.
    pub id: RoomId,
    /// Whose it is.
    pub app_id: AppId,
    /// Its name.
    pub name: RoomName,
    /// Its rules.
    pub rules: Rules,
    /// Where its webhooks go.
    pub webhooks: RoomUrls,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What a room asks of its meetings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Who may join.
    pub privacy: Privacy,
    /// No joins from this instant on.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether everyone is put out at that instant too.
    pub eject_at_expiry: bool,
    /// How long one stay may last.
    pub eject_after: Option<TimeDelta>,
    /// How many may be in at once.
    pub max_participants: Option<u32>,
    /// Whether the page goes straight in, without a lobby.
    pub auto_join: bool,
}

/// 1 to 64 characters of `A-Z a-z 0-9 _ -`, case-sensitive; unique in its app among rooms that are not archived, and
/// none of the words that our routes need. Made by `FromStr` alone, or by chance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct RoomName(String);

/// Who may join a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Privacy {
    /// Whoever has the link.
    Public,
    /// Whoever has a token.
    Private,
}

/// A room that is to be made.
#[derive(Clone, Debug)]
pub struct NewRoom {
    /// Its name; one is made where none is given.
    pub name: Option<RoomName>,
    /// Its rules.
    pub rules: Rules,
    /// Where its webhooks go.
    pub webhooks: RoomUrls,
}

/// Why an operation on rooms was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name belongs to another room of the app.
    #[error("a room with this name already exists")]
    NameTaken,
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The text is not a room's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedName {
    /// A character or a length that no name has.
    #[error("must be 1 to 64 of A-Z, a-z, 0-9, _ and -")]
    Characters,
    /// A word of our routes.
    #[error("is a reserved word: choose another name")]
    Reserved,
}

/// Creates a room, with the deadline of its expiry. It lasts until it is archived.
///
/// # Errors
///
/// [`Error::NameTaken`].
pub async fn create(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    new: NewRoom,
    now: DateTime<Utc>,
    rng: &mut impl Rng,
) -> Result<Room, Error> {
    let NewRoom {
        name,
        rules,
        webhooks,
    } = new;
    let name = name.unwrap_or_else(|| RoomName::generate(rng));
    let room = Room {
        id: RoomId::new(now, rng),
        app_id: app,
        name,
        rules,
        webhooks,
        created_at: now,
    };
    store::insert(tx, &room).await?;
    if let Some(expires_at) = room.rules.expires_at {
        deadlines::set_of_room(tx, app, Kind::RoomExpires, room.id, expires_at).await?;
    }
    Ok(room)
}

/// The room of `app` with this name; `None` when it is absent, archived or another app's.
pub async fn find(
    conn: &mut PgConnection,
    app: AppId,
    name: &RoomName,
) -> Result<Option<Room>, Error> {
    Ok(store::find(conn, app, name).await?)
}

/// Keeps a room from being archived or expired until the transaction ends; whether it is there, not archived.
pub async fn hold(tx: &mut PgTransaction<'_>, app: AppId, id: RoomId) -> Result<bool, Error> {
    Ok(store::hold(tx, app, id).await?)
}

/// The room of `app` with this id, archived or not.
pub async fn get(conn: &mut PgConnection, app: AppId, id: RoomId) -> Result<Option<Room>, Error> {
    Ok(store::get(conn, app, id).await?)
}

/// Archives a room: its name is free again and its meeting ends. `None` where there is no such room.
pub async fn archive(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    name: &RoomName,
    now: DateTime<Utc>,
) -> Result<Option<RoomId>, Error> {
    let Some(room) = store::archive(tx, app, name, now).await? else {
        return Ok(None);
    };
    let expiry = deadlines::Key {
        kind: Kind::RoomExpires,
        subject: room.into(),
    };
    deadlines::cancel(tx, app, &[&expiry]).await?;
    meetings::request_end(tx, app, room, EndReason::RoomDeleted, now).await?;
    Ok(Some(room))
}

/// What the room's expiry does: with `ejectAtRoomExp` its meeting ends. Joins are refused by the time alone. `false` where
/// the deadline was not there to be taken any more.
pub async fn expire(tx: &mut PgTransaction<'_>, due: &Due) -> Result<bool, Error> {
    // Locked first, as whoever archives it does; and so that a meeting that is being opened is either seen here or sees
    // the time itself.
    let room = store::lock(tx, due.app, due.room).await?;
    if !deadlines::take(tx, due).await? {
        return Ok(false);
    }
    if room.is_some_and(|room| room.rules.eject_at_expiry) {
        meetings::request_end(tx, due.app, due.room, EndReason::RoomExpired, due.at).await?;
    }
    Ok(true)
}

impl RoomName {
    /// A name of 10 letters and digits (60 random bits), as Metered gives to rooms without one.
    pub fn generate(rng: &mut impl Rng) -> Self {
        let mut draw = || char::from(*LETTERS_AND_DIGITS.choose(rng).unwrap_or(&b'0'));
        Self((0..10).map(|_| draw()).collect())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for RoomName {
    type Err = MalformedName;

    fn from_str(text: &str) -> Result<Self, MalformedName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=64).contains(&text.len()) || !text.bytes().all(allowed) {
            Err(MalformedName::Characters)
        } else if RESERVED.contains(&text.to_ascii_lowercase().as_str()) {
            Err(MalformedName::Reserved)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl std::fmt::Display for RoomName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

const LETTERS_AND_DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// First path segments of our own routes, now and foreseen: a room of that name could not be opened.
const RESERVED: &[&str] = &[
    "admin", "api", "assets", "auth", "config", "console", "docs", "health", "join", "login",
    "logout", "metrics", "openapi", "ready", "rooms", "sdk", "static", "whep", "whip", "ws",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn words_of_our_routes_cannot_be_room_names() {
        for word in ["api", "ws", "Docs", "assets", "health"] {
            assert_eq!(
                word.parse::<RoomName>(),
                Err(MalformedName::Reserved),
                "{word}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_room_name_is_kept_as_it_was_given(name in "[A-Za-z0-9_-]{1,64}") {
            prop_assume!(!RESERVED.contains(&name.to_ascii_lowercase().as_str()));
            let parsed: RoomName = name.parse().unwrap();
            prop_assert_eq!(parsed.as_str(), name);
        }

        #[test]
        fn nothing_else_is_a_room_name(name in "[A-Za-z0-9_-]{0,63}[^A-Za-z0-9_-][A-Za-z0-9_-]{0,63}|[A-Za-z0-9_-]{65,80}|") {
            prop_assert_eq!(name.parse::<RoomName>(), Err(MalformedName::Characters));
        }

        #[test]
        fn a_generated_name_is_one(seed: u64) {
            let name = RoomName::generate(&mut SmallRng::seed_from_u64(seed));
            prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
        }
    }
}
