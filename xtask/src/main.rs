//! Chores: `cargo xtask vm -- COMMAND…`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use xtask::vm::Vm;

/// Chores of the sluice workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run a command as root in a virtual machine whose kernel has IPVS, on this machine's own
    /// files, which it cannot write. Ends with the command's status.
    Vm {
        /// End it after so many seconds.
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        /// Its memory, in MiB.
        #[arg(long, default_value_t = 512)]
        memory: u32,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<OsString>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let Chore::Vm {
        timeout,
        memory,
        command,
    } = Cli::parse().chore;
    let vm = Vm {
        timeout: Duration::from_secs(timeout),
        memory_mib: memory,
        ..Vm::default()
    };
    let status = vm.run(&command)?;
    Ok(ExitCode::from(status))
}
