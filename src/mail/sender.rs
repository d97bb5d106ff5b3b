//! The loop that hands mail to the mail server, and the policy of its retries.

use std::{fs, time::Duration};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    message::{Mailbox, MessageBuilder, MultiPart, header},
    transport::smtp::client::{Certificate, Tls, TlsParameters},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Config,
    store::{self, Claimed, Next},
};
use crate::{clock::Clock, db::Db};

/// Sends the mail that is due.
///
/// Any number may run, in any number of processes: a claim is a lease in the database.
pub struct Sender {
    db: Db,
    clock: Clock,
    server: Option<Server>,
}

struct Server {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// Why mail could not be attended to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Sender {
    /// A sender for the mail server of these settings; without one, mail goes to the log.
    ///
    /// # Errors
    ///
    /// When the file of certificates cannot be used.
    pub fn new(db: Db, clock: Clock, config: &Config) -> anyhow::Result<Self> {
        let server = match (&config.smtp_url, &config.mail_from) {
            (Some(url), Some(from)) => Some(Server {
                transport: transport(config, url.expose())?,
                from: from.clone(),
            }),
            _ => None,
        };
        Ok(Self { db, clock, server })
    }

    /// Sends until `shutdown`; then finishes what is under way.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut away = false;
        while !shutdown.is_cancelled() {
            match self.tick(self.clock.now()).await {
                Ok(0) => away = false,
                Ok(_) => continue,
                Err(cause) if !std::mem::replace(&mut away, true) => {
                    warn!(error = %cause, "cannot claim mail, trying on: {cause}");
                }
                Err(_) => {} // said already
            }
            shutdown.run_until_cancelled(tokio::time::sleep(POLL)).await;
        }
    }

    /// Tries what is due at `now`, a few at once; returns how many there were, once all are recorded.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] when nothing could be claimed.
    pub async fn tick(&self, now: DateTime<Utc>) -> Result<usize, Error> {
        let mut system = self.db.system().await?;
        let claimed = store::claim(&mut system, now, now + LEASE, AT_ONCE).await?;
        store::remove(&mut system, now - KEPT, MOST_REMOVED).await?;
        drop(system);
        let attempts = claimed.iter().map(|mail| self.attempt(mail));
        Ok(futures_util::future::join_all(attempts).await.len())
    }

    async fn attempt(&self, mail: &Claimed) {
        let next = self.send(mail).await;
        let now = self.clock.now();
        log(mail, &next);
        let recorded = async {
            let mut system = self.db.system().await?;
            store::record(&mut system, mail, &next, now).await
        };
        match recorded.await {
            Ok(true) => {}
            Ok(false) => {
                warn!(mail.id = %mail.id, "an attempt to send mail outlived its lease and was not recorded")
            }
            // It is due again when its lease ends.
            Err(cause) => {
                error!(mail.id = %mail.id, error = %cause, "cannot record that mail was sent: {cause}")
            }
        }
    }

    async fn send(&self, mail: &Claimed) -> Next {
        let Some(server) = &self.server else {
            return Next::Logged;
        };
        let message = match message(mail, &server.from) {
            Ok(message) => message,
            Err(cause) => return Next::Failed(short(&cause.to_string())),
        };
        match server.transport.send(message).await {
            Ok(_) => Next::Sent,
            Err(cause) if cause.is_permanent() => Next::Failed(short(&describe(&cause))),
            Err(cause) => {
                match RETRIES.get(usize::try_from(mail.attempt - 1).unwrap_or(usize::MAX)) {
                    Some(delay) => Next::Retry(self.clock.now() + *delay, short(&describe(&cause))),
                    None => Next::Failed(short(&describe(&cause))),
                }
            }
        }
    }
}

