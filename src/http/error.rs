//! The one shape of our errors: status, stable code, and a message for whoever reads it.

use std::{borrow::Cow, fmt};

use actix_web::{
    HttpResponse, ResponseError,
    http::{Method, StatusCode, header},
};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use super::{path::ShownPath, server::request_id};
use crate::{
    apps, db,
    meetings::{Denial, Refusal},
    rooms, tokens, webhooks,
};

/// An error answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Error, example = json!({
    "success": false, "message": "a room with this name already exists", "code": "ROOM_NAME_TAKEN",
    "requestId": "f0c8a2d95b3e4d17",
}))]
pub struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    /// Seconds after which to try again.
    #[serde(skip)]
    retry_after: Option<u64>,
    /// Always `false`.
    success: bool,
    /// What is wrong, for whoever reads it.
    message: Cow<'static, str>,
    /// What is wrong, for programs: stable, upper snake case.
    code: &'static str,
    /// The request's id, as in its `X-Request-Id` header and in our logs.
    request_id: String,
    /// Every field that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// A field that is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Its name.
    pub field: String,
    /// What would be right.
    pub message: String,
}

/// Collects what is wrong with a request, so that it is told at once.
#[derive(Debug, Default)]
pub struct Fields(Vec<FieldError>);

impl Fields {
    /// Says what would be right for a field.
    pub fn wrong(&mut self, field: &str, right: impl fmt::Display) {
        self.0.push(FieldError {
            field: field.to_owned(),
            message: right.to_string(),
        });
    }

    /// What a field was read as, if it was.
    pub fn take<T>(&mut self, field: &str, read: Result<T, impl fmt::Display>) -> Option<T> {
        read.map_err(|right| self.wrong(field, right)).ok()
    }

    /// Whether something is wrong with this field already.
    pub fn names(&self, field: &str) -> bool {
        self.0.iter().any(|error| error.field == field)
    }

    /// # Errors
    ///
    /// `INVALID_REQUEST` with all that is wrong, if anything is.
    pub fn check(self) -> Result<(), ApiError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ApiError::fields(self.0))
        }
    }
}

impl ApiError {
    /// An error of this status and code.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
            success: false,
            message: message.into(),
            code,
            request_id: request_id(),
            errors: Vec::new(),
        }
    }

    /// Fields that are wrong, all of them.
    fn fields(errors: Vec<FieldError>) -> Self {
        let list: Vec<String> = errors
            .iter()
            .map(|error| format!("{} {}", error.field, error.message))
            .collect();
        let message = format!("Invalid request: {}", list.join("; "));
        Self {
            errors,
            ..Self::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message)
        }
    }

    /// Fields that contradict each other, all of them.
    fn contradictions(found: &[(&str, &str)]) -> Self {
        let mut fields = Fields::default();
        for (field, right) in found {
            fields.wrong(field, right);
        }
        Self::fields(fields.0)
    }

    /// A request that cannot be read at all.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message)
    }

    /// No such room.
    pub fn room_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "ROOM_NOT_FOUND", "room not found")
    }

    /// No such meeting.
    pub fn meeting_not_found() -> Self {
        let message = "meeting session not found";
        Self::new(StatusCode::NOT_FOUND, "MEETING_NOT_FOUND", message)
    }

    /// No such stay in a meeting.
    pub fn participant_not_found() -> Self {
        let message = "participant session not found";
        Self::new(StatusCode::NOT_FOUND, "PARTICIPANT_NOT_FOUND", message)
    }

    /// No such webhook.
    pub fn webhook_not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "WEBHOOK_NOT_FOUND",
            "webhook not found",
        )
    }

    /// No such delivery of a webhook.
    pub fn delivery_not_found() -> Self {
        let message = "delivery not found; they are kept for as long as your app's retention says";
        Self::new(StatusCode::NOT_FOUND, "DELIVERY_NOT_FOUND", message)
    }

    /// The `Idempotency-Key` came with another request before.
    pub fn idempotency_key_reused() -> Self {
        let message = "this Idempotency-Key came with another request within the last 24 hours: use a new one";
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "IDEMPOTENCY_KEY_REUSED",
            message,
        )
    }

    /// The host is no app's.
    pub fn app_not_found() -> Self {
        let message = "there is no app on this host; call the host of your app";
        Self::new(StatusCode::NOT_FOUND, "APP_NOT_FOUND", message)
    }

    /// The path has nothing.
    pub fn not_found(method: &Method, path: &str) -> Self {
        let path = ShownPath(path);
        let message = format!("there is nothing at {method} {path}; see /docs");
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// Not at the moment: the server starts, or stops.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong, for whoever reads it.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Too many requests; there will be room for this one in so many seconds.
    pub fn rate_limited(seconds: u64) -> Self {
        let message = format!("too many requests: try again in {seconds} s");
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message)
        }
    }

    /// Whether it says that something is not there.
    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// No credential, or one that opens nothing.
    pub fn unauthorized() -> Self {
        let message = "Invalid secretKey: send your app's secret key as ?secretKey= or as Authorization: Bearer";
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    /// The key of an app on the host of another.
    pub fn wrong_host(app: &apps::AppName, base_domain: &str) -> Self {
        let message = format!(
            "this secret key is of the app {app} and the host is another app's: send it to {app}.{base_domain}"
        );
        Self::new(StatusCode::FORBIDDEN, "WRONG_HOST", message)
    }

    /// Postgres failed. The cause is logged here, once, and never sent.
    pub fn database(cause: &sqlx::Error) -> Self {
        if db::is_away(cause) {
            error!(error = %cause, "Postgres is away");
            Self::unavailable(
                "The service is not available at the moment; try again in a few seconds",
            )
        } else {
            Self::internal(cause)
        }
    }

    /// Something is wrong with us. The cause is logged here, once, and never sent.
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        error!(error = %cause, "a request failed");
        Self::broken()
    }

    /// Something is wrong with us, and the log has it already.
    pub fn broken() -> Self {
        let message = "Something went wrong on our side; tell support the requestId";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", message)
    }
}

