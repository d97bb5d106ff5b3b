//! What a request asked for in vain, told beside an answer that is otherwise as it should be.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// The value of `Plenum-Warnings`: a list of strings (RFC 9651, section 3.1), one for each thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings(Vec<String>);

impl Warnings {
    /// A warning for each field of `given` that is none of `known`, with the nearest that is.
    pub fn unknown_fields(given: &Map<String, Value>, known: &[&str]) -> Self {
        let strange = given.keys().filter(|name| !known.contains(&name.as_str()));
        Self::unknown(strange.map(String::as_str), known)
    }

    /// A warning for each of these fields, of which none is known, with the nearest that is.
    pub fn unknown<'a>(strange: impl Iterator<Item = &'a str> + Clone, known: &[&str]) -> Self {
        let warn = |name: &str| {
            let name = plain(name);
            let near = known
                .iter()
                .map(|known| (strsim::jaro_winkler(known, &name), known))
                .filter(|(likeness, _)| *likeness > ALIKE)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            match near {
                Some((_, near)) => {
                    format!("{name} is not a known field and was ignored; did you mean {near}?")
                }
                None => format!("{name} is not a known field and was ignored"),
            }
        };
        let more = strange.clone().count().saturating_sub(MOST);
        let mut warnings: Vec<String> = strange.take(MOST).map(warn).collect();
        if more > 0 {
            warnings.push(format!("{more} more fields are not known and were ignored"));
        }
        Self(warnings)
    }

    /// All of them.
    pub fn into_texts(self) -> Vec<String> {
        self.0
    }

    /// One more thing to tell, in visible ASCII without quotes.
    pub fn add(&mut self, text: &'static str) {
        self.0.push(text.to_owned());
    }

    /// Adds the header, where there is something to tell.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        let quoted: Vec<String> = self.0.iter().map(|text| format!("\"{text}\"")).collect();
        if let Ok(value) = HeaderValue::from_str(&quoted.join(", ")) {
            headers.insert(HeaderName::from_static("plenum-warnings"), value);
        }
    }
}

/// A name as it can stand in a header's string: visible ASCII without quotes, and not endless.
fn plain(name: &str) -> String {
    let fits = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    let plain: String = name
        .chars()
        .map(|c| if fits(c) { c } else { '?' })
        .collect();
    plain.chars().take(LONGEST_NAME).collect()
}

/// Warnings at most, beside the number of those that were left out.
const MOST: usize = 20;
/// Characters of a name that are told.
const LONGEST_NAME: usize = 64;
/// From this likeness on, one name may have been meant for another.
const ALIKE: f64 = 0.85;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn header(given: &Value, known: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        Warnings::unknown_fields(given.as_object().unwrap(), known).tell(&mut headers);
        let value = headers.get("plenum-warnings")?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_field_that_is_not_known_is_named_with_the_nearest_that_is() {
        let known = ["roomName", "maxParticipants"];
        assert_eq!(header(&json!({ "roomName": 1 }), &known), None);
        assert_eq!(
            header(&json!({ "maxParticipant": 1, "colour": 2 }), &known).unwrap(),
            "\"colour is not a known field and was ignored\", \
             \"maxParticipant is not a known field and was ignored; did you mean maxParticipants?\""
        );
    }

    #[test]
    fn whatever_the_names_are_the_header_stays_one() {
        let strange = json!({ "a\"b\\c\r\nX-Evil: 1": 1, "ä".repeat(100): 2 });
        let header = header(&strange, &[]).unwrap();
        assert!(header.is_ascii() && !header.contains('\n'), "{header}");
        assert_eq!(header.matches('"').count(), 4, "{header}");
    }

    #[test]
    fn a_flood_of_names_is_counted_and_not_told() {
        let given: Map<String, Value> = (0..1000).map(|n| (format!("f{n}"), json!(n))).collect();
        let header = header(&given.into(), &[]).unwrap();
        assert!(header.len() < 2000, "{}", header.len());
        assert!(header.contains("980 more fields"), "{header}");
    }
}
