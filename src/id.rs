//! Typed identifiers: 12 time-ordered bytes, written as 24 hexadecimal digits outside.
//!
//! The first six bytes are the creation time in unix milliseconds, the rest is random, so ids of one kind sort by age and
//! new rows land at the end of their index.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use rand::Rng;

/// Length of every id in bytes.
pub const LEN: usize = 12;

/// The text is not 24 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 24 hexadecimal digits")]
pub struct Malformed;

/// The bytes of a new id made at `now`.
fn generate(now: DateTime<Utc>, rng: &mut impl Rng) -> [u8; LEN] {
    let mut bytes = first(now);
    rng.fill_bytes(&mut bytes[6..]);
    bytes
}

/// The bytes of an id made at `now` that no chance has added to.
fn first(now: DateTime<Utc>) -> [u8; LEN] {
    let millis = now.timestamp_millis().max(0).to_be_bytes();
    let mut bytes = [0; LEN];
    bytes[..6].copy_from_slice(&millis[2..]);
    bytes
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name([u8; LEN]);

        impl $name {
            /// A new id, made at `now`.
            pub fn new(now: DateTime<Utc>, rng: &mut impl Rng) -> Self {
                Self(generate(now, rng))
            }

            /// The lowest that an id made at this instant can be.
            pub fn first_at(at: DateTime<Utc>) -> Self {
                Self(first(at))
            }

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
                Self(bytes)
            }

            /// The bytes as they are stored.
            pub const fn as_bytes(&self) -> &[u8; LEN] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                let mut bytes = [0; LEN];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| Malformed)?;
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )* };
}

ids! {
    /// An app: a tenant.
    AppId;
    /// A secret key of an app.
    SecretKeyId;
    /// A token, with which somebody may join.
    TokenId;
    /// What an app's tokens are signed with.
    TokenSecretId;
    /// A room's stored definition.
    RoomId;
    /// One run of a room.
    MeetingId;
    /// One person's stay in one meeting.
    ParticipantId;
    /// One running process of the platform.
    NodeId;
    /// A fact in the life of a room or a meeting, as webhooks tell it.
    EventId;
    /// Where webhooks go.
    EndpointId;
    /// What signs webhooks.
    WebhookSecretId;
    /// One event on its way to one endpoint.
    DeliveryId;
    /// A message to the people of an app.
    MailId;
    /// A message that somebody wrote.
    ChatMessageId;
    /// One transaction of a meeting's owner.
    BatchId;
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        let mut rng = SmallRng::seed_from_u64(7);
        let start = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
        let ids: Vec<RoomId> = (0..50)
            .map(|n| RoomId::new(start + TimeDelta::milliseconds(n), &mut rng))
            .collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn an_id_is_24_hexadecimal_digits_and_reads_back() {
        let id = RoomId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xab, 0xff]);
        assert_eq!(id.to_string(), "00010203040506070809abff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [
            "",
            "00",
            "00010203040506070809abf",
            "00010203040506070809abfg",
            "00010203040506070809abff00",
        ] {
            assert_eq!(wrong.parse::<RoomId>(), Err(Malformed), "{wrong:?}");
        }
    }
}
