//! The lab alone, without the rest of sluice: what this crate's tests run, and a quick build for
//! whoever works on it. `sluice lab` is the same commands, and can run proxies too.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::cli::LabCommand;
use lab::echo::EchoArgs;

/// Clusters made of network namespaces on one machine
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Lab(LabCommand),
    /// The server in every pod
    #[command(hide = true)]
    LabEcho(EchoArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Lab(command) => lab::cli::run(&command),
        Command::LabEcho(args) => lab::echo::run(&args).map(|()| ExitCode::SUCCESS),
    }
}
