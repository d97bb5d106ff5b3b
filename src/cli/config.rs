//! `plenum config`

use clap::{CommandFactory, Parser};

use super::{Cli, say};
use crate::config::Config;

/// Flags of `plenum config`: those of `plenum serve`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    _config: Config,
}

/// Prints a line per setting, as a settings file has it; secrets are masked.
pub fn run(_: &Args) -> anyhow::Result<()> {
    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        _config: Config,
    }
    let given: Vec<_> = std::env::args_os()
        .skip(1)
        .filter(|arg| arg != "config")
        .collect();
    let name = std::ffi::OsString::from("plenum");
    let matches = Only::command().get_matches_from(std::iter::once(name).chain(given));
    for arg in Only::command()
        .get_arguments()
        .filter(|arg| arg.get_env().is_some())
    {
        let name = arg.get_env().unwrap_or_default().to_string_lossy();
        let values: Vec<_> = matches
            .get_raw(arg.get_id().as_str())
            .into_iter()
            .flatten()
            .collect();
        let value = values
            .iter()
            .map(|value| value.to_string_lossy())
            .collect::<Vec<_>>()
            .join(",");
        let is_set = !value.is_empty();
        match (is_set, arg.is_hide_env_values_set()) {
            (true, false) => say(format_args!("{name}={value}"))?,
            (true, true) => say(format_args!("{name}=********"))?,
            (false, _) => say(format_args!("# {name}="))?,
        }
    }
    for warning in crate::config::unknown_names::<Cli>(
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()),
    ) {
        say(format_args!("# {warning}"))?;
    }
    Ok(())
}
