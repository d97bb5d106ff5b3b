//! Finding the programs of Postgres: no two distributions keep them in the same place, and a cluster runs only with the
//! major release that made it.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use super::Error;

/// Where Debian and Ubuntu put each installed release: `<release>/bin`.
const INSTALLED: &str = "/usr/lib/postgresql";

/// The places that are searched, in this order.
#[derive(Debug)]
pub(super) struct Search {
    /// `PG_BIN_DIR`: the one directory to take, where it is set.
    pub bin_dir: Option<PathBuf>,
    /// A directory with a folder per release, the highest first.
    pub installed: PathBuf,
    /// The `PATH` of this process.
    pub path: Option<OsString>,
}

impl Search {
    /// The places of this machine.
    pub fn of_this_process() -> Self {
        Self {
            bin_dir: env::var_os("PG_BIN_DIR")
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from),
            installed: INSTALLED.into(),
            path: env::var_os("PATH"),
        }
    }

    /// The programs for a new cluster.
    pub fn newest(&self) -> Result<PathBuf, Error> {
        match &self.bin_dir {
            Some(dir) if holds_programs(dir) => Ok(dir.clone()),
            Some(dir) => Err(Error::NotInBinDir(dir.clone())),
            None => self.places().into_iter().next().ok_or(Error::NotInstalled),
        }
    }

    /// The programs for the cluster in `data`, which release `needed` made.
    pub fn of_release(&self, needed: u32, data: &Path) -> Result<PathBuf, Error> {
        let mut found = Vec::new();
        for place in self.places() {
            match release(&place) {
                Ok(release) if release == needed => return Ok(place),
                Ok(release) => found.push(release.to_string()),
                Err(error) => found.push(format!("{}: {error}", place.display())),
            }
        }
        let found = if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(", ")
        };
        Err(Error::ReleaseMissing {
            data: data.to_owned(),
            needed,
            found,
        })
    }

    fn places(&self) -> Vec<PathBuf> {
        let mut releases: Vec<(u32, PathBuf)> = fs::read_dir(&self.installed)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                Some((
                    entry.file_name().to_str()?.parse().ok()?,
                    entry.path().join("bin"),
                ))
            })
            .collect();
        releases.sort_unstable_by(|a, b| b.cmp(a));
        self.bin_dir
            .iter()
            .cloned()
            .chain(releases.into_iter().map(|(_, place)| place))
            .chain(self.path.iter().flat_map(env::split_paths))
            .filter(|place| holds_programs(place))
            .collect()
    }
}

fn holds_programs(dir: &Path) -> bool {
    ["postgres", "initdb"]
        .iter()
        .all(|program| dir.join(program).is_file())
}

/// The major release of the programs in `dir`, from a line such as `postgres (PostgreSQL) 15.18 (Debian 15.18-0)`.
fn release(dir: &Path) -> io::Result<u32> {
    let output = Command::new(dir.join("postgres"))
        .arg("--version")
        .env_clear()
        .output()?;
    String::from_utf8_lossy(&output.stdout)
        .split_once("(PostgreSQL) ")
        .and_then(|(_, version)| {
            version
                .split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
        .ok_or_else(|| io::Error::other("does not tell its release"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    /// A directory with programs that say they are of `release`.
    fn programs(dir: &Path, release: &str) {
        fs::create_dir_all(dir).unwrap();
        for program in ["postgres", "initdb"] {
            let script = format!("#!/bin/sh\necho '{program} (PostgreSQL) {release} (Debian)'\n");
            fs::write(dir.join(program), script).unwrap();
            fs::set_permissions(dir.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn search(dir: &TempDir) -> Search {
        Search {
            bin_dir: None,
            installed: dir.path().join("lib"),
            path: Some(dir.path().join("path").into()),
        }
    }

    #[test]
    fn a_new_cluster_takes_the_highest_release() {
        let dir = TempDir::new().unwrap();
        for release in ["9", "15", "17"] {
            programs(&dir.path().join("lib").join(release).join("bin"), release);
        }
        assert_eq!(
            search(&dir).newest().unwrap(),
            dir.path().join("lib/17/bin")
        );
    }

    #[test]
    fn pg_bin_dir_goes_first_and_must_hold_the_programs() {
        let dir = TempDir::new().unwrap();
        programs(&dir.path().join("lib/17/bin"), "17.2");
        let own = dir.path().join("own");
        let search = Search {
            bin_dir: Some(own.clone()),
            ..search(&dir)
        };
        assert!(matches!(search.newest(), Err(Error::NotInBinDir(dir)) if dir == own));
        programs(&own, "16.1");
        assert_eq!(search.newest().unwrap(), own);
    }

    #[test]
    fn a_cluster_takes_the_release_that_made_it_wherever_it_is() {
        let dir = TempDir::new().unwrap();
        programs(&dir.path().join("lib/17/bin"), "17.2");
        programs(&dir.path().join("path"), "15.18");
        assert_eq!(
            search(&dir).of_release(15, dir.path()).unwrap(),
            dir.path().join("path")
        );
    }

    #[test]
    fn a_release_that_is_gone_is_named_with_the_ones_that_are_there() {
        let dir = TempDir::new().unwrap();
        programs(&dir.path().join("lib/17/bin"), "17.2");
        let error = search(&dir)
            .of_release(15, dir.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("PostgreSQL 15, which is not installed (found: 17)"),
            "{error}"
        );
        assert!(
            error.contains("apt-get install -y postgresql-15"),
            "{error}"
        );
    }

    #[test]
    fn without_postgres_the_error_says_how_to_install_it() {
        let dir = TempDir::new().unwrap();
        let error = search(&dir).newest().unwrap_err().to_string();
        assert!(error.contains("apt-get install -y postgresql"), "{error}");
    }
}
