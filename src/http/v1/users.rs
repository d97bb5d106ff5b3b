//! People, by the app's own ids of them.

use actix_web::{
    delete,
    web::{Data, Json, Path},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    http::{
        Shared,
        auth::AuthenticatedApp,
        error::{ApiError, Fields},
    },
    privacy,
};

/// That what was known of a person has been removed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Erased {
    /// Always `true`.
    #[schema(example = true)]
    success: bool,
    /// What was done.
    #[schema(example = "User successfully erased")]
    message: &'static str,
    /// Stays in meetings from which the person was removed.
    #[schema(example = 12)]
    participant_sessions: usize,
}

/// Erase a user
///
/// Removes, before it answers, what is known of the person to whom your tokens gave this `externalUserId`: name, address,
/// `meta`, browser and system from all stays in meetings, the same from all events and what waits to be delivered of them, and
/// what your receivers answered to them. That somebody was in, and for how long, stays, since it is billed. Erasing somebody
/// of whom nothing is known does nothing.
///
/// One who is in a meeting stays in and keeps their name for those who are in with them; nothing of it is stored. Somebody who
/// may still join is new from then on.
#[utoipa::path(tag = "users", security(("secretKey" = []), ("bearer" = [])), params(
    ("externalUserId" = String, Path, description = "Your id of the person, with `/` as `%2F`", example = "42"),
), responses(
    (status = 200, description = "Nothing is known of the person", body = Erased),
    (status = 400, description = "`INVALID_REQUEST`", body = ApiError),
    (status = 401, description = "`UNAUTHORIZED`", body = ApiError),
))]
#[delete("/api/v1/user/{externalUserId}")]
pub async fn erase_user(
    shared: Data<Shared>,
    app: AuthenticatedApp,
    person: Path<String>,
) -> Result<Json<Erased>, ApiError> {
    let mut fields = Fields::default();
    if person.contains('\0') {
        fields.wrong("externalUserId", "must have no NUL characters");
    }
    fields.check()?;
    let participant_sessions = privacy::erase(&shared.db, app.id, &person).await?;
    Ok(Json(Erased {
        success: true,
        message: "User successfully erased",
        participant_sessions,
    }))
}
