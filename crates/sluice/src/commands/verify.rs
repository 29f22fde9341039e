//! `sluice verify`: whether the node's rules do what the objects state.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use diagnose::verify::verify;

use super::explain;
use crate::cli::{ExplainOutput, VerifyArgs};

/// Exit status if the rules cannot be checked.
const NO_ANSWER: u8 = 2;

/// Run `sluice verify`: 0 if there are no problems, 1 if there are, 2 if the rules cannot be checked.
pub(crate) fn command(args: &VerifyArgs) -> ExitCode {
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn run(args: &VerifyArgs) -> anyhow::Result<bool> {
    let mut inspector = explain::inspector(&args.objects, &args.host)?;
    if explain::is_live(&args.host) {
        inspector.read_flows();
    }
    let is_watched = std::io::stderr().is_terminal();
    let shown = AtomicUsize::new(0);
    let answer = verify(&inspector, |done, all| {
        let percent = done * 100 / all.max(1);
        if is_watched && shown.swap(percent, Ordering::Relaxed) != percent {
            bar(percent, done, all);
        }
    })?;
    if is_watched {
        eprint!("\r\x1b[K");
    }
    match args.output {
        ExplainOutput::Text => print!("{}", answer.text()),
        ExplainOutput::Json => println!("{}", serde_json::to_string_pretty(&answer)?),
    }
    Ok(answer.is_healthy())
}

/// Draw a progress bar on standard error.
fn bar(percent: usize, done: usize, all: usize) {
    const WIDTH: usize = 40;
    let full = "#".repeat(percent * WIDTH / 100);
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "\r[{full:<WIDTH$}] {done} of {all} Services");
    let _ = stderr.flush();
}
