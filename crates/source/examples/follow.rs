//! Watches an API server and prints the batches: `follow KUBECONFIG NODE [CONTENT-TYPE]`.
//!
//! Shows the source with any server, and the duration of the initial list.

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Instant;

use source::Source;
use source::apiserver::{ApiServer, ClientOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut args = std::env::args().skip(1);
    let usage = "usage: follow KUBECONFIG NODE [CONTENT-TYPE]";
    let mut options = ClientOptions {
        kubeconfig: Some(args.next().ok_or(usage)?.into()),
        ..ClientOptions::default()
    };
    let node = args.next().ok_or(usage)?;
    if let Some(content_type) = args.next() {
        options.content_type = content_type;
    }
    let start = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let _running =
        ApiServer::new(options, &node)?.start(move |batch| match sender.send(batch) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        })?;
    for batch in receiver {
        println!(
            "{:>9.3} s: {} events, complete: {}, resident {} KiB",
            start.elapsed().as_secs_f64(),
            batch.events.len(),
            batch.initial_list_complete,
            resident().unwrap_or(0)
        );
        for problem in &batch.problems {
            println!("    problem: {problem}");
        }
        if batch.events.len() <= 5 {
            for event in &batch.events {
                println!("    {event:?}");
            }
        }
    }
    Ok(())
}

/// `VmRSS` of this process.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().split(' ').next()?.parse().ok()
}
