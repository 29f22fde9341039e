//! A host of a lab, and doing things from inside it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use kernel::netns::NetNs;

use crate::probe::{Outcome, Probe};

/// The client, the router, a node or a pod. A handle of its own: it needs no [`Lab`](crate::Lab),
/// so that traffic can run while the lab changes.
#[derive(Debug)]
pub struct Host {
    name: String,
    netns: NetNs,
}

impl Host {
    pub(crate) fn new(name: &str, netns: NetNs) -> Self {
        Self {
            name: name.to_owned(),
            netns,
        }
    }

    /// What it was asked for as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// A command that will run inside it.
    ///
    /// # Errors
    /// The command line is empty.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, argv: &[S]) -> Result<Command> {
        let (program, arguments) = argv.split_first().context("no command given")?;
        let mut command = self.netns.command(program)?;
        command.args(arguments);
        Ok(command)
    }

    /// Runs a command inside it and returns what it printed.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn exec<S: AsRef<std::ffi::OsStr>>(&self, argv: &[S]) -> Result<Output> {
        let mut command = self.command(argv)?;
        command.output().with_context(|| {
            format!(
                "running {} on {}",
                command.get_program().display(),
                self.name
            )
        })
    }

    /// Runs a closure inside it, on a thread of its own.
    ///
    /// # Errors
    /// Its namespace cannot be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(self.netns.run(f)?)
    }

    /// Asks one question from inside it.
    ///
    /// # Errors
    /// Its namespace cannot be entered.
    pub fn probe(&self, probe: Probe) -> Result<Outcome> {
        self.run(|| probe.ask())
    }

    /// Asks the same question several times, one after the other, each over a connection of its
    /// own.
    ///
    /// # Errors
    /// Its namespace cannot be entered.
    pub fn probe_times(&self, probe: Probe, times: usize) -> Result<Vec<Outcome>> {
        self.run(|| (0..times).map(|_| probe.ask()).collect())
    }

    /// Whether `GET /healthz` says 200.
    pub(crate) fn is_healthy(&self, at: SocketAddr) -> Result<bool> {
        self.run(|| {
            let second = Duration::from_secs(1);
            let mut stream = TcpStream::connect_timeout(&at, second).ok()?;
            stream.set_read_timeout(Some(second)).ok()?;
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            // Healthy it is while it starts too; a family is named once it has been synced.
            let synced = ["IPv4", "IPv6"].iter().all(|family| text.contains(family));
            Some(text.split(' ').nth(1) == Some("200") && synced)
        })
        .map(|healthy| healthy == Some(true))
    }
}
