//! What an app does to a running meeting: the actions of its moderators, by secret key.

use std::collections::BTreeMap;

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header::{HeaderName, HeaderValue},
    patch, post,
    web::{Data, Path},
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::rooms::{existing, idempotency_key};
use crate::{
    http::{
        Shared,
        auth::AuthenticatedApp,
        body::Body,
        error::{ApiError, Fields},
        server::request_id,
        warnings::Warnings,
    },
    id::{AppId, ParticipantId},
    idempotency::{self, Claim, Made},
    meetings::{
        self, Action, Asked, Denial, Done, Extension, Order, Outcome, Permission, PutOut, Role,
        Waiters, Whom,
    },
    rooms::{
        self,
        property::{PageUrl, Property, UnixSec},
    },
};

/// Who is to be put out.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({ "externalUserIds": ["customer-42"], "ban": true, "reason": "Please keep to the topic." }))]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct Eject {
    /// Stays, as webhooks and `participant-joined` name them. Together with `externalUserIds` 1 to 100.
    participant_session_ids: Option<Vec<String>>,
    /// Your own ids of people, as their tokens have them.
    external_user_ids: Option<Vec<String>>,
    /// Whether they are kept out of this meeting whatever they come back with; without it, their token opens it no more.
    ban: Option<bool>,
    /// What they are told: at most 200 characters.
    reason: Option<String>,
}

/// How the meeting ends.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({ "redirect": "https://example.com/thanks" }))]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct End {
    /// Where people go then: `http://` or `https://`.
    redirect: Option<String>,
}

/// Which devices are switched off.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({ "audio": true }))]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct Mute {
    /// `true` mutes the microphone, `false` has it on again.
    audio: Option<bool>,
    /// `true` switches the camera off; only they can switch it on again.
    video: Option<bool>,
    /// `true` stops the sharing of the screen.
    screen: Option<bool>,
}

/// What a participant may do from now on. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({ "role": "moderator", "permissions": { "screenSharing": true } }))]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct ChangeParticipant {
    /// Their role.
    role: Option<Role>,
    /// The same as `role`, in Metered's word: `true` is `moderator`.
    is_admin: Option<bool>,
    /// What they may do, by the names of `lockSettings`: `true` may, `false` may not, `null` is as the room has it. Moderators
    /// may do everything.
    permissions: Option<BTreeMap<Permission, Option<bool>>>,
}

/// What people are told, at least one of `text` and `data`.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({ "text": "Five minutes left." }))]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct Message {
    /// Stays that are told, 1 to 100; all without it.
    to: Option<Vec<String>>,
    /// For people: 1 to 4096 characters.
    text: Option<String>,
    /// For programs: any JSON of at most 16 KiB.
    data: Option<Value>,
}

/// How the meeting's end moves: one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({ "seconds": 600 }))]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct Extend {
    /// So many seconds later, or with a negative number earlier: at most a year either way, and not 0.
    seconds: Option<i64>,
    /// To this instant, in unix seconds.
    until_unix_sec: Option<i64>,
}

/// Who is let in.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({ "all": true }))]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct Admit {
    /// Those who wait, by the ids of the list: 1 to 100.
    participant_session_ids: Option<Vec<String>>,
    /// Whether all who wait are meant.
    all: Option<bool>,
}

/// Who is sent away.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({ "participantSessionIds": ["61005784c3c9104421af1534"], "reason": "The meeting is over." }))]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct Reject {
    /// Those who wait, by the ids of the list: 1 to 100.
    participant_session_ids: Option<Vec<String>>,
    /// Whether all who wait are meant.
    all: Option<bool>,
    /// What they are told: at most 200 characters.
    reason: Option<String>,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({ "success": true, "pending": false, "participantSessionIds": ["61005784c3c9104421af1534"] }))]
pub struct Acted {
    /// Always `true`.
    success: bool,
    /// Whether it is still to be done: with status 202.
    pending: bool,
    /// Whom it really concerned; with `pending`, nobody yet.
    #[schema(value_type = Vec<String>)]
    participant_session_ids: Vec<ParticipantId>,
    /// When the meeting ends now, in unix seconds; of `extend`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at_unix_sec: Option<i64>,
}

