//! The meeting page and its assets, embedded into the binary.

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::{StatusCode, header},
    web::{Data, Path},
};
use rust_embed::{EmbeddedFile, RustEmbed};
use serde::Serialize;

use super::{Shared, auth::HostApp, error::ApiError};
use crate::{
    apps::{self, AppSettings},
    meetings::{
        Refusal,
        admission::{self, Applicant},
    },
    rooms::{self, RoomName},
};

/// What `web/` builds.
#[derive(RustEmbed)]
#[folder = "web/dist"]
struct Dist;

/// What the page knows of its room before it connects.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoomOnPage<'a> {
    room_name: &'a str,
    auto_join: bool,
    state: &'static str,
    /// With `notYet`: when the room opens, in unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    opens_at_unix_sec: Option<i64>,
}

/// The page of a room, whatever its state: the page says what is wrong, and the status says it to programs.
#[get("/{roomName}")]
pub async fn room_page(
    shared: Data<Shared>,
    app: Result<HostApp, ApiError>,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let app = match app {
        Ok(HostApp(app)) => Some(app),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let mut found = None;
    let mut settings = AppSettings::default();
    if let Some(app) = app {
        let mut tx = shared.db.begin(app.id).await?;
        if let Ok(name) = name.parse::<RoomName>() {
            found = rooms::find(&mut tx, app.id, &name).await?;
        }
        if let Some(app) = apps::configured(&mut tx, app.id).await? {
            settings = app.settings;
        }
    }
    let mut opens_at_unix_sec = None;
    let (status, auto_join, state) = match &found {
        None => (StatusCode::NOT_FOUND, false, "notFound"),
        Some(room) => match admission::check(room, &Applicant::default(), None, shared.clock.now())
        {
            Err(Refusal::RoomNotOpen { opens_at }) => {
                opens_at_unix_sec = Some(opens_at.timestamp());
                (StatusCode::OK, false, "notYet")
            }
            Err(Refusal::RoomExpired) => (StatusCode::OK, false, "expired"),
            Err(Refusal::TokenRequired) => (StatusCode::OK, false, "private"),
            Err(Refusal::InvalidPassword { .. }) => (StatusCode::OK, false, "password"),
            _ => (StatusCode::OK, room.rules.auto_join, "open"),
        },
    };
    let room = RoomOnPage {
        room_name: found.as_ref().map_or(&name, |room| room.name.as_str()),
        auto_join,
        state,
        opens_at_unix_sec,
    };
    let Some(index) = Dist::get("index.html") else {
        return Err(ApiError::unavailable(
            "the web pages were not built; run script/setup and build again",
        ));
    };
    let json = serde_json::to_string(&room).map_err(|error| ApiError::internal(&error))?;
    let meta = format!(r#"<meta name="plenum-room" content="{}">"#, escape(&json));
    let html = String::from_utf8_lossy(&index.data).replace("<!--plenum-room-->", &meta);
    let policy = format!("{POLICY} frame-ancestors {}", settings.frame_ancestors());
    Ok(HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, policy))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(html))
}

/// A file of the page. Its name has a hash of its content, so it is kept for ever.
#[get("/assets/{path:.*}")]
pub async fn asset(request: HttpRequest, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let Some(EmbeddedFile { data, .. }) = Dist::get(&format!("assets/{path}")) else {
        return Err(ApiError::not_found(request.method(), request.path()));
    };
    let kind = mime_guess::from_path(request.path()).first_or_octet_stream();
    Ok(HttpResponse::Ok()
        .content_type(kind)
        .insert_header((header::CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .body(data.into_owned()))
}

/// Text inside a quoted HTML attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Only our own files run, and only our own server is talked to. Who may show the page in a frame is the app's to say.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; \
    media-src 'self' blob: mediastream:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none';";
