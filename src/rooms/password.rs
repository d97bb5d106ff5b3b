//! A room's password: only its hash is kept.

use std::time::Duration;

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash::phc};
use rand::{Rng, RngExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// A password as somebody gave it: 1 to 128 characters. It cannot be printed.
#[derive(Clone, Debug)]
pub struct Password(SecretString);

/// What is kept of a password: its argon2id hash, as a PHC string. It cannot be printed either.
#[derive(Clone, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct PasswordHash(String);

/// The text cannot be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be text of 1 to 128 characters")]
pub struct MalformedPassword;

/// Why a password was not hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHashed {
    /// Too many are waiting.
    #[error(
        "too many passwords are being set or checked at the moment; try again in a few seconds"
    )]
    Busy,
    /// The server stops, or has no memory left.
    #[error("a password could not be hashed")]
    Failed,
}

impl Password {
    /// What is kept of it. Tens of milliseconds of computing, on a thread of their own.
    ///
    /// # Errors
    ///
    /// [`NotHashed`].
    pub async fn hash(self, rng: &mut impl Rng) -> Result<PasswordHash, NotHashed> {
        let salt: [u8; 16] = rng.random();
        in_turn(move || {
            let password = self.0.expose_secret().as_bytes();
            let hash: phc::PasswordHash = Argon2::default()
                .hash_password_with_salt(password, &salt)
                .map_err(|_| NotHashed::Failed)?;
            Ok(PasswordHash(hash.to_string()))
        })
        .await
    }
}

impl PasswordHash {
    /// The hash as it is stored.
    #[cfg(test)]
    pub const fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Whether it is this password's. As costly as [`Password::hash`].
    ///
    /// # Errors
    ///
    /// [`NotHashed`].
    pub async fn is_of(&self, password: Password) -> Result<bool, NotHashed> {
        let kept = self.0.clone();
        in_turn(move || {
            let kept = phc::PasswordHash::new(&kept).map_err(|_| NotHashed::Failed)?;
            let password = password.0.expose_secret().as_bytes();
            Ok(Argon2::default().verify_password(password, &kept).is_ok())
        })
        .await
    }
}

/// Computes on a thread of its own, once there is a turn.
async fn in_turn<T: Send + 'static>(
    compute: impl FnOnce() -> Result<T, NotHashed> + Send + 'static,
) -> Result<T, NotHashed> {
    let turn = tokio::time::timeout(PATIENCE, TURNS.acquire()).await;
    let turn = turn
        .map_err(|_| NotHashed::Busy)?
        .map_err(|_| NotHashed::Failed)?;
    let computed = tokio::task::spawn_blocking(move || {
        // Kept by the thread: it goes on when nobody waits for it any more.
        let _turn = turn;
        compute()
    });
    computed.await.map_err(|_| NotHashed::Failed)?
}

impl std::str::FromStr for Password {
    type Err = MalformedPassword;

    fn from_str(text: &str) -> Result<Self, MalformedPassword> {
        if (1..=128).contains(&text.chars().count()) {
            Ok(Self(text.into()))
        } else {
            Err(MalformedPassword)
        }
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// Longest wait for a turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Passwords hashed or checked at once: each needs 19 MiB and a core.
static TURNS: Semaphore = Semaphore::const_new(2);

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    #[tokio::test]
    async fn a_password_is_kept_as_a_salted_argon2id_hash() {
        let password: Password = "correct horse".parse().unwrap();
        let mut rng = SmallRng::seed_from_u64(1);
        let first = password.clone().hash(&mut rng).await.unwrap();
        let second = password.hash(&mut rng).await.unwrap();
        assert_ne!(first, second, "each has a salt of its own");
        assert!(first.0.starts_with("$argon2id$v=19$"), "{}", first.0);
        for (text, is_right) in [("correct horse", true), ("correct house", false)] {
            assert_eq!(first.is_of(text.parse().unwrap()).await, Ok(is_right));
        }
    }

    #[test]
    fn neither_a_password_nor_its_hash_can_be_printed() {
        let password: Password = "swordfish".parse().unwrap();
        let hash = PasswordHash("swordfish".to_owned());
        assert!(!format!("{password:?} {hash:?}").contains("swordfish"));
    }

    #[test]
    fn a_password_has_1_to_128_characters() {
        assert!("".parse::<Password>().is_err());
        assert!("ä".repeat(128).parse::<Password>().is_ok());
        assert!("a".repeat(129).parse::<Password>().is_err());
    }
}
