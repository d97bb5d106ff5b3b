//! Secret keys: how they look, what is kept of them, and what they open.

use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use rand::{CryptoRng, RngExt};
use secrecy::{ExposeSecret, SecretString};

use super::App;
use crate::id::SecretKeyId;

/// A server-side credential of an app: ours are `plenum_live_` or `plenum_test_`, 32 characters of base62 (190 random
/// bits) and 6 of their CRC-32. Any text of 24 to 200 visible ASCII characters may be given instead. It cannot be printed.
#[derive(Clone, Debug)]
pub struct SecretKey(SecretString);

/// What an app uses a key for. It tells people and secret scanners how bad a leak is; both kinds open the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Environment {
    /// Customers depend on it.
    #[default]
    Live,
    /// Development and tests.
    Test,
}

/// A key that is not revoked, and the app that it opens.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The key's id.
    pub key: SecretKeyId,
    /// Whose it is.
    pub app: App,
    /// From when it opens nothing.
    pub expires_at: Option<DateTime<Utc>>,
    /// Its latest use that was written; uses are written once a minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// What is shown of a key after it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySummary {
    /// Its id, by which it is revoked.
    pub id: SecretKeyId,
    /// What it is used for.
    pub environment: Environment,
    /// What it begins with, where it is of our own form.
    pub prefix: Option<String>,
    /// Its last four characters.
    pub last_four: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// From when it opens nothing, because it was rotated.
    pub expires_at: Option<DateTime<Utc>>,
    /// Since when it opens nothing, because it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// The text cannot be a secret key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret key is 24 to 200 visible ASCII characters")]
pub struct MalformedKey;

impl SecretKey {
    /// A new key.
    pub fn generate(environment: Environment, rng: &mut impl CryptoRng) -> Self {
        let random: String = (0..RANDOM_LEN)
            .map(|_| base62(rng.random_range(0..62)))
            .collect();
        let (prefix, checksum) = (environment.prefix(), checksum(&random));
        Self(format!("{prefix}{random}{checksum}").into())
    }

    /// Whether a text, which may be no whole key, begins as our own keys do.
    pub fn is_ours(text: &str) -> bool {
        ours(text).is_some()
    }

    /// What it is used for: its prefix says so, and a key without one is live.
    pub fn environment(&self) -> Environment {
        ours(self.0.expose_secret()).map_or(Environment::Live, |(environment, _)| environment)
    }

    /// What it begins with, if it is of our own form.
    pub(super) fn prefix(&self) -> Option<&'static str> {
        ours(self.0.expose_secret()).map(|(environment, _)| environment.prefix())
    }

    /// What is stored of it. One round of SHA-256 suffices, because a key is random and long.
    pub(super) fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(
            digest::digest(&digest::SHA256, self.0.expose_secret().as_bytes()).as_ref(),
        );
        hash
    }

    /// The last four characters, to tell keys apart.
    pub(super) fn last_four(&self) -> &str {
        let text = self.0.expose_secret();
        &text[text.len() - 4..]
    }

    /// The key itself, for the one time that it is shown.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }
}

impl Environment {
    /// What keys of ours begin with.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Live => "plenum_live_",
            Self::Test => "plenum_test_",
        }
    }
}

impl std::fmt::Display for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Test => "test",
        })
    }
}

impl Credential {
    /// Whether it opens its app at `now`.
    pub fn opens(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|expires| now < expires)
    }
}

impl std::str::FromStr for SecretKey {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let fits =
            (24..=200).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        // A mistyped key of ours is refused without asking the database.
        let whole = ours(text).is_none_or(|(_, rest)| {
            rest.split_at_checked(RANDOM_LEN)
                .is_some_and(|(random, sum)| sum == checksum(random))
        });
        if fits && whole {
            Ok(Self(text.into()))
        } else {
            Err(MalformedKey)
        }
    }
}

/// The environment of a text that bears one of our prefixes, and what follows.
fn ours(text: &str) -> Option<(Environment, &str)> {
    [Environment::Live, Environment::Test]
        .into_iter()
        .find_map(|environment| Some((environment, text.strip_prefix(environment.prefix())?)))
}

