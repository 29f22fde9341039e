//! Compiles the library that `vm.rs` preloads into the virtual machine's kernel.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    const SOURCE: &str = "preload/ptrace.rs";
    println!("cargo::rerun-if-changed={SOURCE}");
    let variable = |name| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let library = PathBuf::from(variable("OUT_DIR")).join("ptrace.so");
    let status = Command::new(variable("RUSTC"))
        .args(["--edition=2024", "--crate-type=cdylib"])
        .args(["-Copt-level=2", "-Cpanic=abort", "-Dwarnings", "--target"])
        .arg(variable("TARGET"))
        .arg("-o")
        .arg(library)
        .arg(SOURCE)
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("{SOURCE} does not compile: {other:?}"),
    }
}
