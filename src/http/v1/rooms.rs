//! Rooms in Metered's shapes: create, get, delete.

use actix_web::{
    HttpResponse, delete, get, post,
    web::{Data, Json, Path},
};
use chrono::{DateTime, SecondsFormat, TimeDelta};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    http::{
        Shared,
        auth::AuthenticatedApp,
        body::Body,
        error::{ApiError, FieldError},
    },
    rooms::{self, NewRoom, Room, RoomName, Rules},
    webhooks::{self, RoomUrls},
};

/// What a new room is to be. All of it may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(example = json!({ "roomName": "standup", "privacy": "public", "maxParticipants": 10, "autoJoin": true }))]
pub struct CreateRoom {
    /// 1 to 64 of `A-Z a-z 0-9 _ -`, unique in your app; made for you if you leave it out.
    #[schema(example = "standup")]
    room_name: Option<String>,
    /// Whether anyone with the link may join, or only who has a token. Default `public`.
    privacy: Option<Privacy>,
    /// Unix time in seconds from which nobody can join; 0 is never.
    #[schema(example = 4102444800_i64)]
    expire_unix_sec: Option<i64>,
    /// Whether everybody is put out at `expireUnixSec`.
    eject_at_room_exp: Option<bool>,
    /// Seconds after which each participant is put out; 0 is no limit.
    #[schema(example = 7200)]
    eject_after_elapsed_time_in_sec: Option<i64>,
    /// How many may be in at once; 0 is no limit.
    #[schema(example = 10)]
    max_participants: Option<i64>,
    /// Whether the room's page goes straight in, without a lobby.
    auto_join: Option<bool>,
    /// Where to post that somebody joined.
    #[schema(example = "https://example.com/hooks")]
    meeting_join_webhook: Option<String>,
    /// Where to post that somebody left.
    #[schema(example = "https://example.com/hooks")]
    meeting_left_webhook: Option<String>,
    /// Where to post that a meeting started.
    #[schema(example = "https://example.com/hooks")]
    meeting_started_webhook: Option<String>,
    /// Where to post that a meeting ended.
    #[schema(example = "https://example.com/hooks")]
    meeting_ended_webhook: Option<String>,
}

/// Who may join a room.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Privacy {
    /// Whoever has the link.
    Public,
    /// Whoever has a token.
    Private,
}

/// A room.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "_id": "61005784c3c9104421af1534", "app": "61005767f41008463845bac0", "roomName": "standup", "privacy": "public",
    "ejectAtRoomExp": false, "maxParticipants": 10, "autoJoin": true, "lang": "en", "archived": false,
    "created": "2026-11-21T09:00:00.000Z", "__v": 0,
}))]
pub struct RoomView {
    /// Its id: 24 hexadecimal digits.
    #[serde(rename = "_id")]
    id: String,
    /// Its app's id.
    app: String,
    /// Its name; the last part of its link.
    room_name: String,
    /// Who may join.
    privacy: Privacy,
    /// Unix time in seconds from which nobody can join.
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_unix_sec: Option<i64>,
    /// Whether everybody is put out then.
    eject_at_room_exp: bool,
    /// Seconds after which each participant is put out.
    #[serde(skip_serializing_if = "Option::is_none")]
    eject_after_elapsed_time_in_sec: Option<i64>,
    /// How many may be in at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_participants: Option<u32>,
    /// Whether the room's page goes straight in.
    auto_join: bool,
    /// Where joins are posted.
    #[serde(skip_serializing_if = "Option::is_none")]
    meeting_join_webhook: Option<String>,
    /// Where leaves are posted.
    #[serde(skip_serializing_if = "Option::is_none")]
    meeting_left_webhook: Option<String>,
    /// Where starts of meetings are posted.
    #[serde(skip_serializing_if = "Option::is_none")]
    meeting_started_webhook: Option<String>,
    /// Where ends of meetings are posted.
    #[serde(skip_serializing_if = "Option::is_none")]
    meeting_ended_webhook: Option<String>,
    /// Language of the page.
    lang: &'static str,
    /// Whether it was deleted.
    archived: bool,
    /// When it was made: ISO 8601 with milliseconds and `Z`.
    created: String,
    /// Always 0.
    #[serde(rename = "__v")]
    version: u32,
}

/// That something was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Done {
    /// Always `true`.
    success: bool,
    /// What was done.
    #[schema(example = "Room successfully archived")]
    message: &'static str,
}

/// Create a room
///
/// The room lasts until it is deleted; meetings come and go in it. Send people its link: your host, and the room's name.
#[utoipa::path(tag = "rooms", request_body = CreateRoom, security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The new room, flat", body = RoomView),
    (status = 400, description = "`INVALID_REQUEST`, `ROOM_NAME_TAKEN`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 413, description = "`BODY_TOO_LARGE`", body = ApiError),
))]
#[post("/api/v1/room")]
pub async fn create_room(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    Body(wanted): Body<CreateRoom>,
) -> Result<Json<RoomView>, ApiError> {
    let new = wanted.parse(shared.reach)?;
    let mut tx = shared.db.begin(app.id).await?;
    let room = rooms::create(&mut tx, app.id, new, shared.clock.now(), &mut rand::rng()).await?;
    tx.commit().await?;
    Ok(Json(room.into()))
}

/// Get a room
#[utoipa::path(tag = "rooms", params(("roomName" = String, Path, description = "The room's name", example = "standup")),
    security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The room, flat", body = RoomView),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/room/{roomName}")]
pub async fn get_room(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    name: Path<String>,
) -> Result<Json<RoomView>, ApiError> {
    let name = existing(&name)?;
    let mut tx = shared.db.begin(app.id).await?;
    let room = rooms::find(&mut tx, app.id, &name)
        .await?
        .ok_or_else(ApiError::room_not_found)?;
    Ok(Json(room.into()))
}

