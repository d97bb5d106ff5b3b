//! A room's password: only its hash is kept.

use std::time::Duration;

use argon2::{Argon2, PasswordHasher, password_hash::phc};
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
    #[error("too many passwords are being set at the moment; try again in a few seconds")]
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
        let turn = tokio::time::timeout(PATIENCE, TURNS.acquire()).await;
        let _turn = turn
            .map_err(|_| NotHashed::Busy)?
            .map_err(|_| NotHashed::Failed)?;
        let hash = move || -> Result<PasswordHash, NotHashed> {
            let password = self.0.expose_secret().as_bytes();
            let hash: phc::PasswordHash = Argon2::default()
                .hash_password_with_salt(password, &salt)
                .map_err(|_| NotHashed::Failed)?;
            Ok(PasswordHash(hash.to_string()))
        };
        tokio::task::spawn_blocking(hash)
            .await
            .map_err(|_| NotHashed::Failed)?
    }
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
/// Passwords hashed at once: each needs 19 MiB and a core.
static TURNS: Semaphore = Semaphore::const_new(2);

#[cfg(test)]
mod tests {
    use argon2::PasswordVerifier;
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
        let kept = phc::PasswordHash::new(&first.0).unwrap();
        assert!(
            Argon2::default()
                .verify_password(b"correct horse", &kept)
                .is_ok()
        );
        assert!(
            Argon2::default()
                .verify_password(b"correct house", &kept)
                .is_err()
        );
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
