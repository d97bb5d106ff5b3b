//! Figures for Prometheus: how requests go, and what this node holds. No label tells of an app, a room or a meeting.

use std::{
    fmt,
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::{Method, StatusCode, header},
    web::Data,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Utc};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::{
    Shared,
    auth::{bearer, host},
    error::ApiError,
    peer::{self, Origin},
};
use crate::webhooks;

/// What a node counts. The rest is asked for when it is told.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram>,
    in_flight: Gauge,
    sockets: Gauge,
    connections: Family<Connections, Gauge>,
    connections_limit: Family<Pool, Gauge>,
    deliveries: Family<Deliveries, Gauge>,
    meetings: Gauge,
    clock_offset: Gauge<f64, AtomicU64>,
    /// When the webhook queue was last asked for.
    asked: Mutex<Option<Instant>>,
}

/// One more of something, until it is dropped.
pub struct Counted(Gauge);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    method: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pool {
    pool: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connections {
    pool: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Deliveries {
    state: &'static str,
}

impl Metrics {
    /// Counts from nothing, for a process that started at `now`.
    pub fn new(now: DateTime<Utc>) -> Self {
        let mut new = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            in_flight: Gauge::default(),
            sockets: Gauge::default(),
            connections: Family::default(),
            connections_limit: Family::default(),
            deliveries: Family::default(),
            meetings: Gauge::default(),
            clock_offset: Gauge::default(),
            asked: Mutex::default(),
        };
        let registry = &mut new.registry;
        registry.register(
            "plenum_http_requests",
            "Requests that were answered, by route, method and class of status",
            new.requests.clone(),
        );
        registry.register_with_unit(
            "plenum_http_request_duration",
            "Time from the head of a request to the head of its answer",
            Unit::Seconds,
            new.durations.clone(),
        );
        registry.register(
            "plenum_http_requests_in_flight",
            "Requests that are being handled",
            new.in_flight.clone(),
        );
        registry.register(
            "plenum_signaling_sockets",
            "Signaling sockets that are open",
            new.sockets.clone(),
        );
        registry.register(
            "plenum_meetings",
            "Meetings that this node owns",
            new.meetings.clone(),
        );
        registry.register(
            "plenum_database_connections",
            "Connections to Postgres that are open, by pool, idle or used",
            new.connections.clone(),
        );
        registry.register(
            "plenum_database_connections_limit",
            "Most connections to Postgres that a pool opens",
            new.connections_limit.clone(),
        );
        registry.register(
            "plenum_webhook_deliveries",
            "Deliveries of all nodes that have not ended: due now, or later; absent while Postgres does not tell",
            new.deliveries.clone(),
        );
        registry.register_with_unit(
            "plenum_clock_offset",
            "How far this node's clock was behind that of Postgres when it was last set by it",
            Unit::Seconds,
            new.clock_offset.clone(),
        );
        registry.register(
            "plenum_build",
            "What runs",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let started: Gauge<f64, AtomicU64> = Gauge::default();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds fit into a double")]
        started.set(now.timestamp_millis() as f64 / 1000.0);
        registry.register_with_unit(
            "process_start_time",
            "When the process started, since the unix epoch",
            Unit::Seconds,
            started,
        );
        new
    }

    /// A request that is being handled.
    pub fn request(&self) -> Counted {
        Counted::new(&self.in_flight)
    }

    /// A signaling socket that is open.
    pub fn socket(&self) -> Counted {
        Counted::new(&self.sockets)
    }

    /// A request to the route of this pattern was answered. All that have no route count as one.
    pub fn answered(
        &self,
        route: Option<String>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let route = route.unwrap_or_else(|| NO_ROUTE.to_owned());
        let method = METHODS.iter().find(|known| **known == method.as_str());
        let method = method.copied().unwrap_or("OTHER"); // anybody may invent methods
        let status = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        let answered = Answered {
            route: route.clone(),
            method,
            status,
        };
        self.requests.get_or_create(&answered).inc();
        self.durations
            .get_or_create(&Route { route, method })
            .observe(took.as_secs_f64());
    }

    /// All figures, in the text format of OpenMetrics.
    async fn text(&self, shared: &Shared) -> Result<String, fmt::Error> {
        for (pool, state) in shared.db.pools() {
            let set = |state, count: u32| {
                let connections = Connections { pool, state };
                self.connections
                    .get_or_create(&connections)
                    .set(count.into());
            };
            set("idle", state.idle);
            set("used", state.open.saturating_sub(state.idle));
            self.connections_limit
                .get_or_create(&Pool { pool })
                .set(state.limit.into());
        }
        self.meetings
            .set(i64::try_from(shared.meetings.count()).unwrap_or(i64::MAX));
        let offset = shared.clock.offset();
        self.clock_offset.set(offset.as_seconds_f64());
        self.ask_for_deliveries(shared).await;
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts the webhook queue, at most once in [`KEPT`] however many want to know.
    async fn ask_for_deliveries(&self, shared: &Shared) {
        let mut asked = self.asked.lock().await;
        let now = shared.clock.instant();
        if asked.is_some_and(|at| now.saturating_duration_since(at) < KEPT) {
            return;
        }
        let question = webhooks::backlog(&shared.db, shared.clock.now());
        match tokio::time::timeout(PATIENCE, question).await {
            Ok(Ok(backlog)) => {
                for (state, count) in [("due", backlog.due), ("later", backlog.later)] {
                    let deliveries = Deliveries { state };
                    self.deliveries.get_or_create(&deliveries).set(count);
                }
            }
            _ => self.deliveries.clear(),
        }
        *asked = Some(shared.clock.instant());
    }
}

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Figures for Prometheus
///
/// For programs on the server's own machine that reach it over loopback, and for whoever has `PLENUM_METRICS_TOKEN`.
#[utoipa::path(tag = "service", security((), ("bearer" = [])), responses(
    (status = 200, description = "The figures, in the text format of OpenMetrics", body = String,
        content_type = CONTENT_TYPE),
    (status = 404, description = "`NOT_FOUND`: for everybody else", body = ApiError),
))]
#[get("/metrics")]
pub async fn metrics(shared: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    if !may_see(&request, &shared) {
        return Err(ApiError::not_found(request.method(), request.path()));
    }
    let text = shared.metrics.text(&shared).await;
    let text = text.map_err(|error| ApiError::internal(&error))?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, CONTENT_TYPE))
        .body(text))
}

fn may_see(request: &HttpRequest, shared: &Shared) -> bool {
    if let (Some(given), Some(token)) = (bearer(request), &shared.metrics_token) {
        return verify_slices_are_equal(given.as_bytes(), token.expose_secret().as_bytes()).is_ok();
    }
    let origin = Origin::of(request, &shared.trusted_proxies);
    peer::is_local(request, host(request, &origin).as_ref())
}

/// A token for `PLENUM_METRICS_TOKEN`.
pub fn token(text: &str) -> Result<SecretString, String> {
    let plain = |byte: u8| byte.is_ascii_graphic();
    if (16..=200).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.into())
    } else {
        Err("must be 16 to 200 visible ASCII characters without spaces".to_owned())
    }
}

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The label of requests that no route is for.
const NO_ROUTE: &str = "none";
/// The methods that are told apart.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Upper bounds in seconds: from an answer without a database to the longest statement.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0,
];
/// Prometheus asks every 15 s or so; who asks more often learns nothing more.
const KEPT: Duration = Duration::from_secs(5);
/// Longest time that the webhook queue's figures are waited for: Prometheus gives up after 10 s.
const PATIENCE: Duration = Duration::from_secs(1);