fn checksum(random: &str) -> String {
    let mut rest = crc32fast::hash(random.as_bytes());
    let mut digits = [0_u32; 6];
    for digit in digits.iter_mut().rev() {
        *digit = rest % 62;
        rest /= 62;
    }
    digits.into_iter().map(base62).collect()
}

fn base62(digit: u32) -> char {
    let digit = u8::try_from(digit % 62).unwrap_or_default();
    char::from(match digit {
        0..10 => b'0' + digit,
        10..36 => b'A' + digit - 10,
        _ => b'a' + digit - 36,
    })
}

const RANDOM_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const ENVIRONMENTS: [Environment; 2] = [Environment::Live, Environment::Test];

    fn generate(environment: Environment, seed: u64) -> SecretKey {
        SecretKey::generate(environment, &mut StdRng::seed_from_u64(seed))
    }

    #[test]
    fn the_checksum_is_the_crc_32_of_the_random_part_so_that_anybody_can_verify_it() {
        // The check value of CRC-32/ISO-HDLC is cbf43926, which is 3421780262 = 3jZRME in base62.
        assert_eq!(checksum("123456789"), "3jZRME");
        let text = generate(Environment::Live, 7).reveal().to_owned();
        assert!(text.ends_with(&checksum(&text["plenum_live_".len()..text.len() - 6])));
    }

    #[test]
    fn a_key_cannot_be_printed() {
        let key: SecretKey = "correct-horse-battery-staple".parse().unwrap();
        assert!(!format!("{key:?}").contains("horse"));
    }

    #[test]
    fn a_key_that_expires_opens_until_then_and_no_longer() {
        let expires = DateTime::from_timestamp(1_900_000_000, 0).unwrap();
        let app = App {
            id: crate::id::AppId::from_bytes([1; 12]),
            name: "acme".parse().unwrap(),
            is_default: false,
            created_at: expires,
        };
        let mut credential = Credential {
            key: SecretKeyId::from_bytes([2; 12]),
            app,
            expires_at: Some(expires),
            last_used_at: None,
        };
        assert!(credential.opens(expires - chrono::TimeDelta::microseconds(1)));
        assert!(!credential.opens(expires));
        credential.expires_at = None;
        assert!(credential.opens(expires));
    }

    proptest! {
        #[test]
        fn a_generated_key_bears_its_environment_and_reads_back(seed: u64) {
            for environment in ENVIRONMENTS {
                let key = generate(environment, seed);
                let text = key.reveal();
                prop_assert_eq!(text.len(), 12 + 32 + 6);
                prop_assert!(text.starts_with(environment.prefix()));
                let read: SecretKey = text.parse().unwrap();
                prop_assert_eq!(read.hash(), key.hash());
                prop_assert_eq!(read.environment(), environment);
                prop_assert_eq!(read.prefix(), Some(environment.prefix()));
                prop_assert_eq!(read.last_four(), &text[46..]);
            }
        }

        #[test]
        fn a_key_of_ours_with_any_one_character_mistyped_is_refused(
            seed: u64, at in 12_usize..50, typed in "[0-9A-Za-z]",
        ) {
            for environment in ENVIRONMENTS {
                let mut text = generate(environment, seed).reveal().to_owned();
                prop_assume!(text[at..=at] != typed);
                text.replace_range(at..=at, &typed);
                prop_assert_eq!(text.parse::<SecretKey>().err(), Some(MalformedKey));
            }
        }

        #[test]
        fn any_24_visible_characters_without_our_prefix_are_a_key_of_live(text in "[!-~]{24,200}") {
            prop_assume!(ours(&text).is_none());
            let key: SecretKey = text.parse().unwrap();
            prop_assert_eq!((key.environment(), key.prefix()), (Environment::Live, None));
        }

        #[test]
        fn anything_shorter_is_not(text in "[!-~]{0,23}") {
            prop_assert!(text.parse::<SecretKey>().is_err());
        }

        #[test]
        fn any_text_at_all_is_a_key_or_is_not(text: String) {
            let _ = text.parse::<SecretKey>();
        }
    }
}
