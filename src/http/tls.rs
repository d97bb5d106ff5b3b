//! TLS: the certificate and its key, read again when their files change.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Context;
use chrono::TimeDelta;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::clock::Clock;

/// Settings of TLS.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "HTTP")]
#[group(skip)]
pub struct Config {
    /// File with the certificate and those that it was issued with, as PEM; HTTPS is served with it, and no HTTP. Together
    /// with its key it is read again when it changes.
    #[arg(long, env = "PLENUM_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// File with the private key of the certificate, as PEM.
    #[arg(long, env = "PLENUM_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl Config {
    /// The certificate, where there is to be TLS.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or the two do not belong together.
    pub fn certificate(&self) -> anyhow::Result<Option<Certificate>> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Certificate::open(cert, key).map(Some),
            _ => Ok(None),
        }
    }
}

/// A certificate in use, that of its files.
pub struct Certificate {
    files: Files,
    opened: Contents,
    current: Arc<Current>,
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
}

/// What the two files hold: PEM.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// What new connections are shown.
struct Current(RwLock<Arc<CertifiedKey>>);

impl Certificate {
    fn open(cert: &Path, key: &Path) -> anyhow::Result<Self> {
        let files = Files {
            cert: cert.to_owned(),
            key: key.to_owned(),
        };
        let opened = files.read()?;
        let current = Arc::new(Current(RwLock::new(Arc::new(opened.pair()?))));
        Ok(Self {
            files,
            opened,
            current,
        })
    }

    /// How connections are served with it: what is read later counts for those that come later.
    ///
    /// # Errors
    ///
    /// When the provider of cryptography has no version of TLS.
    pub fn server_config(&self) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Ok(ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.current.clone()))
    }

    /// Looks at the files until `stop`, and takes what is new. Of a pair that cannot be used the log tells once, and the
    /// old one stays.
    pub async fn follow(self, clock: Clock, stop: CancellationToken) {
        let (mut judged, mut last) = (Ok(self.opened), None);
        let pause = || clock.sleep_until(clock.now() + LOOK_EVERY);
        while stop.run_until_cancelled(pause()).await.is_some() {
            let found = self.files.read().map_err(|error| format!("{error:#}"));
            if found == judged {
                last = None;
            } else if last.as_ref() != Some(&found) {
                // While files are replaced they do not belong together: only what stays for two looks is judged.
                last = Some(found);
            } else {
                let pair = match &found {
                    Ok(contents) => contents.pair(),
                    Err(unread) => Err(anyhow::Error::msg(unread.clone())),
                };
                match pair {
                    Ok(pair) => {
                        self.current.set(pair);
                        info!("the TLS certificate has changed; new connections get the new one");
                    }
                    Err(error) => error!(
                        error = format!("{error:#}"),
                        "the TLS certificate has changed and cannot be used; the old one stays"
                    ),
                }
                (judged, last) = (found, None);
            }
        }
    }
}

impl Files {
    fn read(&self) -> anyhow::Result<Contents> {
        let read = |name, path: &Path| {
            std::fs::read(path).with_context(|| format!("{name}: {}", path.display()))
        };
        Ok(Contents {
            cert: read("PLENUM_TLS_CERT", &self.cert)?,
            key: read("PLENUM_TLS_KEY", &self.key)?,
        })
    }
}

impl Contents {
    /// The certificate with its key. Errors say nothing of what is in the files.
    fn pair(&self) -> anyhow::Result<CertifiedKey> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<_, _>>()
            .ok()
            .filter(|chain: &Vec<_>| !chain.is_empty())
            .context("PLENUM_TLS_CERT: there is no certificate as PEM in it")?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .ok()
            .context("PLENUM_TLS_KEY: there is no private key as PEM in it")?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .context("PLENUM_TLS_CERT and PLENUM_TLS_KEY cannot be used together")
    }
}

impl Current {
    fn set(&self, pair: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(current.clone())
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current(…)")
    }
}

/// Two small files: looking costs nothing, and sees what notifications do not (network file systems, swapped links).
const LOOK_EVERY: TimeDelta = TimeDelta::seconds(2);
