//! The relay beside HAProxy and socat, on loopback: `cargo bench -p relay --bench relay`.
//!
//! HAProxy is the usual alternative: event-driven, with the same number of threads. It runs twice, with
//! its defaults and with splice. socat creates one process per connection and serves as a well-known
//! reference. Clients, server and relay are separate processes on the same cores, so the relay's own
//! processor time is more meaningful than the rate.

mod support;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::{Process, Role, server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const SHORT: usize = 20_000;
const TRIPS: usize = 100_000;
const BULK: usize = 4 << 30;
const STREAMS: usize = 4;
const CLIENTS: usize = 32;

/// Simultaneously open connections, if the limit of open files allows; each takes two files.
const OPEN: usize = 10_000;
/// The same for socat, which creates one process per connection.
const OPEN_PROCESSES: usize = 1_000;

fn main() -> ExitCode {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the hard limit");
    if let Some(role) = Role::of_this_process() {
        return role.run();
    }
    let open = OPEN.min(usize::try_from(hard.saturating_sub(200) / 2).unwrap_or(OPEN));
    let runtime = Runtime::new().expect("a runtime");
    let (server, endpoint) = server();
    println!(
        "{:<16}{:>13}{:>12}{:>13}{:>12}{:>10}{:>12}{:>9}{:>13}",
        "", "connections", "CPU each", "round trips", "CPU each", "bulk", "CPU", "open", "memory"
    );
    for relay in support::contenders(endpoint) {
        let open = if relay.forks { OPEN_PROCESSES } else { open };
        let (mut process, address) = relay.start();
        let figures = runtime.block_on(measure(&mut process, address, open));
        println!("{:<16}{figures}", relay.name);
    }
    drop(server);
    ExitCode::SUCCESS
}

async fn measure(relay: &mut Process, at: SocketAddr, open: usize) -> String {
    // Excludes one-time loading and allocation.
    short(at, CLIENTS).await;
    let (rate, cpu) = timed(relay, SHORT, short(at, SHORT)).await;
    let connections = format!("{rate:>11.0}/s{:>9.1} us", cpu.as_secs_f64() * 1e6);
    let (rate, cpu) = timed(relay, TRIPS, trips(at, TRIPS)).await;
    let round_trips = format!("{rate:>11.0}/s{:>9.1} us", cpu.as_secs_f64() * 1e6);
    let (rate, cpu) = timed(relay, 1, bulk(at)).await;
    let gigabytes = BULK as f64 / 1e9;
    let bulk = format!(
        "{:>5.1} GB/s{:>7.2} s/GB",
        rate * gigabytes,
        cpu.as_secs_f64() / gigabytes
    );
    let before = relay.memory();
    let held = hold(at, open).await;
    let memory = relay.memory().saturating_sub(before) as f64 / 1024.0;
    let each = memory * 1024.0 / held.len() as f64;
    let kept = held.len();
    format!("{connections}{round_trips}{bulk}{kept:>9}{memory:>6.0} MiB, {each:.1} KiB each")
}

/// Operations per second, and the relay's processor time for each.
async fn timed(relay: &Process, count: usize, work: impl Future<Output = ()>) -> (f64, Duration) {
    let (cpu, start) = (relay.cpu(), Instant::now());
    work.await;
    let took = start.elapsed().as_secs_f64();
    let count = count as f64;
    (count / took, (relay.cpu() - cpu).div_f64(count))
}

/// Runs `count` clients, each with its share of the work.
async fn clients<F>(count: usize, client: impl Fn() -> F)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let mut all = JoinSet::new();
    for _ in 0..count {
        all.spawn(client());
    }
    for result in all.join_all().await {
        result.expect("the relay carries");
    }
}

/// Connections with one request and its reply.
async fn short(at: SocketAddr, count: usize) {
    clients(CLIENTS, move || async move {
        for _ in 0..count / CLIENTS {
            let mut stream = TcpStream::connect(at).await?;
            stream.write_all(b"?").await?;
            stream.read_exact(&mut [0]).await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await?;
        }
        Ok(())
    })
    .await;
}

/// Requests of 64 bytes over open connections.
async fn trips(at: SocketAddr, count: usize) {
    clients(CLIENTS, move || async move {
        let mut stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        let mut buffer = [b'?'; 64];
        for _ in 0..count / CLIENTS {
            stream.write_all(&buffer).await?;
            stream.read_exact(&mut buffer).await?;
        }
        Ok(())
    })
    .await;
}

/// Bulk data in one direction, over a few connections.
async fn bulk(at: SocketAddr) {
    clients(STREAMS, move || async move {
        let mut stream = TcpStream::connect(at).await?;
        let chunk = vec![b'!'; 256 * 1024];
        for _ in 0..BULK / STREAMS / chunk.len() {
            stream.write_all(&chunk).await?;
        }
        stream.shutdown().await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        Ok(())
    })
    .await;
}

/// Open connections that have carried data.
async fn hold(at: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(at).await.expect("a connection");
        stream.write_all(b"?").await.expect("a question");
        stream.read_exact(&mut [0]).await.expect("an answer");
        held.push(stream);
    }
    held
}
