//! The HTTP server: routes, and what every request passes through.

use std::net::TcpListener;

use actix_web::{
    App, Error, HttpMessage, HttpRequest, HttpResponse, HttpServer, Responder,
    body::MessageBody,
    dev::{Server, ServiceRequest, ServiceResponse},
    get,
    http::{
        ConnectionType, Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::{Compress, Next, NormalizePath, from_fn},
    web::{Data, PathConfig, Payload},
};
use rand::RngExt;
use rustls::ServerConfig;
use tracing::{Instrument, info, info_span};
use utoipa_actix_web::AppExt;
use utoipa_swagger_ui::SwaggerUi;

use super::{
    Shared, auth::HostApp, error::ApiError, limits::Quota, methods, openapi, page, peer::Origin,
};
use crate::signaling::{self, protocol::LONGEST_FRAME};

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request that is being handled; empty outside of one.
pub fn request_id() -> String {
    REQUEST_ID.try_with(Clone::clone).unwrap_or_default()
}

/// Serves HTTP on `listener`, or with `tls` HTTPS. The server runs until it is stopped by its handle.
pub fn serve(
    listener: TcpListener,
    shared: Shared,
    tls: Option<ServerConfig>,
) -> std::io::Result<Server> {
    let shared = Data::new(shared);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(shared.clone())
            .into_utoipa_app()
            .openapi(openapi::document())
            .configure(openapi::routes)
            .map(|app| {
                app.service(
                    SwaggerUi::new("/docs/{_:.*}").url("/openapi.json", openapi::document()),
                )
            })
            .into_app()
            .service(docs)
            .service(socket)
            .service(page::asset)
            .service(page::room_page)
            .configure(methods::others(&openapi::document()))
            .default_service(actix_web::web::to(nothing_here))
            .app_data(PathConfig::default().error_handler(|_, _| ApiError::room_not_found().into()))
            .wrap(Compress::default())
            .wrap(from_fn(pass))
            .wrap(NormalizePath::trim())
    });
    // Signals are the process's: it stops in an order of its own.
    let server = server.disable_signals().shutdown_timeout(SHUTDOWN_SECONDS);
    let server = match tls {
        None => server.listen(listener)?,
        Some(tls) => server.listen_rustls_0_23(listener, tls)?,
    };
    Ok(server.run())
}

/// What every request passes through: its id, its span, its line in the log, and the headers of every answer. HEAD is
/// handled as GET, of which only the head is sent. Once the server stops, requests on connections that are still open are
/// refused, and the connections closed.
///
/// The log has the path and never the query, in which keys travel.
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
        http.path = %request.path(),
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
    let mut answer = handle.await?;
    if stopping {
        let head = answer.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    drop(in_flight);
    let (status, took) = (answer.status(), started.elapsed());
    let route = answer.request().match_pattern();
    shared.metrics.answered(route, &method, status, took);
    let _span = span.enter();
    info!(
        http.status = status.as_u16(),
        duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
    let quota = answer.request().extensions().get::<Quota>().copied();
    let headers = answer.headers_mut();
    if let Some(quota) = quota {
        quota.tell(headers);
    }
    let mut default = |name: HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    };
    default(header::REFERRER_POLICY, "no-referrer");
    default(header::CACHE_CONTROL, "no-store");
    default(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), id);
    }
    Ok(answer)
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
    let upgraded = actix_ws::handle(&request, body);
    let (response, session, messages) = upgraded.map_err(|error| {
        let message = format!("/ws speaks WebSocket: {error}");
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", message)
    })?;
    let messages = messages
        .max_frame_size(LONGEST_FRAME)
        .aggregate_continuations()
        .max_continuation_size(LONGEST_FRAME);
    let Shared {
        meetings,
        clock,
        stopping,
        ..
    } = Shared::clone(&shared);
    let open = shared.metrics.socket();
    actix_web::rt::spawn(async move {
        signaling::connect(app.0.id, meetings, clock, session, messages, stopping).await;
        drop(open);
    });
    Ok(response)
}

/// Where people look for the documentation.
#[get("/docs")]
async fn docs() -> impl Responder {
    actix_web::web::Redirect::to("/docs/index.html")
}

async fn nothing_here(request: HttpRequest) -> impl Responder {
    Err::<HttpResponse, _>(ApiError::not_found(request.method(), request.path()))
}

const REQUEST_ID_HEADER: &str = "x-request-id";
/// Requests that are under way when the server stops have this long to end.
const SHUTDOWN_SECONDS: u64 = 5;