impl From<rooms::Error> for ApiError {
    fn from(error: rooms::Error) -> Self {
        match &error {
            // Metered's status, not 409.
            rooms::Error::NameTaken => Self::new(
                StatusCode::BAD_REQUEST,
                "ROOM_NAME_TAKEN",
                error.to_string(),
            ),
            rooms::Error::Contradictions(found) => Self::contradictions(found),
            rooms::Error::Expired => Self::new(StatusCode::GONE, "ROOM_EXPIRED", error.to_string()),
            rooms::Error::Changed => Self::new(
                StatusCode::PRECONDITION_FAILED,
                "ROOM_CHANGED",
                error.to_string(),
            ),
            rooms::Error::Sealed(cause) => Self::internal(cause),
            rooms::Error::Database(cause) => Self::database(cause),
        }
    }
}

impl From<Denial> for ApiError {
    fn from(denial: Denial) -> Self {
        let (status, code) = match denial {
            Denial::TargetNotFound => (StatusCode::NOT_FOUND, "TARGET_NOT_FOUND"),
            Denial::MeetingEnded => (StatusCode::CONFLICT, "NO_LIVE_MEETING"),
            Denial::RoomFull => (StatusCode::CONFLICT, "ROOM_FULL"),
            Denial::TimeOver => (StatusCode::CONFLICT, "TIME_OVER"),
            Denial::NoTimeLimit => (StatusCode::CONFLICT, "NO_TIME_LIMIT"),
            Denial::TryAgain => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        };
        Self::new(status, code, denial.to_string())
    }
}

impl From<apps::Error> for ApiError {
    fn from(error: apps::Error) -> Self {
        match &error {
            apps::Error::NameTaken => {
                Self::new(StatusCode::BAD_REQUEST, "APP_NAME_TAKEN", error.to_string())
            }
            apps::Error::KeyTaken => Self::new(
                StatusCode::BAD_REQUEST,
                "SECRET_KEY_TAKEN",
                error.to_string(),
            ),
            apps::Error::Settings(wrong) => {
                let mut fields = Fields::default();
                for wrong in wrong {
                    fields.wrong(&wrong.setting, &wrong.right);
                }
                Self::fields(fields.0)
            }
            apps::Error::Changed => Self::new(
                StatusCode::PRECONDITION_FAILED,
                "APP_CHANGED",
                error.to_string(),
            ),
            apps::Error::Sealed(cause) => Self::internal(cause),
            apps::Error::Webhooks(cause) => cause.into(),
            apps::Error::Tokens(cause) => Self::internal(cause),
            apps::Error::Database(cause) => Self::database(cause),
        }
    }
}

