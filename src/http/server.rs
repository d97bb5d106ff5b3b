//! The HTTP server: routes, and what every request passes through.

use std::{net::TcpListener, num::NonZero, panic::AssertUnwindSafe, time::Duration};

use actix_web::{
    App, Error, FromRequest, HttpMessage, HttpRequest, HttpResponse, HttpServer, Responder,
    body::MessageBody,
    dev::{Server, ServiceRequest, ServiceResponse},
    error::InternalError,
    get,
    http::{
        ConnectionType, Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::{Compress, Next, NormalizePath, from_fn},
    web::{Data, PathConfig, Payload, QueryConfig, ServiceConfig},
};
use clap::value_parser;
use futures_util::FutureExt;
use nix::sys::socket::{setsockopt, sockopt};
use rand::RngExt;
use rustls::ServerConfig;
use tracing::{Instrument, debug, info, info_span};
use utoipa_actix_web::AppExt;
use utoipa_swagger_ui::SwaggerUi;

use super::{
    Shared, auth::HostApp, body, compat, error::ApiError, limits, methods, openapi, page,
    path::ShownPath, peer::Origin,
};
use crate::{
    id::AppId,
    meetings::Caller,
    rate::Quota,
    signaling::{self, Client, protocol::LONGEST_FRAME},
    tokens::{self, TokenText},
};

/// Settings of connections and requests.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "HTTP")]
#[group(skip)]
pub struct Config {
    /// Connections at once, signaling sockets among them: 16 to 1000000. More wait until one ends. Each needs a file
    /// descriptor.
    #[arg(long, env = "PLENUM_HTTP_MAX_CONNECTIONS", default_value = "20000")]
    #[arg(value_parser = value_parser!(u32).range(16..=1_000_000))]
    pub http_max_connections: u32,
    /// Longest time from the begin of a connection to the end of its TLS handshake, and from there to the end of the first
    /// request's head: 1s to 5m.
    #[arg(long, env = "PLENUM_HTTP_HEADER_TIMEOUT", default_value = "10s", value_parser = seconds)]
    pub http_header_timeout: Duration,
    /// Longest time that a request's body may take to arrive: 100ms to 5m.
    #[arg(long, env = "PLENUM_HTTP_BODY_TIMEOUT", default_value = "30s", value_parser = timeout)]
    pub http_body_timeout: Duration,
    /// How long a connection is kept for its next request: 1s to 5m. A proxy should close its connections earlier.
    #[arg(long, env = "PLENUM_HTTP_KEEP_ALIVE", default_value = "75s", value_parser = seconds)]
    pub http_keep_alive: Duration,
    /// Longest body of a request, in bytes: 65536 (64 KiB) to 67108864 (64 MiB).
    #[arg(long, env = "PLENUM_HTTP_BODY_LIMIT", default_value = "1048576")]
    #[arg(value_parser = value_parser!(u32).range(65_536..=67_108_864))]
    pub http_body_limit: u32,
    /// How long requests that are under way may go on once the server is told to stop: 1s to 5m.
    #[arg(long, env = "PLENUM_HTTP_SHUTDOWN_TIMEOUT", default_value = "5s", value_parser = seconds)]
    pub http_shutdown_timeout: Duration,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_mins(5)).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("must be from 100ms to 5m".to_owned())
    }
}

/// A timeout that the server counts by a clock of its own, which shows half seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let timeout = timeout(text)?;
    if timeout.as_secs() > 0 && timeout.subsec_nanos() == 0 {
        Ok(timeout)
    } else {
        Err("must be from 1s to 5m, in whole seconds".to_owned())
    }
}

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request that is being handled; empty outside of one.
pub fn request_id() -> String {
    REQUEST_ID.try_with(Clone::clone).unwrap_or_default()
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// All there is.
    All,
    /// `/health`, `/ready` and `/metrics`.
    Monitoring,
}

