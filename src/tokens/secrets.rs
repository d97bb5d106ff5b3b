//! What tokens are signed with, and how a token looks: JWS in its compact form (RFC 7515, 7519), HMAC-SHA256.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::CryptoRng;
use secrecy::{ExposeSecret, SecretSlice, SecretString, zeroize::Zeroizing};
use serde::{Deserialize, Deserializer};

use super::{Claims, Error};
use crate::{
    id::TokenSecretId,
    sealed::{Place, Secret, Unsealable},
};

/// What an app's tokens are signed with: 32 random bytes, for HMAC-SHA256 and no other algorithm, whatever a token says.
///
/// It signs, checks, and can be sealed; it cannot be printed.
#[derive(Clone, Debug)]
pub struct TokenSecret(SecretSlice<u8>);

/// A token as it travels, or whatever somebody sent in its place. It opens rooms, so it cannot be printed.
#[derive(Clone, Debug)]
pub struct TokenText(SecretString);

/// The header that we write, and the only one that we take: what else may stand in one (`jku`, `jwk`, `x5u`, `crit`, `zip`,
/// `b64`, …) has no meaning here, and is refused before a key is looked up.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OurHeader {
    typ: String,
    alg: String,
    kid: TokenSecretId,
}

impl TokenSecret {
    /// A new secret.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; LEN]);
        rng.fill_bytes(&mut *bytes);
        Self(bytes.to_vec().into())
    }

    /// Where the secret of this id is stored, which is what it is sealed for.
    pub(super) fn place(id: &TokenSecretId) -> Place<'_> {
        Place::new("token_secrets", "secret", id.as_bytes())
    }

    /// The token that says `claims`, signed; it names this secret as `id`.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`].
    pub(super) fn sign(&self, id: TokenSecretId, claims: &Claims) -> Result<TokenText, Error> {
        let header = Header {
            kid: Some(id.to_string()),
            ..Header::new(ALGORITHM)
        };
        let key = EncodingKey::from_secret(self.0.expose_secret());
        let text = jsonwebtoken::encode(&header, claims, &key).map_err(|_| Error::Unsigned)?;
        if text.len() > LONGEST {
            return Err(Error::TooLong);
        }
        Ok(TokenText::from(text))
    }

    /// What the token says, if this secret signed it.
    pub(super) fn read(&self, text: &TokenText) -> Option<Claims> {
        let mut signature_alone = Validation::new(ALGORITHM);
        // The window is checked against our clock, and nothing else is said in claims that the library knows.
        signature_alone.required_spec_claims.clear();
        signature_alone.validate_exp = false;
        signature_alone.validate_aud = false;
        let key = DecodingKey::from_secret(self.0.expose_secret());
        let read = jsonwebtoken::decode::<Claims>(text.reveal(), &key, &signature_alone).ok()?;
        Some(read.claims).filter(Claims::is_sound)
    }
}

impl TokenText {
    /// The text itself, for its bearer.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// The secret that it says it was signed with; `None` for what is no token of ours.
    pub(super) fn secret(&self) -> Option<TokenSecretId> {
        let text = self.reveal();
        if text.len() > LONGEST {
            return None;
        }
        let (header, _) = text.split_once('.')?;
        let header = BASE64_URL_SAFE_NO_PAD.decode(header).ok()?;
        let OurHeader { typ, alg, kid } = serde_json::from_slice(&header).ok()?;
        (typ == "JWT" && alg == "HS256").then_some(kid)
    }
}

impl From<String> for TokenText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl<'de> Deserialize<'de> for TokenText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl Secret for TokenSecret {
    fn from_bytes(bytes: &[u8]) -> Result<Self, Unsealable> {
        if bytes.len() == LEN {
            Ok(Self(bytes.to_vec().into()))
        } else {
            Err(Unsealable::Damaged)
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

const ALGORITHM: Algorithm = Algorithm::HS256;
/// As long as the hash's output (RFC 7518, section 3.2).
const LEN: usize = 32;
/// Longest token, in characters: one fits into a link.
pub const LONGEST: usize = 8192;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{id::TokenId, tokens::Data};

    fn secret() -> TokenSecret {
        TokenSecret::generate(&mut StdRng::seed_from_u64(1))
    }

    fn claims() -> Claims {
        Claims {
            data: Data {
                room_name: Some("standup".to_owned()),
                name: Some("Zoë".to_owned()),
                app_name: "acme".to_owned(),
                ..Data::default()
            },
            iat: 1_900_000_000,
            exp: Some(1_900_003_600),
            nbf: None,
            jti: TokenId::from_bytes([2; 12]),
        }
    }

    fn id() -> TokenSecretId {
        TokenSecretId::from_bytes([1; 12])
    }

    #[test]
    fn a_token_names_its_secret_and_says_what_was_signed() {
        let token = secret().sign(id(), &claims()).unwrap();
        assert_eq!(token.secret(), Some(id()));
        assert_eq!(secret().read(&token), Some(claims()));
        let another = TokenSecret::generate(&mut StdRng::seed_from_u64(2));
        assert_eq!(another.read(&token), None);
    }

    #[test]
    fn a_token_that_would_not_fit_into_a_link_is_not_made() {
        let mut long = claims();
        long.data.meta = Some("\"".repeat(4096));
        assert!(matches!(secret().sign(id(), &long), Err(Error::TooLong)));
    }

    #[test]
    fn neither_a_token_nor_a_secret_nor_whom_it_is_for_can_be_printed() {
        let token = secret().sign(id(), &claims()).unwrap();
        let printed = format!("{token:?} {:?} {:?}", secret(), claims());
        let bytes = format!("{:?}", &secret().as_bytes()[..4]);
        for canary in [&token.reveal()[..10], bytes.trim_matches(['[', ']']), "Zoë"] {
            assert!(!printed.contains(canary), "{printed}");
        }
    }

    proptest! {
        #[test]
        fn a_token_of_which_one_character_was_changed_is_none(
            at in any::<prop::sample::Index>(),
            other in prop_oneof![any::<char>(), prop::char::range('!', '~'), Just('.'), Just('=')],
        ) {
            let token = secret().sign(id(), &claims()).unwrap();
            let mut characters: Vec<char> = token.reveal().chars().collect();
            let at = at.index(characters.len());
            prop_assume!(characters[at] != other);
            characters[at] = other;
            let changed = TokenText::from(characters.into_iter().collect::<String>());
            prop_assert!(changed.secret() != Some(id()) || secret().read(&changed).is_none());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            prop_assert_eq!(secret().read(&TokenText::from(text)), None);
        }
    }
}
