//! Rooms that are made without a credential, in apps that allow it.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc};

use aws_lc_rs::{constant_time, digest};
use rand::{Rng, RngExt, seq::IndexedRandom};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{
    Error, MediaMode, MeetingStart, NotHashed, Password, Privacy, Room, RoomChange, RoomName,
    Rules, RulesChange, store,
};
use crate::{
    apps,
    clock::Clock,
    db::Db,
    id::AppId,
    rate::{self, Buckets, Limit},
    sealed::MasterKey,
};

/// Makes rooms for whoever asks, within bounds.
pub struct Anonymous {
    db: Db,
    clock: Clock,
    master_key: Arc<MasterKey>,
    rate: Buckets<IpAddr>,
}

/// What an anonymous room is to be.
#[derive(Clone, Debug, Default)]
pub struct AnonymousRoom {
    /// Its name; one of six of `A-Z 0-9` is made where none is given.
    pub name: Option<RoomName>,
    /// What people must know to join.
    pub password: Option<Password>,
    /// How many may be in at once; eight where nothing is said.
    pub max_participants: Option<u32>,
    /// What pages call it.
    pub title: Option<String>,
    /// What is kept with it: `metadata`.
    pub metadata: Map<String, Value>,
}

/// Why no room was made.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The app makes rooms for nobody without a credential.
    #[error("rooms are made by the owner of this site alone")]
    NotAllowed,
    /// The address makes too many.
    #[error("too many rooms were made from this address; try again later")]
    TooFast {
        /// In how many seconds it may make another.
        retry_after_sec: u64,
    },
    /// The address has made as many as may be without a meeting.
    #[error("too many rooms that were made from this address are not in use")]
    Quota,
    /// The password was not hashed.
    #[error(transparent)]
    NotHashed(#[from] NotHashed),
    /// The app's settings could not be read.
    #[error(transparent)]
    App(#[from] apps::Error),
    /// It cannot be as it was asked for, as with a name that is taken.
    #[error(transparent)]
    Room(#[from] Error),
}

/// With what whoever made a room moderates it: a random UUID. It cannot be printed.
#[derive(Clone, Debug)]
pub struct CreatorToken(SecretString);

/// What is kept of a [`CreatorToken`]: its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CreatorHash([u8; 32]);

/// A keyed hash of an address, which tells addresses of one app apart and not what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressHash(pub [u8; 32]);

impl Anonymous {
    /// `rate` is how many rooms an address may make per minute.
    pub fn new(db: Db, clock: Clock, master_key: Arc<MasterKey>, rate: NonZeroU32) -> Self {
        Self {
            db,
            clock,
            master_key,
            rate: Buckets::new(Limit::per_minute("rooms", rate)),
        }
    }

    /// Takes one from the rooms that `address` may make per minute; [`create`](Self::create) does not.
    ///
    /// # Errors
    ///
    /// [`Refused::TooFast`].
    pub fn charge(&self, address: IpAddr) -> Result<(), Refused> {
        let taken = self
            .rate
            .try_take(&rate::network(address), self.clock.now());
        match taken {
            Ok(_spent) => Ok(()),
            Err(quota) => Err(Refused::TooFast {
                retry_after_sec: quota.wait_seconds(1).unwrap_or_default(),
            }),
        }
    }

    /// Makes a room of `app` for somebody at `address`, who moderates with the token that is returned.
    ///
    /// It is a public mesh room of which the first joiner moderates; what else it is, the app's defaults say.
    ///
    /// # Errors
    ///
    /// [`Refused`], all but [`Refused::TooFast`].
    pub async fn create(
        &self,
        app: AppId,
        address: IpAddr,
        wanted: AnonymousRoom,
    ) -> Result<(Room, CreatorToken), Refused> {
        let mut tx = self.db.begin(app).await.map_err(Error::from)?;
        let configured = apps::configured(&mut tx, app).await?;
        drop(tx); // a hash takes its time
        let settings = configured.map(|app| app.settings);
        let settings = settings
            .filter(|settings| settings.anonymous_rooms && settings.dialects.mikromeet)
            .ok_or(Refused::NotAllowed)?;
        let password = match wanted.password {
            Some(password) => Some(password.hash(&mut rand::rng()).await?),
            None => None,
        };
        let token = CreatorToken::generate(&mut rand::rng());
        let address = AddressHash::new(app, address, &self.master_key);
        let mut given = Map::new();
        given.insert("title".to_owned(), wanted.title.into());
        given.insert("metadata".to_owned(), wanted.metadata.into());
        let mut wrong = Vec::new();
        let described = RulesChange::read(&given, |name, _| {
            wrong.push((name, "cannot be stored as it is"));
        });
        if !wrong.is_empty() {
            return Err(Error::Contradictions(wrong).into());
        }
        let mut rules = settings.room_defaults.rules().without_sfu();
        described.apply(&mut rules);
        rules = Rules {
            privacy: Privacy::Public,
            media_mode: MediaMode::Mesh,
            meeting_start: MeetingStart::Join,
            first_joiner_moderates: true,
            // MikroMeet's clients have a chat, and cannot ask for one.
            enable_chat: true,
            max_participants: Some(wanted.max_participants.unwrap_or(PLACES)),
            ..rules
        };
        let mut room = Room::new(app, rules, self.clock.now(), &mut rand::rng());
        room.anonymous = true;
        room.creator = Some(token.hash());
        let change = RoomChange {
            password: Some(password),
            ..RoomChange::default()
        };
        room.change(change, &self.master_key)?;
        let mut tries = 0;
        loop {
            room.name = match &wanted.name {
                Some(name) => name.clone(),
                None => code(&mut rand::rng()),
            };
            let mut tx = self.db.begin(app).await.map_err(Error::from)?;
            store::lock_creator(&mut tx, app, &address)
                .await
                .map_err(Error::from)?;
            let unused = store::count_unused_of(&mut tx, app, &address);
            if unused.await.map_err(Error::from)? >= MOST_UNUSED {
                return Err(Refused::Quota);
            }
            match store::insert(&mut tx, &room, Some(&address)).await {
                // The next one is most likely free.
                Err(Error::NameTaken) if wanted.name.is_none() && tries < TRIES => tries += 1,
                inserted => {
                    inserted?;
                    super::expect_use(&mut tx, app, room.id, room.created_at)
                        .await
                        .map_err(Error::from)?;
                    tx.commit().await.map_err(Error::from)?;
                    return Ok((room, token));
                }
            }
        }
    }
}

impl CreatorToken {
    /// A new one: a random UUID (RFC 9562, version 4).
    pub fn generate(rng: &mut impl Rng) -> Self {
        let random: u128 = rng.random();
        let uuid = random & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
        let digits = format!("{uuid:032x}");
        let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
        Self(groups.join("-").into())
    }

    /// The text itself, for whoever made the room.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// What is kept of it.
    pub fn hash(&self) -> CreatorHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, self.reveal().as_bytes()).as_ref());
        CreatorHash(hash)
    }
}

