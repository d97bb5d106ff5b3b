//! What happens in a room and its meetings, and the JSON that receivers get of it.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use crate::id::{AppId, EventId, MeetingId, ParticipantId, RoomId};

/// A fact in the life of a room or a meeting.
#[derive(Clone, Debug)]
pub struct Event {
    /// The `webhook-id` that all its deliveries and attempts share.
    pub id: EventId,
    /// The room's app.
    pub app: AppId,
    /// The room that it concerns.
    pub room: Room,
    /// The meeting, where it concerns one.
    pub meeting: Option<MeetingId>,
    /// Numbers the meeting's events in the order in which they came true. One without a number waits for no other.
    pub seq: Option<i64>,
    /// When it came true.
    pub at: DateTime<Utc>,
    /// The request that caused it, where a call of the API did.
    pub request_id: Option<String>,
    /// What came true.
    pub kind: Kind,
}

/// What an event tells of its room.
#[derive(Clone, Debug)]
pub struct Room {
    /// Its id.
    pub id: RoomId,
    /// Its name.
    pub name: String,
    /// Where its events go.
    pub urls: RoomUrls,
}

/// The webhook URLs of a room, as [`check_url`](super::check_url) accepted them; without one, nobody is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomUrls {
    /// `meetingStartedWebhook`
    pub meeting_started: Option<String>,
    /// `meetingJoinWebhook`
    pub meeting_join: Option<String>,
    /// `meetingLeftWebhook`
    pub meeting_left: Option<String>,
    /// `meetingEndedWebhook`
    pub meeting_ended: Option<String>,
}

/// The kinds of events.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The meeting became live, at its first join.
    MeetingStarted,
    /// Somebody joined.
    ParticipantJoined(Stay),
    /// Somebody left, or was put out.
    ParticipantLeft {
        /// Who.
        stay: Stay,
        /// When.
        left_at: DateTime<Utc>,
        /// Seconds of the stay, as they are metered.
        duration_sec: i64,
        /// Why: `leaveReason`.
        reason: String,
    },
    /// The meeting ended.
    MeetingEnded {
        /// Seconds since its start.
        duration_sec: i64,
        /// Stays that it had.
        participant_count: i64,
        /// Why: `endReason`.
        reason: String,
    },
    /// Somebody asked to join and was refused. Not told of a name that no room has.
    ParticipantJoinRefused {
        /// Who.
        person: Person,
        /// Why, as they were told: `code`, such as `ROOM_FULL`.
        code: &'static str,
    },
    /// Somebody asks to be let in.
    Knock(Person),
    /// The room's `expireUnixSec` came: nobody joins any more.
    RoomExpired,
}

/// Somebody who is not in the meeting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// The name that the others would see.
    pub name: String,
    /// Of the token.
    pub email: Option<String>,
    /// The app's own id of the person, of the token.
    pub external_user_id: Option<String>,
    /// Free text, of the token.
    pub meta: Option<String>,
}

/// The names of all kinds.
pub const NAMES: [&str; 7] = [
    "meetingStarted",
    "meetingEnded",
    "participantJoined",
    "participantLeft",
    "participantJoinRefused",
    "knock",
    "roomExpired",
];

/// The body of a test, which is an event `test` that concerns no room.
pub(super) fn test_body(
    id: EventId,
    app: AppId,
    at: DateTime<Utc>,
    request_id: &str,
) -> serde_json::Result<String> {
    serde_json::to_string(&TestBody {
        id,
        event: "test",
        created_at: Iso(at),
        app,
        request_id,
    })
}

/// One person's stay in the meeting.
#[derive(Clone, Debug)]
pub struct Stay {
    /// Its id.
    pub id: ParticipantId,
    /// The name that the others see.
    pub name: String,
    /// Of the token.
    pub email: Option<String>,
    /// The app's own id of the person, of the token.
    pub external_user_id: Option<String>,
    /// Free text, of the token.
    pub meta: Option<String>,
    /// Whether it is a moderator's.
    pub is_admin: bool,
    /// When it began.
    pub joined_at: DateTime<Utc>,
}

