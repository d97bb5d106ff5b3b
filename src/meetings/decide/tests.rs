//! A meeting in virtual time: whole scenarios, and what holds in any.

use std::{collections::BTreeMap, sync::Arc};

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::{
    id::{AppId, MeetingId, RoomId, TokenId},
    meetings::{
        Block, Connection, EndReason, Grant, Identity, JoinRequest, Role, ShownChange, fact::apply,
    },
    rooms::{
        AddressHash, Room, Rules,
        property::{Delay, Seconds, UnixSec},
    },
    webhooks::RoomUrls,
};

mod ends;

/// A meeting with its history.
struct Simulated {
    state: State,
    now: DateTime<Utc>,
    facts: Vec<Fact>,
    /// Whom the people in it were warned of what, and when.
    warnings: Vec<(Option<ParticipantId>, DateTime<Utc>, DateTime<Utc>)>,
    joins: u8,
    /// Numbers the connections that resume.
    connections: u64,
}

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_900_000_000, 0).unwrap()
}

fn id(number: u8) -> ParticipantId {
    ParticipantId::from_bytes([number; 12])
}

impl Simulated {
    fn new(rules: Rules) -> Self {
        let room = Room {
            id: RoomId::from_bytes([1; 12]),
            app_id: AppId::from_bytes([2; 12]),
            name: "standup".parse().unwrap(),
            rules,
            webhooks: RoomUrls::default(),
            password: None,
            rtmp_out_url: None,
            anonymous: false,
            creator: None,
            version: 0,
            created_at: start(),
            archived_at: None,
        };
        let state = State {
            id: MeetingId::from_bytes([203; 12]),
            status: Status::Open,
            room,
            participants: Vec::new(),
            blocked: Arc::default(),
            waiting: Vec::new(),
            locked: None,
            extended_by: TimeDelta::zero(),
            participant_count: 0,
            max_concurrent: 0,
            created_at: start(),
            started_at: None,
            empty_since: Some(start()),
            one_left_since: None,
            last_shared_at: None,
            ruled_at: start(),
            warned: Vec::new(),
            last_at: start(),
            next_seq: 1,
        };
        Self {
            state,
            now: start(),
            facts: Vec::new(),
            warnings: Vec::new(),
            joins: 0,
            connections: 1000,
        }
    }

    fn input(&mut self, input: &Input) -> Result<Decision, Refusal> {
        let decision = decide(&self.state, input, self.now)?;
        for fact in &decision.facts {
            apply(&mut self.state, fact);
        }
        self.facts.extend(decision.facts.iter().cloned());
        for effect in &decision.effects {
            let (to, notice) = match effect {
                Effect::Tell(to, notice) => (Some(*to), notice),
                Effect::TellAll { notice, .. } => (None, notice),
                _ => continue,
            };
            if let Notice::Warning { ends_at, .. } = notice {
                self.warnings.push((to, self.now, *ends_at));
            }
        }
        Ok(decision)
    }

    /// Somebody new tries to join; the newcomers are numbered from 1.
    fn join(&mut self, resumable: bool) -> Result<Decision, Refusal> {
        self.joins += 1;
        let room = self.state.room.clone();
        let resume = resumable.then_some([self.joins; 32]);
        let name = format!("p{}", self.joins);
        let connection = Connection(u64::from(self.joins));
        let participant = id(self.joins);
        self.input(&Input::Join(Box::new(JoinRequest {
            participant,
            connection,
            name,
            device: Arc::default(),
            grant: None,
            password: None,
            is_creator: false,
            address: None,
            resume,
            room,
        })))
    }

    /// Somebody, speaking through the connection that speaks for them.
    fn speaker(&self, number: u8) -> Speaker {
        let known = self
            .state
            .find(id(number))
            .map_or(Connection::default(), |known| known.connection);
        Speaker {
            participant: id(number),
            connection: known,
        }
    }

    fn leave(&mut self, number: u8) -> Result<Decision, Refusal> {
        let (by, at) = (self.speaker(number), self.now);
        self.input(&Input::Leave { by, at })
    }

    fn disconnect(&mut self, number: u8) -> Result<Decision, Refusal> {
        let (by, since) = (self.speaker(number), self.now);
        self.input(&Input::Disconnected { by, since })
    }

