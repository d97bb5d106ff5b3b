//! Tokens in Metered's shapes: make one, check one.

use actix_web::{HttpRequest, HttpResponse, post, web::Data};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    apps::AppName,
    http::{
        Shared,
        auth::{AuthenticatedApp, SubdomainApp},
        body::Body,
        error::{ApiError, Fields},
        limits,
        warnings::Warnings,
    },
    rooms::{
        RoomName,
        property::{Property, Seconds, UnixSec},
    },
    tokens::{self, Claims, NewToken, TokenText},
};

/// What a new token is to give. Either `roomName` or `globalToken` is needed.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "roomName": "standup", "isAdmin": true, "name": "Ann", "externalUserId": "42", "expireUnixSec": 4102444800_i64,
}))]
#[expect(
    dead_code,
    reason = "describes the body, which is read field by field so that each wrong one is named"
)]
pub struct CreateToken {
    /// The one room that it opens. The room may be made later; a room that gets the name again is opened too.
    #[schema(example = "standup")]
    room_name: Option<String>,
    /// Whether it opens every room of your app, now and later. Not together with `roomName`.
    #[schema(example = false)]
    global_token: Option<bool>,
    /// Whether its bearer is a moderator. Default `false`.
    #[schema(example = true)]
    is_admin: Option<bool>,
    /// The name that the others see, whatever the bearer enters: 1 to 100 characters.
    #[schema(max_length = 100, example = "Ann")]
    name: Option<String>,
    /// For you, at most 256 characters; the webhooks of joins and leaves tell it.
    #[schema(max_length = 256, example = "ann@example.com")]
    email: Option<String>,
    /// For you, any text of at most 4096 bytes; the webhooks of joins and leaves tell it.
    #[schema(example = r#"{"plan":"pro"}"#)]
    meta: Option<String>,
    /// Your own id of the person, at most 256 characters; the webhooks of joins and leaves tell it.
    #[schema(max_length = 256, example = "42")]
    external_user_id: Option<String>,
    /// Unix time in seconds from which nobody can join with it; 0 or left out is never. Who is in by then stays, unless
    /// `ejectAtTokenExp` is set.
    #[schema(value_type = Option<i64>, minimum = 0, example = 4102444800_i64)]
    expire_unix_sec: Option<UnixSec>,
    /// Unix time in seconds from which one can join with it; 0 or left out is at once.
    #[schema(value_type = Option<i64>, minimum = 0, example = 0)]
    not_before_unix_sec: Option<UnixSec>,
    /// Seconds after which its bearer is put out; goes before the room's. 0 or left out is as the room says.
    #[schema(value_type = Option<i64>, minimum = 0, example = 3600)]
    eject_after_elapsed_time_in_sec: Option<Seconds>,
    /// Whether its bearer is put out at `expireUnixSec`. Default `false`.
    #[schema(example = false)]
    eject_at_token_exp: Option<bool>,
    /// Whether the page joins with the camera on. Kept in the token; the page does not act on it yet.
    #[schema(example = true)]
    join_video_on: Option<bool>,
    /// Whether the page joins with the microphone on. Kept in the token; the page does not act on it yet.
    #[schema(example = true)]
    join_audio_on: Option<bool>,
    /// Whether the page offers no camera. Kept in the token; the page does not act on it yet.
    #[schema(example = false)]
    disable_video: Option<bool>,
    /// Whether the page offers no microphone. Kept in the token; the page does not act on it yet.
    #[schema(example = false)]
    disable_audio: Option<bool>,
    /// Whether the page offers no screen sharing. Kept in the token; the page does not act on it yet.
    #[schema(example = false)]
    disable_screen_sharing: Option<bool>,
}

/// A new token.
#[derive(Serialize, ToSchema)]
pub struct TokenView {
    /// The token, for the `token` of a room's link (`/standup?token=…`) or of a `join` frame.
    #[schema(
        example = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImtpZCI6IjAxOWUxYTJiM2M0ZDVlNmY3MDgxOTIwMyJ9.eyJkYXRhIjp7InJvb21OYW1lIjoic3RhbmR1cCIsImFwcE5hbWUiOiJhY21lIn0sImlhdCI6MTc5NTI1MTYwMCwianRpIjoiMDE5ZTFhMmIzYzRkNWU2ZjcwODE5MjA0In0.4pcPyMD09olPSyXnrXCjTwXyr4BsezDI1cQP9VQq3FM"
    )]
    token: String,
}

