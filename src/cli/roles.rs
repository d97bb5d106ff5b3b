//! What a process of the platform does.

use std::str::FromStr;

/// Settings of what a process does.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Roles")]
#[group(skip)]
pub struct Config {
    /// What this process does: `api` (HTTP and signaling) and `media` (live meetings), which go together, and `jobs`
    /// (deadlines of rooms, webhooks). Any number of processes may have `jobs`: they share the work. One that has nothing
    /// else answers `/health`, `/ready` and `/metrics` alone.
    #[arg(long, env = "PLENUM_ROLES", default_value = "api,media,jobs")]
    pub roles: Roles,
}

/// What a process does: at least one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// It holds meetings: api and media.
    pub meetings: bool,
    /// It does what has to be done whoever is there.
    pub jobs: bool,
}

/// The text does not name roles that a process can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A word that is no role.
    #[error("must be of api, media and jobs, comma separated")]
    Unknown,
    /// One without the other.
    #[error("api and media go together: give both, or jobs alone")]
    Apart,
}

impl FromStr for Roles {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (mut api, mut media, mut jobs) = (false, false, false);
        for word in text.split(',') {
            match word.trim() {
                "api" => api = true,
                "media" => media = true,
                "jobs" => jobs = true,
                _ => return Err(Malformed::Unknown),
            }
        }
        if api == media {
            let meetings = api;
            Ok(Self { meetings, jobs })
        } else {
            Err(Malformed::Apart)
        }
    }
}
