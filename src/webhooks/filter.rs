//! Which kinds of events an endpoint gets.

use std::{fmt, str::FromStr};

use super::event::NAMES;

/// The name of a kind of events, or the beginning of some and a `*`. It means one at least. Made by `FromStr` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// The text means no event that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be events, or beginnings of some with a * behind, such as participant* or * alone; the events are {}",
    NAMES.join(", ")
)]
pub struct NoEvent;

impl Pattern {
    /// All events, those of later versions among them.
    pub fn all() -> Self {
        Self("*".to_owned())
    }

    /// As Postgres's `like` takes it.
    pub(super) fn to_like(&self) -> String {
        self.0.replace('*', "%")
    }

    /// As it was stored for Postgres's `like`.
    pub(super) fn from_like(text: &str) -> Self {
        Self(text.replace('%', "*"))
    }
}

impl FromStr for Pattern {
    type Err = NoEvent;

    fn from_str(text: &str) -> Result<Self, NoEvent> {
        let is_meant = match text.strip_suffix('*') {
            Some(beginning) => NAMES.iter().any(|name| name.starts_with(beginning)),
            None => NAMES.contains(&text),
        };
        is_meant.then(|| Self(text.to_owned())).ok_or(NoEvent)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_an_event_that_there_is() {
        for right in ["*", "participant*", "meetingEnded", "meetingEnded*", "r*"] {
            let pattern: Pattern = right.parse().unwrap();
            assert_eq!(pattern.to_string(), right);
            assert_eq!(Pattern::from_like(&pattern.to_like()), pattern);
        }
        for wrong in [
            "",
            "Participant*",
            "meeting",
            "*Ended",
            "**",
            "meeting%",
            "p_rticipant*",
            "test",
        ] {
            assert_eq!(wrong.parse::<Pattern>(), Err(NoEvent), "{wrong:?}");
        }
    }
}