/// A token that is to be checked.
#[derive(Deserialize, ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which is read field by field so that each wrong one is named"
)]
pub struct ValidateToken {
    /// The token.
    #[schema(
        max_length = 8192,
        example = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImtpZCI6IjAxOWUxYTJiM2M0ZDVlNmY3MDgxOTIwMyJ9.eyJkYXRhIjp7InJvb21OYW1lIjoic3RhbmR1cCIsImFwcE5hbWUiOiJhY21lIn0sImlhdCI6MTc5NTI1MTYwMCwianRpIjoiMDE5ZTFhMmIzYzRkNWU2ZjcwODE5MjA0In0.4pcPyMD09olPSyXnrXCjTwXyr4BsezDI1cQP9VQq3FM"
    )]
    token: String,
}

/// Make a token
///
/// Whoever has it may join: put it into the link that you give to one person, `https://your-host/standup?token=…`. A
/// private room lets nobody else in. A token cannot be taken back one by one; let it expire, or rotate the app's secret.
///
/// A field that we do not know is ignored, and named in the `Plenum-Warnings` header: read it while you build, because a
/// misspelt `expireUnixSec` makes a token that never expires.
#[utoipa::path(tag = "tokens", request_body = CreateToken, security(("secretKey" = []), ("bearer" = [])), responses(
    (status = 200, description = "The token, a JWT signed with HS256", body = TokenView,
        headers(("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"))),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
))]
#[post("/api/v1/token")]
pub async fn create_token(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: Map<String, Value> = body.read().await?;
    let now = shared.clock.now();
    let new = read(&given, &app.name, now)?;
    let warnings = warnings(&given, &new);
    let mut tx = shared.db.begin(app.id).await?;
    let (key, rng) = (&shared.master_key, &mut rand::rng());
    let token = tokens::issue(&mut tx, app.id, new, key, now, rng).await?;
    tx.commit().await?;
    let mut response = HttpResponse::Ok().json(TokenView {
        token: token.reveal().to_owned(),
    });
    warnings.tell(response.headers_mut());
    Ok(response)
}

/// Check a token
///
/// Paste a token that `POST /api/v1/token` made. Needs no key. On your app's host only your app's tokens are valid; on a host
/// that all apps share, those of any app. Which room a token opens is for whoever asks to compare.
#[utoipa::path(tag = "tokens", request_body = ValidateToken, security(()), responses(
    (status = 200, description = "What the token says", body = Claims,
        headers(("Plenum-Warnings" = String, description = "What was ignored, as a list of strings"))),
    (status = 400, description = "`TOKEN_INVALID`, `TOKEN_EXPIRED`, `TOKEN_NOT_YET_VALID`, `INVALID_REQUEST`",
        body = ApiError),
    (status = 404, description = "`APP_NOT_FOUND`: the host is no app's", body = ApiError),
))]
#[post("/api/v1/token/validate")]
pub async fn validate_token(
    shared: Data<Shared>,
    request: HttpRequest,
    SubdomainApp(app): SubdomainApp,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: Map<String, Value> = body.read().await?;
    let mut fields = Fields::default();
    let token = given.get("token").and_then(Value::as_str);
    let token = fields.take("token", token.ok_or("must be given, as text"));
    fields.check()?;
    let token = TokenText::from(token.unwrap_or_default().to_owned());
    let app = match app {
        Some(app) => app.id,
        None => match tokens::app_of(&mut shared.db.system().await?, &token).await? {
            Some(app) => app,
            None => return refused(&request, &shared, tokens::Error::Invalid),
        },
    };
    let mut tx = shared.db.begin(app).await?;
    let now = shared.clock.now();
    let claims = tokens::verify(&mut tx, app, &token, &shared.master_key, now).await;
    let claims = claims.or_else(|error| refused(&request, &shared, error))?;
    let mut response = HttpResponse::Ok().json(claims);
    Warnings::unknown_fields(&given, &["token"]).tell(response.headers_mut());
    Ok(response)
}

/// A token that opens nothing is a guess of the address that asks.
fn refused<T>(request: &HttpRequest, shared: &Shared, error: tokens::Error) -> Result<T, ApiError> {
    limits::charge_address(request, shared)?;
    Err(error.into())
}

