//! What must hold of a meeting, told from its rows alone: events, usage, and what its room asked for when.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    log::{Entry, Row},
    script::{self, Script, Visit},
    world::World,
};
use crate::{
    id::ParticipantId,
    rooms::Rules,
    webhooks::{Kind, Stay},
};

/// A rule that ends a stay: the reason that it gives, and when it fires.
struct StayRule(
    &'static str,
    fn(&Rules, &Stay, &Visit) -> Option<DateTime<Utc>>,
);
/// A rule that ends a meeting: the reason that it gives, and when it fires by what the meeting has come to.
struct MeetingRule(&'static str, fn(&Rules, &Course) -> Option<DateTime<Utc>>);

const STAY_RULES: &[StayRule] = &[
    StayRule("timeLimit", |rules, stay, visit| {
        let own = visit.grant.as_ref().and_then(|grant| grant.eject_after);
        let limit = own.or_else(|| rules.longest_stay());
        limit.map(|limit| stay.joined_at + limit)
    }),
    StayRule("tokenExpired", |_, _, visit| {
        let grant = visit.grant.as_ref()?;
        grant.expires_at.filter(|_| grant.eject_at_expiry)
    }),
];
const MEETING_RULES: &[MeetingRule] = &[
    MeetingRule("empty", |rules, course| {
        let wait = TimeDelta::from(rules.end_when_empty_after);
        course.empty_since.map(|since| since + wait)
    }),
    MeetingRule("durationReached", |rules, course| {
        let limit = TimeDelta::from(rules.meeting_duration?);
        Some(course.started_at + limit)
    }),
    // Nobody shares anything here.
    MeetingRule("noActivity", |rules, course| {
        let limit = TimeDelta::from(rules.end_after_no_activity?);
        Some(course.started_at + limit)
    }),
    MeetingRule("roomExpired", |rules, _| {
        rules.expires_at().filter(|_| rules.eject_at_expiry)
    }),
];
/// Reasons that are no rule's: somebody did something, or something broke.
const OTHER_REASONS: &[&str] = &[
    "left",
    "connectionLost",
    "joinAborted",
    "serverCrash",
    "serverShutdown",
    "roomDeleted",
];

/// What a meeting has come to, after some of its events.
#[derive(Clone, Debug)]
struct Course {
    started_at: DateTime<Utc>,
    /// The latest time that anything is dated.
    last_at: DateTime<Utc>,
    /// Since when nobody is in.
    empty_since: Option<DateTime<Utc>>,
    /// Between which times one was left alone: of whoever was waited for, only when the connection was lost is told.
    alone: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Whether somebody came in without hearing of it: then it is not said here for how long one was alone.
    unheard: bool,
    /// When it was committed that the last moderator had left, where the meeting ends by that.
    unmoderated: Option<DateTime<Utc>>,
    /// When the last event was committed.
    committed: DateTime<Utc>,
    /// Who is in, and when that was committed.
    inside: BTreeMap<ParticipantId, (Stay, DateTime<Utc>)>,
}

/// What there is to check a meeting by.
struct Check<'a> {
    row: &'a Row,
    script: &'a Script,
    world: &'a World,
    own_troubles: &'a [DateTime<Utc>],
    admitted: &'a [ParticipantId],
}

/// Checks a meeting that has ended; `admitted` were told that they are in.
///
/// # Panics
///
/// When something does not hold.
pub fn meeting(
    row: &Row,
    script: &Script,
    world: &World,
    own_troubles: &[DateTime<Utc>],
    admitted: &[ParticipantId],
) {
    let check = Check {
        row,
        script,
        world,
        own_troubles,
        admitted,
    };
    check.events();
    for participant in admitted {
        let joined = row.events.iter().any(
            |entry| matches!(&entry.kind, Kind::ParticipantJoined(stay) if stay.id == *participant),
        );
        check.holds(joined, || {
            format!("{participant} was told that they are in, and there is no event")
        });
    }
}

