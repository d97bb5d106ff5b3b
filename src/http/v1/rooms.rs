//! Rooms in Metered's shapes: create, update, get, list, delete.

use actix_web::{
    HttpRequest, HttpResponse, delete, get,
    http::header::{
        self, ContentType, EntityTag, Header, HeaderName, HeaderValue, IfMatch, IfNoneMatch,
    },
    post, put,
    web::{Bytes, Data, Path, Query},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use tracing::error;
use utoipa::{IntoParams, ToSchema};

use super::list::{Cut, Found, List};
use crate::{
    apps,
    cache::Cache,
    http::{
        Shared,
        auth::AuthenticatedApp,
        body::Body,
        error::{ApiError, Fields},
        warnings::Warnings,
    },
    id::{AppId, RoomId},
    idempotency::{self, Claim, Made},
    meetings::Status,
    rooms::{
        self, Expected, Filter, MeetingStart, Page, Password, Privacy, Room, RoomChange, RoomName,
        RoomUrlsChange, RtmpUrl, Rules, RulesChange,
        property::{Property, UnixSec, is_blank},
    },
    sealed::MasterKey,
    webhooks,
};

/// What a room is to be. All of it may be left out; `null` asks for the default.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "roomName": "standup", "privacy": "public", "expireUnixSec": 4_102_444_800_i64, "ejectAtRoomExp": true,
    "maxParticipants": 10, "ejectAfterElapsedTimeInSec": 7200, "autoJoin": true, "enableChat": true,
}))]
#[expect(
    dead_code,
    reason = "describes the body, which is read property by property so that each wrong one is named"
)]
pub struct RoomProperties {
    /// 1 to 64 of `A-Z a-z 0-9 _ -`, unique in your app; made for you if you leave it out.
    room_name: Option<String>,
    /// Where to post that somebody joined.
    meeting_join_webhook: Option<String>,
    /// Where to post that somebody left.
    meeting_left_webhook: Option<String>,
    /// Where to post that a meeting started.
    meeting_started_webhook: Option<String>,
    /// Where to post that a meeting ended.
    meeting_ended_webhook: Option<String>,
    /// What people must know to join without a token: 1 to 128 characters. Only a hash is kept.
    password: Option<String>,
    /// Where the composition is streamed to: server and stream key in one URL. Needed with `enableRTMPOut`.
    #[serde(rename = "rtmpOutURL")]
    rtmp_out_url: Option<String>,
    #[serde(flatten)]
    rules: Rules,
}

/// A room. What is not set is left out.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "_id": "61005784c3c9104421af1534", "app": "61005767f41008463845bac0", "roomName": "standup", "privacy": "public",
    "expireUnixSec": 4_102_444_800_i64, "ejectAtRoomExp": true, "maxParticipants": 10,
    "ejectAfterElapsedTimeInSec": 7200, "autoJoin": true, "enableChat": true, "lang": "en", "hasPassword": false,
    "archived": false, "created": "2026-11-21T09:00:00.000Z", "__v": 0,
}))]
pub struct RoomView {
    /// Its id: 24 hexadecimal digits.
    #[serde(rename = "_id")]
    id: String,
    /// Its app's id.
    app: String,
    /// Its name; the last part of its link.
    room_name: String,
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
    /// Whether people must know a password to join without a token.
    has_password: bool,
    /// Where the composition is streamed to, stream key and all: you hold the secret key.
    #[serde(rename = "rtmpOutURL", skip_serializing_if = "Option::is_none")]
    rtmp_out_url: Option<String>,
    #[serde(flatten, serialize_with = "without_nulls")]
    rules: Rules,
    /// Whether it was deleted.
    archived: bool,
    /// When it was made: ISO 8601 with milliseconds and `Z`.
    created: String,
    /// How often it was changed.
    #[serde(rename = "__v")]
    version: i32,
}

