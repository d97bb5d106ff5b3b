//! Deliveries and their attempts, as apps read them and send them again.

mod store;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

pub(super) use self::store::{insert_test, skip};
use super::{Error, endpoints::Endpoint, filter::Pattern};
use crate::id::{AppId, DeliveryId, EndpointId, EventId, MeetingId, RoomId};

/// One event on its way to one endpoint.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// The event, which is the `webhook-id`.
    pub event_id: EventId,
    /// The event's name.
    pub event: String,
    /// The room that the event concerns; a test concerns none.
    pub room_id: Option<RoomId>,
    /// The meeting that it concerns, where it concerns one.
    pub meeting_id: Option<MeetingId>,
    /// Its number in the meeting.
    pub seq: Option<i64>,
    /// What came of it.
    pub outcome: Outcome,
    /// Attempts so far, with the one under way.
    pub attempts: i32,
    /// When the next attempt may start, or until when one is under way.
    pub due_at: Option<DateTime<Utc>>,
    /// When the event came true.
    pub created_at: DateTime<Utc>,
}

/// What came of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing yet: there will be an attempt.
    Pending,
    /// An attempt was answered with 2xx.
    Delivered,
    /// All attempts were in vain.
    Failed,
    /// Its endpoint was disabled before it could be sent.
    Skipped,
}

/// One HTTP try of a delivery.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Tried {
    /// From 1.
    pub attempt: i32,
    /// When it began.
    pub at: DateTime<Utc>,
    /// Milliseconds until its outcome.
    pub latency_ms: i32,
    /// HTTP status of the answer, where one came.
    pub status: Option<i16>,
    /// The first KiB of the answer's body.
    pub answer: Option<String>,
    /// Why it did not succeed.
    pub error: Option<String>,
}

/// A delivery with all that is known of it.
#[derive(Clone, Debug)]
pub struct Details {
    /// The delivery.
    pub delivery: Delivery,
    /// What is sent.
    pub body: String,
    /// Its latest attempts that ended, 100 at most, in their order.
    pub tried: Vec<Tried>,
}

/// Which deliveries of an endpoint are meant; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// What came of them.
    pub outcome: Option<Outcome>,
    /// Their events.
    pub event: Option<Events>,
    /// Their events came true then or later.
    pub from: Option<DateTime<Utc>>,
    /// Their events came true before then.
    pub until: Option<DateTime<Utc>>,
}

/// Kinds of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Events {
    /// Those that a pattern means.
    Like(Pattern),
    /// Tests.
    Test,
}

/// A part of a list.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The last delivery of the page before this one.
    pub after: Option<DeliveryId>,
    /// Deliveries at most.
    pub limit: i64,
}

/// Deliveries that are to be sent again.
#[derive(Clone, Debug)]
pub struct Resend {
    /// Their events came true then or later.
    pub from: DateTime<Utc>,
    /// Their events came true before then.
    pub until: DateTime<Utc>,
    /// What came of them, which is not [`Outcome::Pending`].
    pub outcomes: Vec<Outcome>,
    /// The last delivery of the part before this one.
    pub after: Option<DeliveryId>,
}

/// What is being sent again.
#[derive(Clone, Copy, Debug)]
pub struct Resent {
    /// How many deliveries.
    pub count: usize,
    /// The last of them, where there may be more.
    pub next: Option<DeliveryId>,
}

/// A page of an endpoint's deliveries, newest first.
pub async fn list(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: EndpointId,
    filter: &Filter,
    page: Page,
) -> Result<Vec<Delivery>, Error> {
    Ok(store::list(conn, app, endpoint, filter, page).await?)
}

/// A delivery to this endpoint with its attempts; `None` when there is none, or it is another app's.
pub async fn find(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: EndpointId,
    id: DeliveryId,
) -> Result<Option<Details>, Error> {
    Ok(store::find(conn, app, endpoint, id).await?)
}

/// Sends a delivery again, with the same body and `webhook-id` and as many attempts as a new one has. One that waits for its
/// next attempt need not wait longer. One that is being attempted is left as it is.
///
/// # Errors
///
/// [`Error::Disabled`].
pub async fn resend(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: &Endpoint,
    id: DeliveryId,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if endpoint.disabled_at.is_some() {
        return Err(Error::Disabled);
    }
    Ok(store::resend(conn, app, endpoint.id, id, now).await?)
}

/// Sends deliveries to this endpoint again as [`resend`] does, the oldest first, and [`MOST_RESENT`] at most.
///
/// # Errors
///
/// [`Error::Disabled`].
pub async fn resend_range(
    conn: &mut PgConnection,
    app: AppId,
    endpoint: &Endpoint,
    which: &Resend,
    now: DateTime<Utc>,
) -> Result<Resent, Error> {
    if endpoint.disabled_at.is_some() {
        return Err(Error::Disabled);
    }
    let sent = store::resend_range(conn, app, endpoint.id, which, now, MOST_RESENT).await?;
    let is_whole = i64::try_from(sent.len()).is_ok_and(|count| count < MOST_RESENT);
    Ok(Resent {
        count: sent.len(),
        next: sent.into_iter().max().filter(|_| !is_whole),
    })
}

impl Outcome {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl std::str::FromStr for Outcome {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Pending, Self::Delivered, Self::Failed, Self::Skipped]
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
            .ok_or(())
    }
}

/// Deliveries that one call sends again at most.
pub const MOST_RESENT: i64 = 5000;
