//! Rooms: named, reusable places with rules; meetings come and go in them.

mod anonymous;
mod password;
pub mod property;
mod rtmp;
mod rules;
mod store;

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, seq::IndexedRandom};
use sqlx::{Connection, PgConnection, PgTransaction};

pub(crate) use self::rules::words;
pub use self::{
    anonymous::{AddressHash, Anonymous, AnonymousRoom, CreatorHash, CreatorToken, Refused},
    password::{MalformedPassword, NotHashed, Password, PasswordHash},
    rtmp::{MalformedRtmpUrl, RtmpUrl},
    rules::{
        CompositionLayout, DuplicateUser, LockSettings, MediaMode, MeetingStart, NAMES, Privacy,
        Rules, RulesChange,
    },
    store::{Filter, Page},
};
use crate::{
    chat,
    db::System,
    deadlines::{self, Due, Kind},
    id::{AppId, EventId, RoomId},
    meetings::{self, EndReason, Opened},
    sealed::{MasterKey, Sealed, Unsealable},
    webhooks::{self, Event, RoomUrls},
};

/// A room's stored definition.
#[derive(Clone, Debug)]
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
    /// What is kept of its password, where it has one.
    pub password: Option<PasswordHash>,
    /// Where its composition is streamed to.
    pub rtmp_out_url: Option<Sealed<RtmpUrl>>,
    /// Whether it was made by somebody without a credential.
    pub anonymous: bool,
    /// What is kept of the token with which whoever made it moderates.
    pub creator: Option<CreatorHash>,
    /// How often it was changed.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Since when it is archived.
    pub archived_at: Option<DateTime<Utc>>,
}

/// 1 to 64 characters of `A-Z a-z 0-9 _ -`, case-sensitive; unique in its app among rooms that are not archived, and
/// none of the words that our routes need. Made by `FromStr` alone, or by chance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct RoomName(String);

/// What a room is to be, or what of it is to change: what is `None` has its default, or stays.
#[derive(Clone, Debug, Default)]
pub struct RoomChange {
    /// Its name; one is made for a new room where none is given.
    pub name: Option<RoomName>,
    /// Its rules.
    pub rules: RulesChange,
    /// Where its webhooks go.
    pub webhooks: RoomUrlsChange,
    /// What its password is kept as; `Some(None)` takes the password away.
    pub password: Option<Option<PasswordHash>>,
    /// Where its composition is streamed to; `Some(None)` takes that away.
    pub rtmp_out_url: Option<Option<RtmpUrl>>,
}

/// A change of a room's webhook URLs: what is `None` stays, `Some(None)` takes the URL away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomUrlsChange {
    /// Of joins.
    pub meeting_join: Option<Option<String>>,
    /// Of leaves.
    pub meeting_left: Option<Option<String>>,
    /// Of starts.
    pub meeting_started: Option<Option<String>>,
    /// Of ends.
    pub meeting_ended: Option<Option<String>>,
}

