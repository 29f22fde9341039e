//! `sluice trace`: what happens to one packet, and why.

pub(crate) mod request;

use std::process::ExitCode;
use std::time::Duration;

use diagnose::{Traced, live};

use crate::cli::{TraceArgs, TraceOutput};
use request::{destination, packet, style, world};

/// Exit status for a question that cannot be answered.
const NO_ANSWER: u8 = 2;

/// Run `sluice trace`: 0 if every outcome is accepted, 1 if not, 2 if the question cannot be
/// answered.
pub(crate) fn command(args: &TraceArgs) -> ExitCode {
    let answer = if args.live {
        run_live(args)
    } else {
        run(args).map(|accepted| ExitCode::from(u8::from(!accepted)))
    };
    match answer {
        Ok(status) => status,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn run(args: &TraceArgs) -> anyhow::Result<bool> {
    let world = world(&args.host)?;
    let packet = packet(args, &world)?;
    let traced = Traced::walk(&world, packet, args.reply)?;
    match args.output {
        TraceOutput::Tree => {
            let style = style(args.color);
            let tree = |packet, trace| print!("{}", trace::render_tree(packet, trace, style));
            tree(&traced.packet, &traced.trace);
            for (reply, back) in traced.replies.iter().flatten() {
                println!("\nthe answer:");
                tree(reply, back);
            }
        }
        TraceOutput::Json => println!("{}", serde_json::to_string_pretty(&traced.to_json())?),
    }
    Ok(traced.is_accepted())
}

fn run_live(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let (dst, to) = destination(args)?;
    let request = live::Request {
        ends: (args.src, dst),
        to,
        sport: args.sport,
        from: args.from.clone(),
        send: args.send.clone(),
        timeout: Duration::from_secs(args.timeout),
    };
    let report = live::run(&request, |line| eprintln!("sluice: {line}"))?;
    match args.output {
        TraceOutput::Tree => print!("{}", report.text(style(args.color))),
        TraceOutput::Json => println!("{}", serde_json::to_string_pretty(&report.to_json())?),
    }
    Ok(if report.is_fine() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
