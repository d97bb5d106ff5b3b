//! Webhooks as a resource: the app's own endpoints, what was delivered to each, and to the URLs of rooms.

use std::fmt::Display;

use actix_web::{
    HttpResponse, delete, get, patch, post,
    web::{Data, Json, Path, Query},
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use utoipa::{IntoParams, ToSchema};

use super::rooms::Done;
use crate::{
    apps,
    http::{
        Shared,
        auth::AuthenticatedApp,
        body::Body,
        error::{ApiError, Fields},
        server::request_id,
        warnings::Warnings,
    },
    id::{DeliveryId, EndpointId},
    rooms::{
        self, RoomName,
        property::{Property, UnixSec},
    },
    webhooks::{
        self, SigningSecret,
        deliveries::{self, Delivery, Details, Outcome, Resend, Tried},
        endpoints::{self, Endpoint, EndpointChange, NewEndpoint, RotatedSecret},
        filter::Pattern,
    },
};

/// What a webhook is to be.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "url": "https://example.com/webhooks", "events": ["meeting*", "participantJoinRefused"], "description": "The billing",
}))]
#[expect(
    dead_code,
    reason = "describes the body, which is read field by field so that each wrong one is named"
)]
pub struct WebhookProperties {
    /// Where events are posted: `https://` or `http://`, on the public internet. A new webhook needs it.
    #[schema(max_length = 2048, example = "https://example.com/webhooks")]
    url: Option<String>,
    /// The events that it gets, 1 to 20: names, or beginnings with a `*` behind. Default `["*"]`, all events, those of later
    /// versions among them.
    #[schema(min_items = 1, max_items = 20, example = json!(["meeting*", "participantJoinRefused"]))]
    events: Option<Vec<String>>,
    /// For you, at most 500 characters.
    #[schema(max_length = 500, example = "The billing")]
    description: Option<String>,
    /// Whether it gets anything. What happens while it is disabled is kept as `skipped`, and can be sent again.
    #[schema(example = true)]
    enabled: Option<bool>,
}

/// A webhook: your own, or the URL of a room. What is not set is left out.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "_id": "019e1a2b3c4d5e6f70819203", "url": "https://example.com/webhooks", "enabled": true,
    "events": ["meeting*", "participantJoinRefused"], "description": "The billing", "created": "2026-11-21T09:00:00.000Z",
}))]
pub struct WebhookView {
    /// Its id: 24 hexadecimal digits.
    #[serde(rename = "_id")]
    id: String,
    /// Where events are posted.
    url: String,
    /// Whether it gets anything.
    enabled: bool,
    /// Since when it gets nothing: ISO 8601 with milliseconds and `Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_at: Option<String>,
    /// The events that it gets; a room's URL gets those for which the room has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<String>>,
    /// What you say of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// The room whose URL it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<String>,
    /// The room's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_name: Option<String>,
    /// When it was made: ISO 8601 with milliseconds and `Z`.
    created: String,
    /// What its deliveries are signed with: shown when it is made, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: Option<String>,
}

/// Webhooks, newest first.
#[derive(Serialize, ToSchema)]
pub struct WebhookList {
    /// The webhooks.
    data: Vec<WebhookView>,
}

/// Which webhooks are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct ListWebhooks {
    /// The URLs of this room, and those that it had, in the place of your own webhooks.
    room_name: Option<String>,
}

/// How a secret is replaced.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct RotateSecret {
    /// Seconds for which the secrets before it sign along, 0 to 86400; 86400 if you leave it out.
    #[schema(minimum = 0, maximum = 86400, example = 86400)]
    overlap_sec: Option<i64>,
}

/// A new secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretView {
    /// What signs from now on: shown now, and never again.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
    /// Until when the one before it signs along: ISO 8601 with milliseconds and `Z`.
    #[schema(example = "2026-11-22T09:00:00.000Z")]
    old_secret_signs_until: String,
}

