//! `sluice status`: what the running proxy knows about itself.

use std::io::{BufWriter, Write as _};
use std::process::ExitCode;

use crate::cli::{ExplainOutput, StatusArgs};
use crate::socket::client::ask;
use crate::socket::protocol::Topic;

/// Exit status if no proxy can be asked.
const NO_ANSWER: u8 = 2;

/// Run `sluice status`: 0 if there are no problems, 1 if there are, 2 if no proxy can be asked.
pub(crate) fn command(args: &StatusArgs) -> ExitCode {
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn run(args: &StatusArgs) -> anyhow::Result<bool> {
    let topic = match (args.objects, args.plan) {
        (true, _) => Topic::Objects,
        (_, true) => Topic::Plan,
        _ => Topic::Status,
    };
    let answer = ask(args.socket.as_deref(), topic)?;
    let is_fine = answer.status.is_fine();
    let mut out = BufWriter::new(std::io::stdout().lock());
    match (topic, args.output) {
        (Topic::Objects, _) => {
            write!(out, r#"{{"apiVersion":"v1","kind":"List","items":["#)?;
            for (number, item) in answer.items()?.iter().enumerate() {
                let comma = if number == 0 { "" } else { "," };
                write!(out, "{comma}\n{item}")?;
            }
            writeln!(out, "\n]}}")?;
            return Ok(out.flush().map(|()| true)?);
        }
        (Topic::Plan, _) => {
            for item in answer.items()? {
                writeln!(out, "{item}")?;
            }
            return Ok(out.flush().map(|()| true)?);
        }
        (Topic::Status, ExplainOutput::Text) => write!(out, "{}", answer.status.text())?,
        (Topic::Status, ExplainOutput::Json) => {
            writeln!(out, "{}", serde_json::to_string_pretty(&answer.status)?)?;
        }
    }
    out.flush()?;
    Ok(is_fine)
}
