//! What ends a meeting, what warns of it, and when.

use super::*;
use crate::{
    rooms::{MediaMode, MeetingStart},
    sfu::Source,
};

impl Simulated {
    /// A meeting that a call has opened.
    fn opened_by_call(rules: Rules) -> Self {
        let mut meeting = Self::new(Rules {
            meeting_start: MeetingStart::Api,
            ..rules
        });
        meeting.state.empty_since = None;
        meeting
    }

    /// A moderator joins, with a token that expires then if at all.
    fn moderate(&mut self, resumable: bool, expires_at: Option<DateTime<Utc>>) {
        self.joins += 1;
        let grant = Grant {
            token: TokenId::from_bytes([self.joins; 12]),
            role: Role::Moderator,
            name: None,
            identity: Arc::default(),
            eject_after: None,
            expires_at,
            eject_at_expiry: expires_at.is_some(),
        };
        let request = JoinRequest {
            participant: id(self.joins),
            connection: Connection(u64::from(self.joins)),
            name: "host".to_owned(),
            grant: Some(grant),
            resume: resumable.then_some([self.joins; 32]),
            address: None,
            is_creator: false,
            password: None,
            device: Arc::default(),
            room: self.state.room.clone(),
        };
        self.input(&Input::Join(Box::new(request))).unwrap();
    }

    /// The SFU begins or ceases to get somebody's media.
    fn publish(&mut self, number: u8, source: Source, is_published: bool) {
        drop(self.input(&Input::Published {
            participant: id(number),
            source,
            is_published,
        }));
    }

    /// Somebody says how their microphone is.
    fn mute(&mut self, number: u8, is_muted: bool) {
        let change = ShownChange {
            is_muted: Some(is_muted),
            ..ShownChange::default()
        };
        drop(self.input(&Input::Show {
            by: self.speaker(number),
            change,
        }));
    }

    fn change_rules(&mut self, change: impl FnOnce(&mut Rules)) {
        let changed = changed(&self.state.room, change);
        self.input(&changed).unwrap();
    }

    /// Seconds of the simulation at which the meeting ended, and why.
    fn ended(&self) -> Option<(i64, EndReason)> {
        self.end()
            .map(|(at, reason)| ((at - start()).num_seconds(), reason))
    }

    fn wait(&mut self, time: i64) {
        self.advance(seconds(time), TimeDelta::zero());
    }

    /// The warnings so far: to whom, at which second, of the end at which second.
    fn warned(&mut self) -> Vec<(Option<u8>, i64, i64)> {
        let second = |at: DateTime<Utc>| (at - start()).num_seconds();
        let told = std::mem::take(&mut self.warnings).into_iter();
        told.map(|(to, at, ends_at)| (to.map(|to| to.as_bytes()[0]), second(at), second(ends_at)))
            .collect()
    }
}

fn limit(limit: u32) -> Option<Seconds> {
    Some(Seconds::new(limit))
}

#[test]
fn a_meeting_ends_when_its_duration_is_over_from_the_first_join_on() {
    let mut meeting = Simulated::opened_by_call(Rules {
        meeting_duration: limit(600),
        ..rules()
    });
    meeting.wait(1000);
    meeting.join(false).unwrap();
    meeting.wait(599);
    meeting.join(false).unwrap();
    assert_eq!(meeting.end(), None);
    meeting.wait(1);
    assert_eq!(meeting.ended(), Some((1600, EndReason::DurationReached)));
    let reason = LeaveReason::Ended(EndReason::DurationReached);
    assert_eq!(
        meeting.stays(),
        [(id(1), 600_000, reason), (id(2), 1000, reason)]
    );
}

#[test]
fn a_meeting_that_was_extended_lasts_so_much_longer() {
    let mut meeting = Simulated::new(Rules {
        meeting_duration: limit(600),
        ..rules()
    });
    meeting.join(false).unwrap();
    meeting.state.extended_by = seconds(300);
    meeting.wait(1000);
    assert_eq!(meeting.ended(), Some((900, EndReason::DurationReached)));
}

