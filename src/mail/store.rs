//! The only SQL that touches `mails`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::message::Rendered;
use crate::{
    db,
    id::{AppId, MailId},
};

/// Whom an app's mail goes to.
pub(super) struct Contact {
    pub app_name: String,
    pub email: String,
}

/// The contact of an app, where it has one.
pub(super) async fn contact(conn: &mut PgConnection, app: AppId) -> sqlx::Result<Option<Contact>> {
    sqlx::query_as!(
        Contact,
        r#"select name as "app_name!", settings ->> 'contactEmail' as "email!" from apps
        where id = $1 and settings ->> 'contactEmail' is not null"#,
        app as AppId,
    )
    .fetch_optional(conn)
    .await
}

/// Writes a message; whether it did. It has the time in its id, and six random bytes of Postgres.
pub(super) async fn add(
    conn: &mut PgConnection,
    app: AppId,
    topic: &str,
    recipient: &str,
    message: &Rendered,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let time = now.timestamp_millis().max(0).to_be_bytes();
    let added = sqlx::query!(
        "insert into mails (id, app_id, topic, recipient, subject, body_text, body_html, created_at, due_at)
        select $1::bytea || substring(uuid_send(gen_random_uuid()) from 11), $2, $3, $4, $5, $6, $7, $8, $8
        where (select count(*) from mails where app_id = $2 and due_at is not null) < $9
        on conflict on constraint mails_topic do nothing",
        &time[2..],
        app as AppId,
        topic,
        recipient,
        message.subject,
        message.text,
        message.html,
        now,
        MOST_WAITING,
    )
    .execute(conn)
    .await?;
    Ok(added.rows_affected() == 1)
}

/// A message of which this process makes attempt number `attempt`.
pub(super) struct Claimed {
    pub id: MailId,
    pub app_id: AppId,
    pub recipient: String,
    pub subject: String,
    pub body_text: String,
    pub body_html: String,
    pub created_at: DateTime<Utc>,
    /// From 1.
    pub attempt: i32,
}

/// Claims at most `limit` messages that are due, until `lease_until`.
pub(super) async fn claim(
    system: &mut db::System,
    now: DateTime<Utc>,
    lease_until: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Claimed>> {
    sqlx::query_as!(
        Claimed,
        "update mails set attempt = attempt + 1, due_at = $2 where id in (
            select id from mails where due_at <= $1 order by due_at limit $3 for update skip locked)
        returning id, app_id, recipient, subject, body_text, body_html, created_at, attempt",
        now,
        lease_until,
        limit,
    )
    .fetch_all(&mut **system)
    .await
}

/// What becomes of a message after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The mail server took it.
    Sent,
    /// There is none, and the log has it.
    Logged,
    /// It is tried again then.
    Retry(DateTime<Utc>, String),
    /// It was the last attempt.
    Failed(String),
}

/// Records what became of a message; `false`, and nothing else, where it has been claimed again since.
pub(super) async fn record(
    system: &mut db::System,
    mail: &Claimed,
    next: &Next,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let (due_at, outcome, error) = match next {
        Next::Sent => (None, Some("sent"), None),
        Next::Logged => (None, Some("logged"), None),
        Next::Retry(at, error) => (Some(*at), None, Some(error)),
        Next::Failed(error) => (None, Some("failed"), Some(error)),
    };
    let recorded = sqlx::query!(
        "update mails set due_at = $3, outcome = $4, ended_at = case when $4::text is not null then $5::timestamptz end, error = $6
        where id = $1 and attempt = $2 and due_at is not null",
        mail.id as MailId,
        mail.attempt,
        due_at,
        outcome,
        now,
        error,
    )
    .execute(&mut **system)
    .await?;
    Ok(recorded.rows_affected() == 1)
}

/// Removes at most `limit` messages that ended before `ended_before`.
pub(super) async fn remove(
    system: &mut db::System,
    ended_before: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from mails where id in (
            select id from mails where ended_at < $1 order by ended_at limit $2 for update skip locked)",
        ended_before,
        limit,
    )
    .execute(&mut **system)
    .await?;
    Ok(())
}

/// Messages that an app may have waiting. More would tell nobody anything new.
const MOST_WAITING: i64 = 100;