/// Serves `routes` by HTTP on `listener`, or with `tls` by HTTPS. The server runs until it is stopped by its handle.
pub fn serve(
    listener: TcpListener,
    routes: Routes,
    shared: Shared,
    config: &Config,
    tls: Option<ServerConfig>,
) -> std::io::Result<Server> {
    // Connections have it from their listener: one that takes nothing is closed, whatever waits for it.
    setsockopt(&listener, sockopt::TcpUserTimeout, &TAKES_NOTHING_MS)?;
    let shared = Data::new(shared);
    let reading = body::Limits {
        longest: config.http_body_limit as usize,
        time: config.http_body_timeout,
    };
    let server = HttpServer::new(move || {
        App::new()
            .app_data(shared.clone())
            .app_data(reading)
            .into_utoipa_app()
            .openapi(openapi::document())
            .configure(match routes {
                Routes::All => openapi::routes,
                Routes::Monitoring => openapi::monitoring,
            })
            .into_app()
            .configure(|config| {
                if routes == Routes::All {
                    undocumented(config);
                }
            })
            .default_service(actix_web::web::to(nothing_here))
            .app_data(PathConfig::default().error_handler(|_, _| ApiError::room_not_found().into()))
            .app_data(QueryConfig::default().error_handler(|_, _| {
                let message =
                    "Invalid request: the query cannot be read; give each parameter once, as UTF-8";
                ApiError::invalid(message).into()
            }))
            .wrap(Compress::default())
            .wrap(from_fn(survive))
            .wrap(from_fn(pass))
            .wrap(NormalizePath::trim())
    });
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let server = server
        .workers(workers)
        // Each worker counts its own.
        .max_connections((config.http_max_connections as usize).div_ceil(workers))
        .client_request_timeout(config.http_header_timeout)
        .tls_handshake_timeout(config.http_header_timeout)
        .keep_alive(config.http_keep_alive)
        .shutdown_timeout(config.http_shutdown_timeout.as_secs())
        // Signals are the process's: it stops in an order of its own.
        .disable_signals()
        // An answer, or a frame of a socket, waits for nothing.
        .tcp_nodelay(true);
    let server = match tls {
        None => server.listen(listener)?,
        Some(tls) => server.listen_rustls_0_23(listener, tls)?,
    };
    Ok(server.run())
}

/// What the API's description does not have.
fn undocumented(config: &mut ServiceConfig) {
    config
        .service(SwaggerUi::new("/docs/{_:.*}").url("/openapi.json", openapi::document()))
        .service(docs)
        .service(socket)
        .configure(compat::mikromeet::routes)
        .service(page::asset)
        .service(page::room_page)
        .configure(methods::others(&openapi::document()));
}

/// What every request passes through: its id, its span, its line in the log, and the headers of every answer. HEAD is
/// handled as GET, of which only the head is sent. Once the server stops, requests on connections that are still open are
/// refused, and the connections closed.
///
/// The log has the path, of it nothing that may be a secret, and never the query, in which keys travel.
async fn pass(
    shared: Data<Shared>,
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let id = given_id(request.request())
        .unwrap_or_else(|| format!("{:016x}", rand::rng().random::<u64>()));
    request.headers_mut().remove(REQUEST_ID_HEADER);
    let secure = Origin::of(request.request(), &shared.trusted_proxies).secure;
    let span = info_span!(
        "request",
        request.id = %id,
        http.method = %request.method(),
        http.scheme = if secure { "https" } else { "http" },
        http.path = %ShownPath(request.path()),
    );
    let method = request.method().clone();
    let in_flight = shared.metrics.request();
    // The connection remembers that it was HEAD, and sends no body.
    if request.method() == Method::HEAD {
        request.head_mut().method = Method::GET;
    }
    let started = shared.clock.instant();
    let stopping = shared.stopping.is_cancelled();
    let handle = async {
        if stopping {
            let refusal = ApiError::unavailable("the server is stopping; try again");
            return Ok(request.error_response(refusal).map_into_right_body());
        }
        next.call(request)
            .await
            .map(ServiceResponse::map_into_left_body)
    };
    let handle = REQUEST_ID.scope(id.clone(), handle.instrument(span.clone()));
    let mut answer = match handle.await {
        Ok(answer) => answer,
        // No request is left for an answer to be of.
        Err(error) => {
            let mut response = error.error_response();
            shared
                .metrics
                .answered(None, &method, response.status(), started.elapsed());
            complete(response.headers_mut(), &id);
            return Err(InternalError::from_response(error, response).into());
        }
    };
    if stopping {
        let head = answer.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    drop(in_flight);
    let (status, took) = (answer.status(), started.elapsed());
    let route = answer.request().match_pattern();
    shared.metrics.answered(route, &method, status, took);
    let _span = span.enter();
    let http_status = status.as_u16();
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    // Who reads, and gets what they ask for in time, is most of all requests, and seldom looked for.
    if method == Method::GET
        && !status.is_client_error()
        && !status.is_server_error()
        && took < SLOW
    {
        debug!(http.status = http_status, duration_ms, "answered");
    } else {
        info!(http.status = http_status, duration_ms, "answered");
    }
    let quota = answer.request().extensions().get::<Quota>().copied();
    let headers = answer.headers_mut();
    if let Some(quota) = quota {
        limits::tell(quota, headers);
    }
    complete(headers, &id);
    Ok(answer)
}

/// Adds the headers that every answer has.
fn complete(headers: &mut HeaderMap, id: &str) {
    let mut default = |name: HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    };
    default(header::REFERRER_POLICY, "no-referrer");
    default(header::CACHE_CONTROL, "no-store");
    default(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), id);
    }
}