#[test]
fn a_limit_that_moves_into_the_past_ends_the_meeting_now_and_not_then() {
    type Change = fn(&mut Rules);
    let changes: [(Change, EndReason); 4] = [
        (
            |rules| rules.meeting_duration = limit(60),
            EndReason::DurationReached,
        ),
        (
            |rules| rules.end_after_no_activity = limit(60),
            EndReason::NoActivity,
        ),
        (
            |rules| rules.end_when_one_left_after = limit(60),
            EndReason::OneLeft,
        ),
        (
            |rules| {
                rules.expires = Some(UnixSec(start() + seconds(60)));
                rules.eject_at_expiry = true;
            },
            EndReason::RoomExpired,
        ),
    ];
    for (change, reason) in changes {
        let mut meeting = Simulated::new(rules());
        meeting.join(false).unwrap();
        meeting.join(false).unwrap();
        meeting.leave(1).unwrap();
        meeting.wait(500);
        meeting.change_rules(change);
        meeting.wait(0);
        assert_eq!(meeting.ended(), Some((500, reason)));
        assert_eq!(
            meeting.stays()[1],
            (id(2), 500_000, LeaveReason::Ended(reason))
        );
    }
}

#[test]
fn a_meeting_ends_in_which_nobody_shares_and_joining_is_not_sharing() {
    for mode in [MediaMode::Sfu, MediaMode::Mesh] {
        let mut meeting = Simulated::new(Rules {
            end_after_no_activity: limit(60),
            media_mode: mode,
            ..rules()
        });
        meeting.join(false).unwrap();
        meeting.wait(59);
        meeting.join(false).unwrap();
        assert_eq!(meeting.end(), None);
        meeting.wait(1);
        assert_eq!(meeting.ended(), Some((60, EndReason::NoActivity)));
    }
}

#[test]
fn a_meeting_lasts_while_somebody_shares_and_so_much_longer() {
    let quiet = || {
        let mut meeting = Simulated::new(Rules {
            end_after_no_activity: limit(60),
            ..rules()
        });
        meeting.join(false).unwrap();
        meeting.join(true).unwrap();
        meeting.wait(30);
        meeting
    };
    // It is unpublished; it is muted; whoever shares leaves, or is lost.
    let ways: [fn(&mut Simulated); 4] = [
        |meeting| meeting.publish(1, Source::Microphone, false),
        |meeting| meeting.mute(1, true),
        |meeting| drop(meeting.leave(1)),
        |meeting| drop(meeting.disconnect(1)),
    ];
    for stop in ways {
        let mut meeting = quiet();
        meeting.publish(1, Source::Microphone, true);
        meeting.wait(300);
        stop(&mut meeting);
        meeting.wait(59);
        assert_eq!(meeting.end(), None);
        meeting.wait(1);
        assert_eq!(meeting.ended(), Some((390, EndReason::NoActivity)));
    }
    // A screen is never muted.
    let mut meeting = quiet();
    meeting.publish(1, Source::Screen, true);
    meeting.mute(1, true);
    meeting.wait(300);
    assert_eq!(meeting.end(), None);
    // What is muted is not shared, however long it is published.
    let mut meeting = quiet();
    meeting.mute(1, true);
    meeting.publish(1, Source::Microphone, true);
    meeting.wait(30);
    assert_eq!(meeting.ended(), Some((60, EndReason::NoActivity)));
}

#[test]
fn in_a_mesh_whoever_says_so_shares() {
    let mut meeting = Simulated::new(Rules {
        end_after_no_activity: limit(60),
        media_mode: MediaMode::Mesh,
        ..rules()
    });
    meeting.join(false).unwrap();
    meeting.wait(30);
    meeting.mute(1, false);
    meeting.wait(300);
    meeting.mute(1, true);
    meeting.wait(60);
    assert_eq!(meeting.ended(), Some((390, EndReason::NoActivity)));
}

#[test]
fn in_a_meeting_that_was_taken_over_somebody_shared_to_the_last_if_they_did() {
    for (shares, ends) in [(true, 150), (false, 90)] {
        let mut meeting = Simulated::new(Rules {
            end_after_no_activity: limit(60),
            ..rules()
        });
        meeting.join(true).unwrap();
        meeting.wait(20);
        meeting.publish(1, Source::Camera, true);
        meeting.wait(10);
        meeting.publish(1, Source::Camera, shares);
        meeting.wait(if shares { 60 } else { 20 });
        let renewed_at = meeting.now;
        meeting.now += seconds(10);
        meeting.claimed(renewed_at);
        meeting.resume(1).unwrap();
        meeting.wait(300);
        assert_eq!(meeting.ended(), Some((ends, EndReason::NoActivity)));
    }
}