/// Delete a room
///
/// A meeting that runs in it ends. The name is free again.
#[utoipa::path(tag = "rooms", params(("roomName" = String, Path, description = "The room's name", example = "standup")),
    security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The room is archived", body = Done),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
))]
#[delete("/api/v1/room/{roomName}")]
pub async fn delete_room(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let name = existing(&name)?;
    let mut tx = shared.db.begin(app.id).await?;
    rooms::archive(&mut tx, app.id, &name, shared.clock.now())
        .await?
        .ok_or_else(ApiError::room_not_found)?;
    tx.commit().await?;
    shared.meetings.wake();
    Ok(HttpResponse::Ok().json(Done {
        success: true,
        message: "Room successfully archived",
    }))
}

/// The name of a room that may exist: a text that is no name is the name of no room.
fn existing(name: &str) -> Result<RoomName, ApiError> {
    name.parse().map_err(|_| ApiError::room_not_found())
}

impl CreateRoom {
    /// The room that is meant. The error names every bad field at once.
    fn parse(self, reach: webhooks::Reach) -> Result<NewRoom, ApiError> {
        let mut fields = Fields::default();
        let given = |url: Option<String>| url.filter(|url| !url.is_empty() && url != PLACEHOLDER);
        let mut url = |field, url| {
            let url = given(url)?;
            let checked = webhooks::check_url(&url, reach).map(|url| url.to_string());
            fields.take(field, checked)
        };
        let webhooks = RoomUrls {
            meeting_join: url("meetingJoinWebhook", self.meeting_join_webhook),
            meeting_left: url("meetingLeftWebhook", self.meeting_left_webhook),
            meeting_started: url("meetingStartedWebhook", self.meeting_started_webhook),
            meeting_ended: url("meetingEndedWebhook", self.meeting_ended_webhook),
        };
        let name = self.room_name.filter(|name| !name.is_empty());
        let name = name.and_then(|name| fields.take("roomName", name.parse::<RoomName>()));
        let mut number = |field, value: Option<i64>, most: i64, hint: &str| {
            let value = value.filter(|value| *value != 0)?;
            let fits = (1..=most).contains(&value);
            fields.take(
                field,
                if fits {
                    Ok(value)
                } else {
                    Err(format!("must be from 0 to {most}{hint}"))
                },
            )
        };
        let expires = number(
            "expireUnixSec",
            self.expire_unix_sec,
            LATEST_UNIX_SEC,
            ", a unix time in seconds",
        );
        let limit = number(
            "ejectAfterElapsedTimeInSec",
            self.eject_after_elapsed_time_in_sec,
            i32::MAX.into(),
            "",
        );
        let places = number(
            "maxParticipants",
            self.max_participants,
            MOST_PARTICIPANTS,
            "",
        );
        if !fields.0.is_empty() {
            return Err(ApiError::fields(fields.0));
        }
        let rules = Rules {
            privacy: self.privacy.unwrap_or(Privacy::Public).into(),
            expires_at: expires.and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
            eject_at_expiry: self.eject_at_room_exp.unwrap_or(false),
            eject_after: limit.map(TimeDelta::seconds),
            max_participants: places.and_then(|places| u32::try_from(places).ok()),
            auto_join: self.auto_join.unwrap_or(false),
        };
        Ok(NewRoom {
            name,
            rules,
            webhooks,
        })
    }
}

/// Collects what is wrong.
#[derive(Default)]
struct Fields(Vec<FieldError>);

impl Fields {
    fn take<T, E: ToString>(&mut self, field: &str, outcome: Result<T, E>) -> Option<T> {
        outcome
            .map_err(|error| {
                self.0.push(FieldError {
                    field: field.to_owned(),
                    message: error.to_string(),
                })
            })
            .ok()
    }
}

impl From<Privacy> for rooms::Privacy {
    fn from(privacy: Privacy) -> Self {
        match privacy {
            Privacy::Public => Self::Public,
            Privacy::Private => Self::Private,
        }
    }
}

impl From<rooms::Privacy> for Privacy {
    fn from(privacy: rooms::Privacy) -> Self {
        match privacy {
            rooms::Privacy::Public => Self::Public,
            rooms::Privacy::Private => Self::Private,
        }
    }
}

impl From<Room> for RoomView {
    fn from(room: Room) -> Self {
        let Room {
            id,
            app_id,
            name,
            rules,
            webhooks,
            created_at,
        } = room;
        Self {
            id: id.to_string(),
            app: app_id.to_string(),
            room_name: name.to_string(),
            privacy: rules.privacy.into(),
            expire_unix_sec: rules.expires_at.map(|at| at.timestamp()),
            eject_at_room_exp: rules.eject_at_expiry,
            eject_after_elapsed_time_in_sec: rules.eject_after.map(|limit| limit.num_seconds()),
            max_participants: rules.max_participants,
            auto_join: rules.auto_join,
            meeting_join_webhook: webhooks.meeting_join,
            meeting_left_webhook: webhooks.meeting_left,
            meeting_started_webhook: webhooks.meeting_started,
            meeting_ended_webhook: webhooks.meeting_ended,
            lang: "en",
            archived: false,
            created: created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            version: 0,
        }
    }
}

/// What Metered's documentation prints where a URL goes: sent as it is printed, it is not one.
const PLACEHOLDER: &str = "string";
/// The end of the year 9999. What is later was most likely meant in milliseconds.
const LATEST_UNIX_SEC: i64 = 253_402_300_799;
/// Beyond what one meeting can hold.
const MOST_PARTICIPANTS: i64 = 100_000;
