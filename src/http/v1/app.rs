//! The app itself: what it has set.

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header::{self, EntityTag, Header, IfMatch},
    patch,
    web::Data,
};
use chrono::SecondsFormat;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    apps::{self, AppSettings, Configured},
    http::{Shared, auth::AuthenticatedApp, body::Body, error::ApiError, warnings::Warnings},
    id::AppId,
};

/// An app.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "_id": "61005767f41008463845bac0", "name": "acme", "created": "2026-11-21T09:00:00.000Z",
    "branding": {
        "name": "Acme Meetings", "logoURL": "https://acme.example/logo.svg", "logoDarkURL": null,
        "accentColor": "#0d6b57", "backgroundColor": null, "backgroundDarkColor": null, "corners": "round",
        "theme": "system", "privacyURL": null, "helpURL": null,
    },
    "embedOrigins": ["https://acme.example"], "dialects": { "mirotalk": true, "mikromeet": true, "plugnmeet": true },
    "anonymousRooms": false, "roomDefaults": { "maxParticipants": 10, "enableChat": true },
    "retention": { "personalDataDays": 90, "eventDays": 30 }, "contactEmail": "ops@acme.example",
}))]
pub struct AppView {
    /// Its id: 24 hexadecimal digits.
    #[serde(rename = "_id")]
    id: String,
    /// Its name, which is its sub-domain.
    name: String,
    /// When it was made: ISO 8601 with milliseconds and `Z`.
    created: String,
    #[serde(flatten)]
    settings: AppSettings,
}

/// Get the app
///
/// The app whose secret key you send, with all of its settings.
#[utoipa::path(tag = "app", security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The app", body = AppView, headers(
        ("ETag" = String, description = "Tag of this version of its settings, for `If-Match`"),
    )),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
))]
#[get("/api/v1/app")]
pub async fn get_app(
    shared: Data<Shared>,
    app: AuthenticatedApp,
) -> Result<HttpResponse, ApiError> {
    let mut tx = shared.db.begin(app.id).await?;
    let found = apps::configured(&mut tx, app.id).await?;
    let found = found.ok_or_else(ApiError::unauthorized)?;
    Ok(answer(found, &Warnings::default()))
}

/// Change the app's settings
///
/// A merge patch (RFC 7396): only what you send changes, in groups too, and `null` returns a setting to its default. A list
/// is sent whole. Nothing changes if anything is wrong. With `If-Match`, nothing changes unless the settings still are as you
/// know them. Fields that are not known are ignored, and told in `Plenum-Warnings`.
#[utoipa::path(tag = "app", security(("secretKey" = []), ("bearer" = [])), params(
    ("If-Match" = Option<String>, Header, description = "`ETag` of the app as you know it"),
), request_body(content = AppSettings, example = json!({
    "branding": { "name": "Acme Meetings", "accentColor": "#0d6b57" }, "embedOrigins": ["https://acme.example"],
    "roomDefaults": { "maxParticipants": 10 }, "contactEmail": "ops@acme.example",
})), responses(
    (status = 200, description = "The app as it is now", body = AppView, headers(
        ("ETag" = String, description = "Tag of this version of its settings"),
        ("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"),
    )),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
    (status = 412, description = "`APP_CHANGED`: it is not as `If-Match` says", body = ApiError),
))]
#[patch("/api/v1/app")]
pub async fn update_app(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let mut patch: Map<String, Value> = body.read().await?;
    patch.retain(|name, _| !ANSWERED_NAMES.contains(&name.as_str()));
    let expected = expected(&request, app.id)?;
    let mut tx = shared.db.begin(app.id).await?;
    let (changed, unknown) = apps::configure(&mut tx, app.id, &patch, expected.as_deref())
        .await?
        .ok_or_else(ApiError::unauthorized)?;
    tx.commit().await?;
    let known = AppSettings::names();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let warnings = Warnings::unknown(unknown.iter().map(String::as_str), &known);
    Ok(answer(changed, &warnings))
}

fn answer(app: Configured, warnings: &Warnings) -> HttpResponse {
    let tag = EntityTag::new_strong(format!("{}-{}", app.app.id, app.version));
    let mut response = HttpResponse::Ok();
    response.insert_header(header::ETag(tag));
    let mut response = response.json(AppView::from(app));
    warnings.tell(response.headers_mut());
    response
}

/// The versions that `If-Match` asks for; `None` is any.
fn expected(request: &HttpRequest, app: AppId) -> Result<Option<Vec<i32>>, ApiError> {
    if !request.headers().contains_key(header::IF_MATCH) {
        return Ok(None);
    }
    let version = |tag: &EntityTag| {
        let (id, version) = tag.tag().split_once('-').filter(|_| !tag.weak)?;
        (id.parse() == Ok(app)).then(|| version.parse().ok())?
    };
    let malformed =
        || ApiError::invalid("If-Match must be a list of entity tags, as ETag gave them, or *");
    match IfMatch::parse(request).map_err(|_| malformed())? {
        IfMatch::Any => Ok(None),
        IfMatch::Items(tags) => Ok(Some(tags.iter().filter_map(version).collect())),
    }
}

impl From<Configured> for AppView {
    fn from(Configured { app, settings, .. }: Configured) -> Self {
        Self {
            id: app.id.to_string(),
            name: app.name.to_string(),
            created: app.created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            settings,
        }
    }
}

/// Fields of an answer alone: whoever sends an app back as they got it means nothing by them.
const ANSWERED_NAMES: &[&str] = &["_id", "name", "created"];