#[test]
fn a_meeting_that_a_call_opened_and_nobody_joins_ends_and_the_app_is_told() {
    let mut meeting = Simulated::opened_by_call(Rules {
        empty_timeout: limit(120),
        ..rules()
    });
    meeting.wait(200);
    assert_eq!(meeting.ended(), Some((120, EndReason::NeverJoined)));
    let mut meeting = Simulated::opened_by_call(Rules {
        empty_timeout: limit(120),
        ..rules()
    });
    meeting.wait(100);
    meeting.join(false).unwrap();
    meeting.wait(100);
    assert_eq!(meeting.end(), None);
    meeting.leave(1).unwrap();
    meeting.wait(10);
    assert_eq!(meeting.ended(), Some((210, EndReason::Empty)));
    let mut meeting = Simulated::opened_by_call(rules());
    meeting.wait(1_000_000);
    assert_eq!(meeting.end(), None, "without a rule it waits");
}

#[test]
fn a_meeting_that_nobody_can_join_any_more_is_over_when_its_room_is() {
    let mut meeting = Simulated::opened_by_call(Rules {
        expires: Some(UnixSec(start() + seconds(60))),
        ..rules()
    });
    meeting.wait(100);
    assert_eq!(meeting.ended(), Some((60, EndReason::RoomExpired)));
}

#[test]
fn a_meeting_ends_in_which_one_is_left_for_too_long() {
    let mut meeting = Simulated::new(Rules {
        end_when_one_left_after: limit(60),
        ..rules()
    });
    meeting.join(false).unwrap();
    meeting.wait(100);
    assert_eq!(meeting.end(), None, "the first waits for the others");
    meeting.join(false).unwrap();
    meeting.leave(1).unwrap();
    meeting.wait(59);
    meeting.join(true).unwrap();
    meeting.wait(100);
    assert_eq!(meeting.end(), None, "somebody came");
    meeting.disconnect(3).unwrap();
    meeting.wait(30);
    meeting.wait(59);
    assert_eq!(meeting.end(), None, "a lost connection is waited for");
    meeting.wait(1);
    assert_eq!(meeting.ended(), Some((349, EndReason::OneLeft)));
    assert_eq!(
        meeting.stays().last(),
        Some(&(id(2), 249_000, LeaveReason::Ended(EndReason::OneLeft)))
    );
}

#[test]
fn a_meeting_ends_with_its_last_moderator_where_the_room_says_so() {
    let moderated = |ends| {
        let mut meeting = Simulated::new(Rules {
            end_when_moderator_leaves: ends,
            ..rules()
        });
        meeting.join(false).unwrap();
        meeting.moderate(false, None);
        meeting.moderate(true, None);
        meeting.wait(10);
        meeting.leave(2).unwrap();
        assert_eq!(meeting.end(), None, "there is another");
        meeting
    };
    let mut meeting = moderated(true);
    meeting.leave(3).unwrap();
    assert_eq!(meeting.ended(), Some((10, EndReason::ModeratorLeft)));
    let reason = LeaveReason::Ended(EndReason::ModeratorLeft);
    assert_eq!(meeting.stays().last(), Some(&(id(1), 10_000, reason)));

    let mut meeting = moderated(true);
    meeting.disconnect(3).unwrap();
    meeting.wait(29);
    assert_eq!(meeting.end(), None, "a lost connection is waited for");
    meeting.wait(1);
    assert_eq!(meeting.ended(), Some((40, EndReason::ModeratorLeft)));

    let mut meeting = moderated(false);
    meeting.leave(3).unwrap();
    assert_eq!(meeting.end(), None);

    let mut meeting = Simulated::new(Rules {
        end_when_moderator_leaves: true,
        ..rules()
    });
    meeting.join(false).unwrap();
    meeting.join(false).unwrap();
    meeting.leave(1).unwrap();
    assert_eq!(meeting.end(), None, "nobody moderated");
}

#[test]
fn all_are_warned_five_minutes_and_one_minute_before_the_end() {
    let ends_at = 1000;
    let by_room = Rules {
        expires: Some(UnixSec(start() + seconds(ends_at))),
        eject_at_expiry: true,
        ..rules()
    };
    let by_duration = Rules {
        meeting_duration: limit(1000),
        ..rules()
    };
    for rules in [by_room, by_duration] {
        let mut meeting = Simulated::new(rules);
        meeting.join(false).unwrap();
        meeting.wait(699);
        assert_eq!(meeting.warned(), []);
        meeting.wait(300);
        assert_eq!(
            meeting.warned(),
            [(None, 700, ends_at), (None, 940, ends_at)]
        );
    }
    let mut meeting = Simulated::new(Rules {
        expires: Some(UnixSec(start() + seconds(ends_at))),
        ..rules()
    });
    meeting.join(false).unwrap();
    meeting.wait(2000);
    assert_eq!(meeting.warned(), [], "nobody is put out");
}

