//! The HTTP edge: handlers translate, call one operation, translate back.

mod auth;
mod body;
mod compat;
mod error;
mod health;
mod limits;
mod methods;
mod metrics;
mod openapi;
mod page;
mod path;
mod peer;
mod server;
mod tls;
mod v1;
mod warnings;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ipnet::IpNet;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use self::{
    health::Figures,
    limits::Limits,
    metrics::Metrics,
    openapi::document,
    server::{Routes, serve},
    tls::Certificate,
    v1::rooms::ShownRooms,
};
use crate::{
    apps::{App, Keyring},
    clock::Clock,
    db::Db,
    meetings::Meetings,
    rooms::Anonymous,
    sealed::MasterKey,
    webhooks,
};

/// Settings of the HTTP server.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "HTTP")]
#[group(skip)]
pub struct Config {
    /// Address and port that HTTP is served on.
    #[arg(long, env = "PLENUM_BIND", default_value = "127.0.0.1:8080")]
    pub bind: std::net::SocketAddr,
    /// Address that people reach the server under, as a URL; made from `PLENUM_BIND` where it is not given, https with a
    /// certificate. The default
    /// app answers on its host.
    #[arg(long, env = "PLENUM_PUBLIC_URL", value_parser = public_url)]
    pub public_url: Option<Url>,
    /// Domain under which each app has its sub-domain; on localhost the default app answers.
    #[arg(long, env = "PLENUM_BASE_DOMAIN", default_value = "localhost", value_parser = domain)]
    pub base_domain: String,
    /// Addresses and networks of proxies that are believed about whom they speak for, such as 10.0.0.0/8,192.0.2.7. Each
    /// has to append to X-Forwarded-For, or, where it sends Forwarded instead, to drop the X-Forwarded-For of others. From
    /// anybody else such headers count for nothing. Behind a proxy that is not named here, all clients are one.
    #[arg(long, env = "PLENUM_TRUSTED_PROXIES", value_delimiter = ',', value_parser = peer::network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Opens `/metrics` as `Authorization: Bearer`, 16 to 200 characters. Programs on this machine need none: so a proxy on
    /// this machine has to keep the host that it was asked for, or to add its headers.
    #[arg(long, env = "PLENUM_METRICS_TOKEN", hide_env_values = true, value_parser = metrics::token)]
    pub metrics_token: Option<SecretString>,
    /// Of connections and requests.
    #[command(flatten)]
    pub server: server::Config,
    /// Of TLS.
    #[command(flatten)]
    pub tls: tls::Config,
    /// How often may be asked.
    #[command(flatten)]
    pub limits: limits::Config,
}

impl Config {
    /// Where people reach a server that is bound to `bound`.
    pub fn url(&self, mut bound: std::net::SocketAddr) -> anyhow::Result<Url> {
        if bound.ip().is_unspecified() {
            bound.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Ok(match &self.public_url {
            Some(url) => url.clone(),
            None => {
                let scheme = self.tls.tls_cert.as_ref().map_or("http", |_| "https");
                Url::parse(&format!("{scheme}://{bound}"))?
            }
        })
    }

    /// The host of the given public URL.
    pub fn public_host(&self) -> Option<url::Host> {
        Some(self.public_url.as_ref()?.host()?.to_owned())
    }
}

/// What handlers share.
#[derive(Clone)]
pub struct Shared {
    /// The database.
    pub db: Db,
    /// The clock.
    pub clock: Clock,
    /// Whose a secret key is.
    pub keyring: Arc<Keyring>,
    /// What was answered of rooms a moment ago.
    pub shown_rooms: Arc<ShownRooms>,
    /// This node's meetings.
    pub meetings: Meetings,
    /// Makes rooms for whoever may make one without a credential.
    pub anonymous: Arc<Anonymous>,
    /// Seals the secrets that are stored.
    pub master_key: Arc<MasterKey>,
    /// Which addresses webhooks may go to.
    pub reach: webhooks::Reach,
    /// Domain under which each app has its sub-domain.
    pub base_domain: String,
    /// The host of `PLENUM_PUBLIC_URL`, where that is given.
    pub public_host: Option<url::Host>,
    /// Proxies that are believed about whom they speak for.
    pub trusted_proxies: Arc<[IpNet]>,
    /// The app that answers on localhost and on `public_host`.
    pub default_app: Option<App>,
    /// Whether it answers on every host that names no app.
    pub default_app_everywhere: bool,
    /// Whether all parts run.
    pub ready: Arc<AtomicBool>,
    /// Cancelled when the server stops: sockets take no more joins.
    pub stopping: CancellationToken,
    /// How often signaling sockets are pinged.
    pub signaling_ping: Duration,
    /// What `/health` tells, of each app and of all.
    pub figures: Arc<Figures>,
    /// Who has asked how often.
    pub limits: Arc<Limits>,
    /// What is counted for Prometheus.
    pub metrics: Arc<Metrics>,
    /// Opens the figures to others than programs on this machine.
    pub metrics_token: Option<SecretString>,
    /// Since when the server has been running.
    pub started: std::time::Instant,
}

impl Shared {
    fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) && !self.stopping.is_cancelled()
    }
}

fn public_url(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.path() == "/"
                && url.query().is_none() =>
        {
            Ok(url)
        }
        _ => Err("must be http:// or https:// and a host, with no path".to_owned()),
    }
}

fn domain(text: &str) -> Result<String, String> {
    match url::Host::parse(text) {
        Ok(url::Host::Domain(domain)) => Ok(domain),
        _ => Err(
            "must be a domain name such as meet.example.com, without a scheme or port".to_owned(),
        ),
    }
}