/// Those who wait to be let in.
#[derive(Debug, Serialize, ToSchema)]
pub struct WaitingList {
    /// In the order in which they came.
    data: Vec<WaitingView>,
}

/// Somebody who waits to be let in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "participantSessionId": "61005784c3c9104421af1534", "name": "Ann", "externalUserId": "customer-42",
    "waitingSince": "2026-11-21T09:00:00.000Z",
}))]
pub struct WaitingView {
    /// By which they are let in or sent away; the id of their stay, once they are in.
    #[schema(value_type = String)]
    participant_session_id: ParticipantId,
    /// Display name.
    name: String,
    /// Your own id of the person, where they have a token with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    external_user_id: Option<String>,
    /// ISO 8601 with milliseconds and `Z`. After ten minutes they are sent away.
    waiting_since: String,
}

/// Put people out
///
/// Each hears why, then their connection is closed. What they came in with, a token or a connection to resume, opens this
/// meeting no more; with `ban`, nothing of theirs does. Whoever of them only waits to be let in is sent away. Ids of nobody
/// who is here are no error: the answer names those who were really put out.
#[utoipa::path(tag = "live meetings", request_body = Eject, security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "Who was put out", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/eject")]
pub async fn eject(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given = Given::read(body).await?;
    let mut fields = Fields::default();
    let stays = ids(&given, "participantSessionIds", &mut fields).unwrap_or_default();
    let users = texts(&given, "externalUserIds", &mut fields).unwrap_or_default();
    let is_ban = switch(&given, "ban", &mut fields) == Some(true);
    let reason = reason(&given, &mut fields);
    let stays = stays.into_iter().map(Whom::Participant);
    let whom: Vec<Whom> = stays.chain(users.into_iter().map(Whom::User)).collect();
    let named = "participantSessionIds";
    if !(1..=MOST_NAMED).contains(&whom.len()) && !fields.names(named) {
        let right = format!("must name 1 to {MOST_NAMED} people, together with externalUserIds");
        fields.wrong(named, right);
    }
    fields.check()?;
    let how = if is_ban { PutOut::Ban } else { PutOut::Eject };
    let action = Action::PutOut { whom, how, reason };
    let known = &["participantSessionIds", "externalUserIds", "ban", "reason"];
    act(&shared, &app, &request, &name, (&given, known), action).await
}

/// End the meeting
///
/// Everybody hears `ended`, with `redirect` if there is one, and the connections are closed. The room stays: the next join
/// begins another meeting.
#[utoipa::path(tag = "live meetings", request_body = End, security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "Who was in", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/end")]
pub async fn end(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given = Given::read(body).await?;
    let mut fields = Fields::default();
    let redirect = given.get("redirect").filter(|url| !url.is_null());
    let redirect: Option<Option<PageUrl>> =
        redirect.and_then(|url| fields.take("redirect", Property::read(url)));
    fields.check()?;
    let action = Action::End {
        redirect: redirect.flatten(),
    };
    act(
        &shared,
        &app,
        &request,
        &name,
        (&given, &["redirect"]),
        action,
    )
    .await
}

/// Mute a participant
///
/// Everybody hears how their devices are now; their client is told to switch them so.
#[utoipa::path(tag = "live meetings", request_body = Mute, security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("participantSessionId" = String, Path, description = "The stay", example = "61005784c3c9104421af1534"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "Whose devices were switched", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`, `TARGET_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/participants/{participantSessionId}/mute")]
pub async fn mute(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    path: Path<(String, String)>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (name, target) = path.into_inner();
    let given = Given::read(body).await?;
    let mut fields = Fields::default();
    let audio = switch(&given, "audio", &mut fields).map(|muted| match muted {
        true => Order::Mute,
        false => Order::Unmute,
    });
    let mut off = |field, order| {
        let off = switch(&given, field, &mut fields)?;
        if !off {
            let right = "must be true: only they can have it on again";
            fields.wrong(field, right);
        }
        Some(order)
    };
    let (video, screen) = (
        off("video", Order::StopVideo),
        off("screen", Order::StopScreen),
    );
    let orders: Vec<Order> = [audio, video, screen].into_iter().flatten().collect();
    if orders.is_empty() && !fields.names("audio") {
        fields.wrong("audio", "must be given, or video, or screen");
    }
    fields.check()?;
    let target = stay(&target)?;
    let action = Action::Switch { target, orders };
    let known = &["audio", "video", "screen"];
    act(&shared, &app, &request, &name, (&given, known), action).await
}

