//! MikroMeet's REST API: rooms for anybody, and the ICE servers. Its `/ws` and `/health` are ours.

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    options, post,
    web::{Data, ServiceConfig},
};
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    http::{Shared, auth::HostApp, body::Body, error::ApiError, peer::Origin},
    rooms::{self, AnonymousRoom, Refused, RoomName},
};

/// MikroMeet's own routes.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(create_room)
        .service(create_room_options)
        .service(ice_servers)
        .service(ice_servers_options);
}

/// The answer to a create.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    room_id: &'a str,
    creator_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// Unix milliseconds, as the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_start: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_end: Option<i64>,
}

/// Makes a room without a credential, where the host's app allows it.
#[post("/api/rooms")]
async fn create_room(
    shared: Data<Shared>,
    app: Result<HostApp, ApiError>,
    request: HttpRequest,
    body: Body,
) -> HttpResponse {
    let app = match app {
        Ok(HostApp(app)) => app.id,
        Err(error) => return unavailable(&error),
    };
    let address = Origin::of(&request, &shared.trusted_proxies).address;
    if let Err(refused) = shared.anonymous.charge(address) {
        return refusal(refused);
    }
    let wanted = match body.read().await {
        Ok(given) => Wanted::read(&given),
        Err(error) if error.status() == StatusCode::BAD_REQUEST => None,
        Err(error) => return unavailable(&error),
    };
    let Some(wanted) = wanted else {
        return refuse(StatusCode::BAD_REQUEST, INVALID_BODY);
    };
    let room = AnonymousRoom {
        name: wanted.name.clone(),
        password: wanted.password.as_ref().and_then(|text| text.parse().ok()),
        max_participants: Some(wanted.max_participants),
        title: wanted.title.clone(),
        metadata: wanted.metadata(),
    };
    match shared.anonymous.create(app, address, room).await {
        Ok((room, token)) => {
            shared.shown_rooms.forget(&(app, room.name.clone()));
            let created = Created {
                room_id: room.name.as_str(),
                creator_token: token.reveal(),
                title: wanted.title,
                scheduled_start: wanted.scheduled_start,
                scheduled_end: wanted.scheduled_end,
            };
            answer(StatusCode::CREATED, &created)
        }
        Err(refused) => refusal(refused),
    }
}

/// What browsers ask before a create.
#[options("/api/rooms")]
async fn create_room_options() -> HttpResponse {
    preflight()
}

/// The servers by which browsers find a way to each other.
#[get("/config")]
async fn ice_servers() -> HttpResponse {
    answer(StatusCode::OK, &json!({ "iceServers": [{ "urls": STUN }] }))
}

/// What browsers ask before that.
#[options("/config")]
async fn ice_servers_options() -> HttpResponse {
    preflight()
}

/// What a body asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    name: Option<RoomName>,
    password: Option<String>,
    max_participants: u32,
    title: Option<String>,
    scheduled_start: Option<i64>,
    scheduled_end: Option<i64>,
}

impl Wanted {
    /// Reads a body as MikroMeet does; `None` for what it refuses.
    fn read(given: &Map<String, Value>) -> Option<Self> {
        let scheduled_start = instant(given.get("scheduledStart"))?;
        let scheduled_end = instant(given.get("scheduledEnd"))?;
        if let (Some(start), Some(end)) = (scheduled_start, scheduled_end)
            && end <= start
        {
            return None;
        }
        let name = match text(given, "roomId", 12) {
            Some(text) => Some(code(&text)?),
            None => None,
        };
        Some(Self {
            name,
            password: text(given, "password", 50),
            max_participants: places(given.get("maxParticipants"))?,
            title: text(given, "title", 80),
            scheduled_start,
            scheduled_end,
        })
    }

    /// When it is planned for, which has no effect and is kept with the room.
    fn metadata(&self) -> Map<String, Value> {
        let planned = [
            ("scheduledStart", self.scheduled_start),
            ("scheduledEnd", self.scheduled_end),
        ];
        let known = planned
            .into_iter()
            .filter_map(|(name, at)| Some((name.to_owned(), at?.into())));
        known.collect()
    }
}

/// The first characters of a text, without spaces at its ends and control characters; `None` where nothing is left, or it is
/// no text.
fn text(given: &Map<String, Value>, name: &str, most: usize) -> Option<String> {
    let text = given.get(name)?.as_str()?.trim();
    let kept: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(most)
        .collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// Six letters and digits, in capitals.
fn code(text: &str) -> Option<RoomName> {
    let text = text.to_ascii_uppercase();
    let is_code = text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    // Some words of our routes cannot be names either.
    is_code.then(|| text.parse().ok()).flatten()
}

/// How many may be in: eight where nothing is said, `None` for what cannot be.
fn places(given: Option<&Value>) -> Option<u32> {
    let number = match given {
        None | Some(Value::Null) => 8,
        Some(Value::String(text)) if text.is_empty() => 8,
        Some(Value::String(text)) => {
            let text = text.trim_start();
            let digits = text.strip_prefix('+').unwrap_or(text);
            let end = digits.find(|c: char| !c.is_ascii_digit());
            digits[..end.unwrap_or(digits.len())].parse().ok()?
        }
        Some(Value::Number(number)) => {
            let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
            (2.0..=50.0).contains(&number).then_some(number as u32)?
        }
        Some(_) => return None,
    };
    (2..=50).contains(&number).then_some(number)
}

/// Unix milliseconds, from a number of them or from a date as JavaScript reads it; `None` for what is neither, `Some(None)`
/// where nothing is said.
fn instant(given: Option<&Value>) -> Option<Option<i64>> {
    let millis = match given {
        None | Some(Value::Null) => return Some(None),
        Some(Value::String(text)) if text.is_empty() => return Some(None),
        Some(Value::String(text)) => date(text.trim())?,
        // What is beyond an integer is beyond all dates.
        Some(Value::Number(number)) => number.as_f64().filter(|at| at.abs() <= LATEST)? as i64,
        Some(_) => return None,
    };
    (millis > 0).then_some(Some(millis))
}

fn date(text: &str) -> Option<i64> {
    let at = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc2822(text));
    if let Ok(at) = at {
        return Some(at.timestamp_millis());
    }
    let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
    let local = formats
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    let at = local.or_else(|| Some(day()?.and_time(NaiveTime::MIN)))?;
    Some(at.and_utc().timestamp_millis())
}

