//! Secrets at rest: sealed with AES-256-GCM under the master key and bound to their place.

use std::marker::PhantomData;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString};

/// Something that must be used, not only compared, and so is stored sealed.
pub trait Secret: Sized {
    /// The secret from its bytes; refused where they cannot be one.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Unsealable>;
    /// What is sealed.
    fn as_bytes(&self) -> &[u8];
}

/// The key under which all sealed secrets of an installation stand (`PLENUM_MASTER_KEY`).
pub struct MasterKey {
    id: [u8; KEY_ID_LEN],
    key: RandomizedNonceKey,
}

/// Where a secret is stored. A value that was copied to another place does not open.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    table: &'a str,
    column: &'a str,
    row: &'a [u8],
}

/// A secret at rest: format version, id of the master key, nonce, ciphertext and tag. The associated data is its place.
pub struct Sealed<T> {
    bytes: Vec<u8>,
    of: PhantomData<fn() -> T>,
}

/// A sealed value could not be opened: another master key, another place, or damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsealable {
    /// Sealed under another master key.
    #[error(
        "a stored secret was sealed under another master key: start with the PLENUM_MASTER_KEY it was made with"
    )]
    OtherKey,
    /// Not a sealed value, not of this place, or changed since.
    #[error("a stored secret is damaged or was copied from another row")]
    Damaged,
}

/// The text is not a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PLENUM_MASTER_KEY must be 32 random bytes in base64, as `openssl rand -base64 32` prints")]
pub struct MalformedKey;

impl MasterKey {
    /// The key from 32 bytes in base64.
    pub fn parse(text: &SecretString) -> Result<Self, MalformedKey> {
        let bytes = BASE64_STANDARD
            .decode(text.expose_secret().trim())
            .map_err(|_| MalformedKey)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| MalformedKey)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| MalformedKey)?;
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&digest::digest(&digest::SHA256, &bytes).as_ref()[..KEY_ID_LEN]);
        Ok(Self { id, key })
    }

    /// A new key's text, from 32 random bytes.
    pub fn text(random: [u8; 32]) -> SecretString {
        BASE64_STANDARD.encode(random).into()
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MasterKey({})", hex::encode(self.id))
    }
}

impl<'a> Place<'a> {
    /// The column of the row with this id.
    pub fn new(table: &'a str, column: &'a str, row: &'a [u8]) -> Self {
        Self { table, column, row }
    }

    fn aad(&self) -> Aad<Vec<u8>> {
        let mut bytes = format!("{}/{}/", self.table, self.column).into_bytes();
        bytes.extend_from_slice(self.row);
        Aad::from(bytes)
    }
}

impl<T> Clone for Sealed<T> {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            of: PhantomData,
        }
    }
}

impl<T> std::fmt::Debug for Sealed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed(…)")
    }
}

impl<T> Sealed<T> {
    /// The sealed value that was stored.
    pub fn from_stored(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            of: PhantomData,
        }
    }

    /// What is stored.
    pub fn as_stored(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Secret> Sealed<T> {
    /// Seals `secret` for `place`.
    ///
    /// # Errors
    ///
    /// [`Unsealable::Damaged`] when the system has no randomness to give.
    pub fn seal(secret: &T, key: &MasterKey, place: &Place<'_>) -> Result<Self, Unsealable> {
        let mut body = secret.as_bytes().to_vec();
        let nonce = key
            .key
            .seal_in_place_append_tag(place.aad(), &mut body)
            .map_err(|_| Unsealable::Damaged)?;
        let bytes = [&[VERSION][..], &key.id, nonce.as_ref(), &body].concat();
        Ok(Self {
            bytes,
            of: PhantomData,
        })
    }

    /// The secret, if it was sealed under `key` for `place`.
    pub fn open(&self, key: &MasterKey, place: &Place<'_>) -> Result<T, Unsealable> {
        let rest = self
            .bytes
            .strip_prefix(&[VERSION])
            .ok_or(Unsealable::Damaged)?;
        let (id, rest) = rest
            .split_first_chunk::<KEY_ID_LEN>()
            .ok_or(Unsealable::Damaged)?;
        if *id != key.id {
            return Err(Unsealable::OtherKey);
        }
        let (nonce, body) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(Unsealable::Damaged)?;
        let mut body = body.to_vec();
        let plain = key
            .key
            .open_in_place(Nonce::from(nonce), place.aad(), &mut body)
            .map_err(|_| Unsealable::Damaged)?;
        T::from_bytes(plain)
    }
}

/// Format of the stored bytes.
const VERSION: u8 = 1;
/// Enough of the key's SHA-256 to tell an installation's few master keys apart.
const KEY_ID_LEN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    struct Word(Vec<u8>);
    impl Secret for Word {
        fn from_bytes(bytes: &[u8]) -> Result<Self, Unsealable> {
            Ok(Self(bytes.to_vec()))
        }
        fn as_bytes(&self) -> &[u8] {
            &self.0
        }
    }

    fn key(byte: u8) -> MasterKey {
        MasterKey::parse(&MasterKey::text([byte; 32])).unwrap()
    }

    #[test]
    fn a_sealed_secret_opens_only_in_its_place_under_its_key() {
        let place = Place::new("apps", "secret", b"row 1");
        let sealed = Sealed::seal(&Word(b"swordfish".to_vec()), &key(1), &place).unwrap();
        assert!(
            !sealed
                .as_stored()
                .windows(9)
                .any(|window| window == b"swordfish")
        );
        assert_eq!(
            sealed.open(&key(1), &place).map(|word| word.0),
            Ok(b"swordfish".to_vec())
        );
        assert_eq!(
            sealed.open(&key(2), &place).map(|word| word.0),
            Err(Unsealable::OtherKey)
        );
        for other in [
            Place::new("apps", "secret", b"row 2"),
            Place::new("apps", "other", b"row 1"),
        ] {
            assert_eq!(
                sealed.open(&key(1), &other).map(|word| word.0),
                Err(Unsealable::Damaged)
            );
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let place = Place::new("apps", "secret", b"row");
        let sealed = Sealed::seal(&Word(b"swordfish".to_vec()), &key(1), &place).unwrap();
        for index in 0..sealed.as_stored().len() {
            let mut bytes = sealed.as_stored().to_vec();
            bytes[index] ^= 1;
            assert!(
                Sealed::<Word>::from_stored(bytes)
                    .open(&key(1), &place)
                    .is_err(),
                "byte {index}"
            );
        }
        assert!(
            Sealed::<Word>::from_stored(Vec::new())
                .open(&key(1), &place)
                .is_err()
        );
    }

    #[test]
    fn a_master_key_is_32_bytes_in_base64() {
        for wrong in ["", "short", "AAAAAAAAAAAAAAAAAAAAAA=="] {
            assert!(
                MasterKey::parse(&SecretString::from(wrong)).is_err(),
                "{wrong:?}"
            );
        }
    }
}
