//! The lab without the rest of sluice, for this crate's tests and for quick builds. `sluice lab` has the
//! same commands and can also run proxies.

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