/// Which rooms are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct ListRooms {
    /// Rooms at most, 1 to 1000. With it the answer is an object with `data`, `totalCount` and `nextCursor`; without it, a
    /// bare array of the newest 1,000.
    #[param(value_type = Option<i64>, example = 100, minimum = 1, maximum = 1000)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Rooms whose names begin so.
    #[param(example = "stand")]
    name_prefix: Option<String>,
    /// Rooms with this privacy.
    #[param(value_type = Option<Privacy>, inline)]
    privacy: Option<String>,
    /// Rooms made then or later, in unix seconds.
    #[param(value_type = Option<i64>)]
    created_from_unix_sec: Option<String>,
    /// Rooms made before then, in unix seconds.
    #[param(value_type = Option<i64>)]
    created_until_unix_sec: Option<String>,
    /// Rooms in which a meeting is live, or is not.
    #[param(value_type = Option<bool>)]
    is_live: Option<String>,
}

/// That something was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Done {
    /// Always `true`.
    #[schema(example = true)]
    success: bool,
    /// What was done.
    #[schema(example = "Room successfully archived")]
    message: &'static str,
}

/// A meeting that has not ended.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenMeeting {
    /// Its id: 24 hexadecimal digits.
    #[schema(example = "61005784c3c9104421af1534")]
    meeting_session_id: String,
    /// Whether somebody has joined it.
    #[schema(example = false)]
    is_live: bool,
}

/// Create a room
///
/// The room lasts until it is deleted; meetings come and go in it. Send people its link: your host, and the room's name.
/// Fields that are not known are ignored, and told in `Plenum-Warnings`.
///
/// With `Idempotency-Key`, asking again within 24 hours creates nothing more: the answer is the room that was created then,
/// as it is now, with `Idempotent-Replayed: true`.
#[utoipa::path(tag = "rooms", request_body = RoomProperties, security(("secretKey" = []), ("bearer" = [])), params(
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 255 characters"),
), responses(
    (status = 200, description = "The new room, flat", body = RoomView, headers(
        ("ETag" = String, description = "Tag of this version of the room, for `If-Match`"),
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
        ("Idempotent-Replayed" = String, description = "`true` if this `Idempotency-Key` had created the room before"),
    )),
    (status = 400, description = "`INVALID_REQUEST`, `ROOM_NAME_TAKEN`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the key came with another request before", body = ApiError),
))]
#[post("/api/v1/room")]
pub async fn create_room(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: Map<String, Value> = body.read().await?;
    let key = idempotency_key(&request)?;
    let created = create(&shared, app.id, &given, key.as_ref()).await?;
    let mut response = answer(created.room, &shared.master_key, &unknown(&given))?;
    if created.is_replayed {
        let name = HeaderName::from_static("idempotent-replayed");
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Change a room
///
/// Only the fields that you send change; `null` returns one to its default. A meeting that runs in the room follows at once.
/// With another `roomName` the room is renamed. With `If-Match`, nothing changes unless the room still is as you know it.
#[utoipa::path(tag = "rooms", request_body = RoomProperties, security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("If-Match" = Option<String>, Header, description = "`ETag` of the room as you know it"),
), responses(
    (status = 200, description = "The room as it is now, flat", body = RoomView, headers(
        ("ETag" = String, description = "Tag of this version of the room"),
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`, `ROOM_NAME_TAKEN`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
    (status = 412, description = "`ROOM_CHANGED`: it is not as `If-Match` says", body = ApiError),
))]
#[put("/api/v1/room/{roomName}")]
pub async fn update_room(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: Map<String, Value> = body.read().await?;
    let name = existing(&name)?;
    let expected = expected(&request)?;
    let change = Wanted::read(&given, shared.reach)?.change().await?;
    let mut tx = shared.db.begin(app.id).await?;
    let (key, now) = (&shared.master_key, shared.clock.now());
    let room = rooms::update(&mut tx, app.id, &name, change, &expected, key, now)
        .await?
        .ok_or_else(ApiError::room_not_found)?;
    tx.commit().await?;
    for name in [&name, &room.name] {
        shared.shown_rooms.forget(&(app.id, name.clone()));
    }
    shared.meetings.wake();
    answer(room, &shared.master_key, &unknown(&given))
}

/// Get a room
#[utoipa::path(tag = "rooms", security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("If-None-Match" = Option<String>, Header, description = "`ETag` of the room as you know it"),
), responses(
    (status = 200, description = "The room, flat", body = RoomView, headers(
        ("ETag" = String, description = "Tag of this version of the room"),
    )),
    (status = 304, description = "The room is as you know it"),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/room/{roomName}")]
pub async fn get_room(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let name = existing(&name)?;
    let read = async {
        let mut tx = shared.db.begin(app.id).await?;
        let room = rooms::find(&mut tx, app.id, &name).await?;
        room.map(|room| Shown::new(room, &shared.master_key))
            .transpose()
    };
    let shown = shared
        .shown_rooms
        .get((app.id, name.clone()), &shared.clock, Box::pin(read))
        .await?
        .ok_or_else(ApiError::room_not_found)?;
    let known = request.headers().contains_key(header::IF_NONE_MATCH);
    let known = known.then(|| IfNoneMatch::parse(&request)).transpose();
    let known = known.map_err(|_| malformed("If-None-Match"))?;
    let is_known = match known {
        None => false,
        Some(IfNoneMatch::Any) => true,
        Some(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&shown.tag)),
    };
    if is_known {
        return Ok(HttpResponse::NotModified()
            .insert_header(header::ETag(shown.tag))
            .finish());
    }
    Ok(shown.answer())
}

/// List rooms
///
/// Newest first. Without `limit` a bare array, as Metered answers; with it an object that has the next page's cursor.
#[utoipa::path(tag = "rooms", params(ListRooms), security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The rooms: an array, or with `limit` a page", body = List<RoomView>, headers(
        ("X-Total-Count" = i64, description = "Rooms that the filters let through, on all pages"),
        ("Link" = String, description = "The next page, as `rel=\"next\"`; absent on the last"),
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
))]
#[get("/api/v1/rooms")]
pub async fn list_rooms(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    query: Query<ListRooms>,
) -> Result<HttpResponse, ApiError> {
    let (filter, cut) = query.read()?;
    let mut tx = shared.db.begin(app.id).await?;
    let page = Page {
        after: cut.after,
        limit: cut.look_for(),
    };
    let rooms = rooms::list(&mut tx, app.id, &filter, page).await?;
    let total_count = rooms::count(&mut tx, app.id, &filter).await?;
    drop(tx);
    let items = rooms
        .into_iter()
        .map(|room| (room.id, RoomView::new(room, &shared.master_key)))
        .collect();
    let found = Found { items, total_count };
    Ok(cut.answer(&request, found, LIST_NAMES))
}