/// One event on its way to one webhook. What is not known, or not there, is left out.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "_id": "019e1a2b3c4d5e6f70819204", "eventId": "019e1a2b3c4d5e6f70819205", "event": "meetingStarted",
    "roomId": "61005784c3c9104421af1534", "meetingSessionId": "019e1a2b3c4d5e6f70819206", "seq": 1, "outcome": "pending",
    "attemptCount": 1, "nextAttemptAt": "2026-11-21T09:00:05.123Z", "created": "2026-11-21T09:00:00.000Z",
}))]
pub struct DeliveryView {
    /// Its id: 24 hexadecimal digits.
    #[serde(rename = "_id")]
    id: String,
    /// The event, which is the `webhook-id` of all attempts.
    event_id: String,
    /// The event's name, or `test`.
    event: String,
    /// The room that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<String>,
    /// The meeting that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    meeting_session_id: Option<String>,
    /// Its number in the meeting.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    /// `pending`, `delivered`, `failed` (all attempts were in vain) or `skipped` (the webhook was disabled).
    outcome: &'static str,
    /// Attempts so far, with the one under way.
    attempt_count: i32,
    /// When the next attempt may start, or until when one is under way: ISO 8601 with milliseconds and `Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    /// When the event came true: ISO 8601 with milliseconds and `Z`.
    created: String,
}

/// A delivery with what is sent and the attempts that ended.
#[derive(Serialize, ToSchema)]
pub struct DeliveryDetails {
    #[serde(flatten)]
    delivery: DeliveryView,
    /// What is sent, the same in each attempt.
    #[schema(value_type = Object)]
    body: Box<RawValue>,
    /// Its latest attempts that ended, 100 at most, in their order.
    attempts: Vec<AttemptView>,
}

/// One HTTP try of a delivery.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptView {
    /// From 1.
    #[schema(example = 1)]
    attempt: i32,
    /// When it began: ISO 8601 with milliseconds and `Z`.
    #[schema(example = "2026-11-21T09:00:00.012Z")]
    at: String,
    /// Milliseconds until its outcome.
    #[schema(example = 84)]
    latency_ms: i32,
    /// HTTP status of the answer, where one came.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 503)]
    status: Option<i16>,
    /// The first KiB of the answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "try later")]
    answer: Option<String>,
    /// Why it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "answered 503, and only 2xx is success")]
    error: Option<String>,
}

/// A page of deliveries, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryPage {
    /// The deliveries.
    data: Vec<DeliveryView>,
    /// The `cursor` of the next page; null on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Which deliveries are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct ListDeliveries {
    /// Deliveries at most, 1 to 1000; 100 if you leave it out.
    #[param(value_type = Option<i64>, example = 100, minimum = 1, maximum = 1000)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// `pending`, `delivered`, `failed` or `skipped`.
    #[param(example = "failed")]
    outcome: Option<String>,
    /// An event's name, a beginning of some with a `*` behind, or `test`.
    #[param(example = "participant*")]
    event: Option<String>,
    /// Events that came true then or later, in unix seconds.
    #[param(value_type = Option<i64>)]
    from_unix_sec: Option<String>,
    /// Events that came true before then, in unix seconds.
    #[param(value_type = Option<i64>)]
    to_unix_sec: Option<String>,
}

/// Which deliveries are to be sent again.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({ "fromUnixSec": 1_795_248_000, "toUnixSec": 1_795_251_600 }))]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub struct ResendDeliveries {
    /// Events that came true then or later, in unix seconds.
    from_unix_sec: i64,
    /// Events that came true before then, in unix seconds.
    to_unix_sec: i64,
    /// `failed`, `skipped` or `delivered`; failed and skipped ones if you leave it out.
    outcome: Option<String>,
    /// `nextCursor` of the call before.
    cursor: Option<String>,
}

/// What is being sent again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResentView {
    /// How many deliveries, 5000 at most.
    #[schema(example = 12)]
    resent: usize,
    /// The `cursor` with which to go on; null if that were all.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Create a webhook