#[test]
fn one_is_warned_of_what_concerns_them_alone() {
    let mut meeting = Simulated::new(Rules {
        eject_after: limit(600),
        ..rules()
    });
    meeting.join(false).unwrap();
    meeting.wait(100);
    meeting.moderate(false, Some(start() + seconds(500)));
    meeting.wait(500);
    assert_eq!(
        meeting.warned(),
        [
            (Some(2), 200, 500),
            (Some(1), 300, 600),
            (Some(2), 400, 700),
            (Some(2), 440, 500),
            (Some(1), 540, 600)
        ]
    );
}

#[test]
fn a_limit_that_is_short_has_the_warnings_that_fit() {
    for (length, warned) in [(300, vec![240]), (61, vec![1]), (60, vec![]), (30, vec![])] {
        let mut meeting = Simulated::new(Rules {
            eject_after: limit(length),
            ..rules()
        });
        meeting.join(false).unwrap();
        meeting.wait(400);
        let at: Vec<i64> = meeting.warned().iter().map(|(_, at, _)| *at).collect();
        assert_eq!(at, warned, "{length}");
    }
}

#[test]
fn whoever_comes_when_the_end_is_near_is_told_once() {
    let mut meeting = Simulated::new(Rules {
        meeting_duration: limit(1000),
        ..rules()
    });
    meeting.join(false).unwrap();
    meeting.wait(800);
    meeting.warned();
    meeting.join(false).unwrap();
    assert_eq!(meeting.warned(), [(Some(2), 800, 1000)]);
    meeting.moderate(false, Some(start() + seconds(850)));
    meeting.wait(0);
    assert_eq!(
        meeting.warned(),
        [(Some(3), 800, 1000), (Some(3), 800, 850)]
    );
}

#[test]
fn an_end_that_moves_is_warned_of_anew_and_one_that_does_not_is_not() {
    let mut meeting = Simulated::new(Rules {
        meeting_duration: limit(1000),
        ..rules()
    });
    meeting.join(false).unwrap();
    meeting.wait(750);
    assert_eq!(meeting.warned(), [(None, 700, 1000)]);
    meeting.change_rules(|rules| rules.locked = true);
    meeting.wait(0);
    assert_eq!(meeting.warned(), []);
    meeting.change_rules(|rules| rules.meeting_duration = limit(900));
    meeting.wait(0);
    assert_eq!(meeting.warned(), [(None, 750, 900)]);
    meeting.change_rules(|rules| rules.meeting_duration = limit(2000));
    meeting.wait(1200);
    assert_eq!(meeting.warned(), [(None, 1700, 2000), (None, 1940, 2000)]);
}

#[test]
fn whoever_was_away_when_the_others_were_warned_is_told_when_they_are_back() {
    let mut meeting = Simulated::new(Rules {
        meeting_duration: limit(1000),
        eject_after: limit(1010),
        ..rules()
    });
    meeting.join(true).unwrap();
    meeting.wait(690);
    meeting.disconnect(1).unwrap();
    meeting.wait(25);
    assert_eq!(meeting.warned(), [(None, 700, 1000)]);
    meeting.resume(1).unwrap();
    meeting.wait(0);
    assert_eq!(
        meeting.warned(),
        [(Some(1), 715, 1000), (Some(1), 715, 1010)]
    );
    meeting.disconnect(1).unwrap();
    meeting.resume(1).unwrap();
    meeting.wait(0);
    assert_eq!(meeting.warned(), [], "they know");
}

/// Something that may happen, of what concerns ends.
#[derive(Clone, Debug)]
enum Turn {
    Join { resumable: bool, moderates: bool },
    Leave(u8),
    Lose(u8),
    Resume(u8),
    Publish(u8, bool),
    Mute(u8, bool),
    Wait { millis: i64, late: i64 },
    Crash { for_millis: i64 },
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let who = 1..8_u8;
    let turn = prop_oneof![
        3 => any::<(bool, bool)>().prop_map(|(resumable, moderates)| Turn::Join { resumable, moderates }),
        2 => who.clone().prop_map(Turn::Leave),
        1 => who.clone().prop_map(Turn::Lose),
        1 => who.clone().prop_map(Turn::Resume),
        2 => (who.clone(), any::<bool>()).prop_map(|(who, on)| Turn::Publish(who, on)),
        2 => (who, any::<bool>()).prop_map(|(who, muted)| Turn::Mute(who, muted)),
        5 => (0..60_000_i64, 0..3_000_i64).prop_map(|(millis, late)| Turn::Wait { millis, late }),
        1 => (0..30_000_i64).prop_map(|for_millis| Turn::Crash { for_millis }),
    ];
    proptest::collection::vec(turn, 0..60)
}