/// Delete a room
///
/// A meeting that runs in it ends. The name is free again.
#[utoipa::path(tag = "rooms", security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
    ("If-Match" = Option<String>, Header, description = "`ETag` of the room as you know it"),
), responses(
    (status = 200, description = "The room is archived", body = Done),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
    (status = 412, description = "`ROOM_CHANGED`: it is not as `If-Match` says", body = ApiError),
))]
#[delete("/api/v1/room/{roomName}")]
pub async fn delete_room(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    archive(&shared, app.id, &name, &expected(&request)?).await?;
    Ok(HttpResponse::Ok().json(Done::archived()))
}

/// Open a meeting
///
/// A meeting is open in the room before anybody joins; `meetingStarted` is sent when the first one does. Where a meeting is
/// open or live already, the answer names that one. In a room with `meetingStart: api` nobody can join without one: creating
/// such a room opens its first, and this call each further one.
#[utoipa::path(tag = "rooms", security(("secretKey" = []), ("bearer" = [])), params(
    ("roomName" = String, Path, description = "The room's name", example = "standup"),
), responses(
    (status = 200, description = "The meeting that is open or live", body = OpenMeeting),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
    (status = 410, description = "`ROOM_EXPIRED`: nobody could join", body = ApiError),
))]
#[post("/api/v1/room/{roomName}/start")]
pub async fn start_meeting(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let name = existing(&name)?;
    let mut tx = shared.db.begin(app.id).await?;
    let meeting = rooms::start(&mut tx, app.id, &name, shared.clock.now(), &mut rand::rng())
        .await?
        .ok_or_else(ApiError::room_not_found)?;
    tx.commit().await?;
    shared.meetings.claim_soon();
    Ok(HttpResponse::Ok().json(OpenMeeting {
        meeting_session_id: meeting.id.to_string(),
        is_live: meeting.status == Status::Live,
    }))
}

