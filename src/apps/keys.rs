//! Secret keys: how they look, and what is kept of them.

use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use rand::{Rng, RngExt};
use secrecy::{ExposeSecret, SecretString};

use crate::id::SecretKeyId;

/// A server-side credential of an app: ours are `plenum_live_`, 32 characters of base62 (190 random bits) and a
/// checksum of 6. Any text of 24 to 200 visible ASCII characters may be given instead. It cannot be printed.
#[derive(Clone, Debug)]
pub struct SecretKey(SecretString);

/// What is shown of a key after it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySummary {
    /// Its id, by which it is revoked.
    pub id: SecretKeyId,
    /// Its last four characters.
    pub last_four: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Since when it opens nothing.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// The text cannot be a secret key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret key is 24 to 200 visible ASCII characters")]
pub struct MalformedKey;

impl SecretKey {
    /// A new key.
    pub fn generate(rng: &mut impl Rng) -> Self {
        let random: String = (0..RANDOM_LEN)
            .map(|_| base62(rng.random_range(0..62)))
            .collect();
        let checksum = checksum(&random);
        Self(format!("{PREFIX}{random}{checksum}").into())
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

impl std::str::FromStr for SecretKey {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let fits =
            (24..=200).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        // A mistyped key of ours is refused without asking the database.
        let whole = text.strip_prefix(PREFIX).is_none_or(|rest| {
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

/// Tells people and secret scanners whose key it is, and of which environment.
const PREFIX: &str = "plenum_live_";
const RANDOM_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn a_generated_key_reads_back_and_a_mistyped_one_does_not() {
        let key = SecretKey::generate(&mut SmallRng::seed_from_u64(1));
        let text = key.reveal().to_owned();
        assert_eq!(text.len(), PREFIX.len() + 38);
        assert_eq!(text.parse::<SecretKey>().unwrap().hash(), key.hash());
        let mistyped = format!(
            "{}{}",
            &text[..text.len() - 1],
            if text.ends_with('0') { '1' } else { '0' }
        );
        assert_eq!(mistyped.parse::<SecretKey>().err(), Some(MalformedKey));
    }

    #[test]
    fn a_key_cannot_be_printed() {
        let key: SecretKey = "correct-horse-battery-staple".parse().unwrap();
        assert!(!format!("{key:?}").contains("horse"));
    }

    proptest! {
        #[test]
        fn any_24_visible_characters_are_a_key(text in "[!-~]{24,200}") {
            prop_assume!(!text.starts_with(PREFIX));
            prop_assert!(text.parse::<SecretKey>().is_ok());
        }

        #[test]
        fn anything_shorter_is_not(text in "[!-~]{0,23}") {
            prop_assert!(text.parse::<SecretKey>().is_err());
        }
    }
}