fn transport(config: &Config, url: &str) -> anyhow::Result<AsyncSmtpTransport<Tokio1Executor>> {
    // What the library says of a URL may repeat it.
    let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url);
    let mut builder = builder.map_err(|_| anyhow::anyhow!("PLENUM_SMTP_URL: it cannot be used"))?;
    let tls = url::Url::parse(url).ok().and_then(|url| {
        let host = url.host_str()?.to_owned();
        let is_plain = url.scheme() == "smtp" && url.query().is_none();
        (!is_plain).then(|| (host, url.scheme() == "smtps"))
    });
    if let (Some(path), Some((host, from_the_start))) = (&config.smtp_ca, tls) {
        let context = || format!("PLENUM_SMTP_CA: {}", path.display());
        let pem = fs::read(path).with_context(context)?;
        let certificate = Certificate::from_pem(&pem).with_context(context)?;
        let parameters = TlsParameters::builder(host).add_root_certificate(certificate);
        let parameters = parameters.build().with_context(context)?;
        builder = builder.tls(match from_the_start {
            true => Tls::Wrapper(parameters),
            false => Tls::Required(parameters),
        });
    }
    Ok(builder.timeout(Some(TIMEOUT)).build())
}

/// Each attempt sends the same message: its id says to whoever gets it twice that it is one.
fn message(mail: &Claimed, from: &Mailbox) -> anyhow::Result<lettre::Message> {
    let to: Address = mail.recipient.parse()?;
    let builder = MessageBuilder::new()
        .from(from.clone())
        .to(to.into())
        .subject(&mail.subject)
        .date(mail.created_at.into())
        .message_id(Some(format!("<{}@{}>", mail.id, from.email.domain())))
        .raw_header(header::HeaderValue::new(
            header::HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ));
    let parts = MultiPart::alternative_plain_html(mail.body_text.clone(), mail.body_html.clone());
    Ok(builder.multipart(parts)?)
}

/// What happened, with its causes.
fn describe(error: &lettre::transport::smtp::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The first KiB of a text, as it can be stored.
fn short(text: &str) -> String {
    let end = text.floor_char_boundary(1024);
    text[..end].replace('\0', "\u{fffd}")
}

/// Tells of nobody's address, and of no words of the mail server, which may repeat it.
fn log(mail: &Claimed, next: &Next) {
    let Claimed {
        id,
        app_id,
        subject,
        attempt,
        ..
    } = mail;
    match next {
        Next::Sent => info!(mail.id = %id, app.id = %app_id, attempt, "sent mail: {subject}"),
        Next::Logged => info!(
            mail.id = %id, app.id = %app_id,
            "mail that nobody gets, since PLENUM_SMTP_URL is not set: {subject}\n{}", mail.body_text
        ),
        Next::Retry(at, _) => warn!(
            mail.id = %id, app.id = %app_id, attempt, retry_at = %at,
            "the mail server did not take a message, which is tried again; its row in `mails` has the error"
        ),
        Next::Failed(_) => error!(
            mail.id = %id, app.id = %app_id, attempt,
            "mail could not be sent; its row in `mails` has the error: {subject}"
        ),
    }
}

/// How long due mail may wait. Nobody waits for mail.
const POLL: Duration = Duration::from_secs(2);
/// Longest time that each step of the exchange with the mail server may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than an exchange of a few steps, and the record of it.
const LEASE: TimeDelta = TimeDelta::minutes(5);
/// Delays between the attempts: two days in all, after which the message is old news.
const RETRIES: [TimeDelta; 7] = [
    TimeDelta::minutes(1),
    TimeDelta::minutes(5),
    TimeDelta::minutes(30),
    TimeDelta::hours(2),
    TimeDelta::hours(6),
    TimeDelta::hours(15),
    TimeDelta::hours(24),
];
/// Messages sent at once: mail servers take few connections from one sender.
const AT_ONCE: i64 = 4;
/// How long messages are kept once they ended, and no topic is written about twice.
const KEPT: TimeDelta = TimeDelta::days(30);
/// Messages removed at once.
const MOST_REMOVED: i64 = 100;
