//! Whether the server lives, and whether it is ready for work.

use std::time::{Duration, Instant};

use actix_web::{HttpResponse, get, web::Data};
use serde::Serialize;
use tokio::sync::Mutex;
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
    /// Meetings that are live; null while the database is away.
    #[schema(required)]
    total_rooms: Option<i64>,
    /// People who are in them; null while the database is away.
    #[schema(required)]
    total_participants: Option<i64>,
    /// Milliseconds since the start.
    uptime: u64,
    /// Version of the server.
    version: &'static str,
}

/// The figures of all apps together, asked for at most once in [`KEPT`] however many want to know.
#[derive(Debug, Default)]
pub struct Figures(Mutex<Option<Asked>>);

/// What the database told, if it did.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    figures: Option<(i64, i64)>,
}

impl Figures {
    /// Live meetings and the people in them; `None` while the database does not tell.
    async fn get(&self, shared: &Shared) -> Option<(i64, i64)> {
        let mut kept = self.0.lock().await;
        let now = shared.clock.instant();
        if let Some(Asked { at, figures }) = *kept
            && now.saturating_duration_since(at) < KEPT
        {
            return figures;
        }
        let asked = tokio::time::timeout(PATIENCE, meetings::totals(&shared.db)).await;
        let figures = asked.ok().and_then(Result::ok);
        *kept = Some(Asked {
            at: shared.clock.instant(),
            figures,
        });
        figures
    }
}

/// Health of the server
///
/// Figures of all apps together, at most a second old. Whether the server can do its work is told by `/ready`.
#[utoipa::path(tag = "service", responses(
    (status = 200, description = "The server lives", body = Health),
))]
#[get("/health")]
pub async fn health(shared: Data<Shared>) -> HttpResponse {
    let figures = shared.figures.get(&shared).await;
    let uptime = u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    HttpResponse::Ok().json(Health {
        status: "ok",
        total_rooms: figures.map(|(rooms, _)| rooms),
        total_participants: figures.map(|(_, participants)| participants),
        uptime,
        version: env!("CARGO_PKG_VERSION"),
    })
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
        return Err(ApiError::unavailable("the server is starting or stopping"));
    }
    shared.db.ping().await?;
    Ok(HttpResponse::Ok().json(serde_json::json!({ "ready": true })))
}

/// Monitors ask every few seconds; who asks more often learns nothing more.
const KEPT: Duration = Duration::from_secs(1);
/// A monitor's own patience is a few seconds.
const PATIENCE: Duration = Duration::from_secs(1);
