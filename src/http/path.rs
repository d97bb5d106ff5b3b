//! A request's path, as logs and answers may show it.

use std::fmt;

use crate::apps::SecretKey;

/// A path without what may be a secret in the wrong place: `…` stands for each segment that no route of ours has, such as
/// `standup&token=…`, for keys and tokens of ours, and for who is meant by `user/…`.
pub struct ShownPath<'a>(pub &'a str);

impl fmt::Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (index, segment) in self.0.split('/').enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            let is_shown = is_plain(segment) && before != PERSON;
            f.write_str(if is_shown { segment } else { "…" })?;
            before = segment;
        }
        Ok(())
    }
}

fn is_plain(segment: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    segment.len() <= LONGEST_SEGMENT
        && segment.bytes().all(fits)
        && !SecretKey::is_ours(segment)
        && !segment.starts_with(JWT)
}

/// What stands before an app's id of a person.
const PERSON: &str = "user";
/// As long as a room name; tokens are longer.
const LONGEST_SEGMENT: usize = 64;
/// What every JWT begins with: `{"` in base64.
const JWT: &str = "eyJ";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::Environment;

    #[test]
    fn a_path_is_shown_without_what_may_be_a_secret() {
        for plain in [
            "/",
            "/standup",
            "/api/v1/room/a_B-9",
            "/assets/index-C9f.js",
            "",
        ] {
            assert_eq!(ShownPath(plain).to_string(), plain);
        }
        let person = ShownPath("/api/v1/user/ann-42");
        assert_eq!(person.to_string(), "/api/v1/user/…");
        let key = SecretKey::generate(Environment::Live, &mut rand::rng());
        let long = "a".repeat(65);
        for secret in [
            key.reveal(),
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "standup&token=x",
            "standup;password=x",
            "standup%3Ftoken=x",
            &long,
        ] {
            let path = format!("/room/{secret}/x");
            assert_eq!(ShownPath(&path).to_string(), "/room/…/x", "{secret}");
        }
    }
}
