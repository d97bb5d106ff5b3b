//! Meetings and the stays in them, live and over, in Metered's words: meeting sessions and participant sessions.

use std::str::FromStr;

use actix_web::{
    HttpRequest, HttpResponse, get,
    web::{Data, Json, Path, Query},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::list::{Cut, Found, List};
use crate::{
    http::{
        Shared,
        auth::AuthenticatedApp,
        error::{ApiError, Fields},
    },
    id::{AppId, MeetingId, ParticipantId},
    meetings::{
        Role, Status,
        history::{self, Filter, Meeting, Page, Stay, Who},
    },
    rooms::{
        self, RoomName,
        property::{Property, UnixSec},
    },
};

/// A meeting: one run of a room. The figures of one that is live are those of this moment.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "_id": "61005784c3c9104421af1540", "room": "61005784c3c9104421af1534", "roomName": "standup", "status": "ended",
    "createdAt": "2026-11-21T09:00:00.000Z", "startedAt": "2026-11-21T09:00:00.000Z",
    "endedAt": "2026-11-21T09:30:10.000Z", "durationSec": 1810, "maxConcurrent": 2, "participantCount": 3,
    "participantSeconds": 3650, "participantMinutes": 60.83, "endReason": "empty",
}))]
pub struct MeetingView {
    /// Its id, the `meetingSessionId`: 24 hexadecimal digits.
    #[serde(rename = "_id")]
    id: String,
    /// Its room's id.
    room: String,
    /// Its room's name, as it is now.
    room_name: String,
    /// `open`, with nobody in yet; `live` from the first join on; `ended`.
    #[schema(pattern = "^(open|live|ended)$")]
    status: &'static str,
    /// When it was opened: ISO 8601 with milliseconds and `Z`.
    created_at: String,
    /// When the first participant joined.
    #[schema(required)]
    started_at: Option<String>,
    /// When it ended.
    #[schema(required)]
    ended_at: Option<String>,
    /// Whole seconds from the first join to the end, or to now.
    duration_sec: i64,
    /// People who were in at the same time, at most.
    max_concurrent: i32,
    /// Stays so far: who comes twice counts twice.
    participant_count: i32,
    /// The whole seconds of all stays, added up, as they are metered; of stays that last, until now.
    participant_seconds: i64,
    /// `participantSeconds` / 60, to two decimals.
    participant_minutes: f64,
    /// Why it ended.
    #[schema(required)]
    end_reason: Option<String>,
}

/// One person's stay in one meeting. `name`, `email`, `externalUserId`, `meta`, `browser` and `os` are null where they are not
/// known, and once they have been removed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "_id": "61005784c3c9104421af1550", "meetingSessionId": "61005784c3c9104421af1540", "name": "Ann",
    "email": "ann@example.com", "externalUserId": "42", "meta": null, "isAdmin": true,
    "joinTime": "2026-11-21T09:00:00.000Z", "leftTime": "2026-11-21T09:30:00.000Z", "durationSec": 1800,
    "leaveReason": "left", "browser": "Firefox 145", "os": "Linux",
}))]
pub struct ParticipantView {
    /// Its id, the `participantSessionId`: 24 hexadecimal digits.
    #[serde(rename = "_id")]
    id: String,
    /// The meeting's id.
    meeting_session_id: String,
    /// Display name.
    #[schema(required)]
    name: Option<String>,
    /// Address, by their token.
    #[schema(required)]
    email: Option<String>,
    /// Your id of the person, by their token.
    #[schema(required)]
    external_user_id: Option<String>,
    /// What else you wanted to be told of them, by their token.
    #[schema(required)]
    meta: Option<String>,
    /// Whether they moderate, or did at last.
    is_admin: bool,
    /// When they joined: ISO 8601 with milliseconds and `Z`.
    join_time: String,
    /// When they left.
    #[schema(required)]
    left_time: Option<String>,
    /// Whole seconds of the stay, as they are metered; of one that lasts, until now, or until the connection was lost.
    duration_sec: i64,
    /// Why they left.
    #[schema(required)]
    leave_reason: Option<String>,
    /// Browser and its major version, as it says itself.
    #[schema(required)]
    browser: Option<String>,
    /// Operating system, as the browser says.
    #[schema(required)]
    os: Option<String>,
}

/// Which meetings are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct ListMeetings {
    /// Meetings at most, 1 to 1000. With it the answer is an object with `data`, `totalCount` and `nextCursor`; without it,
    /// a bare array of the newest 1,000.
    #[param(value_type = Option<i64>, example = 100, minimum = 1, maximum = 1000)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Meetings of the room with this name, and of rooms that had it when they were deleted.
    #[param(example = "standup")]
    room_name: Option<String>,
    /// Meetings that have come so far.
    #[param(pattern = "^(open|live|ended)$")]
    status: Option<String>,
    /// Meetings that are live, or are not.
    #[param(value_type = Option<bool>)]
    live: Option<String>,
    /// Meetings opened then or later, in unix seconds.
    #[param(value_type = Option<i64>)]
    from: Option<String>,
    /// Meetings opened before then, in unix seconds.
    #[param(value_type = Option<i64>)]
    to: Option<String>,
}