/// What was answered of rooms a moment ago.
pub type ShownRooms = Cache<(AppId, RoomName), Shown>;

/// A room as it is answered. It cannot be printed: where it is streamed to is a secret.
#[derive(Clone)]
pub struct Shown {
    tag: EntityTag,
    body: Bytes,
}

impl Shown {
    fn new(room: Room, master_key: &MasterKey) -> Result<Self, ApiError> {
        let tag = entity_tag(&room);
        let body = serde_json::to_vec(&RoomView::new(room, master_key))
            .map_err(|error| ApiError::internal(&error))?;
        let body = body.into();
        Ok(Self { tag, body })
    }

    fn answer(self) -> HttpResponse {
        HttpResponse::Ok()
            .content_type(ContentType::json())
            .insert_header(header::ETag(self.tag))
            .body(self.body)
    }
}

/// What came of a wish for a room.
pub(super) struct Created {
    /// The room.
    pub room: Room,
    /// Whether the same request had created it before.
    pub is_replayed: bool,
}

/// Creates the room that a body describes, once per `key`.
pub(super) async fn create(
    shared: &Shared,
    app: AppId,
    given: &Map<String, Value>,
    key: Option<&idempotency::Key>,
) -> Result<Created, ApiError> {
    let change = Wanted::read(given, shared.reach)?.change().await?;
    let (now, rng) = (shared.clock.now(), &mut rand::rng());
    let master_key = &shared.master_key;
    let room = if let Some(key) = key {
        let request = idempotency::Request::new("create room", given, master_key);
        let mut tx = shared.db.begin(app).await?;
        match idempotency::claim(&mut tx, app, key, &request, now).await? {
            Claim::New => {}
            Claim::Done(made) => {
                let room = match made {
                    Made::Room(room) => rooms::get(&mut tx, app, room).await?,
                    Made::Command(_) => None, // of another operation, whose fingerprint is another
                };
                return Ok(Created {
                    room: room.ok_or_else(ApiError::room_not_found)?,
                    is_replayed: true,
                });
            }
            Claim::Other => return Err(ApiError::idempotency_key_reused()),
        }
        let defaults = apps::room_defaults(&mut tx, app).await?;
        let room = rooms::create(&mut tx, app, change, defaults, master_key, now, rng).await?;
        idempotency::done(&mut tx, app, key, Made::Room(room.id)).await?;
        tx.commit().await?;
        room
    } else {
        let mut conn = shared.db.without_tenant().await?;
        let defaults = apps::room_defaults(&mut conn, app).await?;
        rooms::create(&mut conn, app, change, defaults, master_key, now, rng).await?
    };
    shared.shown_rooms.forget(&(app, room.name.clone()));
    if room.rules.meeting_start == MeetingStart::Api {
        shared.meetings.claim_soon();
    }
    Ok(Created {
        room,
        is_replayed: false,
    })
}

/// Archives the room of this name, and ends its meeting.
pub(super) async fn archive(
    shared: &Shared,
    app: AppId,
    name: &str,
    expected: &Expected,
) -> Result<(), ApiError> {
    let name = existing(name)?;
    let mut tx = shared.db.begin(app).await?;
    rooms::archive(&mut tx, app, &name, expected, shared.clock.now())
        .await?
        .ok_or_else(ApiError::room_not_found)?;
    tx.commit().await?;
    shared.shown_rooms.forget(&(app, name));
    shared.meetings.wake();
    Ok(())
}

/// The caller's name for the request, where it has one.
pub(super) fn idempotency_key(request: &HttpRequest) -> Result<Option<idempotency::Key>, ApiError> {
    let Some(given) = request.headers().get("idempotency-key") else {
        return Ok(None);
    };
    let key = given.to_str().unwrap_or_default().parse();
    key.map(Some)
        .map_err(|error| ApiError::invalid(format!("Idempotency-Key {error}")))
}

/// The name of a room that may exist: a text that is no name is the name of no room.
pub(super) fn existing(name: &str) -> Result<RoomName, ApiError> {
    name.parse().map_err(|_| ApiError::room_not_found())
}

impl Done {
    /// A room was deleted.
    pub fn archived() -> Self {
        Self {
            success: true,
            message: "Room successfully archived",
        }
    }

