//! The command line: one file per command. All wiring is here.

mod app;
mod config;
mod control;
mod key;
mod migrate;
pub mod node;
mod openapi;
mod rewrap;
pub mod roles;
mod room;
mod serve;
mod storage;
mod table;
mod token;

use std::{
    env::VarError,
    ffi::OsString,
    io::{IsTerminal, Write},
    panic::PanicHookInfo,
    process::ExitCode,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{
    ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use tracing::error;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use self::table::Table;
use crate::{apps::AppName, config as settings};

/// Video meetings by one REST call: rooms, media, rules kept on the server, signed webhooks.
#[derive(Debug, Parser)]
#[command(name = "plenum", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until it is told to stop (SIGTERM, Ctrl-C).
    Serve(Box<serve::Args>),
    /// Bring the database schema up to date, and stop.
    Migrate(migrate::Args),
    /// Print the effective settings, with secrets masked.
    Config(Box<config::Args>),
    /// Create, list and set up apps, the tenants.
    #[command(subcommand)]
    App(app::Command),
    /// Create, list, rotate and revoke secret keys; replace the master key.
    #[command(subcommand)]
    Key(key::Command),
    /// Rotate the secrets that apps' tokens are signed with.
    #[command(subcommand)]
    Token(token::Command),
    /// List rooms.
    #[command(subcommand)]
    Room(room::Command),
    /// Print the OpenAPI document.
    Openapi,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    if let Err(error) = settings::load_file() {
        return fail(&error);
    }
    let (cli, matches) = match parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(&error),
    };
    if let Err(why) = log() {
        // Nobody is left to be told that this could not be written.
        let _ = writeln!(
            std::io::stderr().lock(),
            "plenum: {}: {why}",
            settings::LOG.name
        );
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(log_panic));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli.command, &matches)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// The command, and what it was made from.
fn parse(args: impl Iterator<Item = OsString>) -> Result<(Cli, ArgMatches), clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(args)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((cli, matches))
}

async fn run(command: Command, matches: &ArgMatches) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => Box::pin(serve::run(*args)).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Config(args) => {
            let (_, own) = matches.subcommand().context("there is no command")?;
            config::run(&args, own)
        }
        Command::App(command) => app::run(command).await,
        Command::Key(command) => key::run(command).await,
        Command::Token(command) => token::run(command).await,
        Command::Room(command) => room::run(command).await,
        Command::Openapi => openapi::run(),
    }
}

/// Prints a line for whoever ran the command.
fn say(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

/// What is said where no app has this name.
fn no_app(name: &AppName) -> String {
    format!("there is no app {name}; `plenum app list` shows the apps")
}

/// An instant as lists show it: to the minute, in UTC.
fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M").to_string()
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // Nobody is left to be told that this could not be written.
    let _ = writeln!(std::io::stderr().lock(), "plenum: {error:#}");
    ExitCode::FAILURE
}

/// A wrong setting stops the start with one line that names it; help and usage are clap's.
fn refuse(error: &clap::Error) -> ExitCode {
    let wrong = matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    );
    let (Some(ContextValue::String(arg)), Some(ContextValue::String(value))) = (
        error.get(ContextKind::InvalidArg),
        error.get(ContextKind::InvalidValue),
    ) else {
        return exit(error);
    };
    if !wrong {
        return exit(error);
    }
    let flag = arg.split([' ', '=']).next().unwrap_or_default();
    let long = flag.trim_start_matches('-');
    let command = Cli::command();
    let named = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .find(|known| known.get_long() == Some(long));
    let name = named
        .and_then(clap::Arg::get_env)
        .map(|name| format!("{} ({flag})", name.to_string_lossy()));
    let hidden = named.is_some_and(clap::Arg::is_hide_env_values_set);
    let shown = if hidden { "…" } else { value };
    let why = std::error::Error::source(error)
        .map(|why| format!(": {why}"))
        .unwrap_or_default();
    // Nobody is left to be told that this could not be written.
    let name = name.as_deref().unwrap_or(flag);
    let _ = writeln!(
        std::io::stderr().lock(),
        "plenum: {name}: {shown:?} cannot be used{why}"
    );
    ExitCode::from(2)
}

fn exit(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

/// Logs go to standard error: for people on a terminal, as JSON otherwise.
fn log() -> Result<(), String> {
    let filter = match std::env::var(settings::LOG.name) {
        Ok(text) if !text.is_empty() => filter(&text)?,
        Err(VarError::NotUnicode(_)) => return Err("it is no text".to_owned()),
        _ => EnvFilter::new(settings::LOG.default),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.compact().init();
    } else {
        log.json().flatten_event(true).with_span_list(false).init();
    }
    Ok(())
}

/// Logs where a panic came about. Its message too where that was written into the code; any other may hold data, such as a
/// secret that could not be read.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload().downcast_ref::<&'static str>();
    error!(
        location = panic.location().map(tracing::field::display),
        error = message.copied().unwrap_or("(not told)"),
        "panic"
    );
}

/// What is logged: levels, alone or after `target=`, separated by commas. A bare word that is no level would be taken for a
/// target, and nothing at all be logged.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let refuse = |part: &str| {
        format!(
            "{text:?} cannot be used: {part:?} must be a level (off, error, warn, info, debug or trace) or target=level, \
             such as info,plenum=debug"
        )
    };
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(refuse(part));
        }
    }
    EnvFilter::try_new(text).map_err(|_| refuse(text))
}