/// Change a participant's role or permissions
///
/// At once, and for this stay: their next one is as their token has it. Of a role everybody hears, of permissions they.
#[utoipa::path(tag = "live meetings", request_body = ChangeParticipant, security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("participantSessionId" = String, Path, description = "The stay", example = "61005784c3c9104421af1534"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "Who was changed", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`, `TARGET_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[patch("/api/v1/room/{roomName}/participants/{participantSessionId}")]
pub async fn change_participant(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    path: Path<(String, String)>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (name, target) = path.into_inner();
    let given = Given::read(body).await?;
    let mut fields = Fields::default();
    let role = given.get("role").filter(|role| !role.is_null());
    let role = role.and_then(|role| {
        let role = Role::deserialize(role);
        fields.take("role", role.map_err(|_| "must be moderator or participant"))
    });
    let is_admin = switch(&given, "isAdmin", &mut fields).map(|is_admin| match is_admin {
        true => Role::Moderator,
        false => Role::Participant,
    });
    if let (Some(role), Some(same)) = (role, is_admin)
        && role != same
    {
        fields.wrong("isAdmin", "must say the same as role, or be left out");
    }
    let permissions = given.get("permissions").filter(|given| !given.is_null());
    let permissions = permissions.and_then(|permissions| {
        let read = BTreeMap::<Permission, Option<bool>>::deserialize(permissions);
        fields.take("permissions", read.map_err(|_| permission_names()))
    });
    let role = role.or(is_admin);
    let permissions = permissions.unwrap_or_default();
    fields.check()?;
    if role.is_none() && permissions.is_empty() {
        let mut fields = Fields::default();
        fields.wrong("role", "must be given, or isAdmin, or permissions");
        fields.check()?;
    }
    let action = Action::Change {
        target: stay(&target)?,
        role,
        permissions,
    };
    let known = &["role", "isAdmin", "permissions"];
    act(&shared, &app, &request, &name, (&given, known), action).await
}

/// Tell people something
///
/// A `server-message` frame to all who are in, or to some. It is not kept: whoever comes later does not get it.
#[utoipa::path(tag = "live meetings", request_body = Message, security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "Who was told", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/message")]
pub async fn message(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given = Given::read(body).await?;
    let mut fields = Fields::default();
    let to = ids(&given, "to", &mut fields);
    if to.as_ref().is_some_and(Vec::is_empty) {
        fields.wrong("to", format!("must name 1 to {MOST_NAMED} stays"));
    }
    let text = text(&given, "text", LONGEST_TEXT, &mut fields);
    let data = given.get("data").filter(|data| !data.is_null()).cloned();
    if let Some(data) = &data {
        let written = data.to_string();
        // Which Postgres does not store.
        if written.len() > LONGEST_DATA || written.contains("\\u0000") {
            fields.wrong("data", "must have at most 16 KiB, and no NUL");
        }
    }
    if text.is_none() && data.is_none() && !fields.names("text") {
        fields.wrong("text", "must be given, or data");
    }
    fields.check()?;
    let action = Action::Message { to, text, data };
    let known = &["to", "text", "data"];
    act(&shared, &app, &request, &name, (&given, known), action).await
}