/// Why no room was made, in MikroMeet's words where it has some.
fn refusal(refused: Refused) -> HttpResponse {
    match refused {
        Refused::TooFast { retry_after_sec } => {
            let message = "Too many requests. Please try again later.";
            let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, message);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, retry_after_sec.into());
            response
        }
        Refused::Quota | Refused::Room(rooms::Error::NameTaken) => refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "Cannot create room. Limit reached or room ID already exists.",
        ),
        Refused::NotAllowed => refuse(
            StatusCode::FORBIDDEN,
            "Rooms are made by the owner of this site alone. Ask them for one.",
        ),
        Refused::Room(rooms::Error::Contradictions(_)) => {
            refuse(StatusCode::BAD_REQUEST, INVALID_BODY)
        }
        Refused::NotHashed(cause) => unavailable(&cause.into()),
        Refused::App(cause) => unavailable(&cause.into()),
        Refused::Room(cause) => unavailable(&cause.into()),
    }
}

/// An error of ours, in MikroMeet's shape.
fn unavailable(error: &ApiError) -> HttpResponse {
    refuse(error.status(), error.message())
}

fn refuse(status: StatusCode, message: &str) -> HttpResponse {
    answer(status, &json!({ "error": message }))
}

fn preflight() -> HttpResponse {
    with_headers(HttpResponse::NoContent().finish())
}

fn answer(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    with_headers(HttpResponse::build(status).json(body))
}

/// The headers of all of MikroMeet's answers.
fn with_headers(mut response: HttpResponse) -> HttpResponse {
    for (name, value) in HEADERS {
        let (name, value) = (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        response.headers_mut().insert(name, value);
    }
    response
}

const HEADERS: [(&str, &str); 7] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("x-xss-protection", "1; mode=block"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, POST, OPTIONS"),
    ("access-control-allow-headers", "Content-Type"),
];
const INVALID_BODY: &str = "Invalid request body";
/// The one server that MikroMeet always names.
const STUN: &str = "stun:stun.cloudflare.com:3478";
/// The last instant that JavaScript has.
const LATEST: f64 = 8.64e15;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: Value) -> Option<Wanted> {
        Wanted::read(given.as_object().unwrap())
    }

    #[test]
    fn what_mikromeet_takes_is_taken_as_it_takes_it() {
        let plain = read(json!({})).unwrap();
        assert_eq!(plain.max_participants, 8);
        assert_eq!(
            read(json!({ "roomId": 7, "password": 7, "title": [], "maxParticipants": "" })),
            Some(plain)
        );
        let full = read(json!({
            "roomId": " ab12cd ", "password": "  open sesame ", "maxParticipants": "12 people", "title": "t".repeat(90),
            "scheduledStart": "2030-01-01T10:00:00Z", "scheduledEnd": 1_893_495_600_001_i64,
        }));
        let expected = Wanted {
            name: "AB12CD".parse().ok(),
            password: Some("open sesame".to_owned()),
            max_participants: 12,
            title: Some("t".repeat(80)),
            scheduled_start: Some(1_893_492_000_000),
            scheduled_end: Some(1_893_495_600_001),
        };
        assert_eq!(full, Some(expected));
        for (text, at) in [
            ("2030-01-01", 1_893_456_000_000),
            ("2030-01-01T10:00", 1_893_492_000_000),
            ("Tue, 01 Jan 2030 10:00:00 GMT", 1_893_492_000_000),
        ] {
            let wanted = read(json!({ "scheduledStart": text })).unwrap();
            assert_eq!(wanted.scheduled_start, Some(at), "{text}");
        }
    }

    #[test]
    fn what_mikromeet_refuses_is_refused() {
        for wrong in [
            json!({ "roomId": "AB12C" }),
            json!({ "roomId": "AB12CDE" }),
            json!({ "roomId": "AB-2CD" }),
            json!({ "maxParticipants": 1 }),
            json!({ "maxParticipants": 51 }),
            json!({ "maxParticipants": 4.5 }),
            json!({ "maxParticipants": "many" }),
            json!({ "maxParticipants": true }),
            json!({ "scheduledStart": "1777550400000" }),
            json!({ "scheduledStart": "soon" }),
            json!({ "scheduledStart": 0 }),
            json!({ "scheduledStart": 1e300 }),
            json!({ "scheduledStart": 2000, "scheduledEnd": 2000 }),
        ] {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
    }
}