impl Event {
    /// The name of the kind, in the body and in storage.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::MeetingStarted => "meetingStarted",
            Kind::ParticipantJoined(_) => "participantJoined",
            Kind::ParticipantLeft { .. } => "participantLeft",
            Kind::MeetingEnded { .. } => "meetingEnded",
            Kind::ParticipantJoinRefused { .. } => "participantJoinRefused",
            Kind::Knock(_) => "knock",
            Kind::RoomExpired => "roomExpired",
        }
    }

    /// The room's URL for this kind.
    pub(super) fn url(&self) -> Option<&str> {
        let urls = &self.room.urls;
        match self.kind {
            Kind::MeetingStarted => &urls.meeting_started,
            Kind::ParticipantJoined(_) => &urls.meeting_join,
            Kind::ParticipantLeft { .. } => &urls.meeting_left,
            Kind::MeetingEnded { .. } => &urls.meeting_ended,
            Kind::ParticipantJoinRefused { .. } | Kind::Knock(_) | Kind::RoomExpired => &None,
        }
        .as_deref()
    }

    /// The body of its deliveries: everything at the top level, and only what is known.
    pub(super) fn body(&self) -> serde_json::Result<String> {
        let (mut participant, mut person, mut code, mut end) = (None, None, None, None);
        let (mut left_time, mut duration_sec, mut leave_reason) = (None, None, None);
        match &self.kind {
            Kind::MeetingStarted => {}
            Kind::ParticipantJoined(stay) => participant = Some(stay),
            Kind::ParticipantLeft {
                stay,
                left_at,
                duration_sec: seconds,
                reason,
            } => {
                participant = Some(stay);
                (left_time, duration_sec, leave_reason) =
                    (Some(*left_at), Some(*seconds), Some(reason.as_str()));
            }
            Kind::MeetingEnded {
                duration_sec: seconds,
                participant_count,
                reason,
            } => {
                duration_sec = Some(*seconds);
                end = Some(End {
                    participant_count: *participant_count,
                    end_reason: reason,
                });
            }
            Kind::ParticipantJoinRefused {
                person: who,
                code: why,
            } => {
                (person, code) = (Some(who), Some(*why));
            }
            Kind::Knock(who) => person = Some(who),
            Kind::RoomExpired => {}
        }
        serde_json::to_string(&Body {
            id: self.id,
            event: self.name(),
            created_at: Iso(self.at),
            app: self.app,
            room_name: &self.room.name,
            room_id: self.room.id,
            meeting_session_id: self.meeting,
            seq: self.seq,
            request_id: self.request_id.as_deref(),
            person: person.map(|person| Asking {
                name: &person.name,
                email: person.email.as_deref(),
                external_user_id: person.external_user_id.as_deref(),
                meta: person.meta.as_deref(),
            }),
            code,
            participant: participant.map(|stay| Participant {
                participant_session_id: stay.id,
                name: &stay.name,
                email: stay.email.as_deref(),
                external_user_id: stay.external_user_id.as_deref(),
                meta: stay.meta.as_deref(),
                is_admin: stay.is_admin,
                join_time: Iso(stay.joined_at),
            }),
            left_time: left_time.map(Iso),
            duration_sec,
            leave_reason,
            end,
        })
    }
}

/// The body of a test on the wire.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TestBody<'a> {
    id: EventId,
    event: &'static str,
    created_at: Iso,
    app: AppId,
    request_id: &'a str,
}

/// The body on the wire.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    id: EventId,
    event: &'static str,
    created_at: Iso,
    app: AppId,
    room_name: &'a str,
    room_id: RoomId,
    #[serde(skip_serializing_if = "Option::is_none")]
    meeting_session_id: Option<MeetingId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(flatten)]
    person: Option<Asking<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(flatten)]
    participant: Option<Participant<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_time: Option<Iso>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_sec: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leave_reason: Option<&'a str>,
    #[serde(flatten)]
    end: Option<End<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asking<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Participant<'a> {
    participant_session_id: ParticipantId,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a str>,
    is_admin: bool,
    join_time: Iso,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct End<'a> {
    participant_count: i64,
    end_reason: &'a str,
}

/// What in a body tells of a person: it is removed when the person is forgotten.
pub(super) const PERSONAL: [&str; 4] = ["name", "email", "externalUserId", "meta"];

/// A time as answers carry it: ISO 8601 with milliseconds and `Z`.
struct Iso(DateTime<Utc>);

impl Serialize for Iso {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::{Value, json};

    use super::*;