    /// A new connection resumes in somebody's place.
    fn resume(&mut self, number: u8) -> Result<Decision, Refusal> {
        self.connections += 1;
        let connection = Connection(self.connections);
        self.input(&Input::Resume {
            hash: [number; 32],
            last: None,
            connection,
        })
    }

    fn claimed(&mut self, renewed_at: DateTime<Utc>) {
        self.read_anew(renewed_at);
        self.input(&Input::Claimed {
            renewed_at,
            reason: LeaveReason::ServerCrash,
        })
        .unwrap();
    }

    /// What is not stored is lost.
    fn read_anew(&mut self, renewed_at: DateTime<Utc>) {
        let quiet_since = self.state.quiet_since();
        let state = &mut self.state;
        let known = quiet_since.filter(|_| state.room.rules.end_after_no_activity.is_some());
        state.last_shared_at = known.or(state
            .started_at
            .map(|started_at| renewed_at.max(started_at)));
        state.warned.clear();
        for participant in &mut state.participants {
            (participant.shown, participant.sharing) = Default::default();
            participant.warned.clear();
        }
    }

    /// Time goes by, and what becomes due fires at its instant, or `late` after it.
    fn advance(&mut self, by: TimeDelta, late: TimeDelta) {
        let end = self.now + by;
        while let Some(due) = self.state.next_due().filter(|due| *due + late <= end) {
            self.now = self.now.max(due + late);
            self.fire();
        }
        self.now = end;
    }

    /// Fires what is due, the oldest first, as the owner does; what that makes due fires next.
    fn fire(&mut self) {
        for _ in 0..10 {
            let due = self.state.due(self.now);
            if due.is_empty() {
                return;
            }
            for key in due {
                let _ = self.input(&Input::Due(key)); // refused once the meeting has ended
            }
        }
        panic!("a deadline that fired is still due: its owner would fire it for ever");
    }

    /// The stays that ended: who, for how many milliseconds, why.
    fn stays(&self) -> Vec<(ParticipantId, i64, LeaveReason)> {
        let stay = |fact: &Fact| match fact {
            Fact::Left {
                participant,
                at,
                reason,
            } => Some((
                participant.id,
                (*at - participant.joined_at).num_milliseconds(),
                *reason,
            )),
            _ => None,
        };
        self.facts.iter().filter_map(stay).collect()
    }

    fn end(&self) -> Option<(DateTime<Utc>, EndReason)> {
        self.facts.iter().find_map(|fact| match fact {
            Fact::Ended { at, reason } => Some((*at, *reason)),
            _ => None,
        })
    }
}

fn rules() -> Rules {
    Rules::default()
}

fn seconds(seconds: impl Into<i64>) -> TimeDelta {
    TimeDelta::seconds(seconds.into())
}

#[test]
fn a_meeting_that_nobody_came_into_is_abandoned_and_nobody_is_told() {
    let mut meeting = Simulated::new(rules());
    meeting.advance(seconds(10), TimeDelta::zero());
    assert_eq!(meeting.state.status, Status::Ended);
    assert!(
        meeting.facts.iter().all(|fact| !fact.is_announced()),
        "{:?}",
        meeting.facts
    );
}

#[test]
fn what_fires_late_is_dated_when_it_was_due() {
    let mut meeting = Simulated::new(Rules {
        eject_after: Some(Seconds::new(60)),
        ..rules()
    });
    meeting.join(false).unwrap();
    meeting.advance(seconds(300), seconds(90));
    assert_eq!(meeting.stays(), [(id(1), 60_000, LeaveReason::TimeLimit)]);
    assert_eq!(
        meeting.end(),
        Some((start() + seconds(70), EndReason::Empty))
    );
}

#[test]
fn after_a_crash_those_who_can_come_back_have_half_a_minute_and_the_others_left_when_it_happened() {
    let mut meeting = Simulated::new(rules());
    meeting.join(true).unwrap();
    meeting.join(true).unwrap();
    meeting.join(false).unwrap();
    meeting.now += seconds(100);
    meeting.claimed(start() + seconds(90));
    assert_eq!(meeting.stays(), [(id(3), 90_000, LeaveReason::ServerCrash)]);
    meeting.advance(seconds(29), TimeDelta::zero());
    meeting.resume(1).unwrap();
    meeting.advance(seconds(1), TimeDelta::zero());
    assert_eq!(
        meeting.stays()[1..],
        [(id(2), 90_000, LeaveReason::ServerCrash)]
    );
    assert_eq!(meeting.state.participants.len(), 1);
    assert_eq!(meeting.resume(2).err(), Some(Refusal::ResumeFailed));
}

