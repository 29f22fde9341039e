//! The cost of packets in instructions, in a virtual machine that counts them: `cargo xtask bench-path`.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::kernels::executable;
use crate::stock::{Kernel, StockVm};
use crate::vm::workspace;

/// The bench of the crate `dataplane`.
const BENCH: &str = "path";
/// The kernel whose figures are recorded.
const KERNEL: &str = "6.1";

/// Run the bench with these arguments, and return whether it succeeded.
///
/// # Errors
/// The bench does not build, or the machine does not boot.
pub fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Not the profile of benches: the part of the load program is small, and this one is built already.
    let built = cargo
        .current_dir(workspace())
        .args(["build", "--package", "dataplane", "--bench", BENCH])
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(built.status.success(), "cargo: {}", built.status);
    let messages = String::from_utf8_lossy(&built.stdout);
    let program = executable(&messages, BENCH).context("cargo built no bench")?;
    let vm = StockVm {
        timeout: Duration::from_secs(7200),
        files: vec![
            workspace().join("testdata/observed"),
            // The recordings are found relative to it.
            workspace().join("crates/observed/Cargo.toml"),
        ],
        counted: true,
        ..StockVm::new(Kernel::named(KERNEL)?)
    };
    let command = std::iter::once(program.into_os_string());
    let command: Vec<OsString> = command.chain(arguments.iter().map(Into::into)).collect();
    Ok(vm.run(&command)? == 0)
}