/// The token that is meant.
///
/// # Errors
///
/// `INVALID_REQUEST` with every bad field at once.
fn read(
    given: &Map<String, Value>,
    app: &AppName,
    now: DateTime<Utc>,
) -> Result<NewToken, ApiError> {
    let mut fields = Fields::default();
    let room_name = text(&mut fields, given, "roomName");
    let global_token = value(&mut fields, given, "globalToken");
    let room_name = room_name.and_then(|name| fields.take("roomName", name.parse::<RoomName>()));
    let expires: Option<Option<UnixSec>> = value(&mut fields, given, "expireUnixSec");
    let begins: Option<Option<UnixSec>> = value(&mut fields, given, "notBeforeUnixSec");
    let (expires_at, not_before) = (
        expires.flatten().map(|UnixSec(at)| at),
        begins.flatten().map(|UnixSec(at)| at),
    );
    let eject_at_token_exp = value(&mut fields, given, "ejectAtTokenExp");
    let limit: Option<Option<Seconds>> = value(&mut fields, given, "ejectAfterElapsedTimeInSec");
    let meta = text(&mut fields, given, "meta");
    if meta.is_some_and(|meta| meta.len() > LONGEST_META || meta.contains('\0')) {
        let right = format!("must have at most {LONGEST_META} bytes, and no NUL character");
        fields.wrong("meta", right);
    }
    let data = tokens::Data {
        room_name: room_name.map(|name| name.to_string()),
        global_token,
        is_admin: value(&mut fields, given, "isAdmin"),
        name: line(&mut fields, given, "name", LONGEST_NAME),
        email: line(&mut fields, given, "email", LONGEST_LINE),
        meta: meta.map(str::to_owned),
        external_user_id: line(&mut fields, given, "externalUserId", LONGEST_LINE),
        eject_after_elapsed_time_in_sec: limit.flatten(),
        eject_at_token_exp,
        join_video_on: value(&mut fields, given, "joinVideoOn"),
        join_audio_on: value(&mut fields, given, "joinAudioOn"),
        disable_video: value(&mut fields, given, "disableVideo"),
        disable_audio: value(&mut fields, given, "disableAudio"),
        disable_screen_sharing: value(&mut fields, given, "disableScreenSharing"),
        app_name: app.to_string(),
    };
    let new = NewToken {
        data,
        not_before,
        expires_at,
    };
    // Told together with what cannot be read, but once a field.
    for (field, right) in new.contradictions(now) {
        if !fields.names(field) {
            fields.wrong(field, right);
        }
    }
    fields.check()?;
    Ok(new)
}

/// A field, if it was given and can be read.
fn value<T: Property>(fields: &mut Fields, given: &Map<String, Value>, field: &str) -> Option<T> {
    let value = given.get(field).filter(|value| !value.is_null())?;
    fields.take(field, T::read(value))
}

/// Text, if it was given; an empty one is none.
fn text<'a>(fields: &mut Fields, given: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    let value = given.get(field).filter(|value| !value.is_null())?;
    let text = fields.take(field, value.as_str().ok_or("must be text"));
    text.filter(|text| !text.is_empty())
}

/// One line of at most `most` characters, without spaces at its ends; an empty one is none.
fn line(
    fields: &mut Fields,
    given: &Map<String, Value>,
    field: &str,
    most: usize,
) -> Option<String> {
    let line = text(fields, given, field)?.trim();
    if line.chars().count() > most || line.chars().any(char::is_control) {
        let right = format!("must have at most {most} characters, and no control characters");
        fields.wrong(field, right);
    }
    Some(line.to_owned()).filter(|line| !line.is_empty())
}

/// What is told beside the token. One that never expires because a name was misspelt is worth more than a word.
fn warnings(given: &Map<String, Value>, new: &NewToken) -> Warnings {
    let mut warnings = Warnings::unknown_fields(given, NAMES);
    let means_expiry = |name: &String| {
        let lower = name.to_ascii_lowercase();
        let mut words = ["exp", "ttl", "until", "valid"].iter();
        !NAMES.contains(&name.as_str()) && words.any(|word| lower.contains(word))
    };
    if new.expires_at.is_none() && given.keys().any(means_expiry) {
        warnings.add("THIS TOKEN NEVER EXPIRES: its expiry is expireUnixSec, in unix seconds");
    }
    warnings
}

/// The fields that we know.
const NAMES: &[&str] = &[
    "roomName",
    "globalToken",
    "isAdmin",
    "name",
    "email",
    "meta",
    "externalUserId",
    "expireUnixSec",
    "notBeforeUnixSec",
    "ejectAfterElapsedTimeInSec",
    "ejectAtTokenExp",
    "joinVideoOn",
    "joinAudioOn",
    "disableVideo",
    "disableAudio",
    "disableScreenSharing",
];
/// Longest display name, in characters; as for those that people enter.
const LONGEST_NAME: usize = 100;
/// Longest e-mail address and longest id of a person, in characters.
const LONGEST_LINE: usize = 256;
/// Longest `meta`, in bytes.
const LONGEST_META: usize = 4096;

#[cfg(test)]
mod tests {
    use utoipa::{
        PartialSchema,
        openapi::{RefOr, Schema},
    };

    use super::*;

    #[test]
    fn the_document_has_the_fields_that_are_read() {
        let RefOr::T(Schema::Object(described)) = CreateToken::schema() else {
            panic!("the body is an object");
        };
        let mut described: Vec<&str> = described.properties.keys().map(String::as_str).collect();
        let mut read = NAMES.to_vec();
        described.sort_unstable();
        read.sort_unstable();
        assert_eq!(described, read);
    }
}
