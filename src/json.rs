//! JSON that others wrote: read, or refused without repeating it, for what is in it may be a secret.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// The text is no JSON, or not of the shape that is asked for: says where, and what was expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

/// The value in this text.
///
/// # Errors
///
/// [`Unreadable`].
pub fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Unreadable> {
    Ok(serde_json::from_slice(text)?)
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self(without_values(&error))
    }
}

/// What the error says, but for the value that it is about.
fn without_values(error: &serde_json::Error) -> String {
    let told = error.to_string();
    if error.classify() != Category::Data || told.starts_with("missing field ") {
        return told;
    }
    // The value comes before what was expected, which is a text of ours.
    match told.rsplit_once(", expected ") {
        Some((_, expected)) => format!("expected {expected}"),
        None => "a value does not fit".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is about what cannot be read")]
    struct Wanted {
        number: u8,
        kind: Kind,
        address: std::net::IpAddr,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        Plain,
    }

    #[test]
    fn what_is_wrong_is_told_and_the_value_is_not() {
        for (text, told) in [
            ("\"canary\"", "expected struct Wanted at line 1 column 8"),
            (r#"{"number":"canary"}"#, "expected u8 at line 1 column 18"),
            (
                r#"{"number":", expected canary"}"#,
                "expected u8 at line 1 column 29",
            ),
            (r#"{"number":77777}"#, "expected u8 at line 1 column 15"),
            (
                r#"{"kind":"canary"}"#,
                "expected `Plain` at line 1 column 16",
            ),
            (r#"{"address":"canary"}"#, "a value does not fit"),
            (
                r#"{"number":1}"#,
                "missing field `kind` at line 1 column 12",
            ),
            (r#"{"number":canary"#, "expected value at line 1 column 11"),
            (
                r#"{"number":1"#,
                "EOF while parsing an object at line 1 column 11",
            ),
        ] {
            let error = read::<Wanted>(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), told, "{text}");
        }
    }
}
