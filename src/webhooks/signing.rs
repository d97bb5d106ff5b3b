//! Signatures of deliveries: [Standard Webhooks](https://www.standardwebhooks.com), symmetric, version `v1`.

use std::str::FromStr;

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use rand::CryptoRng;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use secrecy::{ExposeSecret, SecretSlice, SecretString, zeroize::Zeroizing};

use crate::{
    id::AppId,
    sealed::{Place, Secret, Unsealable},
};

/// The key that an app's deliveries are signed with: 24 to 64 bytes, written `whsec_` and base64 of them.
///
/// It signs, can be sealed, and is shown by [`SigningSecret::reveal`] alone.
#[derive(Clone, Debug)]
pub struct SigningSecret(SecretSlice<u8>);

/// The text is not a signing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret is `whsec_` followed by 24 to 64 bytes in base64")]
pub struct MalformedSecret;

impl SigningSecret {
    /// A new secret of 32 random bytes.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; NEW_LEN]);
        rng.fill_bytes(&mut *bytes);
        Self(bytes.to_vec().into())
    }

    /// The text that a receiver checks signatures with, for its owner's eyes.
    pub fn reveal(&self) -> SecretString {
        let bytes = Zeroizing::new(BASE64_STANDARD.encode(self.0.expose_secret()));
        format!("{PREFIX}{}", *bytes).into()
    }

    /// The value of `webhook-signature` for the message `id` with these bytes, sent `at`.
    pub fn sign(&self, id: &str, at: DateTime<Utc>, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose_secret());
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{}.", at.timestamp()).as_bytes());
        context.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
    }
}

/// `webhook-id`, `webhook-timestamp` and `webhook-signature` of one attempt: a signature of each secret, with a space between.
///
/// # Errors
///
/// When `id` cannot stand in a header.
pub fn headers(
    secrets: &[SigningSecret],
    id: &str,
    at: DateTime<Utc>,
    body: &[u8],
) -> Result<HeaderMap, InvalidHeaderValue> {
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| secret.sign(id, at, body))
        .collect();
    Ok(HeaderMap::from_iter([
        (ID, HeaderValue::from_str(id)?),
        (TIMESTAMP, HeaderValue::from(at.timestamp())),
        (SIGNATURE, HeaderValue::from_str(&signatures.join(" "))?),
    ]))
}

/// Where the secret of an app's room webhooks is stored, which is what it is sealed for.
pub fn secret_place(app: &AppId) -> Place<'_> {
    Place::new("apps", "room_webhook_secret", app.as_bytes())
}

impl FromStr for SigningSecret {
    type Err = MalformedSecret;

    fn from_str(text: &str) -> Result<Self, MalformedSecret> {
        let base64 = text.strip_prefix(PREFIX).ok_or(MalformedSecret)?;
        let bytes = Zeroizing::new(
            BASE64_STANDARD
                .decode(base64)
                .map_err(|_| MalformedSecret)?,
        );
        Self::from_bytes(&bytes).map_err(|_| MalformedSecret)
    }
}

impl Secret for SigningSecret {
    fn from_bytes(bytes: &[u8]) -> Result<Self, Unsealable> {
        if LEN.contains(&bytes.len()) {
            Ok(Self(bytes.to_vec().into()))
        } else {
            Err(Unsealable::Damaged)
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

const PREFIX: &str = "whsec_";
/// Lengths in bytes that the specification allows.
const LEN: std::ops::RangeInclusive<usize> = 24..=64;
/// As long as the hash's output: longer keys add nothing to HMAC-SHA256.
const NEW_LEN: usize = 32;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use standardwebhooks::Webhook;

    use super::*;

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of the specification's reference libraries.
        let secret: SigningSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let at = DateTime::from_timestamp(1_614_265_330, 0).unwrap();
        let signature = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            at,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_reference_library_accepts_what_we_sign_and_nothing_changed_since() {
        let secret = SigningSecret::generate(&mut StdRng::seed_from_u64(1));
        let receiver = Webhook::new(secret.reveal().expose_secret()).unwrap();
        let body = r#"{"name":"Zoë"}"#.as_bytes();
        #[expect(
            clippy::disallowed_methods,
            reason = "the library compares the timestamp with the machine's clock"
        )]
        let at = Utc::now();

        let other = SigningSecret::generate(&mut StdRng::seed_from_u64(9));
        let signed = headers(&[other, secret], "0123456789abcdef01234567", at, body);
        let mut headers = signed.unwrap();
        receiver.verify(body, &headers).unwrap();
        assert!(receiver.verify(br#"{"name":"Zoe"}"#, &headers).is_err());
        headers.insert("webhook-id", "0123456789abcdef01234568".parse().unwrap());
        assert!(receiver.verify(body, &headers).is_err());
    }

    #[test]
    fn a_secret_reads_back_from_its_text_and_its_bytes() {
        let secret = SigningSecret::generate(&mut StdRng::seed_from_u64(2));
        let at = DateTime::UNIX_EPOCH;
        let expected = secret.sign("id", at, b"body");
        let text: SigningSecret = secret.reveal().expose_secret().parse().unwrap();
        let bytes = SigningSecret::from_bytes(secret.as_bytes()).unwrap();
        assert_eq!(
            [text.sign("id", at, b"body"), bytes.sign("id", at, b"body")],
            [expected.clone(), expected]
        );
    }

    #[test]
    fn a_secret_of_a_wrong_form_or_length_is_refused() {
        let of = |length: usize| format!("whsec_{}", BASE64_STANDARD.encode(vec![7; length]));
        for wrong in [
            "",
            "whsec_",
            "whsec_***",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            &of(23),
            &of(65),
        ] {
            assert_eq!(
                wrong.parse::<SigningSecret>().err(),
                Some(MalformedSecret),
                "{wrong:?}"
            );
        }
        for right in [of(24), of(64)] {
            assert!(right.parse::<SigningSecret>().is_ok(), "{right:?}");
        }
    }

    #[test]
    fn a_secret_cannot_be_printed() {
        let secret: SigningSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let printed = format!("{secret:?} {:?}", secret.reveal());
        assert!(
            !printed.contains("MfKQ9r8") && !printed.contains("49, 242"),
            "{printed}"
        );
    }
}
