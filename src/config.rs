//! All settings: the `Config` of every concept, flattened. Each is an environment variable and a flag; the variables may
//! also stand in a file.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Arg, CommandFactory};
use secrecy::SecretString;

use crate::{apps, cli::roles, db, http, mail, meetings, sfu, signaling, webhooks};

/// Every setting of the server.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Config {
    /// Where the settings that the whole process shares stand.
    #[command(flatten)]
    pub storage: Storage,
    /// What the process does.
    #[command(flatten)]
    pub roles: roles::Config,
    /// Of the HTTP server.
    #[command(flatten)]
    pub http: http::Config,
    /// Of the apps that exist from the start.
    #[command(flatten)]
    pub apps: apps::Config,
    /// Of live meetings.
    #[command(flatten)]
    pub meetings: meetings::Config,
    /// Of the signaling sockets.
    #[command(flatten)]
    pub signaling: signaling::Config,
    /// Of the media plane.
    #[command(flatten)]
    pub sfu: sfu::Config,
    /// Of webhooks.
    #[command(flatten)]
    pub webhooks: webhooks::Config,
    /// Of mail.
    #[command(flatten)]
    pub mail: mail::Config,
}

/// Settings of what every command that touches the database needs.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Storage")]
#[group(skip)]
pub struct Storage {
    /// Directory of everything that outlives a restart: the private Postgres cluster and the master key. A running server
    /// also has the socket there on which commands such as `plenum key` reach it. By default `/var/lib/plenum` for root,
    /// and for others `plenum` under `XDG_DATA_HOME` or `~/.local/share`.
    #[arg(long, env = "PLENUM_DATA_DIR", default_value_os_t = default_data_dir(), hide_default_value = true)]
    pub data_dir: PathBuf,
    /// Key under which stored secrets are sealed, 32 bytes in base64; needed with DATABASE_URL, made at the first start
    /// otherwise.
    #[arg(long, env = "PLENUM_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<SecretString>,
    /// The master key before that, which still opens what was sealed under it: for the time between a new
    /// PLENUM_MASTER_KEY and the end of `plenum key rewrap`.
    #[arg(long, env = "PLENUM_MASTER_KEY_PREVIOUS", hide_env_values = true)]
    pub master_key_previous: Option<SecretString>,
    /// Of the database.
    #[command(flatten)]
    pub db: db::Config,
}

/// A setting that is no flag: it is needed before there are flags, or is not of Plenum alone.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// What holds where it is not set; empty for nothing.
    pub default: &'static str,
    /// What it is.
    pub help: &'static str,
}

/// The settings that are not flags.
pub const VARIABLES: &[Variable] = &[FILE, LOG, PG_BIN_DIR];
/// The file with settings that the environment does not have.
pub const FILE: Variable = Variable {
    name: "PLENUM_CONFIG_FILE",
    default: "/etc/plenum/plenum.env",
    help: "File with settings that the environment does not have, a `NAME=value` per line; only one that is named here \
           must exist",
};
/// What is logged.
pub const LOG: Variable = Variable {
    name: "PLENUM_LOG",
    default: "info,actix_server=warn,rtc_dtls=error,sqlx::postgres::notice=warn",
    help: "What is logged: levels (off, error, warn, info, debug, trace), alone or after `target=`, comma separated",
};
const PG_BIN_DIR: Variable = Variable {
    name: "PG_BIN_DIR",
    default: "",
    help: "Directory of the programs `postgres` and `initdb` for the private cluster; found by itself where Postgres is \
           installed as usual",
};

/// Reads the settings file into the environment; what the environment has already stays.
///
/// To be called before the process has a second thread.
///
/// # Errors
///
/// When the file is named and absent, or has a line that cannot be read; the message has its number and not its text, which
/// may be a secret.
pub(crate) fn load_file() -> anyhow::Result<()> {
    let named = std::env::var_os(FILE.name).map(PathBuf::from);
    let path = named.as_deref().unwrap_or(Path::new(FILE.default));
    if named.is_none() && !path.exists() {
        return Ok(());
    }
    let context = || format!("the settings file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(context)?;
    let settings = parse_file(&text).with_context(context)?;
    for (name, value) in settings {
        if std::env::var_os(name).is_none() {
            #[expect(
                unsafe_code,
                reason = "settings of a file are to be as good as those of the environment"
            )]
            // SAFETY: nobody reads the environment meanwhile, since there is no other thread yet.
            unsafe {
                std::env::set_var(name, value);
            }
        }
    }
    Ok(())
}

/// A line of a settings file that is not `NAME=value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
struct Malformed {
    line: usize,
    why: &'static str,
}

/// The settings of a file: a `NAME=value` per line. Empty lines and lines from `#` on are comments. A value stands as it is,
/// without the spaces around it, or between two `"` or two `'`, after which a comment may follow; nothing in it is
/// expanded or escaped.
fn parse_file(text: &str) -> Result<Vec<(&str, &str)>, Malformed> {
    let mut settings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let refuse = |why| Malformed {
            line: index + 1,
            why,
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| refuse("a setting is NAME=value"))?;
        let name = name.trim_end();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty()
            || !name.bytes().all(fits)
            || name.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err(refuse("a name is made of A-Z, a-z, 0-9 and _"));
        }
        if settings.iter().any(|(known, _)| *known == name) {
            return Err(refuse("this setting stands further up already"));
        }
        let value = value.trim_start();
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let (value, rest) = value[1..]
                    .split_once(quote)
                    .ok_or_else(|| refuse("the quotation mark is not closed"))?;
                let rest = rest.trim_start();
                if !rest.is_empty() && !rest.starts_with('#') {
                    return Err(refuse("something follows the closing quotation mark"));
                }
                value
            }
            _ => value,
        };
        if value.contains(char::is_control) {
            return Err(refuse("a value has no control characters"));
        }
        settings.push((name, value));
    }
    Ok(settings)
}

/// Warnings about `PLENUM_*` variables that are no settings, each with the nearest that is.
pub fn unknown_names<C: CommandFactory>(given: impl Iterator<Item = String>) -> Vec<String> {
    let mut known: Vec<String> = VARIABLES
        .iter()
        .map(|known| known.name.to_owned())
        .collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settings_file_has_a_name_and_a_value_per_line_and_nothing_is_expanded() {
        let text = "# comment\n\n  PLENUM_BIND = 0.0.0.0:80 \r\nA=$HOME ${B} \\n `x`\nB='it is \"so\" ' # why\n\
                    C=\"it's\"\nD=\nE=''\nF=a=b#c # d\n   # PLENUM_X=1";
        let settings = [
            ("PLENUM_BIND", "0.0.0.0:80"),
            ("A", "$HOME ${B} \\n `x`"),
            ("B", "it is \"so\" "),
            ("C", "it's"),
            ("D", ""),
            ("E", ""),
            ("F", "a=b#c # d"),
        ];
        assert_eq!(parse_file(text), Ok(settings.to_vec()));
    }

    #[test]
    fn a_line_that_is_no_setting_is_named_by_its_number_alone() {
        for wrong in [
            "canary",
            "canary key=1",
            "=canary",
            "1CANARY=1",
            "export canary=1",
            "A='canary",
            "A=\"canary\" canary",
            "A=can\0ary",
            "FIRST=canary",
        ] {
            let error = parse_file(&format!("FIRST=1\n# so\n{wrong}\nLAST=2")).unwrap_err();
            assert_eq!(error.line, 3, "{wrong:?}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
