//! `sluice trace`: what happens to one packet, and why.

pub(crate) mod request;

use std::process::ExitCode;
use std::time::Duration;

use diagnose::live;
use serde_json::json;
use trace::{Trace, Verdict};

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
    let walked = trace::walk(&world, &packet)?;
    let mut accepted = is_accepted(&walked);
    let mut replies = Vec::new();
    if args.reply {
        for outcome in &walked.outcomes {
            let Some(reply) = trace::reply_to(&world.host, &packet, outcome) else {
                continue;
            };
            let back = trace::walk(&world, &reply)?;
            accepted &= is_accepted(&back);
            replies.push((reply, back));
        }
    }
    match args.output {
        TraceOutput::Tree => {
            let style = style(args.color);
            print!("{}", trace::render_tree(&packet, &walked, style));
            for (reply, back) in &replies {
                println!("\nthe answer:");
                print!("{}", trace::render_tree(reply, back, style));
            }
        }
        TraceOutput::Json => {
            let mut value = trace::to_json(&walked);
            if args.reply {
                value["replies"] = replies.iter().map(|(_, t)| trace::to_json(t)).collect();
            }
            println!("{}", serde_json::to_string_pretty(&json!(value))?);
        }
    }
    Ok(accepted)
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

fn is_accepted(trace: &Trace) -> bool {
    trace.outcomes.iter().all(|o| o.verdict == Verdict::Accept)
}