///
/// It gets the events of all rooms of your app that its filter lets through, signed as Standard Webhooks
/// (standardwebhooks.com) says. The answer has the secret that signs: it is not shown again. The URLs on rooms are there
/// beside it, with a secret of their own.
#[utoipa::path(tag = "webhooks", request_body = WebhookProperties, security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The new webhook, with its secret", body = WebhookView, headers(
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 409, description = "`TOO_MANY_WEBHOOKS`: your app has 50", body = ApiError),
))]
#[post("/api/v1/webhooks")]
pub async fn create_webhook(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: Map<String, Value> = body.read().await?;
    let (wanted, mut fields) = read(&given, shared.reach);
    if wanted.url.is_none() && !fields.names("url") {
        fields.wrong("url", "must be given");
    }
    fields.check()?;
    // Without a URL the fields have been refused.
    let url = wanted.url.ok_or_else(ApiError::broken)?;
    let new = NewEndpoint {
        url,
        events: wanted.events.unwrap_or_else(|| vec![Pattern::all()]),
        description: wanted.description.flatten(),
        enabled: wanted.enabled.unwrap_or(true),
    };
    let mut tx = shared.db.begin(app.id).await?;
    let (key, now, rng) = (&shared.master_key, shared.clock.now(), &mut rand::rng());
    let (endpoint, secret) = endpoints::create(&mut tx, app.id, new, key, now, rng).await?;
    tx.commit().await?;
    let view = WebhookView {
        secret: Some(revealed(&secret)),
        ..endpoint.into()
    };
    Ok(warned(&view, &given, NAMES))
}

/// List webhooks
///
/// Your own, or with `roomName` those that the URLs of a room are: they are there from the room's first event on.
#[utoipa::path(tag = "webhooks", params(ListWebhooks), security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The webhooks, newest first; of a room's URLs the newest 100", body = WebhookList),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`ROOM_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/webhooks")]
pub async fn list_webhooks(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    query: Query<ListWebhooks>,
) -> Result<Json<WebhookList>, ApiError> {
    let mut tx = shared.db.begin(app.id).await?;
    let room = match &query.room_name {
        None => None,
        Some(name) => {
            let name: RoomName = name.parse().map_err(|_| ApiError::room_not_found())?;
            let room = rooms::find(&mut tx, app.id, &name).await?;
            Some(room.ok_or_else(ApiError::room_not_found)?.id)
        }
    };
    let found = endpoints::list(&mut tx, app.id, room).await?;
    let data = found.into_iter().map(WebhookView::from).collect();
    Ok(Json(WebhookList { data }))
}

/// Get a webhook
#[utoipa::path(tag = "webhooks", security(("secretKey" = []), ("bearer" = [])), params(
    ("webhookId" = String, Path, description = "The webhook's id", example = "019e1a2b3c4d5e6f70819203"),
), responses(
    (status = 200, description = "The webhook", body = WebhookView),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`WEBHOOK_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/webhooks/{webhookId}")]
pub async fn get_webhook(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    id: Path<String>,
) -> Result<Json<WebhookView>, ApiError> {
    let id = existing(&id)?;
    let mut tx = shared.db.begin(app.id).await?;
    let found = endpoints::find(&mut tx, app.id, id).await?;
    Ok(Json(found.ok_or_else(not_found)?.into()))
}

/// Change a webhook
///
/// Only the fields that you send change. What waits for it goes to its new URL; of the URL of a room only `enabled` can be
/// changed here. A webhook that is disabled gets nothing: what waits for it, and what happens meanwhile, is kept as `skipped`,
/// and can be sent again once it is enabled.
#[utoipa::path(tag = "webhooks", request_body = WebhookProperties, security(("secretKey" = []), ("bearer" = [])), params(
    ("webhookId" = String, Path, description = "The webhook's id", example = "019e1a2b3c4d5e6f70819203"),
), responses(
    (status = 200, description = "The webhook as it is now", body = WebhookView, headers(
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`WEBHOOK_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`WEBHOOK_OF_ROOM`: it is a URL of its room; change it there", body = ApiError),
))]
#[patch("/api/v1/webhooks/{webhookId}")]
pub async fn update_webhook(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: Map<String, Value> = body.read().await?;
    let id = existing(&id)?;
    let (change, fields) = read(&given, shared.reach);
    fields.check()?;
    let is_disabled = change.enabled == Some(false);
    let mut tx = shared.db.begin(app.id).await?;
    let changed = endpoints::change(&mut tx, app.id, id, change, shared.clock.now()).await?;
    let changed = changed.ok_or_else(not_found)?;
    tx.commit().await?;
    if is_disabled {
        endpoints::skip_waiting(&shared.db, app.id, id).await?;
    }
    Ok(warned(&WebhookView::from(changed), &given, NAMES))
}