#[test]
fn whoever_was_away_before_a_crash_left_at_the_loss_of_their_own_connection() {
    let mut meeting = Simulated::new(rules());
    meeting.join(true).unwrap();
    meeting.now += seconds(50);
    meeting.disconnect(1).unwrap();
    meeting.now += seconds(20);
    meeting.claimed(start() + seconds(65));
    meeting.advance(seconds(30), TimeDelta::zero());
    assert_eq!(
        meeting.stays(),
        [(id(1), 50_000, LeaveReason::ConnectionLost)]
    );
}

#[test]
fn whoever_is_away_when_their_time_is_up_left_when_their_connection_was_lost() {
    let mut meeting = Simulated::new(Rules {
        eject_after: Some(Seconds::new(60)),
        ..rules()
    });
    meeting.join(true).unwrap();
    meeting.now += seconds(50);
    meeting.disconnect(1).unwrap();
    meeting.advance(seconds(10), TimeDelta::zero());
    assert_eq!(
        meeting.stays(),
        [(id(1), 50_000, LeaveReason::ConnectionLost)]
    );
}

#[test]
fn a_meeting_does_not_end_before_its_last_leave() {
    let mut meeting = Simulated::new(rules());
    meeting.join(true).unwrap();
    meeting.join(false).unwrap();
    meeting.disconnect(1).unwrap();
    meeting.advance(seconds(25), TimeDelta::zero());
    meeting.leave(2).unwrap();
    meeting.advance(seconds(60), TimeDelta::zero());
    let stays = meeting.stays();
    assert_eq!(
        stays,
        [
            (id(2), 25_000, LeaveReason::Left),
            (id(1), 0, LeaveReason::ConnectionLost)
        ]
    );
    assert_eq!(
        meeting.end(),
        Some((start() + seconds(35), EndReason::Empty))
    );
}

#[test]
fn what_a_replaced_connection_still_says_is_nobodys() {
    let mut meeting = Simulated::new(rules());
    meeting.join(true).unwrap();
    let old = meeting.speaker(1);
    meeting.resume(1).unwrap();
    let (at, since) = (meeting.now, meeting.now);
    for late in [
        Input::Disconnected { by: old, since },
        Input::Leave { by: old, at },
    ] {
        assert_eq!(
            meeting.input(&late).err(),
            Some(Refusal::NotJoined),
            "{late:?}"
        );
    }
    assert!(meeting.state.find(id(1)).unwrap().away.is_none());
}

/// The room as it is after a change of its rules.
fn changed(room: &Room, change: impl FnOnce(&mut Rules)) -> Input {
    let mut room = room.clone();
    room.version += 1;
    change(&mut room.rules);
    Input::Rules(Box::new(room))
}

#[test]
fn a_limit_that_moves_moves_for_those_who_are_in() {
    let mut meeting = Simulated::new(rules());
    meeting.join(false).unwrap();
    meeting.now += seconds(100);
    meeting.join(false).unwrap();
    let shorter = changed(&meeting.state.room, |rules| {
        rules.eject_after = Some(Seconds::new(60));
    });
    meeting.input(&shorter).unwrap();
    meeting.advance(seconds(30), TimeDelta::zero());
    // Nobody is put out before the rule was made, however long they had been in.
    assert_eq!(meeting.stays(), [(id(1), 100_000, LeaveReason::TimeLimit)]);
    let longer = changed(&meeting.state.room, |rules| rules.eject_after = None);
    meeting.input(&longer).unwrap();
    meeting.advance(seconds(3600), TimeDelta::zero());
    assert_eq!(meeting.stays().len(), 1);
}

#[test]
fn a_limit_that_moved_while_nobody_owned_the_meeting_has_moved() {
    for (limit, left_after) in [(Some(300), Some(300)), (Some(10), Some(60)), (None, None)] {
        let mut meeting = Simulated::new(Rules {
            eject_after: Some(Seconds::new(100)),
            ..rules()
        });
        meeting.join(true).unwrap();
        meeting.now += seconds(60);
        // Read anew by whoever takes the meeting over.
        meeting.state.room.version += 1;
        meeting.state.room.rules.eject_after = limit.map(Seconds::new);
        meeting.claimed(start() + seconds(58));
        meeting.resume(1).unwrap();
        meeting.advance(seconds(600), TimeDelta::zero());
        let left = meeting.stays().first().map(|(_, stay, _)| *stay);
        assert_eq!(left, left_after.map(|after| after * 1000));
    }
}