/// Move the meeting's end
///
/// The end that the room's `meetingDurationSec` gives moves for this meeting, never into the past. The room's own expiry, and
/// the time of each participant, stay as they are.
#[utoipa::path(tag = "live meetings", request_body = Extend, security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "When it ends now", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`; `NO_TIME_LIMIT`: it has no end that could move", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/extend")]
pub async fn extend(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given = Given::read(body).await?;
    let mut fields = Fields::default();
    let present = |field| given.get(field).filter(|value: &&Value| !value.is_null());
    let by = present("seconds").and_then(|seconds| {
        let seconds = seconds
            .as_i64()
            .filter(|seconds| *seconds != 0 && seconds.unsigned_abs() <= LONGEST_EXTENSION);
        let right = format!(
            "must be a whole number from -{LONGEST_EXTENSION} to {LONGEST_EXTENSION}, and not 0"
        );
        fields.take("seconds", seconds.ok_or(right))
    });
    let until = present("untilUnixSec").and_then(|at| {
        let read: Option<Option<UnixSec>> = fields.take("untilUnixSec", Property::read(at));
        read.flatten().map(|UnixSec(at)| at)
    });
    let extension = match (by, until) {
        (Some(seconds), None) => Some(Extension::By(seconds)),
        (None, Some(at)) => Some(Extension::Until(at)),
        _ => None,
    };
    if extension.is_none() && !fields.names("seconds") && !fields.names("untilUnixSec") {
        fields.wrong("seconds", "must be given, or untilUnixSec, and not both");
    }
    fields.check()?;
    let Some(extension) = extension else {
        return Err(ApiError::broken());
    };
    let known = &["seconds", "untilUnixSec"];
    let action = Action::Extend(extension);
    act(&shared, &app, &request, &name, (&given, known), action).await
}

/// Lock the meeting
///
/// From now on nobody joins by themself but moderators; others wait until a moderator or you let them in. It ends with the
/// meeting; the room's `locked` lasts.
#[utoipa::path(tag = "live meetings", security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "It is locked", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/lock")]
pub async fn lock(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let given = Given::default();
    act(
        &shared,
        &app,
        &request,
        &name,
        (&given, &[]),
        Action::Lock(true),
    )
    .await
}

/// Unlock the meeting
///
/// Everybody joins by themself again. Whoever waits goes on waiting until they are let in.
#[utoipa::path(tag = "live meetings", security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "It is not locked", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/unlock")]
pub async fn unlock(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let given = Given::default();
    act(
        &shared,
        &app,
        &request,
        &name,
        (&given, &[]),
        Action::Lock(false),
    )
    .await
}

/// List who waits to be let in
///
/// Empty where nobody does, or nobody meets.
#[utoipa::path(tag = "live meetings", security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
), responses(
    (status = 200, description = "Who waits", body = WaitingList),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/room/{roomName}/waiting")]
pub async fn waiting(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asked = ask(&shared, app.id, &name, None, Action::ListWaiting).await?;
    let outcome = match asked {
        Some((asked, _)) => shared.meetings.outcome(asked).await?,
        None => Outcome::Gone,
    };
    let waiting = match outcome {
        Outcome::Answered(answer) => answer?.waiting,
        Outcome::Gone => Vec::new(),
        Outcome::Pending => {
            return Err(ApiError::unavailable(
                "the meeting's server does not answer at the moment; try again",
            ));
        }
    };
    let data = waiting.into_iter().map(|waits| WaitingView {
        participant_session_id: waits.participant,
        name: waits.name,
        external_user_id: waits.external_user_id,
        waiting_since: iso(waits.since),
    });
    Ok(HttpResponse::Ok().json(WaitingList {
        data: data.collect(),
    }))
}

/// Let in who waits
///
/// As far as there are places. Ids of nobody who waits are no error where somebody else is named who does: the answer names
/// those who were really let in.
#[utoipa::path(tag = "live meetings", request_body = Admit, security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "Who is in now", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`, `TARGET_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`; `ROOM_FULL`, `TIME_OVER`: nobody could be let in", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/waiting/admit")]
pub async fn admit(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given = Given::read(body).await?;
    let mut fields = Fields::default();
    let whom = waiters(&given, &mut fields);
    fields.check()?;
    let known = &["participantSessionIds", "all"];
    act(
        &shared,
        &app,
        &request,
        &name,
        (&given, known),
        Action::Admit(whom),
    )
    .await
}

/// Send away who waits
///
/// Each hears why, then their connection is closed. They may ask again.
#[utoipa::path(tag = "live meetings", request_body = Reject, security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "Who was sent away", body = Acted),
    (status = 202, description = "Nobody has done it yet: it is stored, and done within seconds", body = Acted),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`, `TARGET_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`NO_LIVE_MEETING`", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/waiting/reject")]
