//! A host of a lab, and operations inside it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use kernel::netns::NetNs;

use crate::probe::{Outcome, Probe};

/// The client, the router, a node or a pod. Independent of the [`Lab`](crate::Lab), so that traffic
/// can run while the lab changes.
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

    /// Return the name with which it was looked up.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Return its namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Return a command that runs inside it.
    ///
    /// # Errors
    /// The command line is empty.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, argv: &[S]) -> Result<Command> {
        let (program, arguments) = argv.split_first().context("no command given")?;
        let mut command = self.netns.command(program)?;
        command.args(arguments);
        Ok(command)
    }

    /// Run a command inside it and return the output.
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

    /// Run a closure inside it, on a thread of its own.
    ///
    /// # Errors
    /// Its namespace cannot be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(self.netns.run(f)?)
    }

    /// Send one probe from it.
    ///
    /// # Errors
    /// Its namespace cannot be entered.
    pub fn probe(&self, probe: Probe) -> Result<Outcome> {
        self.run(|| probe.ask())
    }

    /// Send a probe several times in sequence, each on a new connection.
    ///
    /// # Errors
    /// Its namespace cannot be entered.
    pub fn probe_times(&self, probe: Probe, times: usize) -> Result<Vec<Outcome>> {
        self.run(|| (0..times).map(|_| probe.ask()).collect())
    }

    /// Return whether `GET /healthz` returns 200 and names both families.
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
            // A starting proxy is healthy too; it names a family once that has been synced.
            let synced = ["IPv4", "IPv6"].iter().all(|family| text.contains(family));
            Some(text.split(' ').nth(1) == Some("200") && synced)
        })
        .map(|healthy| healthy == Some(true))
    }
}
