//! Development commands: `cargo xtask --help`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use xtask::kernels::{self, Selection};
use xtask::path;
use xtask::stock::{KERNELS, Kernel, StockVm};
use xtask::vm::Vm;

/// Development commands of the sluice workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a command as root in a virtual machine and exit with its status
    ///
    /// Without --kernel: User Mode Linux, whose kernel has IPVS, with the host's files, read-only.
    /// With --kernel: an unmodified Debian kernel under qemu, with the command's program and the
    /// files that --file names.
    Vm {
        /// A Debian kernel: 5.10, 6.1, 6.12 or sid
        #[arg(long)]
        kernel: Option<String>,
        /// Seconds after which the machine is stopped
        #[arg(long, default_value_t = 1200)]
        timeout: u64,
        /// Memory in MiB [default: 512; with --kernel: 2048]
        #[arg(long)]
        memory: Option<u32>,
        /// File or folder to copy into the machine (with --kernel)
        #[arg(long = "file", requires = "kernel")]
        files: Vec<std::path::PathBuf>,
        /// Count instructions: the clock of the machine advances by one nanosecond for each (with --kernel)
        #[arg(long, requires = "kernel")]
        counted: bool,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<OsString>,
    },
    /// Count the instructions that packets cost, directly and through Services
    BenchPath {
        /// `ipv4`, `ipv6`, numbers of Services, `rounds=N`, `check` [default: both families, 10, 1000]
        arguments: Vec<String>,
    },
    /// Run the demo and the kernel tests on Debian's stock kernels
    TestKernels {
        /// Only these kernels [default: all]
        #[arg(long = "kernel")]
        kernels: Vec<String>,
        /// Only the part that `make test` runs
        #[arg(long)]
        quick: bool,
        /// Only the steps whose name contains this word; may be repeated
        #[arg(long = "step")]
        steps: Vec<String>,
        /// The cargo profile of sluice in the demo
        #[arg(long, default_value = "dev")]
        profile: String,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().task {
        Task::Vm {
            kernel: None,
            timeout,
            memory,
            command,
            ..
        } => {
            let vm = Vm {
                timeout: Duration::from_secs(timeout),
                memory_mib: memory.unwrap_or(512),
                ..Vm::default()
            };
            Ok(ExitCode::from(vm.run(&command)?))
        }
        Task::Vm {
            kernel: Some(kernel),
            timeout,
            memory,
            files,
            counted,
            command,
        } => {
            let vm = StockVm {
                timeout: Duration::from_secs(timeout),
                memory_mib: memory.unwrap_or(2048),
                files,
                counted,
                ..StockVm::new(Kernel::named(&kernel)?)
            };
            Ok(ExitCode::from(vm.run(&command)?))
        }
        Task::BenchPath { arguments } => match path::run(&arguments)? {
            true => Ok(ExitCode::SUCCESS),
            false => Ok(ExitCode::FAILURE),
        },
        Task::TestKernels {
            kernels,
            quick,
            steps,
            profile,
        } => {
            let named = kernels.iter().map(|name| Kernel::named(name));
            let mut chosen = named.collect::<anyhow::Result<Vec<_>>>()?;
            if chosen.is_empty() {
                chosen = KERNELS.to_vec();
            }
            let selection = Selection {
                quick,
                words: steps,
                profile,
            };
            match kernels::run(&chosen, &selection)? {
                true => Ok(ExitCode::SUCCESS),
                false => Ok(ExitCode::FAILURE),
            }
        }
    }
}