impl Check<'_> {
    fn holds(&self, it: bool, what: impl FnOnce() -> String) {
        if !it {
            let tell = |entry: &Entry| {
                format!(
                    "  {:?} {:?} #{} {:?}\n",
                    entry.committed, entry.at, entry.seq, entry.kind
                )
            };
            let events: String = self.row.events.iter().map(tell).collect();
            let versions: String = self
                .script
                .versions
                .iter()
                .map(|(at, room)| {
                    let rules = &room.rules;
                    format!(
                        "  {at:?} {:?} {:?} {:?} {:?}\n",
                        rules.eject_after,
                        rules.expires,
                        rules.eject_at_expiry,
                        rules.end_when_empty_after
                    )
                })
                .collect();
            panic!(
                "{}\nevents:\n{events}rules:\n{versions}troubles of its own: {:?}",
                what(),
                self.own_troubles
            );
        }
    }

    /// Goes through the events in their order.
    fn events(&self) {
        let Some(first) = self.row.events.first() else {
            self.holds(self.row.usage.is_empty(), || {
                "usage without a stay".to_owned()
            });
            return;
        };
        let mut course = Course {
            started_at: first.at,
            last_at: first.at,
            empty_since: None,
            alone: None,
            unheard: false,
            unmoderated: None,
            committed: first.committed,
            inside: BTreeMap::new(),
        };
        let (mut stays, mut metered) = (0, self.row.usage.iter());
        for (index, entry) in self.row.events.iter().enumerate() {
            let fail = |what: &str| format!("event {}: {what}", entry.seq);
            self.holds(entry.seq == index as i64 + 1, || {
                fail("its number does not follow")
            });
            self.holds(entry.at <= entry.committed, || {
                fail("it is dated later than it was stored")
            });
            let is_last = index + 1 == self.row.events.len();
            self.holds(
                is_last == matches!(entry.kind, Kind::MeetingEnded { .. }),
                || fail("the end is the last"),
            );
            self.holds(
                (index == 0) == matches!(entry.kind, Kind::MeetingStarted),
                || fail("the start is the first"),
            );
            self.in_time(&course, entry);
            let goes_on = course
                .unmoderated
                .is_some_and(|committed| committed != entry.committed);
            self.holds(!goes_on, || fail("its last moderator had left"));
            match &entry.kind {
                Kind::ParticipantJoined(stay) => {
                    stays += 1;
                    let known = course
                        .inside
                        .insert(stay.id, (stay.clone(), entry.committed));
                    self.holds(known.is_none(), || fail("a second join"));
                    let rules = self.in_force(entry.at, entry.committed);
                    let places = rules.map(|(_, rules)| {
                        rules
                            .max_participants
                            .map_or(usize::MAX, |places| places as usize)
                    });
                    let most = places.max();
                    self.holds(Some(course.inside.len()) <= most, || {
                        fail("more are in than may be")
                    });
                    course.empty_since = None;
                    course.alone = None;
                    course.unheard |= !self.admitted.contains(&stay.id);
                }
                Kind::ParticipantLeft {
                    stay,
                    left_at,
                    duration_sec,
                    reason,
                } => {
                    let is_in = course.inside.contains_key(&stay.id);
                    self.holds(is_in, || fail("who left is not in"));
                    self.holds(*left_at == entry.at && *left_at >= stay.joined_at, || {
                        fail("a leave before the join")
                    });
                    let seconds = left_at.timestamp() - stay.joined_at.timestamp();
                    self.holds(*duration_sec == seconds, || fail("minutes"));
                    let usage = metered.next();
                    let same = usage.is_some_and(|usage| {
                        (usage.participant, usage.joined_at, usage.left_at)
                            == (stay.id, stay.joined_at, *left_at)
                    });
                    self.holds(same, || fail("usage is not the stay"));
                    self.stay_ended(&course, entry, stay, reason);
                    course.inside.remove(&stay.id);
                    let last = self.row.events.last().map(|last| last.committed);
                    match course.inside.len() {
                        // By the end of the meeting, whose reason is looked at then.
                        0 if last == Some(entry.committed) => {}
                        0 => course.alone = None,
                        1 => course.alone = Some((entry.at, entry.committed)),
                        _ => {}
                    }
                    if self.ends_with(&course, entry, stay) {
                        course.unmoderated = Some(entry.committed);
                    }
                }
                Kind::MeetingEnded {
                    reason,
                    participant_count,
                    duration_sec,
                } => {
                    self.holds(course.inside.is_empty(), || fail("somebody is left inside"));
                    self.holds(*participant_count == stays, || fail("the count of stays"));
                    self.holds(
                        *duration_sec == entry.at.timestamp() - course.started_at.timestamp(),
                        || fail("the meeting's length"),
                    );
                    self.holds(entry.at >= course.last_at, || {
                        fail("something happened after the end")
                    });
                    self.meeting_ended(&course, entry, reason);
                }
                // What else is told concerns nobody who is in.
                _ => {}
            }
            course.last_at = course.last_at.max(entry.at);
            course.committed = entry.committed;
            if matches!(entry.kind, Kind::ParticipantLeft { .. }) && course.inside.is_empty() {
                course.empty_since = Some(course.last_at);
            }
        }
        self.holds(metered.next().is_none(), || {
            "usage without a leave".to_owned()
        });
    }

    /// The rules that were in force at some time between two, as far as the meeting's owner can have known by then; each with
    /// the time of its change.
    fn in_force(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> impl Iterator<Item = (DateTime<Utc>, &Rules)> {
        self.versions()
            .filter(move |(since, until, _)| {
                *since <= to && until.is_none_or(|until| self.settled(until) >= from)
            })
            .map(|(since, _, rules)| (since, rules))
    }

    /// The rules, since when, and until when.
    fn versions(&self) -> impl Iterator<Item = (DateTime<Utc>, Option<DateTime<Utc>>, &Rules)> {
        let versions = &self.script.versions;
        let ends = versions
            .iter()
            .skip(1)
            .map(|(at, _)| Some(*at))
            .chain([None]);
        versions
            .iter()
            .zip(ends)
            .map(|((since, room), until)| (*since, until, &room.rules))
    }

    fn settled(&self, due: DateTime<Utc>) -> DateTime<Utc> {
        self.world
            .settled(due, TimeDelta::zero(), self.own_troubles)
    }

    /// Whether a rule that fired at `at` fired when it was due by one of the rules in force, or as soon as a change made it so.
    fn is_due(
        &self,
        entry: &Entry,
        floor: DateTime<Utc>,
        due: impl Fn(&Rules) -> Option<DateTime<Utc>>,
    ) -> bool {
        self.in_force(entry.at, entry.committed)
            .any(|(since, rules)| {
                due(rules).is_some_and(|due| {
                    let changed =
                        (since..=self.settled(since)).contains(&entry.at) && due <= entry.at;
                    due <= entry.committed && (due.max(floor) == entry.at || changed)
                })
            })
    }

    fn stay_ended(&self, course: &Course, entry: &Entry, stay: &Stay, reason: &str) {
        let visit = &self.script.visits[script::visit(stay.id)];
        let fail = |what: &str| format!("event {} ({reason}): {what}", entry.seq);
        if !self.admitted.contains(&stay.id) {
            let joined = course.inside.get(&stay.id).map(|(_, joined)| *joined);
            // Their silence is noticed, and then they may come back.
            let time = TimeDelta::seconds(40);
            let joined = joined.unwrap_or(entry.committed);
            let soon = self.world.settled(joined, time, self.own_troubles);
            self.holds(entry.committed <= soon, || {
                fail("they never heard that they are in, and are for long")
            });
        }
        if let Some(StayRule(_, due)) = STAY_RULES.iter().find(|rule| rule.0 == reason) {
            self.holds(
                self.is_due(entry, stay.joined_at, |rules| due(rules, stay, visit)),
                || fail("it was not due"),
            );
            return;
        }
        let is_rule = MEETING_RULES.iter().any(|rule| rule.0 == reason);
        if is_rule || ["oneLeft", "moderatorLeft"].contains(&reason) {
            // With the meeting, which is looked at when it ends.
            let ended = self
                .row
                .events
                .last()
                .is_some_and(|last| last.committed == entry.committed);
            self.holds(ended, || fail("the meeting did not end"));
            return;
        }
        self.holds(OTHER_REASONS.contains(&reason), || {
            fail("nobody knows this reason: a new rule belongs into one of the lists here")
        });
        // Whoever can come back has half a minute for it, unless something else ends the stay meanwhile. Who came in without hearing of it has left again.
        let lost = ["connectionLost", "serverCrash"].contains(&reason) && visit.resumable;
        if lost && entry.at != stay.joined_at {
            let waited = entry.committed >= entry.at + TimeDelta::seconds(30);
            let ended = self
                .row
                .events
                .last()
                .is_some_and(|last| last.committed == entry.committed);
            let put_out = STAY_RULES.iter().any(|StayRule(_, due)| {
                self.in_force(entry.at, entry.committed).any(|(_, rules)| {
                    due(rules, stay, visit).is_some_and(|due| due <= entry.committed)
                })
            });
            self.holds(waited || ended || put_out, || {
                fail("they were not given time to come back")
            });
        }
    }

    /// Whether the meeting ends because somebody has left: the last who moderates, of those who heard that they do.
    fn ends_with(&self, course: &Course, entry: &Entry, left: &Stay) -> bool {
        let mut moderators = course.inside.values().filter(|(stay, _)| stay.is_admin);
        let mut rules = self.in_force(entry.at, entry.committed);
        left.is_admin
            && self.admitted.contains(&left.id)
            && !course.inside.is_empty()
            && moderators.next().is_none()
            // Who was made moderator meanwhile, no event tells.
            && rules.all(|(_, rules)| rules.end_when_moderator_leaves)
            && !self.versions().any(|(_, _, rules)| rules.first_joiner_moderates)
    }

    fn meeting_ended(&self, course: &Course, entry: &Entry, reason: &str) {
        let fail = |what: &str| format!("event {} ({reason}): {what}", entry.seq);
        if reason == "oneLeft" {
            let is_due = self
                .in_force(entry.at, entry.committed)
                .any(|(since, rules)| {
                    let limit = rules.end_when_one_left_after.map(TimeDelta::from);
                    limit.zip(course.alone).is_some_and(|(limit, (from, to))| {
                        let changed = (since..=self.settled(since)).contains(&entry.at);
                        from + limit <= entry.at && (entry.at <= to + limit || changed)
                    })
                });
            return self.holds(is_due || course.unheard, || fail("it was not due"));
        }
        if reason == "moderatorLeft" {
            let left = self.row.events.iter().any(|other| {
                other.committed == entry.committed
                    && matches!(&other.kind, Kind::ParticipantLeft { stay, .. } if stay.is_admin)
            });
            let mut rules = self.in_force(entry.at, entry.committed);
            let ends = rules.any(|(_, rules)| rules.end_when_moderator_leaves);
            return self.holds(left && ends, || fail("no moderator left"));
        }
        match MEETING_RULES.iter().find(|rule| rule.0 == reason) {
            Some(MeetingRule(_, due)) => {
                self.holds(
                    self.is_due(entry, course.last_at, |rules| due(rules, course)),
                    || fail("it was not due"),
                );
            }
            None => self.holds(OTHER_REASONS.contains(&reason), || {
                fail("nobody knows this reason: a new rule belongs into the list here")
            }),
        }
    }

    /// Whether nothing is overdue by the time of an event: by no rule that was in force when it fell due and stayed so.
    fn in_time(&self, course: &Course, entry: &Entry) {
        for (since, until, rules) in self
            .versions()
            .filter(|(since, ..)| *since <= entry.committed)
        {
            let overdue = |due: Option<DateTime<Utc>>, known: DateTime<Utc>| {
                let latest = due.map(|due| self.settled(due.max(since).max(known)));
                latest.filter(|latest| {
                    until.is_none_or(|until| until > *latest) && entry.committed > *latest
                })
            };
            for MeetingRule(reason, due) in MEETING_RULES {
                let late = overdue(due(rules, course), course.committed);
                self.holds(late.is_none(), || {
                    format!(
                        "event {}: the meeting was to end by {late:?}: {reason}",
                        entry.seq
                    )
                });
            }
            let limit = rules.end_when_one_left_after.map(TimeDelta::from);
            let alone = limit
                .zip(course.alone)
                .map(|(limit, (_, since))| since + limit);
            let late = overdue(alone, course.committed);
            self.holds(late.is_none() || course.unheard, || {
                format!("event {}: one was alone until {late:?}", entry.seq)
            });
            for (stay, joined) in course.inside.values() {
                let visit = &self.script.visits[script::visit(stay.id)];
                for StayRule(reason, due) in STAY_RULES {
                    let late = overdue(due(rules, stay, visit), *joined);
                    self.holds(late.is_none(), || {
                        format!(
                            "event {}: {} was to be out by {late:?}: {reason}",
                            entry.seq, stay.id
                        )
                    });
                }
            }
        }
    }
}
