//! Secrets at rest: sealed with AES-256-GCM under the master key and bound to their place.

use std::marker::PhantomData;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest, hmac,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};

/// Something that must be used, not only compared, and so is stored sealed.
pub trait Secret: Sized {
    /// The secret from its bytes; refused where they cannot be one.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Unsealable>;
    /// What is sealed.
    fn as_bytes(&self) -> &[u8];
}

/// The key under which all sealed secrets of an installation stand (`PLENUM_MASTER_KEY`). While it is being replaced, others
/// open too: each sealed value says which one it is under.
pub struct MasterKey {
    /// Seals, and opens what it sealed.
    current: Key,
    /// Only open.
    others: Vec<Key>,
}

struct Key {
    id: KeyId,
    key: RandomizedNonceKey,
    /// Made from the key, for [`MasterKey::fingerprints`].
    fingerprint: hmac::Key,
}

/// Tells master keys apart: the beginning of the key's SHA-256. It stands beside each sealed value, in bytes 2 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId([u8; KEY_ID_LEN]);

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
        "a stored secret was sealed under another master key: give the PLENUM_MASTER_KEY that it was made with"
    )]
    OtherKey,
    /// Not a sealed value, not of this place, or changed since.
    #[error("a stored secret is damaged or was copied from another row")]
    Damaged,
}

/// The text is not a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a master key must be 32 random bytes in base64, as `openssl rand -base64 32` prints")]
pub struct MalformedKey;

impl MasterKey {
    /// The key from 32 bytes in base64.
    pub fn parse(text: &SecretString) -> Result<Self, MalformedKey> {
        Ok(Self {
            current: Key::parse(text)?,
            others: Vec::new(),
        })
    }

    /// Lets another key open too, from 32 bytes in base64.
    pub fn and_opens(mut self, text: &SecretString) -> Result<Self, MalformedKey> {
        self.others.push(Key::parse(text)?);
        Ok(self)
    }

    /// The id of the key that seals.
    pub fn id(&self) -> KeyId {
        self.current.id
    }

    /// The ids of all keys that open.
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys().map(|key| key.id).collect()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.current).chain(&self.others)
    }

    /// What tells texts apart without telling what they are, not even to whoever can try all likely ones: by the key that
    /// seals, and then by each other that opens.
    pub fn fingerprints(&self, text: &[u8]) -> Vec<[u8; 32]> {
        let by = |key: &Key| {
            let mut fingerprint = [0; 32];
            fingerprint.copy_from_slice(hmac::sign(&key.fingerprint, text).as_ref());
            fingerprint
        };
        self.keys().map(by).collect()
    }

    /// A new key's text, from 32 random bytes.
    pub fn text(random: [u8; 32]) -> SecretString {
        BASE64_STANDARD.encode(random).into()
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<String> = self.keys().map(|key| hex::encode(key.id.0)).collect();
        write!(f, "MasterKey({})", ids.join(", "))
    }
}

impl Key {
    fn parse(text: &SecretString) -> Result<Self, MalformedKey> {
        let bytes = BASE64_STANDARD.decode(text.expose_secret().trim());
        let bytes = Zeroizing::new(bytes.map_err(|_| MalformedKey)?);
        if bytes.len() != KEY_LEN {
            return Err(MalformedKey);
        }
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| MalformedKey)?;
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&digest::digest(&digest::SHA256, &bytes).as_ref()[..KEY_ID_LEN]);
        let fingerprint = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), FINGERPRINT);
        Ok(Self {
            id: KeyId(id),
            key,
            fingerprint: hmac::Key::new(hmac::HMAC_SHA256, fingerprint.as_ref()),
        })
    }
}

impl KeyId {
    /// Its bytes, as they stand in a sealed value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
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
        let Key { id, key, .. } = &key.current;
        let nonce = key
            .seal_in_place_append_tag(place.aad(), &mut body)
            .map_err(|_| Unsealable::Damaged)?;
        let bytes = [&[VERSION][..], &id.0, nonce.as_ref(), &body].concat();
        Ok(Self {
            bytes,
            of: PhantomData,
        })
    }

    /// The secret, if it was sealed under `key`, or another one that opens with it, for `place`.
    pub fn open(&self, key: &MasterKey, place: &Place<'_>) -> Result<T, Unsealable> {
        let rest = self
            .bytes
            .strip_prefix(&[VERSION])
            .ok_or(Unsealable::Damaged)?;
        let (id, rest) = rest
            .split_first_chunk::<KEY_ID_LEN>()
            .ok_or(Unsealable::Damaged)?;
        let key = key.keys().find(|key| key.id.0 == *id);
        let key = key.ok_or(Unsealable::OtherKey)?;
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

    /// The same secret, sealed anew under `key`.
    ///
    /// # Errors
    ///
    /// As those of [`Sealed::open`].
    pub fn reseal(&self, key: &MasterKey, place: &Place<'_>) -> Result<Self, Unsealable> {
        Self::seal(&self.open(key, place)?, key, place)
    }
}

/// What the key of fingerprints is derived for.
const FINGERPRINT: &[u8] = b"plenum fingerprints";
/// Format of the stored bytes.
const VERSION: u8 = 1;
/// Of AES-256.
const KEY_LEN: usize = 32;
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
    fn while_the_key_is_replaced_both_open_and_the_new_one_seals() {
        let place = Place::new("apps", "secret", b"row 1");
        let open =
            |sealed: &Sealed<Word>, key: &MasterKey| sealed.open(key, &place).map(|word| word.0);
        let word = Word(b"swordfish".to_vec());
        let old = Sealed::seal(&word, &key(1), &place).unwrap();
        let both = key(2).and_opens(&MasterKey::text([1; 32])).unwrap();
        assert_eq!(open(&old, &both), Ok(b"swordfish".to_vec()));
        let new = old.reseal(&both, &place).unwrap();
        assert_eq!(open(&new, &key(2)), Ok(b"swordfish".to_vec()));
        assert_eq!(open(&new, &key(1)), Err(Unsealable::OtherKey));
        assert_eq!(new.as_stored()[1..5], *key(2).id().as_bytes());
        assert_eq!(
            old.reseal(&key(3), &place).err(),
            Some(Unsealable::OtherKey)
        );
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
