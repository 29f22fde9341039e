//! The simulator as a program: serves objects from JSON files or of a synthetic cluster, and changes
//! endpoints at a given rate.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use apiserver_sim::{Config, Sim, slice_of, synthetic_cluster};
use clap::Parser;
use serde_json::Value;

/// A Kubernetes API server for tests.
#[derive(Parser)]
struct Args {
    /// JSON files of objects or Lists
    files: Vec<PathBuf>,
    /// Number of Services of the synthetic cluster
    #[arg(long, default_value_t = 0)]
    services: u32,
    /// Endpoints per Service
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Slice changes per second
    #[arg(long, default_value_t = 0)]
    changes: u32,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
    /// Folder for kubeconfig and ca.crt
    #[arg(long)]
    kubeconfig_dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let sim = Sim::start(Config {
        listen: args.listen,
        ..Config::default()
    })?;
    for path in &args.files {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        let mut value: Value = serde_json::from_slice(&text)?;
        match value.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => sim.apply(items),
            _ => sim.apply([value]),
        }
    }
    if args.services > 0 {
        sim.apply(synthetic_cluster(args.services, args.endpoints));
    }
    let kubeconfig = sim.write_kubeconfig(&args.kubeconfig_dir, "{}")?;
    println!("serving at {}, {}", sim.address(), kubeconfig.display());
    let mut n = 0;
    loop {
        if args.changes == 0 || args.services == 0 {
            std::thread::park();
            continue;
        }
        std::thread::sleep(Duration::from_secs(1) / args.changes);
        n += 1;
        let generation = 1 + n / args.services;
        sim.apply([slice_of(n % args.services, args.endpoints, generation)]);
    }
}
