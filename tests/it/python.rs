//! Programs of others that are written in Python.

use std::{path::PathBuf, process::Command};

/// A script of `tests/it/` in the environment that `script/setup --test` makes.
pub fn script(name: &str) -> Command {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let python = cache.join("plenum/python/bin/python");
    assert!(
        python.exists(),
        "`script/setup --test` makes {}",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(format!("{}/tests/it/{name}", env!("CARGO_MANIFEST_DIR")));
    command
}
