//! How many attempts may be under way at once, and to whom.
//!
//! An attempt that hangs holds a place for as long as an attempt may take. So that others find places nevertheless: nobody
//! has more than a share; a receiver's share grows with its answers and falls to one with its silence; and half of all places
//! are kept for receivers that answer.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::id::AppId;

/// The places of one dispatcher, and who has them.
#[derive(Debug)]
pub struct Shares {
    places: usize,
    receivers: HashMap<Key, Receiver>,
}

/// Host and port that an app sends to.
pub type Key = (AppId, String);

#[derive(Clone, Copy, Debug)]
struct Receiver {
    under_way: usize,
    /// The most that may be.
    window: usize,
    /// Whether it answered the last time.
    answers: bool,
    /// When it last answered, or was sent to while nothing was under way.
    progress: DateTime<Utc>,
}

/// What may be begun now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub free: usize,
    /// Of these, to receivers that are not known to answer.
    pub unproven: usize,
    /// To each app that is not in `apps`.
    pub app: OfApp,
    /// To each receiver that is not in `receivers`; it is not known to answer.
    pub receiver: usize,
    /// To apps.
    pub apps: Vec<(AppId, OfApp)>,
    /// To receivers, and whether they are known to answer.
    pub receivers: Vec<(Key, usize, bool)>,
}

/// What may be begun for one app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfApp {
    /// In all.
    pub free: usize,
    /// Of these, to receivers that are not known to answer.
    pub unproven: usize,
}

impl Shares {
    /// So many places, at least one; nobody has any.
    pub fn new(places: usize) -> Self {
        let receivers = HashMap::new();
        Self { places, receivers }
    }

    /// What may be begun at `now`.
    pub fn room(&self, now: DateTime<Utc>) -> Room {
        let part = |whole: usize, part: usize| (whole / part).max(1);
        let of_app = part(self.places, APP_SHARE);
        let full = OfApp {
            free: of_app,
            unproven: part(of_app, UNPROVEN_SHARE),
        };
        let mut room = Room {
            free: self.places,
            unproven: part(self.places, UNPROVEN_SHARE),
            app: full,
            receiver: self.first_window(),
            apps: Vec::new(),
            receivers: Vec::with_capacity(self.receivers.len()),
        };
        let mut apps: HashMap<AppId, OfApp> = HashMap::new();
        for (key, receiver) in &self.receivers {
            let (taken, proven) = (receiver.under_way, receiver.is_proven(now));
            let app = apps.entry(key.0).or_insert(full);
            room.free = room.free.saturating_sub(taken);
            app.free = app.free.saturating_sub(taken);
            if !proven {
                room.unproven = room.unproven.saturating_sub(taken);
                app.unproven = app.unproven.saturating_sub(taken);
            }
            let free = receiver.window.saturating_sub(taken);
            room.receivers.push((key.clone(), free, proven));
        }
        room.apps = apps.into_iter().collect();
        room
    }

    /// An attempt began.
    pub fn begin(&mut self, key: Key, now: DateTime<Utc>) {
        let new = Receiver {
            under_way: 0,
            window: self.first_window(),
            answers: false,
            progress: now,
        };
        let receiver = self.receivers.entry(key).or_insert(new);
        if receiver.under_way == 0 {
            receiver.progress = now;
        }
        receiver.under_way += 1;
    }

    /// An attempt ended, with an answer, whichever, or without.
    pub fn end(&mut self, key: &Key, answered: bool, now: DateTime<Utc>) {
        let most = self.most_to_one();
        let is_crowded = self.receivers.len() > MOST_KNOWN;
        let Some(receiver) = self.receivers.get_mut(key) else {
            return;
        };
        receiver.under_way = receiver.under_way.saturating_sub(1);
        receiver.answers = answered;
        if answered {
            receiver.progress = now;
            receiver.window = (receiver.window + 1).min(most);
        } else {
            receiver.window = 1;
        }
        if is_crowded && receiver.under_way == 0 {
            self.receivers.remove(key);
        }
    }

    fn most_to_one(&self) -> usize {
        (self.places / RECEIVER_SHARE).max(1)
    }

    fn first_window(&self) -> usize {
        FIRST_WINDOW.min(self.most_to_one())
    }
}

impl Receiver {
    fn is_proven(&self, now: DateTime<Utc>) -> bool {
        self.answers && (self.under_way == 0 || now - self.progress <= PROMPT)
    }
}

/// One app has at most this part of all places.
const APP_SHARE: usize = 4;
/// One receiver of an app has at most this part of all places.
const RECEIVER_SHARE: usize = 16;
/// Receivers that are not known to answer have at most this part of all places, and of an app's.
const UNPROVEN_SHARE: usize = 2;
/// What a receiver may have before anything is known of it.
const FIRST_WINDOW: usize = 4;
/// A receiver that has been silent for longer, with attempts under way, is one that hangs, for all we know.
const PROMPT: TimeDelta = TimeDelta::seconds(1);
/// Receivers that something is known of, beside those with attempts under way. The others begin anew.
const MOST_KNOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId::from_bytes([1; 12]);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn key(receiver: &str) -> Key {
        (APP, receiver.to_owned())
    }

    fn of(room: &Room, receiver: &str) -> (usize, bool) {
        let found = room
            .receivers
            .iter()
            .find(|(known, ..)| known.1 == receiver);
        found.map_or((room.receiver, false), |(_, free, proven)| (*free, *proven))
    }

    #[test]
    fn nobody_has_more_than_a_share() {
        let shares = Shares::new(512);
        let room = shares.room(at(0));
        assert_eq!((room.free, room.unproven, room.receiver), (512, 256, 4));
        let of_app = OfApp {
            free: 128,
            unproven: 64,
        };
        assert_eq!(room.app, of_app);
        let least = Shares::new(1).room(at(0));
        assert_eq!((least.free, least.unproven, least.receiver), (1, 1, 1));
    }

    #[test]
    fn a_receivers_share_grows_with_its_answers_and_falls_with_its_silence() {
        let mut shares = Shares::new(512);
        for _ in 0..100 {
            shares.begin(key("a"), at(0));
            shares.end(&key("a"), true, at(0));
        }
        assert_eq!(of(&shares.room(at(0)), "a"), (32, true));
        shares.begin(key("a"), at(0));
        shares.end(&key("a"), false, at(10));
        assert_eq!(of(&shares.room(at(10)), "a"), (1, false));
    }

    #[test]
    fn what_hangs_is_kept_from_the_places_of_those_that_answer() {
        let mut shares = Shares::new(64);
        for receiver in 0..16 {
            shares.begin(key(&receiver.to_string()), at(0));
            shares.end(&key(&receiver.to_string()), true, at(0));
            shares.begin(key(&receiver.to_string()), at(0));
        }
        let room = shares.room(at(1));
        assert_eq!((room.free, room.unproven), (48, 32), "they may answer yet");
        let room = shares.room(at(2));
        assert_eq!((room.free, room.unproven), (48, 16));
        let (_, of_app) = room.apps[0];
        assert_eq!(
            of_app,
            OfApp {
                free: 0,
                unproven: 0
            }
        );
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut shares = Shares::new(64);
        for receiver in 0..5000 {
            shares.begin(key(&receiver.to_string()), at(0));
            shares.end(&key(&receiver.to_string()), true, at(0));
        }
        assert!(shares.receivers.len() <= MOST_KNOWN + 1);
    }
}
