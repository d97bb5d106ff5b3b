//! `plenum config`

use clap::{ArgMatches, CommandFactory};

use super::{Cli, say};
use crate::config::Config;

/// Flags of `plenum config`: those of `plenum serve`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    _config: Config,
}

/// Prints a line per setting, as a settings file has it; secrets are masked. `matches` are those of the command.
pub fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let command = Cli::command();
    let settings = command
        .find_subcommand("config")
        .into_iter()
        .flat_map(clap::Command::get_arguments);
    for (arg, name) in settings.filter_map(|arg| Some((arg, arg.get_env()?.to_string_lossy()))) {
        let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let value = values.join(",");
        match (value.is_empty(), arg.is_hide_env_values_set()) {
            (false, false) => say(format_args!("{name}={value}"))?,
            (false, true) => say(format_args!("{name}=********"))?,
            (true, _) => say(format_args!("# {name}="))?,
        }
    }
    for warning in crate::config::unknown_names::<Cli>(
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()),
    ) {
        say(format_args!("# {warning}"))?;
    }
    Ok(())
}