/// Which part of a list of participants is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct ListParticipants {
    /// Participants at most, 1 to 1000. With it the answer is an object with `data`, `totalCount` and `nextCursor`; without
    /// it, a bare array of the first 1,000.
    #[param(value_type = Option<i64>, example = 100, minimum = 1, maximum = 1000)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// List meetings
///
/// Newest first, live ones and those that are over. Without `limit` a bare array; with it an object that has the next page's
/// cursor.
#[utoipa::path(tag = "meetings", params(ListMeetings), security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The meetings: an array, or with `limit` a page", body = List<MeetingView>, headers(
        ("X-Total-Count" = i64, description = "Meetings that the filters let through, on all pages"),
        ("Link" = String, description = "The next page, as `rel=\"next\"`; absent on the last"),
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
))]
#[get("/api/v1/meetingsessions")]
pub async fn list_meetings(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    query: Query<ListMeetings>,
) -> Result<HttpResponse, ApiError> {
    let (filter, cut) = query.read()?;
    let now = shared.clock.now();
    let mut tx = shared.db.begin(app.id).await?;
    let page = Page {
        after: cut.after,
        limit: cut.look_for(),
    };
    let meetings = history::meetings(&mut tx, app.id, &filter, page, now).await?;
    let total_count = history::count(&mut tx, app.id, &filter).await?;
    drop(tx);
    let view = |meeting: Meeting| (meeting.id, MeetingView::new(meeting, now));
    let items = meetings.into_iter().map(view).collect();
    let found = Found { items, total_count };
    Ok(cut.answer(&request, found, LIST_NAMES))
}

/// Get a meeting
#[utoipa::path(tag = "meetings", security(("secretKey" = []), ("bearer" = [])), params(
    ("meetingSessionId" = String, Path, description = "The meeting's id", example = "61005784c3c9104421af1540"),
), responses(
    (status = 200, description = "The meeting", body = MeetingView),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`MEETING_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/meetingsession/{meetingSessionId}")]
pub async fn get_meeting(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
) -> Result<Json<MeetingView>, ApiError> {
    let id = id(&request, "meetingSessionId").ok_or_else(ApiError::meeting_not_found)?;
    let now = shared.clock.now();
    let mut tx = shared.db.begin(app.id).await?;
    let found = history::meeting(&mut tx, app.id, id, now).await?;
    let meeting = found.ok_or_else(ApiError::meeting_not_found)?;
    Ok(Json(MeetingView::new(meeting, now)))
}

/// List who was in a meeting
///
/// All stays in it, in the order of their joins; those that last too.
#[utoipa::path(tag = "meetings", security(("secretKey" = []), ("bearer" = [])), params(
    ("meetingSessionId" = String, Path, description = "The meeting's id", example = "61005784c3c9104421af1540"),
    ListParticipants,
), responses(
    (status = 200, description = "The stays: an array, or with `limit` a page", body = List<ParticipantView>, headers(
        ("X-Total-Count" = i64, description = "Stays on all pages"),
        ("Link" = String, description = "The next page, as `rel=\"next\"`; absent on the last"),
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`MEETING_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/meetingsession/{meetingSessionId}/participants")]
pub async fn list_participants(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    query: Query<ListParticipants>,
) -> Result<HttpResponse, ApiError> {
    let id = id(&request, "meetingSessionId").ok_or_else(ApiError::meeting_not_found)?;
    let cut = query.read()?;
    let now = shared.clock.now();
    let mut tx = shared.db.begin(app.id).await?;
    let meeting = history::meeting(&mut tx, app.id, id, now).await?;
    meeting.ok_or_else(ApiError::meeting_not_found)?;
    let found = stays(&mut tx, app.id, id, Who::Everyone, cut, now).await?;
    Ok(cut.answer(&request, found, &[]))
}

/// List who is in a room now
///
/// In the order of their joins; an empty list where nobody is. Whoever lost their connection and may come back, within 30
/// seconds, is in.
#[utoipa::path(tag = "meetings", security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"), ListParticipants,
), responses(
    (status = 200, description = "Who is in: an array, or with `limit` a page", body = List<ParticipantView>, headers(
        ("X-Total-Count" = i64, description = "People on all pages"),
        ("Link" = String, description = "The next page, as `rel=\"next\"`; absent on the last"),
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/room/{roomName}/participants")]
pub async fn list_present(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
    query: Query<ListParticipants>,
) -> Result<HttpResponse, ApiError> {
    // A text that is no name is the name of no room.
    let name: RoomName = name.parse().map_err(|_| ApiError::room_not_found())?;
    let cut = query.read()?;
    let mut tx = shared.db.begin(app.id).await?;
    let room = rooms::find(&mut tx, app.id, &name).await?;
    let room = room.ok_or_else(ApiError::room_not_found)?;
    let now = shared.clock.now();
    let found = match history::running(&mut tx, app.id, room.id).await? {
        Some(meeting) => stays(&mut tx, app.id, meeting, Who::WhoIsIn, cut, now).await?,
        None => Found {
            items: Vec::new(),
            total_count: 0,
        },
    };
    Ok(cut.answer(&request, found, &[]))
}