impl From<webhooks::Error> for ApiError {
    fn from(error: webhooks::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&webhooks::Error> for ApiError {
    fn from(error: &webhooks::Error) -> Self {
        let code = match error {
            webhooks::Error::TooManyEndpoints => "TOO_MANY_WEBHOOKS",
            webhooks::Error::TooManySecrets => "TOO_MANY_SECRETS",
            webhooks::Error::OfRoom => "WEBHOOK_OF_ROOM",
            webhooks::Error::Disabled => "WEBHOOK_DISABLED",
            webhooks::Error::Sealed(cause) => return Self::internal(cause),
            webhooks::Error::Client(cause) => return Self::internal(cause),
            webhooks::Error::Database(cause) => return Self::database(cause),
        };
        Self::new(StatusCode::CONFLICT, code, error.to_string())
    }
}

impl From<tokens::Error> for ApiError {
    fn from(error: tokens::Error) -> Self {
        let code = match &error {
            tokens::Error::Invalid => "TOKEN_INVALID",
            tokens::Error::Expired => "TOKEN_EXPIRED",
            tokens::Error::NotYetValid => "TOKEN_NOT_YET_VALID",
            tokens::Error::Contradictions(found) => return Self::contradictions(found),
            tokens::Error::TooLong => "INVALID_REQUEST",
            tokens::Error::Unsigned => return Self::internal(&error),
            tokens::Error::Sealed(cause) => return Self::internal(cause),
            tokens::Error::Database(cause) => return Self::database(cause),
        };
        let message = format!("Invalid request: {error}");
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }
}

impl From<rooms::NotHashed> for ApiError {
    fn from(error: rooms::NotHashed) -> Self {
        match error {
            rooms::NotHashed::Busy => Self::unavailable(error.to_string()),
            rooms::NotHashed::Failed => Self::internal(&error),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::RoomNotFound | Refusal::TargetNotFound => StatusCode::NOT_FOUND,
            Refusal::TokenRequired
            | Refusal::TokenInvalid
            | Refusal::TokenExpired
            | Refusal::TokenNotYetValid
            | Refusal::InvalidPassword { .. }
            | Refusal::RoomNotOpen { .. }
            | Refusal::MeetingNotOpen
            | Refusal::Ejected
            | Refusal::Unauthorized(_)
            | Refusal::NotAllowed(_)
            | Refusal::MeshNotAllowed
            | Refusal::SfuNotAllowed
            | Refusal::RoomLocked => StatusCode::FORBIDDEN,
            Refusal::RoomExpired | Refusal::MeetingEnded => StatusCode::GONE,
            Refusal::DuplicateUser
            | Refusal::RoomFull
            | Refusal::NotJoined
            | Refusal::NoTimeLimit
            | Refusal::ResumeFailed
            | Refusal::JoinAborted => StatusCode::CONFLICT,
            Refusal::QuotaExceeded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::RoomChanged | Refusal::TryAgain => StatusCode::SERVICE_UNAVAILABLE,
        };
        let error = Self::new(status, refusal.code(), refusal.to_string());
        Self {
            retry_after: refusal.retry_after_sec().or(error.retry_after),
            ..error
        }
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        Self::database(&error)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if let Some(seconds) = self.retry_after {
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer"))
            }
            // What would have been right: RFC 9110, sections 12.5.3 and 15.5.22; RFC 6455, section 4.4.
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                response.insert_header((header::ACCEPT_ENCODING, "identity"))
            }
            StatusCode::UPGRADE_REQUIRED => response
                .insert_header((header::UPGRADE, "websocket"))
                .insert_header((header::SEC_WEBSOCKET_VERSION, "13")),
            _ => &mut response,
        };
        response.json(self)
    }
}

/// Seconds: a restart takes about as long, of us or of Postgres.
const RETRY_AFTER: u64 = 5;
