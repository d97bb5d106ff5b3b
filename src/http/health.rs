//! Whether the server lives, and whether it is ready for work.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{HttpResponse, get, web::Data};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::{Shared, auth::NamedApp, error::ApiError};
use crate::{
    apps::{self, AppName},
    meetings,
};

/// How the server is, in MikroMeet's shape.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "status": "ok", "totalRooms": 2, "totalParticipants": 5, "peakParticipants": 12, "uptime": 86400000,
    "version": "0.1.0",
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
    /// The most people that were told here since the start.
    peak_participants: i64,
    /// Milliseconds since the start.
    uptime: u64,
    /// Version of the server.
    version: &'static str,
}

/// The figures of each app, and of all together (`None`); each asked for at most once in [`KEPT`] however many want to know.
#[derive(Debug, Default)]
pub struct Figures(std::sync::Mutex<HashMap<Option<AppName>, Arc<Mutex<Told>>>>);

/// What the database told, and when it was asked last.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// Live meetings and the people in them; `None` while the database does not tell.
    now: Option<(i64, i64)>,
    peak: i64,
}

impl Figures {
    /// The figures of an app, or of all; `None` where there is no such app.
    async fn get(&self, app: Option<AppName>, shared: &Shared) -> Option<Told> {
        let told = self.place(&app);
        let mut told = told.lock().await;
        let now = shared.clock.instant();
        if let Some(at) = told.at
            && now.saturating_duration_since(at) < KEPT
        {
            return Some(*told);
        }
        let asked = tokio::time::timeout(PATIENCE, ask(app.as_ref(), shared)).await;
        told.now = match asked {
            Ok(Ok(None)) => {
                self.forget(&app);
                return None;
            }
            Ok(Ok(figures)) => figures,
            Ok(Err(_)) | Err(_) => None,
        };
        told.at = Some(shared.clock.instant());
        if let Some((_, participants)) = told.now {
            told.peak = told.peak.max(participants);
        }
        Some(*told)
    }

    fn place(&self, app: &Option<AppName>) -> Arc<Mutex<Told>> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(app) {
            return place.clone();
        }
        if places.len() >= MOST_KEPT {
            places.retain(|app, place| app.is_none() || Arc::strong_count(place) > 1);
        }
        let place = Arc::default();
        // Beyond that, each asks for itself.
        if places.len() < MOST_KEPT {
            places.insert(app.clone(), Arc::clone(&place));
        }
        place
    }

    /// Anybody can make up names.
    fn forget(&self, app: &Option<AppName>) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.remove(app);
    }
}

async fn ask(app: Option<&AppName>, shared: &Shared) -> Result<Option<(i64, i64)>, ApiError> {
    let Some(name) = app else {
        return Ok(Some(meetings::totals(&shared.db).await?));
    };
    let app = apps::find(&mut shared.db.system().await?, name).await?;
    let Some(app) = app else {
        return Ok(None);
    };
    let mut tx = shared.db.begin(app.id).await?;
    Ok(Some(meetings::totals_of(&mut tx, app.id).await?))
}

/// Health of the server
///
/// Figures at most a second old: on the host of an app those of that app, on any other those of all apps together. Whether
/// the server can do its work is told by `/ready`.
#[utoipa::path(tag = "service", responses(
    (status = 200, description = "The server lives", body = Health),
    (status = 404, description = "`APP_NOT_FOUND`: the host is of an app that there is not", body = ApiError),
))]
#[get("/health")]
pub async fn health(shared: Data<Shared>, app: NamedApp) -> Result<HttpResponse, ApiError> {
    let told = shared.figures.get(app.0, &shared).await;
    let told = told.ok_or_else(ApiError::app_not_found)?;
    let uptime = u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(HttpResponse::Ok().json(Health {
        status: "ok",
        total_rooms: told.now.map(|(rooms, _)| rooms),
        total_participants: told.now.map(|(_, participants)| participants),
        peak_participants: told.peak,
        uptime,
        version: env!("CARGO_PKG_VERSION"),
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
        return Err(ApiError::unavailable("the server is starting or stopping"));
    }
    shared.db.ping().await?;
    Ok(HttpResponse::Ok().json(serde_json::json!({ "ready": true })))
}

/// Monitors ask every few seconds; who asks more often learns nothing more.
const KEPT: Duration = Duration::from_secs(1);
/// A monitor's own patience is a few seconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Apps whose figures are kept. The least that a busy server needs, and some megabytes at most.
const MOST_KEPT: usize = 10_000;
