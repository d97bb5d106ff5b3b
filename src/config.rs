//! All settings: the `Config` of every concept, flattened. Each is an environment variable and a flag; the variables may
//! also stand in a file.

use std::path::{Path, PathBuf};

use clap::{Arg, CommandFactory};
use secrecy::SecretString;

use crate::{apps, db, http, sfu, webhooks};

/// Every setting of the server.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Config {
    /// Where the settings that the whole process shares stand.
    #[command(flatten)]
    pub storage: Storage,
    /// Of the HTTP server.
    #[command(flatten)]
    pub http: http::Config,
    /// Of the apps that exist from the start.
    #[command(flatten)]
    pub apps: apps::Config,
    /// Of the media plane.
    #[command(flatten)]
    pub sfu: sfu::Config,
    /// Of webhooks.
    #[command(flatten)]
    pub webhooks: webhooks::Config,
}

/// Settings of what every command that touches the database needs.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Storage {
    /// Of the database.
    #[command(flatten)]
    pub db: db::Config,
    /// Directory of everything that outlives a restart: the private Postgres cluster and the master key.
    #[arg(long, env = "PLENUM_DATA_DIR", default_value_os_t = default_data_dir())]
    pub data_dir: PathBuf,
    /// Key under which stored secrets are sealed, 32 bytes in base64; needed with DATABASE_URL, made at the first start
    /// otherwise.
    #[arg(long, env = "PLENUM_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<SecretString>,
}

/// Names of settings that are not flags.
pub const OTHER_NAMES: &[&str] = &[FILE, LOG];
/// The file with settings that the environment does not have.
pub const FILE: &str = "PLENUM_CONFIG_FILE";
/// What is logged, as `tracing` filters have it: `info`, `plenum=debug`.
pub const LOG: &str = "PLENUM_LOG";
/// Where the file is looked for if `PLENUM_CONFIG_FILE` does not say.
const DEFAULT_FILE: &str = "/etc/plenum/plenum.env";

/// Reads the settings file into the environment; what the environment has already stays.
///
/// # Errors
///
/// When the file is named and absent, or a line of it is not `NAME=value`.
pub fn load_file() -> anyhow::Result<()> {
    let named = std::env::var_os(FILE).map(PathBuf::from);
    let path = named.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    if named.is_none() && !path.exists() {
        return Ok(());
    }
    dotenvy::from_path(path)
        .map_err(|error| anyhow::anyhow!("the settings file {}: {error}", path.display()))
}

/// Warnings about `PLENUM_*` variables that are no settings, each with the nearest that is.
pub fn unknown_names<C: CommandFactory>(given: impl Iterator<Item = String>) -> Vec<String> {
    let mut known: Vec<String> = OTHER_NAMES.iter().map(|name| (*name).to_owned()).collect();
    let command = C::command();
    for args in command.get_subcommands().map(clap::Command::get_arguments) {
        known.extend(
            args.filter_map(Arg::get_env)
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    let strange = given.filter(|name| name.starts_with("PLENUM_") && !known.contains(name));
    let warn = |name: String| {
        let nearest = known.iter().max_by(|a, b| {
            strsim::jaro_winkler(a, &name).total_cmp(&strsim::jaro_winkler(b, &name))
        });
        format!(
            "{name} is not a setting and has no effect; did you mean {}?",
            nearest.map_or("", String::as_str)
        )
    };
    strange.map(warn).collect()
}

/// `/var/lib/plenum` for root, else a directory of the user's own.
fn default_data_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let of_user = || {
        std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(home)
    };
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/plenum");
    }
    of_user()
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("plenum")
}
