//! The tests that run on Debian's stock kernels: `cargo xtask test-kernels`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::steps::{Program, STEPS, Step};
use crate::stock::{Kernel, StockVm};
use crate::vm::{quoted, workspace};

/// Limit of a step in the guest, in seconds. A step takes one to two minutes on an idle machine.
const STEP_LIMIT: u64 = 1800;

impl Step {
    /// The command line in the guest.
    fn command(&self, program: &Path) -> String {
        let program = quoted(program.as_os_str());
        match self.program {
            Program::Script(text) => {
                let text = quoted(OsStr::new(text));
                format!("env sluice={program} /bin/sh -c {text}")
            }
            _ => {
                let mut words = vec!["env".to_owned()];
                words.extend(self.environment.iter().map(|word| (*word).to_owned()));
                words.push(program);
                words.extend(self.arguments.iter().map(|word| (*word).to_owned()));
                words.join(" ")
            }
        }
    }
}

/// The steps to run.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Only those that `make test` runs.
    pub quick: bool,
    /// Only those whose name contains one of these words, if there are any.
    pub words: Vec<String>,
    /// The cargo profile of sluice in the demo.
    pub profile: String,
}

impl Selection {
    fn contains(&self, step: &Step) -> bool {
        let named = self.words.iter().any(|word| step.name.contains(word));
        (step.quick || !self.quick) && (named || self.words.is_empty())
    }
}

/// Run steps on kernels, print a line for each, and return whether all passed.
///
/// # Errors
/// No step is selected, a program does not build, or a machine does not boot.
pub fn run(kernels: &[Kernel], selection: &Selection) -> anyhow::Result<bool> {
    let steps: Vec<&Step> = STEPS.iter().filter(|s| selection.contains(s)).collect();
    ensure!(!steps.is_empty(), "no step has such a name");
    let mut programs = Vec::new();
    for step in &steps {
        programs.push(step.program.build(&selection.profile)?);
    }
    let mut passed = true;
    for kernel in kernels {
        println!("kernel {}", kernel.name);
        let mut script = "failed=0; uname -r\n".to_owned();
        for (step, program) in steps.iter().zip(&programs) {
            script += &format!(
                "start=$(cut -d. -f1 /proc/uptime)
if timeout {STEP_LIMIT} {} >/tmp/output 2>&1 && ! grep -q 'ok. 0 passed' /tmp/output; then result=pass; else result=FAIL; failed=1; cat /tmp/output; fi
grep -E 'passed|test result' /tmp/output | sed 's/^/    /'
echo \"{}: $result, $(($(cut -d. -f1 /proc/uptime) - start)) s\"
",
                step.command(program),
                step.name,
            );
        }
        script += "(exit $failed)";
        let mut files = programs.clone();
        // The tests of the binary start it from this path.
        files.push(Program::Script("").build("dev")?);
        files.push(workspace().join("testdata"));
        files.push(workspace().join("crates/netfilter/src/nft_lang/testdata"));
        // Tests find it relative to the folders of their packages.
        for package in ["dataplane", "kernel", "netfilter", "observed", "sluice"] {
            files.push(workspace().join("crates").join(package).join("Cargo.toml"));
        }
        let vm = StockVm {
            timeout: Duration::from_secs(STEP_LIMIT * steps.len() as u64),
            files,
            environment: vec![("SLUICE_TEST_IN_VM".to_owned(), "1".to_owned())],
            ..StockVm::new(*kernel)
        };
        passed &= vm.run_script(&script)? == 0;
    }
    Ok(passed)
}

impl Program {
    /// Build it and return its path.
    fn build(&self, profile: &str) -> anyhow::Result<PathBuf> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(workspace()).stdin(Stdio::null());
        match self {
            Program::Sluice => cargo.args(["build", "--package", "sluice", "--profile", profile]),
            Program::Script(_) => cargo.args(["build", "--package", "sluice"]),
            Program::Test(package, name) => {
                cargo.args(["test", "--no-run", "--package", package, "--test", name])
            }
        };
        let output = cargo
            .args(["--message-format", "json-render-diagnostics"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        ensure!(output.status.success(), "cargo: {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        let wanted = match self {
            Program::Sluice | Program::Script(_) => "sluice",
            Program::Test(_, name) => name,
        };
        executable(&text, wanted).with_context(|| format!("cargo built no {wanted}"))
    }
}

/// Return the executable of a target among cargo's messages, one JSON object per line.
pub(crate) fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    let mut lines = messages.lines().rev();
    lines.find_map(|line| {
        let field = |start: &str, name: &str| -> Option<String> {
            let rest = line.split_once(start)?.1;
            let value = rest.split_once(&format!("\"{name}\":\""))?.1;
            Some(value.split_once('"')?.0.to_owned())
        };
        let is_target = field("\"target\":{", "name").as_deref() == Some(target);
        is_target.then(|| field("\"filenames\":", "executable").map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_built_for_the_target() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"sluice"},"filenames":["/t/sluice"],"executable":"/t/sluice","fresh":true}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"observed"},"filenames":["/t/observed-1"],"executable":"/t/observed-1","fresh":true}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(
            executable(messages, "observed"),
            Some("/t/observed-1".into())
        );
        assert_eq!(executable(messages, "sluice"), Some("/t/sluice".into()));
        assert_eq!(executable(messages, "other"), None);
    }
}