#[test]
fn an_expiry_that_moves_moves_for_the_meeting_that_runs() {
    let mut meeting = Simulated::new(rules());
    meeting.join(false).unwrap();
    let expiry = start() + seconds(60);
    let expiring = changed(&meeting.state.room, |rules| {
        rules.expires = Some(UnixSec(expiry));
        rules.eject_at_expiry = true;
    });
    meeting.input(&expiring).unwrap();
    meeting.advance(seconds(60), TimeDelta::zero());
    assert_eq!(meeting.end(), Some((expiry, EndReason::RoomExpired)));
}

#[test]
fn what_was_read_before_a_change_does_not_undo_it() {
    let mut meeting = Simulated::new(rules());
    let before = meeting.state.room.clone();
    meeting.join(false).unwrap();
    let full = changed(&before, |rules| rules.max_participants = Some(1));
    meeting.input(&full).unwrap();
    meeting
        .input(&Input::Rules(Box::new(before.clone())))
        .unwrap();
    let late = JoinRequest {
        participant: id(9),
        connection: Connection(9),
        name: "late".to_owned(),
        device: Arc::default(),
        grant: None,
        password: None,
        is_creator: false,
        address: None,
        resume: None,
        room: before,
    };
    let refusal = meeting.input(&Input::Join(Box::new(late))).err();
    assert_eq!(refusal, Some(Refusal::RoomFull));
}

#[test]
fn whoever_is_put_out_is_kept_out_by_what_they_came_with_and_a_ban_by_whoever_they_are() {
    let mut meeting = Simulated::new(rules());
    meeting.join(true).unwrap();
    let mut stay = meeting.state.find(id(1)).unwrap().clone();
    stay.address = Some(AddressHash([7; 32]));
    let resume = Block::Resume([1; 32]);
    assert_eq!(stay.blocks(false), [resume.clone()].as_slice());
    let address = Block::Address(AddressHash([7; 32]));
    assert_eq!(stay.blocks(true), [resume.clone(), address].as_slice());
    stay.token = Some(TokenId::from_bytes([4; 12]));
    stay.identity = Arc::new(Identity {
        external_user_id: Some("42".to_owned()),
        ..Identity::default()
    });
    let token = Block::Token(TokenId::from_bytes([4; 12]));
    let person = Block::Person("42".to_owned());
    assert_eq!(
        stay.blocks(true),
        [token, resume.clone(), person].as_slice()
    );

    meeting.leave(1).unwrap();
    apply(&mut meeting.state, &Fact::Blocked(resume));
    assert_eq!(meeting.resume(1).err(), Some(Refusal::Ejected));
}

#[test]
fn a_room_that_its_first_joiner_leads_is_led_by_whoever_of_those_who_are_there_came_next() {
    let mut meeting = Simulated::new(Rules {
        first_joiner_moderates: true,
        ..rules()
    });
    for _ in 0..4 {
        meeting.join(true).unwrap();
    }
    let leaders = |meeting: &Simulated| -> Vec<u8> {
        let people = meeting.state.participants.iter();
        let led = people.filter(|known| known.role == Role::Moderator);
        led.map(|known| known.id.as_bytes()[0]).collect()
    };
    assert_eq!(leaders(&meeting), [1]);
    meeting.disconnect(2).unwrap();
    meeting.leave(1).unwrap();
    assert_eq!(leaders(&meeting), [3], "the second is not there");
    meeting.leave(4).unwrap();
    assert_eq!(leaders(&meeting), [3], "who is not the host leaves nothing");
    meeting.leave(3).unwrap();
    assert_eq!(leaders(&meeting), [2], "somebody has to");
    meeting.leave(2).unwrap();
    meeting.join(false).unwrap();
    assert_eq!(leaders(&meeting), [5], "who comes while nobody is in");
}