    /// A webhook was deleted.
    pub fn webhook_deleted() -> Self {
        Self {
            success: true,
            message: "Webhook successfully deleted",
        }
    }
}

/// What a body says in vain.
pub(super) fn unknown(given: &Map<String, Value>) -> Warnings {
    let known: Vec<&str> = rooms::NAMES
        .iter()
        .chain(OWN_NAMES)
        .chain(ANSWERED_NAMES)
        .copied()
        .collect();
    Warnings::unknown_fields(given, &known)
}

fn answer(
    room: Room,
    master_key: &MasterKey,
    warnings: &Warnings,
) -> Result<HttpResponse, ApiError> {
    let mut response = Shown::new(room, master_key)?.answer();
    warnings.tell(response.headers_mut());
    Ok(response)
}

/// The tag of a room's version, different for every change of every room.
fn entity_tag(room: &Room) -> EntityTag {
    EntityTag::new_strong(format!("{}-{}", room.id, room.version))
}

/// What `If-Match` asks of the room.
fn expected(request: &HttpRequest) -> Result<Expected, ApiError> {
    if !request.headers().contains_key(header::IF_MATCH) {
        return Ok(Expected::Anything);
    }
    let version = |tag: &EntityTag| {
        let (id, version) = tag.tag().split_once('-').filter(|_| !tag.weak)?;
        Some((id.parse::<RoomId>().ok()?, version.parse::<i32>().ok()?))
    };
    match IfMatch::parse(request).map_err(|_| malformed("If-Match"))? {
        IfMatch::Any => Ok(Expected::Anything),
        IfMatch::Items(tags) => Ok(Expected::OneOf(tags.iter().filter_map(version).collect())),
    }
}

fn malformed(name: &str) -> ApiError {
    ApiError::invalid(format!(
        "{name} must be a list of entity tags, such as \"61005784c3c9104421af1534-0\", or *"
    ))
}

/// A room that is asked for, its password not hashed yet.
#[derive(Debug)]
struct Wanted {
    change: RoomChange,
    password: Option<Option<Password>>,
}

impl Wanted {
    /// The room that is meant.
    ///
    /// # Errors
    ///
    /// `INVALID_REQUEST` with every bad field at once.
    fn read(given: &Map<String, Value>, reach: webhooks::Reach) -> Result<Self, ApiError> {
        let mut fields = Fields::default();
        // `Some(None)`: given, and empty.
        let mut text = |field: &str| -> Option<Option<&str>> {
            match given.get(field)? {
                Value::Null => Some(None),
                Value::String(text) => Some(Some(text)),
                _ => {
                    fields.wrong(field, "must be text");
                    None
                }
            }
        };
        let (name, password, rtmp) = (text("roomName"), text("password"), text("rtmpOutURL"));
        let urls = WEBHOOKS.map(|field| (field, text(field)));
        let name = name.flatten().filter(|name| !name.is_empty());
        let name = name.and_then(|name| fields.take("roomName", name.parse::<RoomName>()));
        let password = password.map(|password| {
            let password = password.filter(|password| !password.is_empty())?;
            fields.take("password", password.parse::<Password>())
        });
        let rtmp_out_url = rtmp.map(|url| {
            let url = url.filter(|url| !is_blank(url))?;
            fields.take("rtmpOutURL", url.parse::<RtmpUrl>())
        });
        let [meeting_join, meeting_left, meeting_started, meeting_ended] =
            urls.map(|(field, url)| {
                url.map(|url| {
                    let url = url.filter(|url| !is_blank(url))?;
                    fields
                        .take(field, webhooks::check_url(url, reach))
                        .map(|url| url.to_string())
                })
            });
        let rules = RulesChange::read(given, |field, right| fields.wrong(field, right));
        fields.check()?;
        let webhooks = RoomUrlsChange {
            meeting_join,
            meeting_left,
            meeting_started,
            meeting_ended,
        };
        let change = RoomChange {
            name,
            rules,
            webhooks,
            password: None,
            rtmp_out_url,
        };
        Ok(Self { change, password })
    }

