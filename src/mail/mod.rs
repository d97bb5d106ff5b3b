//! Mail to the people of an app: a queue in Postgres, and what sends it.
//!
//! A [`Message`] is written, rendered, in the transaction of its cause ([`enqueue`]). The [`Sender`] hands it to the mail server
//! until that takes it or the schedule ends: at least once, duplicates with the same `Message-ID`. Without a mail server it
//! goes to the log.

mod message;
mod sender;
mod store;

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lettre::message::Mailbox;
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgConnection;
use url::Url;

pub use self::{
    message::{Message, WebhookDisabled},
    sender::{Error, Sender},
};
use crate::id::AppId;

/// Settings of mail.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Mail")]
#[group(skip)]
pub struct Config {
    /// Mail server: `smtp://user:password@host:587` with STARTTLS, `smtps://` with TLS from the start, or, for one on this
    /// machine, `smtp://localhost:25?tls=none` with neither. Without it, mail goes to the log.
    #[arg(long, env = "PLENUM_SMTP_URL", hide_env_values = true, value_parser = smtp_url, requires = "mail_from")]
    pub smtp_url: Option<SmtpUrl>,
    /// Who mail is from, as `Plenum <plenum@example.com>` or the address alone.
    #[arg(long, env = "PLENUM_MAIL_FROM")]
    pub mail_from: Option<Mailbox>,
    /// File with certificates, as PEM, by which the mail server's may be issued as well as by those that the system trusts.
    #[arg(long, env = "PLENUM_SMTP_CA", requires = "smtp_url")]
    pub smtp_ca: Option<PathBuf>,
}

/// Where the mail server is, and who we are to it.
#[derive(Clone, Debug)]
pub struct SmtpUrl(SecretString);

/// Writes `message` to the contact address of `app`; whether it did. It does not where the app has no such address, was
/// written to about `topic` before, or has too many messages waiting.
///
/// Takes the transaction of the cause.
pub async fn enqueue(
    conn: &mut PgConnection,
    app: AppId,
    topic: &str,
    message: &Message,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let Some(contact) = store::contact(conn, app).await? else {
        return Ok(false);
    };
    let rendered = message
        .render(&contact.app_name)
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    store::add(conn, app, topic, &contact.email, &rendered, now).await
}

fn smtp_url(text: &str) -> Result<SmtpUrl, String> {
    let right = "must be a URL such as smtp://user:password@mail.example.com:587";
    let url = Url::parse(text).map_err(|_| right)?;
    let tls: Vec<_> = url.query_pairs().collect();
    let fits = url.host_str().is_some_and(|host| !host.is_empty())
        && matches!(url.path(), "" | "/")
        && url.fragment().is_none()
        && url.username().is_empty() == url.password().is_none();
    // What the library takes these for is not what they say here: it would go without TLS where nothing is said.
    let text = match (url.scheme(), &tls[..]) {
        _ if !fits => return Err(right.to_owned()),
        ("smtp", []) => with_query(url, Some("tls=required")),
        ("smtp", [(name, value)]) if name == "tls" && value == "none" => with_query(url, None),
        ("smtps", []) => url.into(),
        ("smtp", _) => {
            return Err("may say ?tls=none and nothing else after the address".to_owned());
        }
        _ => return Err(right.to_owned()),
    };
    Ok(SmtpUrl(text.into()))
}

fn with_query(mut url: Url, query: Option<&str>) -> String {
    url.set_query(query);
    url.into()
}

impl SmtpUrl {
    /// As the library takes it.
    fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_goes_over_tls_unless_the_url_says_otherwise() {
        for (given, taken) in [
            (
                "smtp://mail.example.com",
                "smtp://mail.example.com?tls=required",
            ),
            (
                "smtp://me:s3cret@mail.example.com:2587",
                "smtp://me:s3cret@mail.example.com:2587?tls=required",
            ),
            (
                "smtps://me:p%40ss@mail.example.com",
                "smtps://me:p%40ss@mail.example.com",
            ),
            ("smtp://localhost:25?tls=none", "smtp://localhost:25"),
        ] {
            assert_eq!(smtp_url(given).unwrap().expose(), taken);
        }
    }

    #[test]
    fn what_is_no_mail_server_is_refused_and_not_repeated() {
        for wrong in [
            "",
            "mail.example.com:587",
            "https://me:s3cret@mail.example.com",
            "smtp://",
            "smtp://me@mail.example.com",
            "smtp://:s3cret@mail.example.com",
            "smtp://me:s3cret@mail.example.com?tls=opportunistic",
            "smtps://me:s3cret@mail.example.com?tls=none",
            "smtp://me:s3cret@mail.example.com/path",
        ] {
            let error = smtp_url(wrong).unwrap_err();
            assert!(
                error.starts_with("m") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_mail_server_cannot_be_printed() {
        let url = smtp_url("smtp://me:s3cret@mail.example.com").unwrap();
        assert!(!format!("{url:?}").contains("s3cret"));
    }
}