/// What a meeting's ends rest on, followed independently of it.
#[derive(Default)]
struct Followed {
    /// When it is known that somebody shared, that more than one was in, that a moderator was.
    shared: Option<DateTime<Utc>>,
    together: Option<DateTime<Utc>>,
    moderated: Option<DateTime<Utc>>,
}

impl Followed {
    fn look(&mut self, meeting: &Simulated) {
        let people = &meeting.state.participants;
        let now = Some(meeting.now);
        let mut people_shown = people.iter();
        if people_shown.any(|person| person.sharing.microphone && !person.shown.is_muted) {
            self.shared = now;
        }
        match people.len() {
            0 => self.together = None,
            1 => {}
            _ => self.together = now,
        }
        if people.iter().any(|person| person.role == Role::Moderator) {
            self.moderated = now;
        }
    }
}

proptest! {
    #[test]
    fn no_meeting_ends_early_or_lasts_longer_than_any_of_its_rules(
        turns in turns(),
        duration in proptest::option::of(1..600_u32),
        quiet in proptest::option::of(1..90_u32),
        alone in proptest::option::of(1..90_u32),
        moderators in any::<bool>(),
    ) {
        let margin = TimeDelta::seconds(3); // how late a deadline fires here
        let mut meeting = Simulated::new(Rules {
            meeting_duration: duration.map(Seconds::new),
            end_after_no_activity: quiet.map(Seconds::new),
            end_when_one_left_after: alone.map(Seconds::new),
            end_when_moderator_leaves: moderators,
            ..rules()
        });
        let mut followed = Followed::default();
        for turn in turns {
            if meeting.joins == 20 || meeting.state.status == Status::Ended {
                break;
            }
            let alive = meeting.now;
            match turn {
                Turn::Join { resumable, moderates: true } => meeting.moderate(resumable, None),
                Turn::Join { resumable, moderates: false } => drop(meeting.join(resumable)),
                Turn::Leave(who) => drop(meeting.leave(who)),
                Turn::Lose(who) => drop(meeting.disconnect(who)),
                Turn::Resume(who) => drop(meeting.resume(who)),
                Turn::Publish(who, on) => meeting.publish(who, Source::Microphone, on),
                Turn::Mute(who, muted) => meeting.mute(who, muted),
                Turn::Wait { millis, late } => {
                    // Step by step, to see what is so at each instant.
                    let end = meeting.now + TimeDelta::milliseconds(millis);
                    while meeting.state.status != Status::Ended && meeting.now < end {
                        followed.look(&meeting);
                        let step = TimeDelta::milliseconds(500).min(end - meeting.now);
                        meeting.advance(step, TimeDelta::milliseconds(late));
                    }
                    meeting.fire();
                }
                Turn::Crash { for_millis } => {
                    meeting.now += TimeDelta::milliseconds(for_millis);
                    meeting.claimed(alive);
                    meeting.fire();
                }
            }
            if meeting.state.status != Status::Ended {
                followed.look(&meeting);
            }
            if meeting.state.status == Status::Live {
                let (now, began) = (meeting.now, meeting.state.started_at.unwrap());
                let within = |since: DateTime<Utc>, limit: Option<u32>| {
                    limit.is_none_or(|limit| now < since + seconds(limit) + margin)
                };
                prop_assert!(within(began, duration));
                prop_assert!(within(followed.shared.unwrap_or(began), quiet));
                let people = meeting.state.participants.len();
                prop_assert!(people != 1 || followed.together.is_none_or(|since| within(since, alone)));
            }
        }
        if let Some((at, reason)) = meeting.end() {
            let began = meeting.state.started_at.unwrap();
            let step = TimeDelta::milliseconds(500); // what is followed is followed in steps
            match reason {
                EndReason::DurationReached => prop_assert_eq!(Some(at), duration.map(|limit| began + seconds(limit))),
                EndReason::NoActivity => {
                    let since = followed.shared.unwrap_or(began);
                    prop_assert!(quiet.is_some_and(|limit| at + step >= since + seconds(limit)), "{at} {since}");
                }
                EndReason::OneLeft => prop_assert!(alone.is_some() && followed.together.is_some()),
                EndReason::ModeratorLeft => prop_assert!(moderators && followed.moderated.is_some()),
                EndReason::Empty => {}
                other => prop_assert!(false, "{other:?}"),
            }
            prop_assert!(at <= meeting.now);
        }
    }
}
