//! Whether the server lives, and whether it is ready for work.

use actix_web::{HttpResponse, get, http::StatusCode, web::Data};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Shared, error::ApiError};
use crate::meetings;

/// How the server is, in MikroMeet's shape.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "status": "ok", "totalRooms": 2, "totalParticipants": 5, "uptime": 86400000, "version": "0.1.0",
}))]
pub struct Health {
    /// Always `ok`.
    status: &'static str,
    /// Meetings that are live.
    total_rooms: i64,
    /// People who are in them.
    total_participants: i64,
    /// Milliseconds since the start.
    uptime: u64,
    /// Version of the server.
    version: &'static str,
}

/// Health of the server
///
/// Figures of all apps together.
#[utoipa::path(tag = "service", responses(
    (status = 200, description = "The server lives", body = Health),
    (status = 503, description = "`UNAVAILABLE`: the database is away", body = ApiError),
))]
#[get("/health")]
pub async fn health(shared: Data<Shared>) -> Result<HttpResponse, ApiError> {
    let (total_rooms, total_participants) = meetings::totals(&shared.db).await?;
    let uptime = u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let version = env!("CARGO_PKG_VERSION");
    Ok(HttpResponse::Ok().json(Health {
        status: "ok",
        total_rooms,
        total_participants,
        uptime,
        version,
    }))
}

/// Readiness of the server
///
/// For load balancers: 200 from the moment all parts run until the server is told to stop.
#[utoipa::path(tag = "service", responses(
    (status = 200, description = "Ready for work"),
    (status = 503, description = "`UNAVAILABLE`: starting, stopping, or without a database", body = ApiError),
))]
#[get("/ready")]
pub async fn ready(shared: Data<Shared>) -> Result<HttpResponse, ApiError> {
    if !shared.is_ready() {
        let message = "the server is starting or stopping";
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            message,
        ));
    }
    shared.db.ping().await?;
    Ok(HttpResponse::Ok().json(serde_json::json!({ "ready": true })))
}