/// Whatever somebody sent in the place of one.
impl<'de> Deserialize<'de> for CreatorToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

impl CreatorHash {
    /// Whether it is this token's.
    pub fn is_of(&self, token: &CreatorToken) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &token.hash().0).is_ok()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn from_stored(bytes: Vec<u8>) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Debug for CreatorHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CreatorHash(…)")
    }
}

impl AddressHash {
    /// The hash of an address (of IPv6, of its /64 network) for one app, by the key that seals.
    pub fn new(app: AppId, address: IpAddr, master_key: &MasterKey) -> Self {
        let text = format!("address\n{app}\n{}", rate::network(address));
        let fingerprints = master_key.fingerprints(text.as_bytes());
        Self(fingerprints.first().copied().unwrap_or_default())
    }
}

/// A name that people can say to each other.
fn code(rng: &mut impl Rng) -> RoomName {
    loop {
        let mut draw = || char::from(*CAPITALS_AND_DIGITS.choose(rng).unwrap_or(&b'0'));
        let text: String = (0..6).map(|_| draw()).collect();
        // Some words are reserved.
        if let Ok(name) = text.parse() {
            return name;
        }
    }
}

const CAPITALS_AND_DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
/// Places in a room of which nothing else is said, as in MikroMeet.
const PLACES: u32 = 8;
/// Rooms without a meeting that one address may have made in an app: MikroMeet's `MAX_LATENT_ROOMS`.
const MOST_UNUSED: i64 = 10;
/// Names that are tried beyond the first: of two thousand million, few are taken.
const TRIES: u32 = 5;

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn a_creator_token_is_a_random_uuid_that_its_hash_knows_and_nobody_can_print() {
        let mut rng = SmallRng::seed_from_u64(1);
        let (token, other) = (
            CreatorToken::generate(&mut rng),
            CreatorToken::generate(&mut rng),
        );
        let text = token.reveal();
        let groups: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_eq!(&text[14..15], "4", "{text}");
        assert!("89ab".contains(&text[19..20]), "{text}");
        assert!(token.hash().is_of(&token) && !token.hash().is_of(&other));
        assert!(!format!("{token:?} {:?}", token.hash()).contains(&text[..8]));
    }

    #[test]
    fn addresses_are_told_apart_within_an_app_and_not_between_two() {
        let key = MasterKey::parse(&MasterKey::text([1; 32])).unwrap();
        let hash = |app: u8, address: &str| {
            AddressHash::new(AppId::from_bytes([app; 12]), address.parse().unwrap(), &key)
        };
        assert_eq!(
            hash(1, "2001:db8::1"),
            hash(1, "2001:db8::2"),
            "one network"
        );
        assert_ne!(hash(1, "192.0.2.1"), hash(1, "192.0.2.2"));
        assert_ne!(hash(1, "192.0.2.1"), hash(2, "192.0.2.1"));
    }
}