#[test]
fn a_limit_of_a_token_stays_when_the_rooms_changes() {
    let mut meeting = Simulated::new(rules());
    let room = meeting.state.room.clone();
    let grant = Grant {
        token: TokenId::from_bytes([4; 12]),
        role: Role::Moderator,
        name: Some("Ann".to_owned()),
        identity: Arc::default(),
        eject_after: Some(TimeDelta::seconds(90)),
        expires_at: None,
        eject_at_expiry: false,
    };
    let own = JoinRequest {
        participant: id(9),
        connection: Connection(9),
        name: "p9".to_owned(),
        device: Arc::default(),
        grant: Some(grant),
        password: None,
        is_creator: false,
        address: None,
        resume: None,
        room: room.clone(),
    };
    meeting.input(&Input::Join(Box::new(own))).unwrap();
    meeting.join(false).unwrap();
    let limited = changed(&room, |rules| rules.eject_after = Some(Seconds::new(30)));
    meeting.input(&limited).unwrap();
    let limit = |number| meeting.state.find(id(number)).unwrap().time_up_at;
    assert_eq!(
        [limit(9), limit(1)],
        [90, 30].map(|seconds| Some(start() + TimeDelta::seconds(seconds)))
    );
}

#[test]
fn a_meeting_waits_for_somebody_as_long_as_its_room_says() {
    for (wait, ends) in [(0, 0), (10, 10), (300, 300)] {
        let mut meeting = Simulated::new(Rules {
            end_when_empty_after: Delay::new(wait),
            ..rules()
        });
        // The join that opened it is on its way, however short the wait is.
        meeting.now += seconds(5);
        meeting.advance(TimeDelta::zero(), TimeDelta::zero());
        meeting.join(false).unwrap();
        meeting.leave(1).unwrap();
        meeting.advance(seconds(400), TimeDelta::zero());
        let end = start() + seconds(5 + ends);
        assert_eq!(meeting.end(), Some((end, EndReason::Empty)));
    }
}

#[test]
fn a_room_that_expires_ends_its_meeting_without_being_told() {
    let expiry = start() + seconds(60);
    let rules = Rules {
        expires: Some(UnixSec(expiry)),
        eject_at_expiry: true,
        ..rules()
    };
    let mut meeting = Simulated::new(rules);
    meeting.join(false).unwrap();
    meeting.advance(seconds(60), TimeDelta::zero());
    assert_eq!(meeting.end(), Some((expiry, EndReason::RoomExpired)));
}

#[test]
fn nobody_who_is_in_is_out_because_the_rules_became_narrower() {
    let mut meeting = Simulated::new(rules());
    for _ in 0..3 {
        meeting.join(false).unwrap();
    }
    meeting.state.room.rules.max_participants = Some(2);
    assert_eq!(meeting.join(false).err(), Some(Refusal::RoomFull));
    assert_eq!(meeting.state.participants.len(), 3);
}

#[test]
fn when_a_meeting_ends_each_is_told_once_and_nobody_hears_of_the_others() {
    let mut meeting = Simulated::new(rules());
    meeting.join(true).unwrap();
    meeting.join(false).unwrap();
    let at = meeting.now;
    let decision = meeting
        .input(&Input::End {
            reason: EndReason::RoomDeleted,
            at,
        })
        .unwrap();
    let told: Vec<_> = decision
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::PutOut(participant, farewell) => Some((*participant, farewell.reason)),
            Effect::Unplug(_) => None,
            other => panic!("{other:?}"),
        })
        .collect();
    let reason = LeaveReason::Ended(EndReason::RoomDeleted);
    assert_eq!(told, [(id(1), reason), (id(2), reason)]);
    assert_eq!(
        meeting
            .input(&Input::End {
                reason: EndReason::Empty,
                at
            })
            .err(),
        Some(Refusal::MeetingEnded)
    );
}