/// Get one stay in a meeting
#[utoipa::path(tag = "meetings", security(("secretKey" = []), ("bearer" = [])), params(
    ("participantSessionId" = String, Path, description = "The stay's id", example = "61005784c3c9104421af1550"),
), responses(
    (status = 200, description = "The stay", body = ParticipantView),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`PARTICIPANT_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/participantsession/{participantSessionId}")]
pub async fn get_participant(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
) -> Result<Json<ParticipantView>, ApiError> {
    let id = id(&request, "participantSessionId").ok_or_else(ApiError::participant_not_found)?;
    let mut tx = shared.db.begin(app.id).await?;
    let found = history::stay(&mut tx, app.id, id).await?;
    let stay = found.ok_or_else(ApiError::participant_not_found)?;
    Ok(Json(ParticipantView::new(stay, shared.clock.now())))
}

/// The id at this place of the path. A text that is none names nothing.
fn id<Id: FromStr>(request: &HttpRequest, place: &str) -> Option<Id> {
    request.match_info().get(place)?.parse().ok()
}

async fn stays(
    conn: &mut sqlx::PgConnection,
    app: AppId,
    meeting: MeetingId,
    who: Who,
    cut: Cut<ParticipantId>,
    now: DateTime<Utc>,
) -> Result<Found<ParticipantId, ParticipantView>, ApiError> {
    let page = Page {
        after: cut.after,
        limit: cut.look_for(),
    };
    let stays = history::stays(conn, app, meeting, who, page).await?;
    let total_count = history::count_stays(conn, app, meeting, who).await?;
    let view = |stay: Stay| (stay.id, ParticipantView::new(stay, now));
    Ok(Found {
        items: stays.into_iter().map(view).collect(),
        total_count,
    })
}

impl ListMeetings {
    fn read(&self) -> Result<(Filter, Cut<MeetingId>), ApiError> {
        let mut fields = Fields::default();
        let cut = Cut::read(&mut fields, self.limit.as_ref(), self.cursor.as_ref());
        let room_name = self
            .room_name
            .as_ref()
            .and_then(|name| fields.take("roomName", name.parse()));
        let status = self.status.as_ref().and_then(|status| {
            let known = Status::ALL
                .into_iter()
                .find(|known| known.as_str() == status);
            fields.take("status", known.ok_or("must be open, live or ended"))
        });
        let is_live = self.live.as_ref().and_then(|live| {
            let live = live.parse::<bool>();
            fields.take("live", live.map_err(|_| "must be true or false"))
        });
        let mut instant = |field, given: &Option<String>| -> Option<DateTime<Utc>> {
            let seconds = given
                .as_ref()?
                .parse::<i64>()
                .map_or(Value::Null, Value::from);
            let read: Option<Option<UnixSec>> = fields.take(field, Property::read(&seconds));
            read.flatten().map(|UnixSec(at)| at)
        };
        let filter = Filter {
            room_name,
            status,
            is_live,
            from: instant("from", &self.from),
            until: instant("to", &self.to),
        };
        fields.check()?;
        Ok((filter, cut))
    }
}

impl ListParticipants {
    fn read(&self) -> Result<Cut<ParticipantId>, ApiError> {
        let mut fields = Fields::default();
        let cut = Cut::read(&mut fields, self.limit.as_ref(), self.cursor.as_ref());
        fields.check()?;
        Ok(cut)
    }
}

impl MeetingView {
    fn new(meeting: Meeting, now: DateTime<Utc>) -> Self {
        let duration_sec = meeting.duration_sec(now);
        // Exact up to 2^53 seconds.
        let hundredths = (meeting.participant_seconds as f64 / 0.6).round();
        Self {
            id: meeting.id.to_string(),
            room: meeting.room_id.to_string(),
            room_name: meeting.room_name.to_string(),
            status: meeting.status.as_str(),
            created_at: iso(meeting.created_at),
            started_at: meeting.started_at.map(iso),
            ended_at: meeting.ended_at.map(iso),
            duration_sec,
            max_concurrent: meeting.max_concurrent,
            participant_count: meeting.participant_count,
            participant_seconds: meeting.participant_seconds,
            participant_minutes: hundredths / 100.0,
            end_reason: meeting.end_reason,
        }
    }
}

impl ParticipantView {
    fn new(stay: Stay, now: DateTime<Utc>) -> Self {
        Self {
            duration_sec: stay.duration_sec(now),
            id: stay.id.to_string(),
            meeting_session_id: stay.meeting.to_string(),
            name: stay.name,
            email: stay.identity.email,
            external_user_id: stay.identity.external_user_id,
            meta: stay.identity.meta,
            is_admin: stay.role == Role::Moderator,
            join_time: iso(stay.joined_at),
            left_time: stay.left_at.map(iso),
            leave_reason: stay.leave_reason,
            browser: stay.device.browser,
            os: stay.device.os,
        }
    }
}

fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Parameters of the list of meetings.
const LIST_NAMES: &[&str] = &["roomName", "status", "live", "from", "to"];