    /// The same with its password hashed.
    async fn change(self) -> Result<RoomChange, ApiError> {
        let Self {
            mut change,
            password,
        } = self;
        change.password = match password {
            Some(Some(password)) => {
                let hash = password.hash(&mut rand::rng()).await;
                Some(Some(hash?))
            }
            Some(None) => Some(None),
            None => None,
        };
        Ok(change)
    }
}

impl ListRooms {
    fn read(&self) -> Result<(Filter, Cut<RoomId>), ApiError> {
        let mut fields = Fields::default();
        let cut = Cut::read(&mut fields, self.limit.as_ref(), self.cursor.as_ref());
        let privacy = self.privacy.as_ref().and_then(|privacy| {
            fields.take("privacy", Privacy::read(&Value::from(privacy.as_str())))
        });
        let is_live = self.is_live.as_ref().and_then(|is_live| {
            let is_live = is_live.parse::<bool>();
            fields.take("isLive", is_live.map_err(|_| "must be true or false"))
        });
        if self
            .name_prefix
            .as_ref()
            .is_some_and(|prefix| prefix.len() > 64 || prefix.contains('\0'))
        {
            fields.wrong("namePrefix", "must have at most 64 characters, and no NUL");
        }
        let mut instant = |field, given: &Option<String>| -> Option<DateTime<Utc>> {
            let seconds = given
                .as_ref()?
                .parse::<i64>()
                .map_or(Value::Null, Value::from);
            let read: Option<Option<UnixSec>> = fields.take(field, Property::read(&seconds));
            read.flatten().map(|UnixSec(at)| at)
        };
        let filter = Filter {
            name_prefix: self.name_prefix.clone().filter(|prefix| !prefix.is_empty()),
            privacy,
            created_from: instant("createdFromUnixSec", &self.created_from_unix_sec),
            created_until: instant("createdUntilUnixSec", &self.created_until_unix_sec),
            is_live,
        };
        fields.check()?;
        Ok((filter, cut))
    }
}

impl RoomView {
    /// The room as its app sees it.
    pub fn new(room: Room, master_key: &MasterKey) -> Self {
        // One that does not open is left out, so that the room can still be read and given another.
        let rtmp_out_url = room.rtmp_out_url(master_key).unwrap_or_else(|error| {
            error!(room.id = %room.id, %error, "where a room is streamed to cannot be told");
            None
        });
        let Room {
            id,
            app_id,
            name,
            rules,
            webhooks,
            password,
            version,
            created_at,
            archived_at,
            ..
        } = room;
        Self {
            id: id.to_string(),
            app: app_id.to_string(),
            room_name: name.to_string(),
            meeting_join_webhook: webhooks.meeting_join,
            meeting_left_webhook: webhooks.meeting_left,
            meeting_started_webhook: webhooks.meeting_started,
            meeting_ended_webhook: webhooks.meeting_ended,
            has_password: password.is_some(),
            rtmp_out_url: rtmp_out_url.map(|url| url.reveal().to_owned()),
            rules,
            archived: archived_at.is_some(),
            created: created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            version,
        }
    }
}

fn without_nulls<S: Serializer>(rules: &Rules, serializer: S) -> Result<S::Ok, S::Error> {
    let value = serde_json::to_value(rules).map_err(serde::ser::Error::custom)?;
    let all = value.as_object().into_iter().flatten();
    serializer.collect_map(all.filter(|(_, value)| !value.is_null()))
}

/// The webhook URLs, in the order of [`RoomUrlsChange`].
const WEBHOOKS: [&str; 4] = [
    "meetingJoinWebhook",
    "meetingLeftWebhook",
    "meetingStartedWebhook",
    "meetingEndedWebhook",
];
/// Fields of a request that are no rules.
const OWN_NAMES: &[&str] = &[
    "roomName",
    "password",
    "rtmpOutURL",
    WEBHOOKS[0],
    WEBHOOKS[1],
    WEBHOOKS[2],
    WEBHOOKS[3],
];
/// Fields of an answer alone: whoever sends a room back as they got it means nothing by them.
const ANSWERED_NAMES: &[&str] = &["_id", "app", "archived", "created", "hasPassword", "__v"];
/// Parameters of the list of rooms.
const LIST_NAMES: &[&str] = &[
    "namePrefix",
    "privacy",
    "createdFromUnixSec",
    "createdUntilUnixSec",
    "isLive",
];
