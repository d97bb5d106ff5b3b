//! `plenum config`

use clap::{Arg, ArgMatches, CommandFactory};

use super::{Cli, say};
use crate::config::{Config, VARIABLES, unknown_names};

/// Flags of `plenum config`: those of `plenum serve`, and one of its own.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    _config: Config,
    /// Print what each setting is and its default instead, as the page docs/settings.md.
    #[arg(long)]
    reference: bool,
}

/// Prints a line per setting, as a settings file has it; secrets are masked. `matches` are those of the command.
pub fn run(args: &Args, matches: &ArgMatches) -> anyhow::Result<()> {
    let mut command = Cli::command();
    command.build(); // fills in the defaults of switches
    let settings = command
        .find_subcommand("config")
        .into_iter()
        .flat_map(clap::Command::get_arguments)
        .filter(|arg| arg.get_env().is_some());
    if args.reference {
        return reference(settings);
    }
    for arg in settings {
        let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let (name, value) = (name(arg), values.join(","));
        match (value.is_empty(), is_secret(arg)) {
            (false, false) => say(format_args!("{name}={value}"))?,
            (false, true) => say(format_args!("{name}=********"))?,
            (true, _) => say(format_args!("# {name}="))?,
        }
    }
    for setting in VARIABLES {
        let given = std::env::var_os(setting.name).filter(|value| !value.is_empty());
        match given {
            Some(value) => say(format_args!("{}={}", setting.name, value.display()))?,
            None => say(format_args!("# {}={}", setting.name, setting.default))?,
        }
    }
    for warning in
        unknown_names::<Cli>(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
    {
        say(format_args!("# {warning}"))?;
    }
    Ok(())
}

/// Prints docs/settings.md: a table per section, in the order of the help.
fn reference<'a>(settings: impl Iterator<Item = &'a Arg>) -> anyhow::Result<()> {
    say(PREFACE)?;
    let mut section = "";
    for arg in settings {
        let heading = arg.get_help_heading().unwrap_or("General");
        if heading != section {
            section = heading;
            say(format_args!("\n## {section}\n\n{TABLE}"))?;
        }
        let mut name = format!("`{}`", name(arg));
        if let Some(flag) = arg.get_long() {
            name += &format!("<br>`--{flag}`");
        }
        let defaults = arg.get_default_values().iter();
        let default: Vec<_> = defaults.map(|value| value.to_string_lossy()).collect();
        let default = match default.join(",") {
            _ if arg.is_hide_default_value_set() => "see right".to_owned(),
            none if none.is_empty() => "not set".to_owned(),
            some => format!("`{some}`"),
        };
        let mut help = sentence(&arg.get_help().map(ToString::to_string).unwrap_or_default());
        if is_secret(arg) {
            help += " **Secret**: masked wherever settings are printed.";
        }
        row(&name, &default, &help)?;
    }
    say(format_args!("\n## Without a flag\n\n{TABLE}"))?;
    for setting in VARIABLES {
        let default = match setting.default {
            "" => "not set".to_owned(),
            some => format!("`{some}`"),
        };
        let name = format!("`{}`", setting.name);
        row(&name, &default, &sentence(setting.help))?;
    }
    Ok(())
}

fn row(name: &str, default: &str, help: &str) -> std::io::Result<()> {
    let help = help.replace('|', "\\|");
    say(format_args!("| {name} | {default} | {help} |"))
}

/// The name in the environment.
fn name(arg: &Arg) -> String {
    let name = arg.get_env().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_env_values_set()
}

/// With the full stop that help texts leave out.
fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{}.", text.trim_end_matches('.'))
}

const PREFACE: &str = "# Settings

<!-- Made by `plenum config --reference`, which script/test compares this with. -->

A setting is a variable in the environment, or a flag of `plenum serve` and of the commands that it concerns, or a line
`NAME=value` in a settings file. A flag goes before the environment, and that before the file. An empty value counts as
given. A value that cannot be used stops the start with one line that names the setting.

`plenum config` prints what is in effect, with secrets masked. Times are written as `250ms`, `10s`, `5m`, `2h`; lists are
comma separated.";
const TABLE: &str = "| setting | default | what it is |\n| --- | --- | --- |";