    fn start() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_123).unwrap()
    }

    fn stay() -> Stay {
        Stay {
            id: ParticipantId::from_bytes([4; 12]),
            name: "Ann".to_owned(),
            email: None,
            external_user_id: Some("u1".to_owned()),
            meta: None,
            is_admin: true,
            joined_at: start(),
        }
    }

    fn event(kind: Kind) -> Event {
        Event {
            id: EventId::from_bytes([5; 12]),
            app: AppId::from_bytes([1; 12]),
            room: Room {
                id: RoomId::from_bytes([2; 12]),
                name: "standup".to_owned(),
                urls: RoomUrls::default(),
            },
            meeting: Some(MeetingId::from_bytes([3; 12])),
            seq: Some(7),
            at: start(),
            request_id: None,
            kind,
        }
    }

    fn told(event: &Event) -> Value {
        serde_json::from_str(&event.body().unwrap()).unwrap()
    }

    fn body(kind: Kind) -> Value {
        told(&event(kind))
    }

    fn with_common(mut own: Value) -> Value {
        let common = json!({
            "id": "05".repeat(12), "createdAt": "2023-11-14T22:13:20.123Z", "app": "01".repeat(12), "roomName": "standup",
            "roomId": "02".repeat(12), "meetingSessionId": "03".repeat(12), "seq": 7,
        });
        own.as_object_mut()
            .unwrap()
            .extend(common.as_object().unwrap().clone());
        own
    }

    #[test]
    fn a_start_tells_the_meeting() {
        assert_eq!(
            body(Kind::MeetingStarted),
            with_common(json!({ "event": "meetingStarted" }))
        );
    }

    #[test]
    fn a_join_tells_who_and_leaves_out_what_is_not_known() {
        let expected = json!({
            "event": "participantJoined", "participantSessionId": "04".repeat(12), "name": "Ann", "externalUserId": "u1",
            "isAdmin": true, "joinTime": "2023-11-14T22:13:20.123Z",
        });
        assert_eq!(body(Kind::ParticipantJoined(stay())), with_common(expected));
    }

    #[test]
    fn a_leave_tells_who_how_long_and_why() {
        let stay = Stay {
            email: Some("ann@example.com".to_owned()),
            meta: Some("{}".to_owned()),
            ..stay()
        };
        let left_at = start() + TimeDelta::milliseconds(61_000);
        let expected = json!({
            "event": "participantLeft", "participantSessionId": "04".repeat(12), "name": "Ann", "email": "ann@example.com",
            "externalUserId": "u1", "meta": "{}", "isAdmin": true, "joinTime": "2023-11-14T22:13:20.123Z",
            "leftTime": "2023-11-14T22:14:21.123Z", "durationSec": 61, "leaveReason": "timeLimit",
        });
        let kind = Kind::ParticipantLeft {
            stay,
            left_at,
            duration_sec: 61,
            reason: "timeLimit".to_owned(),
        };
        assert_eq!(body(kind), with_common(expected));
    }

    #[test]
    fn an_end_tells_how_long_how_many_and_why() {
        let expected = json!({ "event": "meetingEnded", "durationSec": 90, "participantCount": 3, "endReason": "roomExpired" });
        let kind = Kind::MeetingEnded {
            duration_sec: 90,
            participant_count: 3,
            reason: "roomExpired".to_owned(),
        };
        assert_eq!(body(kind), with_common(expected));
    }

    #[test]
    fn a_refusal_tells_who_and_why() {
        let person = Person {
            name: "Ann".to_owned(),
            external_user_id: Some("u1".to_owned()),
            ..Person::default()
        };
        let expected = json!({
            "event": "participantJoinRefused", "name": "Ann", "externalUserId": "u1", "code": "ROOM_FULL",
        });
        let kind = Kind::ParticipantJoinRefused {
            person,
            code: "ROOM_FULL",
        };
        assert_eq!(body(kind), with_common(expected));
    }

    #[test]
    fn a_knock_tells_who() {
        let person = Person {
            name: "Ann".to_owned(),
            email: Some("ann@example.com".to_owned()),
            meta: Some("{}".to_owned()),
            ..Person::default()
        };
        let expected =
            json!({ "event": "knock", "name": "Ann", "email": "ann@example.com", "meta": "{}" });
        assert_eq!(body(Kind::Knock(person)), with_common(expected));
    }

    #[test]
    fn what_concerns_a_room_alone_tells_no_meeting_and_what_a_call_caused_tells_its_request() {
        let event = Event {
            meeting: None,
            seq: None,
            request_id: Some("f0c8a2d95b3e4d17".to_owned()),
            ..event(Kind::RoomExpired)
        };
        let mut expected =
            with_common(json!({ "event": "roomExpired", "requestId": "f0c8a2d95b3e4d17" }));
        let fields = expected.as_object_mut().unwrap();
        fields.remove("meetingSessionId");
        fields.remove("seq");
        assert_eq!(told(&event), expected);
    }
}