/// Why an operation on rooms was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name belongs to another room of the app.
    #[error("a room with this name already exists")]
    NameTaken,
    /// Properties that contradict each other: each one's name, and what would be right.
    #[error("properties contradict each other")]
    Contradictions(Vec<(&'static str, &'static str)>),
    /// Nobody can join it any more.
    #[error("this room has expired: give it another expireUnixSec, or none")]
    Expired,
    /// It is not as the caller knows it: it was changed meanwhile.
    #[error("the room was changed meanwhile: get it again")]
    Changed,
    /// A stored secret does not open, or cannot be sealed.
    #[error(transparent)]
    Sealed(#[from] Unsealable),
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What a change asks of the room that it finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    #[default]
    Anything,
    /// That it is one of these rooms, with these versions.
    OneOf(Vec<(RoomId, i32)>),
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

/// Creates a room, with the deadline of its expiry. It lasts until it is archived. What is not said of it is as in `defaults`,
/// the rules that its app has for new rooms.
///
/// With `meetingStart: api` its first meeting is open from then on; after the commit,
/// [`Meetings::claim_soon`](meetings::Meetings::claim_soon) gives it an owner.
///
/// Otherwise one statement. `conn` needs neither a transaction nor a tenant.
///
/// # Errors
///
/// [`Error::NameTaken`], [`Error::Contradictions`].
pub async fn create(
    conn: &mut PgConnection,
    app: AppId,
    wanted: RoomChange,
    defaults: Rules,
    master_key: &MasterKey,
    now: DateTime<Utc>,
    rng: &mut impl Rng,
) -> Result<Room, Error> {
    let mut room = Room::new(app, defaults, now, rng);
    room.change(wanted, master_key)?;
    match room.rules.meeting_start {
        MeetingStart::Join => store::insert(conn, &room, None).await?,
        MeetingStart::Api => {
            let mut tx = conn.begin().await?;
            store::insert(&mut tx, &room, None).await?;
            meetings::open(&mut tx, &room, now, rng).await?;
            tx.commit().await?;
        }
    }
    Ok(room)
}

/// Opens a meeting in a room, before anybody joins; where one is open or live already, that one. `None` where there is no such
/// room.
///
/// After the commit, [`Meetings::claim_soon`](meetings::Meetings::claim_soon) gives it an owner.
///
/// # Errors
///
/// [`Error::Expired`].
pub async fn start(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    name: &RoomName,
    now: DateTime<Utc>,
    rng: &mut impl Rng,
) -> Result<Option<Opened>, Error> {
    // Locked, so that it is neither archived nor expired while the meeting is opened.
    let Some(room) = store::lock_named(tx, app, name).await? else {
        return Ok(None);
    };
    if room.rules.expires_at().is_some_and(|at| at <= now) {
        return Err(Error::Expired);
    }
    Ok(Some(meetings::open(tx, &room, now, rng).await?))
}

/// Changes a room, and with it the meeting that runs in it. `None` where there is no such room.
///
/// After the commit, [`Meetings::wake`](meetings::Meetings::wake) makes a meeting follow at once.
///
/// # Errors
///
/// [`Error::Changed`] where the room is not as `expected`; [`Error::NameTaken`], [`Error::Contradictions`].
pub async fn update(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    name: &RoomName,
    change: RoomChange,
    expected: &Expected,
    master_key: &MasterKey,
    now: DateTime<Utc>,
) -> Result<Option<Room>, Error> {
    let Some(mut room) = store::lock_named(tx, app, name).await? else {
        return Ok(None);
    };
    expected.check(&room)?;
    let (expired_at, was_over) = (room.rules.expires_at(), room.is_over(now));
    room.change(change, master_key)?;
    room.version += 1;
    store::update(tx, &room).await?;
    match room.rules.expires_at() {
        same if same == expired_at => {}
        // What is over by a new rule was not so until now.
        Some(at) => {
            deadlines::set_of_room(tx, app, Kind::RoomExpires, room.id, at.max(now)).await?;
        }
        None => cancel(tx, app, room.id, &[Kind::RoomExpires]).await?,
    }
    if room.is_over(now) && !was_over {
        deadlines::set_of_room(tx, app, Kind::RoomUnused, room.id, now).await?;
    }
    meetings::request_rules(tx, app, room.id, now).await?;
    Ok(Some(room))
}

/// A page of the app's rooms, newest first.
pub async fn list(
    conn: &mut PgConnection,
    app: AppId,
    filter: &Filter,
    page: Page,
) -> Result<Vec<Room>, Error> {
    Ok(store::list(conn, app, filter, page).await?)
}

/// How many rooms of the app there are.
pub async fn count(conn: &mut PgConnection, app: AppId, filter: &Filter) -> Result<i64, Error> {
    Ok(store::count(conn, app, filter).await?)
}

/// The room of `app` with this name; `None` when it is absent, archived or another app's.
pub async fn find(
    conn: &mut PgConnection,
    app: AppId,
    name: &RoomName,
) -> Result<Option<Room>, Error> {
    Ok(store::find(conn, app, name).await?)
}

/// When these rooms open, those that are there; `None` for one that is open at any time.
pub async fn opening_times(
    conn: &mut System,
    rooms: &[(AppId, RoomName)],
) -> sqlx::Result<Vec<((AppId, RoomName), Option<DateTime<Utc>>)>> {
    store::opening_times(conn, rooms).await
}

/// Keeps a room from being changed, archived or expired until the transaction ends; whether it is there, not archived.
///
/// # Errors
///
/// [`Error::Changed`] where it is not as it is known.
pub async fn hold(tx: &mut PgTransaction<'_>, known: &Room) -> Result<bool, Error> {
    match store::hold(tx, known.app_id, known.id).await? {
        Some(version) if version != known.version => Err(Error::Changed),
        version => Ok(version.is_some()),
    }
}

/// The room of `app` with this id, archived or not.
pub async fn get(conn: &mut PgConnection, app: AppId, id: RoomId) -> Result<Option<Room>, Error> {
    Ok(store::get(conn, app, id).await?)
}

/// Archives a room: its name is free again and its meeting ends. `None` where there is no such room.
///
/// # Errors
///
/// [`Error::Changed`] where the room is not as `expected`.
pub async fn archive(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    name: &RoomName,
    expected: &Expected,
    now: DateTime<Utc>,
) -> Result<Option<RoomId>, Error> {
    let Some(room) = store::lock_named(tx, app, name).await? else {
        return Ok(None);
    };
    expected.check(&room)?;
    retire(tx, app, room.id, now).await?;
    meetings::request_end(tx, app, room.id, EndReason::RoomDeleted, now).await?;
    Ok(Some(room.id))
}

/// Archives all rooms of an app: their meetings end.
pub async fn archive_all(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    store::archive_all(tx, app, now).await?;
    Ok(meetings::request_end_of_all(tx, app, EndReason::RoomDeleted, now).await?)
}

/// Archives a room; its deadlines and its chat go.
async fn retire(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    store::archive(conn, app, room, at).await?;
    chat::forget(conn, app, room).await?;
    cancel(conn, app, room, &[Kind::RoomExpires, Kind::RoomUnused]).await
}

async fn cancel(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
    kinds: &[Kind],
) -> sqlx::Result<()> {
    let subject = room.into();
    let keys: Vec<_> = kinds
        .iter()
        .map(|kind| deadlines::Key {
            kind: *kind,
            subject,
        })
        .collect();
    deadlines::cancel(conn, app, &keys.iter().collect::<Vec<_>>()).await
}

/// From now on a room that was made without a credential is removed once it was not used for a day. In the transaction that
/// makes it; each end of a meeting in it puts that off.
pub async fn expect_use(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    deadlines::set_of_room(conn, app, Kind::RoomUnused, room, now + UNUSED_FOR).await
}

/// A room's meeting has ended: the room goes with it where it expired before with `deleteOnExp`, and where it was made without
/// a credential it is unused from now on. In the transaction of the end.
pub async fn meeting_ended(
    conn: &mut PgConnection,
    app: AppId,
    room: RoomId,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    store::meeting_ended(conn, app, room, at, at + UNUSED_FOR).await
}

/// Removes a room that is over, or that nobody has used for a day; not while a meeting runs in it, whose end asks again.
/// `false` where the deadline was not there to be taken any more.
pub async fn remove_unused(tx: &mut PgTransaction<'_>, due: &Due) -> Result<bool, Error> {
    let room = store::lock(tx, due.app, due.room).await?;
    if !deadlines::take(tx, due).await? {
        return Ok(false);
    }
    let Some(room) = room else {
        return Ok(true);
    };
    if !meetings::is_running(tx, due.app, due.room).await?
        && (room.is_over(due.at)
            || store::is_unused(tx, due.app, due.room, due.at - UNUSED_FOR).await?)
    {
        retire(tx, due.app, due.room, due.at).await?;
    }
    Ok(true)
}

/// What the room's expiry does: the app is told, with `ejectAtRoomExp` the room's meeting ends, and with `deleteOnExp` the room
/// is archived unless a meeting runs. Joins are refused by the time alone. `false` where the deadline was not there to be taken
/// any more.
pub async fn expire(
    tx: &mut PgTransaction<'_>,
    due: &Due,
    rng: &mut impl Rng,
) -> Result<bool, Error> {
    // Locked first, as whoever archives it does; and so that a meeting that is being opened is either seen here or sees
    // the time itself.
    let room = store::lock(tx, due.app, due.room).await?;
    if !deadlines::take(tx, due).await? {
        return Ok(false);
    }
    let Some(room) = room else {
        return Ok(true);
    };
    if room.rules.delete_at_expiry && !meetings::is_running(tx, due.app, due.room).await? {
        retire(tx, due.app, due.room, due.at).await?;
    } else if room.rules.eject_at_expiry {
        meetings::request_end(tx, due.app, due.room, EndReason::RoomExpired, due.at).await?;
    }
    let event = Event {
        id: EventId::new(due.at, rng),
        app: due.app,
        room: room.told(),
        meeting: None,
        seq: None,
        at: due.at,
        request_id: None,
        kind: webhooks::Kind::RoomExpired,
    };
    webhooks::emit(tx, &[event]).await?;
    Ok(true)
}

/// Seals all secrets of rooms anew that are under another key than the one `master_key` seals with; how many there were.
/// Broken off, it goes on where it is called again.
///
/// # Errors
///
/// [`Error::Sealed`] for one that `master_key` does not open.
pub async fn rewrap(conn: &mut System, master_key: &MasterKey) -> Result<u64, Error> {
    let (mut count, mut last) = (0, None);
    loop {
        let key = master_key.id();
        let batch = store::rtmp_urls_not_under(conn, key, last, REWRAP_BATCH).await?;
        if batch.is_empty() {
            return Ok(count);
        }
        for (room, old) in batch {
            let new = old.reseal(master_key, &rtmp::place(&room))?;
            count += store::replace_rtmp_url(conn, room, &old, &new).await?;
            last = Some(room);
        }
    }
}

impl Room {
    /// A room that is not stored yet, under a name of chance.
    fn new(app: AppId, rules: Rules, now: DateTime<Utc>, rng: &mut impl Rng) -> Self {
        Self {
            id: RoomId::new(now, rng),
            app_id: app,
            name: RoomName::generate(rng),
            rules,
            webhooks: RoomUrls::default(),
            password: None,
            rtmp_out_url: None,
            anonymous: false,
            creator: None,
            version: 0,
            created_at: now,
            archived_at: None,
        }
    }

    /// Where its composition is streamed to.
    ///
    /// # Errors
    ///
    /// When it was sealed under another master key.
    pub fn rtmp_out_url(&self, master_key: &MasterKey) -> Result<Option<RtmpUrl>, Unsealable> {
        let sealed = self.rtmp_out_url.as_ref();
        sealed
            .map(|url| url.open(master_key, &rtmp::place(&self.id)))
            .transpose()
    }

    /// What events tell of it.
    pub fn told(&self) -> webhooks::Room {
        webhooks::Room {
            id: self.id,
            name: self.name.to_string(),
            urls: self.webhooks.clone(),
        }
    }

    /// Whether nothing but a meeting that still runs keeps it from being deleted.
    fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.rules.delete_at_expiry && self.rules.expires_at().is_some_and(|at| at <= now)
    }

    fn change(&mut self, change: RoomChange, master_key: &MasterKey) -> Result<(), Error> {
        let RoomChange {
            name,
            rules,
            webhooks,
            password,
            rtmp_out_url,
        } = change;
        if let Some(name) = name {
            self.name = name;
        }
        rules.apply(&mut self.rules);
        webhooks.apply(&mut self.webhooks);
        if let Some(password) = password {
            self.password = password;
        }
        if let Some(url) = rtmp_out_url {
            let seal = |url| Sealed::seal(&url, master_key, &rtmp::place(&self.id));
            self.rtmp_out_url = url.map(seal).transpose()?;
        }
        let mut contradictions = self.rules.contradictions();
        if self.rules.enable_rtmp_out && self.rtmp_out_url.is_none() {
            contradictions.push(("rtmpOutURL", "must be given with enableRTMPOut"));
        }
        if !contradictions.is_empty() {
            return Err(Error::Contradictions(contradictions));
        }
        self.rules.imply();
        Ok(())
    }
}

impl RoomUrlsChange {
    fn apply(self, urls: &mut RoomUrls) {
        let all = [
            (self.meeting_started, &mut urls.meeting_started),
            (self.meeting_join, &mut urls.meeting_join),
            (self.meeting_left, &mut urls.meeting_left),
            (self.meeting_ended, &mut urls.meeting_ended),
        ];
        for (change, url) in all {
            if let Some(change) = change {
                *url = change;
            }
        }
    }
}

impl Expected {
    fn check(&self, room: &Room) -> Result<(), Error> {
        match self {
            Self::OneOf(known) if !known.contains(&(room.id, room.version)) => Err(Error::Changed),
            _ => Ok(()),
        }
    }
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

/// A room that was made without a credential is kept so long without being used.
const UNUSED_FOR: TimeDelta = TimeDelta::hours(24);
/// Secrets that a rewrap holds at a time.
const REWRAP_BATCH: i64 = 100;

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