/// Makes an error of a panic, which has been logged when it came.
async fn survive(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    // What a handler shares with others is behind locks whose poison is cleared, or in Postgres.
    AssertUnwindSafe(next.call(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(ApiError::broken().into()))
}

/// The request id that a caller gave, if it can stand in a log.
fn given_id(request: &HttpRequest) -> Option<String> {
    let id = request.headers().get(REQUEST_ID_HEADER)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ((1..=64).contains(&id.len()) && id.bytes().all(plain)).then(|| id.to_owned())
}

/// The signaling socket.
#[get("/ws")]
async fn socket(
    shared: Data<Shared>,
    app: HostApp,
    request: HttpRequest,
    body: Payload,
) -> Result<HttpResponse, ApiError> {
    let app = app.0.id;
    let address = Origin::of(&request, &shared.trusted_proxies).address;
    let offered = offered_token(&request);
    let protocols: Vec<&str> = std::iter::once(PROTOCOL).chain(offered).collect();
    let undecoded = signaling::Undecoded::default();
    let mut watched = undecoded.watch(body.into_inner());
    let watched = Payload::from_request(&request, &mut watched).await;
    let watched = watched.map_err(|_| ApiError::broken())?;
    let upgraded = actix_ws::handle_with_protocols(&request, watched, &protocols);
    let (response, session, messages) = upgraded.map_err(|error| {
        let message = format!("/ws speaks WebSocket: {error}");
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", message)
    })?;
    let token = offered.and_then(|offered| offered.strip_prefix(TOKEN_PROTOCOL));
    let token = token.map(|text| TokenText::from(text.to_owned()));
    let is_known = match &token {
        Some(token) => is_good(&shared, app, token).await?,
        None => false,
    };
    let toll = if is_known {
        None
    } else {
        Some(shared.limits.open_socket(address, shared.clock.now())?)
    };
    let user_agent = request.headers().get(header::USER_AGENT);
    let device = signaling::device(
        user_agent
            .and_then(|given| given.to_str().ok())
            .unwrap_or_default(),
    );
    let client = Client {
        caller: Caller { app, address },
        device: device.into(),
        token,
        toll,
    };
    let socket = signaling::Socket {
        session,
        messages: messages.max_frame_size(LONGEST_FRAME),
        undecoded,
    };
    let Shared {
        meetings,
        anonymous,
        clock,
        stopping,
        signaling_ping,
        ..
    } = Shared::clone(&shared);
    let open = shared.metrics.socket();
    actix_web::rt::spawn(async move {
        signaling::connect(
            client,
            socket,
            meetings,
            anonymous,
            clock,
            signaling_ping,
            stopping,
        )
        .await;
        drop(open);
    });
    Ok(response)
}

/// The subprotocol that carries a token, of those that a client offers.
fn offered_token(request: &HttpRequest) -> Option<&str> {
    let lines = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .find(|protocol| protocol.starts_with(TOKEN_PROTOCOL))
}

/// Whether a token is one of the app's, and in its time. What is wrong with a bad one is said at the join.
async fn is_good(shared: &Shared, app: AppId, token: &TokenText) -> Result<bool, ApiError> {
    let mut tx = shared.db.begin(app).await?;
    match tokens::verify(&mut tx, app, token, &shared.master_key, shared.clock.now()).await {
        Ok(_) => Ok(true),
        Err(tokens::Error::Invalid | tokens::Error::Expired | tokens::Error::NotYetValid) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Where people look for the documentation.
#[get("/docs")]
async fn docs() -> impl Responder {
    actix_web::web::Redirect::to("/docs/index.html")
}

async fn nothing_here(request: HttpRequest) -> impl Responder {
    Err::<HttpResponse, _>(ApiError::not_found(request.method(), request.path()))
}

/// What a signaling socket speaks, for clients that have to name a subprotocol.
const PROTOCOL: &str = "plenum";
/// Begins the subprotocol by which a client shows its token at the upgrade.
const TOKEN_PROTOCOL: &str = "plenum.token.";
/// A connection on which the client has acknowledged none of what was sent for so long is closed, in milliseconds.
const TAKES_NOTHING_MS: u32 = 30_000;
/// A read that takes longer is worth a line.
const SLOW: Duration = Duration::from_secs(1);
const REQUEST_ID_HEADER: &str = "x-request-id";

#[cfg(test)]
mod tests {
    use actix_web::{test, web};

    use super::*;

    #[actix_web::test]
    async fn a_handler_that_panics_is_answered_for_with_an_error_of_our_shape() {
        async fn panics() -> HttpResponse {
            panic!("a canary")
        }
        let app = App::new()
            .wrap(from_fn(survive))
            .route("/", web::get().to(panics));
        let app = test::init_service(app).await;
        let request = test::TestRequest::get().uri("/").to_request();
        let error = test::try_call_service(&app, request).await.err().unwrap();
        let response = error.error_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = actix_web::body::to_bytes(response.into_body())
            .await
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "INTERNAL_ERROR");
        assert!(!body.to_string().contains("canary"));
    }
}