/// Delete a webhook
///
/// It gets nothing more, and what was delivered to it cannot be read any more. A room's URL is taken away from the room.
#[utoipa::path(tag = "webhooks", security(("secretKey" = []), ("bearer" = [])), params(
    ("webhookId" = String, Path, description = "The webhook's id", example = "019e1a2b3c4d5e6f70819203"),
), responses(
    (status = 200, description = "The webhook is deleted", body = Done, example = json!({
        "success": true, "message": "Webhook successfully deleted",
    })),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`WEBHOOK_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`WEBHOOK_OF_ROOM`: it is a URL of its room; change it there", body = ApiError),
))]
#[delete("/api/v1/webhooks/{webhookId}")]
pub async fn delete_webhook(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    id: Path<String>,
) -> Result<Json<Done>, ApiError> {
    let id = existing(&id)?;
    let mut tx = shared.db.begin(app.id).await?;
    if !endpoints::delete(&mut tx, app.id, id, shared.clock.now()).await? {
        return Err(not_found());
    }
    tx.commit().await?;
    endpoints::skip_waiting(&shared.db, app.id, id).await?;
    Ok(Json(Done::webhook_deleted()))
}

/// Rotate the secret of the rooms' URLs
///
/// The URLs on the rooms of your app share one secret, which was shown when the app was made. A new one signs from now on; for
/// 24 hours, or as long as you say, the one before it signs along: `webhook-signature` then has both signatures.
#[utoipa::path(tag = "webhooks", request_body = RotateSecret, security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The new secret", body = SecretView, headers(
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 409, description = "`TOO_MANY_SECRETS`: so many sign that another would be too many", body = ApiError),
))]
#[post("/api/v1/webhooks/room-secret/rotate")]
pub async fn rotate_room_secret(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: Map<String, Value> = body.read().await?;
    let overlap = overlap(&given)?;
    let mut tx = shared.db.begin(app.id).await?;
    let (key, now, rng) = (&shared.master_key, shared.clock.now(), &mut rand::rng());
    let rotated = apps::rotate_webhook_secret(&mut tx, app.id, overlap, key, now, rng).await?;
    let rotated = rotated.ok_or_else(ApiError::unauthorized)?;
    tx.commit().await?;
    Ok(warned(&SecretView::from(rotated), &given, ROTATE_NAMES))
}

/// Rotate a webhook's secret
///
/// A new one signs from now on; for 24 hours, or as long as you say, the one before it signs along: `webhook-signature` then has
/// both signatures.
#[utoipa::path(tag = "webhooks", request_body = RotateSecret, security(("secretKey" = []), ("bearer" = [])), params(
    ("webhookId" = String, Path, description = "The webhook's id", example = "019e1a2b3c4d5e6f70819203"),
), responses(
    (status = 200, description = "The new secret", body = SecretView, headers(
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`WEBHOOK_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`TOO_MANY_SECRETS`: so many sign that another would be too many; `WEBHOOK_OF_ROOM`: the URLs of rooms \
        share one secret", body = ApiError),
))]
#[post("/api/v1/webhooks/{webhookId}/rotate")]
pub async fn rotate_webhook(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: Map<String, Value> = body.read().await?;
    let id = existing(&id)?;
    let overlap = overlap(&given)?;
    let mut tx = shared.db.begin(app.id).await?;
    let (key, now, rng) = (&shared.master_key, shared.clock.now(), &mut rand::rng());
    let rotated = endpoints::rotate(&mut tx, app.id, id, overlap, key, now, rng).await?;
    let rotated = rotated.ok_or_else(not_found)?;
    tx.commit().await?;
    Ok(warned(&SecretView::from(rotated), &given, ROTATE_NAMES))
}