pub async fn reject(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given = Given::read(body).await?;
    let mut fields = Fields::default();
    let whom = waiters(&given, &mut fields);
    let reason = reason(&given, &mut fields);
    fields.check()?;
    let action = Action::Reject { whom, reason };
    let known = &["participantSessionIds", "all", "reason"];
    act(&shared, &app, &request, &name, (&given, known), action).await
}

/// A body, field by field.
type Given = Map<String, Value>;

/// Reads bodies as [`Given`].
trait ReadGiven: Sized {
    async fn read(body: Body) -> Result<Self, ApiError>;
}

impl ReadGiven for Given {
    async fn read(body: Body) -> Result<Self, ApiError> {
        body.read().await
    }
}

/// Has the owner of the room's meeting act, and answers what came of it.
async fn act(
    shared: &Shared,
    app: &AuthenticatedApp,
    request: &HttpRequest,
    name: &str,
    (given, known): (&Given, &[&str]),
    action: Action,
) -> Result<HttpResponse, ApiError> {
    let key = idempotency_key(request)?;
    // The same words for another room, or another stay, are another request.
    let path = request.path();
    let what = key.as_ref().map(|key| {
        let asked = format!("{} {path}", request.method());
        (
            key,
            idempotency::Request::new(&asked, given, &shared.master_key),
        )
    });
    let asked = ask(shared, app.id, name, what, action).await?;
    let (asked, is_replayed) = asked.ok_or(Denial::MeetingEnded)?;
    let (mut response, done) = match shared.meetings.outcome(asked).await? {
        Outcome::Answered(answer) => (HttpResponse::Ok(), Some(answer?)),
        Outcome::Gone => return Err(Denial::MeetingEnded.into()),
        Outcome::Pending => (HttpResponse::Accepted(), None),
    };
    let mut response = response.json(Acted::new(done));
    if is_replayed {
        let name = HeaderName::from_static("idempotent-replayed");
        let headers = response.headers_mut();
        headers.insert(name, HeaderValue::from_static("true"));
    }
    Warnings::unknown_fields(given, known).tell(response.headers_mut());
    Ok(response)
}

/// Asks the owner of the room's meeting, once per key; whether it had been asked before. `None` where nobody meets.
async fn ask(
    shared: &Shared,
    app: AppId,
    name: &str,
    key: Option<(&idempotency::Key, idempotency::Request)>,
    action: Action,
) -> Result<Option<(Asked, bool)>, ApiError> {
    let name = existing(name)?;
    let now = shared.clock.now();
    let mut tx = shared.db.begin(app).await?;
    let room = rooms::find(&mut tx, app, &name).await?;
    let room = room.ok_or_else(ApiError::room_not_found)?;
    if let Some((key, request)) = &key {
        match idempotency::claim(&mut tx, app, key, request, now).await? {
            Claim::New => {}
            Claim::Done(Made::Command(command)) => {
                let new = None;
                return Ok(Some((Asked { app, command, new }, true)));
            }
            Claim::Done(Made::Room(_)) | Claim::Other => {
                return Err(ApiError::idempotency_key_reused());
            }
        }
    }
    let kept = match key {
        Some(_) => idempotency::KEPT,
        None => ANSWER_KEPT,
    };
    let request = Some(request_id()).filter(|id| !id.is_empty());
    let asked = meetings::ask(&mut tx, app, room.id, action, request, now + kept, now).await?;
    let Some(asked) = asked else {
        return Ok(None); // and the key is free again
    };
    if let Some((key, _)) = key {
        idempotency::done(&mut tx, app, key, Made::Command(asked.command)).await?;
    }
    tx.commit().await?;
    Ok(Some((asked, false)))
}

