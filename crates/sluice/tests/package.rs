//! The Debian package: built, installed into a root of its own, upgraded, removed and purged with
//! dpkg; its systemd unit verified.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {log}");
    output
}

/// A folder into which dpkg installs, with a database of its own.
struct Root(PathBuf);

impl Root {
    fn new(path: PathBuf) -> Self {
        for folder in ["info", "updates"] {
            fs::create_dir_all(path.join("var/lib/dpkg").join(folder)).unwrap();
        }
        fs::write(path.join("var/lib/dpkg/status"), "").unwrap();
        Self(path)
    }

    fn dpkg(&self, args: &[&str]) {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", self.0.display()));
        // The root has no shell for the scripts and no libc to depend on.
        command.args(["--force-script-chrootless", "--force-depends"]);
        run(command.args(args));
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

#[test]
fn the_package_is_installed_upgraded_removed_and_purged() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("sluice");
    run(Command::new("strip").arg("-o").arg(&program).arg(SLUICE));
    let script = repository().join("scripts/debian-package");
    let built = run(Command::new(script)
        .args([&program, folder.path()])
        .env("DPKG_DEB_COMPRESSOR_TYPE", "gzip")
        .env("DPKG_DEB_COMPRESSOR_LEVEL", "1"));
    let package = String::from_utf8(built.stdout).unwrap();
    let package = package.trim();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        package.contains(&format!("/sluice_{version}_")),
        "{package}"
    );

    let root = Root::new(folder.path().join("root"));
    root.dpkg(&["--install", package]);
    let output = run(Command::new(root.path("usr/bin/sluice")).args(["proxy", "--version"]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("(sluice, "));
    let config = root.path("etc/sluice/config.conf");
    let written = folder.path().join("written");
    let mut check = Command::new(root.path("usr/bin/sluice"));
    check.arg("proxy").arg("--config").arg(&config);
    let output = run(check.arg("--write-config-to").arg(&written));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");

    // An upgrade keeps a changed configuration.
    let changed = fs::read_to_string(&config)
        .unwrap()
        .replace("nftables", "ipvs");
    fs::write(&config, &changed).unwrap();
    let state = root.path("var/lib/sluice");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("api-servers.json"), "{}").unwrap();
    root.dpkg(&["--force-confold", "--install", package]);
    assert_eq!(fs::read_to_string(&config).unwrap(), changed);

    root.dpkg(&["--remove", "sluice"]);
    assert!(!root.path("usr/bin/sluice").exists());
    assert!(config.exists() && state.exists());
    root.dpkg(&["--purge", "sluice"]);
    assert!(!config.exists() && !state.exists());
    assert!(!root.path("etc/sluice").exists());
}

#[test]
fn package_of_a_static_program_needs_no_libc() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("program.c");
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    for (link, needs_libc) in [("-static-pie", false), ("-static", false), ("-pie", true)] {
        let program = folder.path().join("sluice");
        let mut compiler = Command::new("cc");
        run(compiler.arg(link).arg("-o").arg(&program).arg(&source));
        let script = repository().join("scripts/debian-package");
        let built = run(Command::new(script).args([&program, folder.path()]));
        let package = String::from_utf8(built.stdout).unwrap();
        let mut depends = Command::new("dpkg-deb");
        let depends = run(depends.args(["--field", package.trim(), "Depends"]));
        let depends = String::from_utf8(depends.stdout).unwrap();
        assert_eq!(depends.contains("libc6"), needs_libc, "{link}: {depends}");
    }
}

#[test]
fn the_unit_is_valid_and_fits_the_program() {
    let unit = fs::read_to_string(repository().join("packaging/sluice.service")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let system = folder.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&system).unwrap();
    fs::create_dir_all(folder.path().join("usr/bin")).unwrap();
    fs::copy(SLUICE, folder.path().join("usr/bin/sluice")).unwrap();
    fs::write(system.join("sluice.service"), &unit).unwrap();
    for target in [
        "sysinit",
        "basic",
        "shutdown",
        "network-online",
        "multi-user",
    ] {
        let text = format!("[Unit]\nDescription={target}\n");
        fs::write(system.join(format!("{target}.target")), text).unwrap();
    }
    let mut verify = Command::new("systemd-analyze");
    let root = format!("--root={}", folder.path().display());
    let output = run(verify.args(["verify", "--man=no", &root, "sluice.service"]));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    // The folder of the stored API server addresses.
    assert!(unit.contains("\nStateDirectory=sluice\n"));
    assert!(unit.contains("\nRuntimeDirectory=sluice\nRuntimeDirectoryMode=0700\n"));
    let help = run(Command::new(SLUICE).args(["proxy", "--help"]));
    assert!(String::from_utf8_lossy(&help.stdout).contains("/var/lib/sluice/"));
}