/// Test a webhook
///
/// Sends it an event `test`, whatever its filter, by the way that all events go. Ask for the delivery to see what came of it.
#[utoipa::path(tag = "webhooks", security(("secretKey" = []), ("bearer" = [])), params(
    ("webhookId" = String, Path, description = "The webhook's id", example = "019e1a2b3c4d5e6f70819203"),
), responses(
    (status = 200, description = "The delivery of the test", body = DeliveryDetails),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`WEBHOOK_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`WEBHOOK_DISABLED`: enable it first", body = ApiError),
))]
#[post("/api/v1/webhooks/{webhookId}/test")]
pub async fn test_webhook(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    id: Path<String>,
) -> Result<Json<DeliveryDetails>, ApiError> {
    let id = existing(&id)?;
    let mut tx = shared.db.begin(app.id).await?;
    let (now, rng) = (shared.clock.now(), &mut rand::rng());
    let sent = endpoints::test(&mut tx, app.id, id, &request_id(), now, rng).await?;
    let sent = sent.ok_or_else(not_found)?;
    let details = deliveries::find(&mut tx, app.id, id, sent).await?;
    tx.commit().await?;
    answer(details)
}

/// List deliveries
///
/// What was, will be or could not be delivered to a webhook, newest first.
#[utoipa::path(tag = "webhooks", params(
    ("webhookId" = String, Path, description = "The webhook's id", example = "019e1a2b3c4d5e6f70819203"), ListDeliveries,
), security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "A page of deliveries", body = DeliveryPage),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`WEBHOOK_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/webhooks/{webhookId}/deliveries")]
pub async fn list_deliveries(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    id: Path<String>,
    query: Query<ListDeliveries>,
) -> Result<Json<DeliveryPage>, ApiError> {
    let id = existing(&id)?;
    let (filter, page) = query.read()?;
    let mut tx = shared.db.begin(app.id).await?;
    let endpoint = endpoints::find(&mut tx, app.id, id).await?;
    endpoint.ok_or_else(not_found)?;
    // One more than asked for tells whether there is another page.
    let more = deliveries::Page {
        limit: page.limit + 1,
        ..page
    };
    let mut found = deliveries::list(&mut tx, app.id, id, &filter, more).await?;
    drop(tx);
    let asked = usize::try_from(page.limit).unwrap_or_default();
    let is_last = found.len() <= asked;
    found.truncate(asked);
    let next = found.last().filter(|_| !is_last);
    Ok(Json(DeliveryPage {
        next_cursor: next.map(|delivery| delivery.id.to_string()),
        data: found.into_iter().map(DeliveryView::from).collect(),
    }))
}

/// Get a delivery
///
/// With what is sent, and what came of each attempt.
#[utoipa::path(tag = "webhooks", security(("secretKey" = []), ("bearer" = [])), params(
    ("webhookId" = String, Path, description = "The webhook's id", example = "019e1a2b3c4d5e6f70819203"),
    ("deliveryId" = String, Path, description = "The delivery's id", example = "019e1a2b3c4d5e6f70819204"),
), responses(
    (status = 200, description = "The delivery with its attempts", body = DeliveryDetails),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`DELIVERY_NOT_FOUND`, `WEBHOOK_NOT_FOUND`", body = ApiError),
))]
#[get("/api/v1/webhooks/{webhookId}/deliveries/{deliveryId}")]
pub async fn get_delivery(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    ids: Path<(String, String)>,
) -> Result<Json<DeliveryDetails>, ApiError> {
    let (id, delivery) = existing_delivery(&ids)?;
    let mut tx = shared.db.begin(app.id).await?;
    let endpoint = endpoints::find(&mut tx, app.id, id).await?;
    endpoint.ok_or_else(not_found)?;
    answer(deliveries::find(&mut tx, app.id, id, delivery).await?)
}

