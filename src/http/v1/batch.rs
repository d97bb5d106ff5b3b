//! Many rooms with one call: each in a transaction of its own, with a result of its own.

use actix_web::{
    HttpRequest, post,
    web::{Data, Json},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::rooms::{self, Done, RoomProperties, RoomView};
use crate::{
    http::{
        Shared,
        auth::AuthenticatedApp,
        body::Body,
        error::{ApiError, Fields},
        limits,
    },
    rooms::Expected,
};

/// Rooms that are to be.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({ "rooms": [{ "roomName": "monday" }, { "roomName": "tuesday", "maxParticipants": 10 }] }))]
#[expect(dead_code, reason = "describes the body, which is read item by item")]
pub struct CreateRooms {
    /// 1 to 100 of what creates one room.
    #[schema(value_type = Vec<RoomProperties>, min_items = 1, max_items = 100)]
    rooms: Vec<Map<String, Value>>,
}

/// Rooms that are not to be any more.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({ "roomNames": ["monday", "tuesday"] }))]
#[expect(dead_code, reason = "describes the body, which is read item by item")]
pub struct DeleteRooms {
    /// 1 to 100 names.
    #[schema(min_items = 1, max_items = 100)]
    room_names: Vec<String>,
}

/// What came of each, in the order in which they were given.
#[derive(Serialize, ToSchema)]
pub struct Results<T> {
    /// One for each.
    results: Vec<Outcome<T>>,
}

/// What came of one: what one call for it alone would have answered.
#[derive(Serialize, ToSchema)]
pub struct Outcome<T> {
    /// The status.
    #[schema(example = 200)]
    status: u16,
    /// What was done, with status 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<T>,
    /// What is wrong, with any other status.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
    /// What was ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Create many rooms
///
/// Each is created, or refused, by itself, and counts as a request. With `Idempotency-Key`, asking again creates only what was
/// not created before.
#[utoipa::path(tag = "rooms", request_body = CreateRooms, security(("secretKey" = []), ("bearer" = [])), params(
    ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request: 1 to 250 characters"),
), responses(
    (status = 200, description = "A result for each, in their order", body = Results<RoomView>),
    (status = 400, description = "`INVALID_REQUEST`: nothing was done", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
))]
#[post("/api/v1/rooms/batch-create")]
pub async fn create_rooms(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    body: Body,
) -> Result<Json<Results<RoomView>>, ApiError> {
    let rooms = items(body, "rooms").await?;
    limits::charge(&request, &shared, app.id, rooms.len() - 1)?;
    let key = rooms::idempotency_key(&request)?;
    let of_item = |index| key.as_ref().map(|key| key.item(index)).transpose();
    let keys: Result<Vec<_>, _> = (0..rooms.len()).map(of_item).collect();
    let keys =
        keys.map_err(|_| ApiError::invalid("Idempotency-Key must have at most 250 characters"))?;
    let mut results = Vec::with_capacity(rooms.len());
    for (item, key) in rooms.iter().zip(&keys) {
        let Value::Object(given) = item else {
            let error = ApiError::invalid("each of rooms must be a JSON object");
            results.push(Outcome::new(Err(error), Vec::new()));
            continue;
        };
        let created = rooms::create(&shared, app.id, given, key.as_ref()).await;
        let outcome = created.map(|created| RoomView::new(created.room, &shared.master_key));
        let warnings = rooms::unknown(given).into_texts();
        results.push(Outcome::new(outcome, warnings));
    }
    Ok(Json(Results { results }))
}

/// Delete many rooms
///
/// Each is deleted, or not found, by itself, and counts as a request.
#[utoipa::path(tag = "rooms", request_body = DeleteRooms, security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "A result for each, in their order", body = Results<Done>),
    (status = 400, description = "`INVALID_REQUEST`: nothing was done", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
))]
#[post("/api/v1/rooms/batch-delete")]
pub async fn delete_rooms(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    body: Body,
) -> Result<Json<Results<Done>>, ApiError> {
    let room_names = items(body, "roomNames").await?;
    limits::charge(&request, &shared, app.id, room_names.len() - 1)?;
    let mut results = Vec::with_capacity(room_names.len());
    for name in &room_names {
        let archived = match name.as_str() {
            Some(name) => rooms::archive(&shared, app.id, name, &Expected::Anything).await,
            None => Err(ApiError::invalid("each of roomNames must be text")),
        };
        results.push(Outcome::new(
            archived.map(|()| Done::archived()),
            Vec::new(),
        ));
    }
    Ok(Json(Results { results }))
}

/// The list in the body.
///
/// # Errors
///
/// `INVALID_REQUEST` where there is none, or one of another length.
async fn items(body: Body, field: &str) -> Result<Vec<Value>, ApiError> {
    let mut given: Map<String, Value> = body.read().await?;
    let mut fields = Fields::default();
    let items = match given.remove(field) {
        Some(Value::Array(items)) if (1..=MOST).contains(&items.len()) => items,
        _ => {
            fields.wrong(field, format!("must be a list of 1 to {MOST} items"));
            Vec::new()
        }
    };
    fields.check()?;
    Ok(items)
}

impl<T> Outcome<T> {
    fn new(outcome: Result<T, ApiError>, warnings: Vec<String>) -> Self {
        let (status, result, error) = match outcome {
            Ok(result) => (200, Some(result), None),
            Err(error) => (error.status().as_u16(), None, Some(error)),
        };
        Self {
            status,
            result,
            error,
            warnings,
        }
    }
}

/// Items of one call at most.
const MOST: usize = 100;