impl Acted {
    /// What came of it, if that is known.
    fn new(done: Option<Done>) -> Self {
        let pending = done.is_none();
        let done = done.unwrap_or_default();
        Self {
            success: true,
            pending,
            participant_session_ids: done.participants,
            ends_at_unix_sec: done.ends_at.map(|at| at.timestamp()),
        }
    }
}

/// The stay of this id: a text that is no id is the id of no stay.
fn stay(id: &str) -> Result<ParticipantId, ApiError> {
    id.parse().map_err(|_| Denial::TargetNotFound.into())
}

fn waiters(given: &Given, fields: &mut Fields) -> Waiters {
    let these = ids(given, "participantSessionIds", fields).unwrap_or_default();
    match (switch(given, "all", fields), these) {
        (Some(true), _) => Waiters::All,
        (_, these) => {
            if these.is_empty() && !fields.names("participantSessionIds") {
                let right = format!("must name 1 to {MOST_NAMED} who wait, or all be true");
                fields.wrong("participantSessionIds", right);
            }
            Waiters::These(these)
        }
    }
}

fn switch(given: &Given, field: &str, fields: &mut Fields) -> Option<bool> {
    let value = given.get(field).filter(|value| !value.is_null())?;
    fields.take(field, value.as_bool().ok_or("must be true or false"))
}

fn reason(given: &Given, fields: &mut Fields) -> Option<String> {
    text(given, "reason", LONGEST_REASON, fields)
}

/// A text of 1 to so many characters; a blank one is none.
fn text(given: &Given, field: &str, longest: usize, fields: &mut Fields) -> Option<String> {
    let value = given.get(field).filter(|value| !value.is_null())?;
    let text = value.as_str().map(str::trim);
    let fits = |text: &&str| text.chars().count() <= longest && !text.contains('\0');
    let right = format!("must be text of at most {longest} characters");
    let text = fields.take(field, text.filter(fits).ok_or(right))?;
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn ids(given: &Given, field: &str, fields: &mut Fields) -> Option<Vec<ParticipantId>> {
    let texts = texts(given, field, fields)?;
    // A text that is no id is the id of no stay, and such are no error.
    Some(texts.iter().filter_map(|id| id.parse().ok()).collect())
}

fn texts(given: &Given, field: &str, fields: &mut Fields) -> Option<Vec<String>> {
    let value = given.get(field).filter(|value| !value.is_null())?;
    let texts: Option<Vec<String>> = value
        .as_array()
        .filter(|list| list.len() <= MOST_NAMED)
        .and_then(|list| list.iter().map(named).collect());
    let right =
        format!("must be a list of at most {MOST_NAMED} texts of 1 to {LONGEST_ID} characters");
    fields.take(field, texts.ok_or(right))
}

fn named(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let fits = (1..=LONGEST_ID).contains(&text.chars().count()) && !text.contains('\0');
    fits.then(|| text.to_owned())
}

fn permission_names() -> String {
    let names = json!(Permission::ALL);
    let names = names.as_array().into_iter().flatten();
    let names: Vec<&str> = names.filter_map(Value::as_str).collect();
    format!(
        "must be an object of true, false and null, by the names {}",
        names.join(", ")
    )
}

fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// People named in one call at most.
const MOST_NAMED: usize = 100;
/// Longest `externalUserId` that a call can name, in characters.
const LONGEST_ID: usize = 1024;
/// Longest reason that somebody is told, in characters.
const LONGEST_REASON: usize = 200;
/// Longest text of a message, in characters.
const LONGEST_TEXT: usize = 4096;
/// Longest data of a message, in bytes of JSON.
const LONGEST_DATA: usize = 16 * 1024;
/// Seconds by which one call moves an end at most: a year.
const LONGEST_EXTENSION: u64 = 366 * 86_400;
/// How long an answer is kept for the request that waits for it.
const ANSWER_KEPT: TimeDelta = TimeDelta::minutes(1);