/// Send a delivery again
///
/// At once, with the same body and `webhook-id`, and with as many attempts as a new one has. One that is pending does not wait
/// longer for its next attempt.
#[utoipa::path(tag = "webhooks", security(("secretKey" = []), ("bearer" = [])), params(
    ("webhookId" = String, Path, description = "The webhook's id", example = "019e1a2b3c4d5e6f70819203"),
    ("deliveryId" = String, Path, description = "The delivery's id", example = "019e1a2b3c4d5e6f70819204"),
), responses(
    (status = 200, description = "The delivery, which is on its way", body = DeliveryDetails),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`DELIVERY_NOT_FOUND`, `WEBHOOK_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`WEBHOOK_DISABLED`: enable it first", body = ApiError),
))]
#[post("/api/v1/webhooks/{webhookId}/deliveries/{deliveryId}/resend")]
pub async fn resend_delivery(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    ids: Path<(String, String)>,
) -> Result<Json<DeliveryDetails>, ApiError> {
    let (id, delivery) = existing_delivery(&ids)?;
    let mut tx = shared.db.begin(app.id).await?;
    let endpoint = endpoints::find(&mut tx, app.id, id).await?;
    let endpoint = endpoint.ok_or_else(not_found)?;
    deliveries::resend(&mut tx, app.id, &endpoint, delivery, shared.clock.now()).await?;
    let details = deliveries::find(&mut tx, app.id, id, delivery).await?;
    tx.commit().await?;
    answer(details)
}

/// Send the deliveries of some time again
///
/// As one delivery is sent again, each by itself: in no promised order. 5000 with one call, the oldest first; go on with
/// `nextCursor`.
#[utoipa::path(tag = "webhooks", request_body = ResendDeliveries, security(("secretKey" = []), ("bearer" = [])), params(
    ("webhookId" = String, Path, description = "The webhook's id", example = "019e1a2b3c4d5e6f70819203"),
), responses(
    (status = 200, description = "How many are on their way", body = ResentView, headers(
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 404, description = "`WEBHOOK_NOT_FOUND`", body = ApiError),
    (status = 409, description = "`WEBHOOK_DISABLED`: enable it first", body = ApiError),
))]
#[post("/api/v1/webhooks/{webhookId}/resend")]
pub async fn resend_deliveries(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: Map<String, Value> = body.read().await?;
    let id = existing(&id)?;
    let which = which(&given)?;
    let mut tx = shared.db.begin(app.id).await?;
    let endpoint = endpoints::find(&mut tx, app.id, id).await?;
    let endpoint = endpoint.ok_or_else(not_found)?;
    let now = shared.clock.now();
    let resent = deliveries::resend_range(&mut tx, app.id, &endpoint, &which, now).await?;
    tx.commit().await?;
    let view = ResentView {
        resent: resent.count,
        next_cursor: resent.next.map(|id| id.to_string()),
    };
    Ok(warned(&view, &given, RESEND_NAMES))
}

/// What a body says of a webhook, and what is wrong with it.
fn read(given: &Map<String, Value>, reach: webhooks::Reach) -> (EndpointChange, Fields) {
    let mut fields = Fields::default();
    let mut change = EndpointChange::default();
    if let Some(url) = given.get("url") {
        match url.as_str() {
            Some(url) => change.url = fields.take("url", webhooks::check_url(url, reach)),
            None => fields.wrong("url", "must be text"),
        }
    }
    if let Some(events) = given.get("events") {
        change.events = fields.take("events", patterns(events));
    }
    if let Some(description) = given.get("description") {
        change.description = fields.take("description", text(description));
    }
    if let Some(enabled) = given.get("enabled") {
        change.enabled = fields.take("enabled", Property::read(enabled));
    }
    (change, fields)
}

/// A filter of events; `null` asks for the default.
fn patterns(value: &Value) -> Result<Vec<Pattern>, String> {
    if value.is_null() {
        return Ok(vec![Pattern::all()]);
    }
    let list = value.as_array();
    let list = list.filter(|list| (1..=MOST_PATTERNS).contains(&list.len()));
    let list = list.ok_or_else(|| format!("must be a list of 1 to {MOST_PATTERNS} events"))?;
    list.iter()
        .map(|item| item.as_str().unwrap_or_default().parse::<Pattern>())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// A description; an empty one is none.
fn text(value: &Value) -> Result<Option<String>, String> {
    let wrong = || {
        format!(
            "must be text of at most {LONGEST_DESCRIPTION} characters, without control characters"
        )
    };
    if value.is_null() {
        return Ok(None);
    }
    let text = value.as_str().ok_or_else(wrong)?.trim();
    if text.chars().count() > LONGEST_DESCRIPTION || text.chars().any(char::is_control) {
        return Err(wrong());
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// For how long the secrets before a new one sign along.
fn overlap(given: &Map<String, Value>) -> Result<TimeDelta, ApiError> {
    let mut fields = Fields::default();
    let seconds = match given.get("overlapSec") {
        None | Some(Value::Null) => Some(LONGEST_OVERLAP),
        Some(value) => {
            let seconds = value
                .as_i64()
                .filter(|seconds| (0..=LONGEST_OVERLAP).contains(seconds));
            let right = format!("must be a whole number from 0 to {LONGEST_OVERLAP}, in seconds");
            fields.take("overlapSec", seconds.ok_or(right))
        }
    };
    fields.check()?;
    Ok(TimeDelta::seconds(seconds.unwrap_or_default()))
}

/// The deliveries that are to be sent again.
fn which(given: &Map<String, Value>) -> Result<Resend, ApiError> {
    let mut fields = Fields::default();
    let mut instant = |field: &str| -> Option<DateTime<Utc>> {
        let Some(value) = given.get(field) else {
            fields.wrong(field, "must be given");
            return None;
        };
        let read: Option<UnixSec> = fields.take(field, Property::read(value))?;
        Some(read.map_or(DateTime::UNIX_EPOCH, |UnixSec(at)| at))
    };
    let (from, until) = (instant("fromUnixSec"), instant("toUnixSec"));
    if from.zip(until).is_some_and(|(from, until)| from >= until) {
        fields.wrong("toUnixSec", "must be after fromUnixSec");
    }
    let outcomes = match given.get("outcome") {
        None | Some(Value::Null) => Some(vec![Outcome::Failed, Outcome::Skipped]),
        Some(value) => {
            let outcome = value.as_str().unwrap_or_default().parse::<Outcome>().ok();
            let ended = outcome.filter(|outcome| *outcome != Outcome::Pending);
            let ended = ended.ok_or("must be failed, skipped or delivered");
            fields.take("outcome", ended).map(|outcome| vec![outcome])
        }
    };
    let after = match given.get("cursor") {
        None | Some(Value::Null) => None,
        Some(value) => cursor(&mut fields, value.as_str().unwrap_or_default()),
    };
    fields.check()?;
    Ok(Resend {
        // What could not be read has been refused.
        from: from.unwrap_or_default(),
        until: until.unwrap_or_default(),
        outcomes: outcomes.unwrap_or_default(),
        after,
    })
}

fn cursor(fields: &mut Fields, text: &str) -> Option<DeliveryId> {
    let cursor = text.parse::<DeliveryId>();
    fields.take("cursor", cursor.map_err(|_| "must be a nextCursor"))
}

impl ListDeliveries {
    fn read(&self) -> Result<(deliveries::Filter, deliveries::Page), ApiError> {
        let mut fields = Fields::default();
        let limit = self.limit.as_ref().and_then(|limit| {
            let limit = limit.parse().ok();
            let limit = limit.filter(|limit| (1..=MOST_LISTED).contains(limit));
            let right = format!("must be from 1 to {MOST_LISTED}");
            fields.take("limit", limit.ok_or(right))
        });
        let after = self.cursor.as_ref();
        let after = after.and_then(|text| cursor(&mut fields, text));
        let outcome = self.outcome.as_ref().and_then(|outcome| {
            let right = "must be pending, delivered, failed or skipped";
            fields.take("outcome", outcome.parse::<Outcome>().map_err(|()| right))
        });
        let event = self.event.as_ref().and_then(|event| match event.as_str() {
            "test" => Some(deliveries::Events::Test),
            event => {
                let pattern = event.parse().map(deliveries::Events::Like);
                fields.take("event", pattern.map_err(|error| format!("{error}, test")))
            }
        });
        let mut instant = |field, given: &Option<String>| -> Option<DateTime<Utc>> {
            let seconds = given
                .as_ref()?
                .parse::<i64>()
                .map_or(Value::Null, Value::from);
            let read: Option<UnixSec> = fields.take(field, Property::read(&seconds))?;
            read.map(|UnixSec(at)| at)
        };
        let filter = deliveries::Filter {
            outcome,
            event,
            from: instant("fromUnixSec", &self.from_unix_sec),
            until: instant("toUnixSec", &self.to_unix_sec),
        };
        fields.check()?;
        let limit = limit.unwrap_or(LISTED);
        Ok((filter, deliveries::Page { after, limit }))
    }
}

/// The id of a webhook that may exist: a text that is no id is the id of none.
fn existing(id: &str) -> Result<EndpointId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn existing_delivery(ids: &(String, String)) -> Result<(EndpointId, DeliveryId), ApiError> {
    let delivery = ids.1.parse().map_err(|_| ApiError::delivery_not_found())?;
    Ok((existing(&ids.0)?, delivery))
}

fn not_found() -> ApiError {
    ApiError::webhook_not_found()
}

fn answer(details: Option<Details>) -> Result<Json<DeliveryDetails>, ApiError> {
    let Details {
        delivery,
        body,
        tried,
    } = details.ok_or_else(ApiError::delivery_not_found)?;
    Ok(Json(DeliveryDetails {
        delivery: delivery.into(),
        body: RawValue::from_string(body).map_err(|error| ApiError::internal(&error))?,
        attempts: tried.into_iter().map(AttemptView::from).collect(),
    }))
}

/// An answer with a warning for each field that was given and is none of `known`.
fn warned(view: &impl Serialize, given: &Map<String, Value>, known: &[&str]) -> HttpResponse {
    let mut response = HttpResponse::Ok().json(view);
    Warnings::unknown_fields(given, known).tell(response.headers_mut());
    response
}

fn revealed(secret: &SigningSecret) -> String {
    secret.reveal().expose_secret().to_owned()
}

fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn id_of(id: impl Display) -> String {
    id.to_string()
}

impl From<Endpoint> for WebhookView {
    fn from(endpoint: Endpoint) -> Self {
        let (room_id, room_name) = endpoint.room.unzip();
        let events = endpoint.events;
        Self {
            id: endpoint.id.to_string(),
            url: endpoint.url,
            enabled: endpoint.disabled_at.is_none(),
            disabled_at: endpoint.disabled_at.map(iso),
            events: events.map(|events| events.iter().map(Pattern::to_string).collect()),
            description: endpoint.description,
            room_id: room_id.map(id_of),
            room_name,
            created: iso(endpoint.created_at),
            secret: None,
        }
    }
}

impl From<RotatedSecret> for SecretView {
    fn from(rotated: RotatedSecret) -> Self {
        Self {
            secret: revealed(&rotated.secret),
            old_secret_signs_until: iso(rotated.old_until),
        }
    }
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id.to_string(),
            event_id: delivery.event_id.to_string(),
            event: delivery.event,
            room_id: delivery.room_id.map(id_of),
            meeting_session_id: delivery.meeting_id.map(id_of),
            seq: delivery.seq,
            outcome: delivery.outcome.as_str(),
            attempt_count: delivery.attempts,
            next_attempt_at: delivery.due_at.map(iso),
            created: iso(delivery.created_at),
        }
    }
}

impl From<Tried> for AttemptView {
    fn from(tried: Tried) -> Self {
        Self {
            attempt: tried.attempt,
            at: iso(tried.at),
            latency_ms: tried.latency_ms,
            status: tried.status,
            answer: tried.answer,
            error: tried.error,
        }
    }
}

/// The fields of a webhook; those that are answered alone mean nothing to whoever sends one back as they got it.
const NAMES: &[&str] = &[
    "url",
    "events",
    "description",
    "enabled",
    "_id",
    "disabledAt",
    "roomId",
    "roomName",
    "created",
    "secret",
];
/// The fields of a rotation.
const ROTATE_NAMES: &[&str] = &["overlapSec"];
/// The fields of a resend.
const RESEND_NAMES: &[&str] = &["fromUnixSec", "toUnixSec", "outcome", "cursor"];
/// Patterns of a filter at most: there are fewer events.
const MOST_PATTERNS: usize = 20;
/// Longest description, in characters.
const LONGEST_DESCRIPTION: usize = 500;
/// Longest overlap of secrets, in seconds: a day.
const LONGEST_OVERLAP: i64 = 24 * 60 * 60;
/// Deliveries on a page, where nobody says how many.
const LISTED: i64 = 100;
/// Deliveries on a page at most.
const MOST_LISTED: i64 = 1000;