/// Something that may happen to a meeting at any time.
#[derive(Clone, Debug)]
enum Step {
    Join { resumable: bool },
    Leave(u8),
    Disconnect(u8),
    Resume(u8),
    Show(u8),
    Wait { millis: i64, late: i64 },
    Crash { for_millis: i64 },
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 1..12_u8;
    let step = prop_oneof![
        4 => any::<bool>().prop_map(|resumable| Step::Join { resumable }),
        2 => who.clone().prop_map(Step::Leave),
        2 => who.clone().prop_map(Step::Disconnect),
        2 => who.clone().prop_map(Step::Resume),
        1 => who.prop_map(Step::Show),
        4 => (0..40_000_i64, 0..3_000_i64).prop_map(|(millis, late)| Step::Wait { millis, late }),
        1 => (0..60_000_i64).prop_map(|for_millis| Step::Crash { for_millis }),
        1 => Just(Step::End),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn in_any_meeting_places_are_kept_stays_are_whole_and_nothing_is_early(
        steps in steps(),
        places in proptest::option::of(1..4_u32),
        limit in proptest::option::of(1..90_u32),
    ) {
        let rules = Rules { max_participants: places, eject_after: limit.map(Seconds::new), ..rules() };
        let mut meeting = Simulated::new(rules);
        let mut alive = meeting.now;
        for step in steps {
            match step {
                Step::Join { resumable } => drop(meeting.join(resumable)),
                Step::Leave(who) => drop(meeting.leave(who)),
                Step::Disconnect(who) => drop(meeting.disconnect(who)),
                Step::Resume(who) => drop(meeting.resume(who)),
                Step::Show(who) => {
                    let change = ShownChange { is_muted: Some(true), ..ShownChange::default() };
                    drop(meeting.input(&Input::Show { by: meeting.speaker(who), change }));
                }
                Step::Wait { millis, late } => {
                    meeting.advance(TimeDelta::milliseconds(millis), TimeDelta::milliseconds(late));
                    meeting.fire();
                }
                Step::Crash { for_millis } => {
                    meeting.now += TimeDelta::milliseconds(for_millis);
                    meeting.read_anew(alive);
                    drop(meeting.input(&Input::Claimed { renewed_at: alive, reason: LeaveReason::ServerCrash }));
                    meeting.fire();
                }
                Step::End => drop(meeting.input(&Input::End { reason: EndReason::RoomDeleted, at: meeting.now })),
            }
            alive = meeting.now;
            let present = meeting.state.participants.len();
            prop_assert!(places.is_none_or(|places| present <= places as usize), "{present} in {places:?} places");
        }

        let mut open = BTreeMap::new();
        let (mut announced, mut ended, mut last_left) = (0, false, start());
        for fact in &meeting.facts {
            prop_assert!(!ended, "a fact after the end: {fact:?}");
            announced += i64::from(fact.is_announced());
            match fact {
                Fact::Joined(participant) => {
                    prop_assert!(announced > 1, "joined before the meeting started");
                    prop_assert!(open.insert(participant.id, participant.joined_at).is_none());
                }
                Fact::Left { participant, at, reason } => {
                    let joined_at = open.remove(&participant.id);
                    prop_assert_eq!(joined_at, Some(participant.joined_at), "left without having joined");
                    last_left = last_left.max(*at);
                    let stay = *at - participant.joined_at;
                    prop_assert!(stay >= TimeDelta::zero() && *at <= meeting.now);
                    if *reason == LeaveReason::TimeLimit {
                        prop_assert_eq!(Some(stay), limit.map(seconds), "on the second, never early");
                    } else if let Some(limit) = limit {
                        prop_assert!(stay <= seconds(limit) + TimeDelta::seconds(3), "nobody outstays their time");
                    }
                }
                Fact::Ended { at, .. } | Fact::Abandoned { at } => {
                    ended = true;
                    prop_assert!(*at >= last_left, "ended before its last leave");
                }
                Fact::Started { .. } => prop_assert_eq!(announced, 1, "started once, and first"),
                Fact::WentAway { .. } | Fact::CameBack { .. } | Fact::Limited { .. } | Fact::Showed { .. } | Fact::Connected(_)
                | Fact::Knocked(_) | Fact::WaitsNoMore { .. } | Fact::Locked(_) | Fact::Extended(_) | Fact::Blocked(_)
                | Fact::Permitted { .. }
                | Fact::OneLeft { .. } | Fact::Shares { .. } | Fact::Active { .. } | Fact::Warned { .. } | Fact::Ruled { .. } => {}
            }
        }
        prop_assert_eq!(meeting.state.next_seq, announced + 1);
        prop_assert_eq!(open.len(), meeting.state.participants.len());
        prop_assert_eq!(ended, meeting.state.status == Status::Ended);
        prop_assert!(!ended || open.is_empty(), "nobody is left inside a meeting that ended");
    }
}
