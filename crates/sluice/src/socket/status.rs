//! What the running proxy knows about itself.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use config::{Config, KubeProxyConfiguration};
use model::{IpFamily, Mode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use super::time::Time;

/// Upper bound on the refused Service ports of a family that are named.
pub(crate) const MOST_REFUSED: usize = 100;
/// Upper bound on the problems with objects that are named.
pub(crate) const MOST_PROBLEMS: usize = 20;

/// The state of a running proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The node's name.
    pub(crate) node: String,
    pub(crate) mode: String,
    /// sluice's version.
    pub(crate) version: String,
    /// The process, in its own process namespace.
    pub(crate) process: u32,
    pub(crate) started: Time,
    pub(crate) network_namespace: u64,
    /// As `/healthz`, without the Node.
    pub(crate) healthy: bool,
    pub(crate) source: Source,
    /// Number of Services, planned or not.
    pub(crate) services: usize,
    pub(crate) families: Vec<Family>,
    pub(crate) sandbox: Vec<Restriction>,
    /// The last warnings and errors in the log, the newest last.
    pub(crate) warnings: Vec<Warning>,
    /// The effective `KubeProxyConfiguration`.
    pub(crate) configuration: Value,
}

/// Where the objects come from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Source {
    /// The URL of an API server, or the paths of manifests.
    pub(crate) place: String,
    /// Whether all objects have been received once.
    pub(crate) complete: bool,
    /// When the API server last answered or sent something.
    pub(crate) heard: Option<Time>,
    /// The kinds whose watch fails, with the reason.
    pub(crate) failing: Vec<Failing>,
    /// Objects or manifests that are not used, or only in part.
    pub(crate) problems: Vec<String>,
    /// How many of them there are.
    pub(crate) problem_count: usize,
}

/// A kind of objects whose watch fails. The known objects stay in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failing {
    pub(crate) kind: String,
    pub(crate) error: String,
    pub(crate) since: Time,
}

/// One address family.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Family {
    /// `IPv4` or `IPv6`.
    pub(crate) family: String,
    /// Number of planned Service ports.
    pub(crate) ports: usize,
    /// Number of their endpoints, on any node.
    pub(crate) endpoints: usize,
    /// Quarantined Service ports: the kernel refused them.
    pub(crate) refused: usize,
    /// The first of them.
    pub(crate) refusals: Vec<Refused>,
    /// Number of Service ports that changed since the last successful sync.
    pub(crate) pending: usize,
    /// The running sync.
    pub(crate) syncing: Option<Syncing>,
    /// The last successful sync.
    pub(crate) synced: Option<Synced>,
    /// The error since the last successful sync.
    pub(crate) failing: Option<String>,
    /// The kernel features whose absence prevents serving this family.
    pub(crate) unserved: Option<String>,
    /// The kernel state that the process found and adopted at its start.
    pub(crate) adopted: Option<Adopted>,
    /// Number of rules in the kernel, in modes that count them.
    pub(crate) rules: Option<usize>,
}

/// A Service port that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// `namespace/name:port`.
    pub(crate) port: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub(crate) protocol: String,
    /// The kernel's message.
    pub(crate) reason: String,
}

/// A running sync.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Syncing {
    pub(crate) since: Time,
    /// `changes` or `resync`.
    pub(crate) work: String,
}

/// A successful sync.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Synced {
    pub(crate) at: Time,
    /// `changes` or `resync`.
    pub(crate) work: String,
    /// Duration in milliseconds.
    pub(crate) took: u64,
}

/// The kernel state that the process found at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Adopted {
    /// Whose it was.
    pub(crate) found: String,
    /// Service ports that were kept as they were.
    pub(crate) kept: usize,
    /// Service ports that were written.
    pub(crate) written: usize,
}

/// A privilege that the process has given up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Restriction {
    pub(crate) name: String,
    pub(crate) enforced: bool,
    pub(crate) detail: String,
}

/// A message of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Warning {
    /// When it was last logged.
    pub(crate) at: Time,
    /// `ERROR` or `WARN`.
    pub(crate) level: String,
    /// Message and fields.
    pub(crate) text: String,
    /// How often it was logged.
    pub(crate) count: u64,
}

/// The status as the threads of the proxy keep it up to date. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<Mutex<Status>>);

impl Board {
    pub(crate) fn new(status: Status) -> Self {
        Self(Arc::new(Mutex::new(status)))
    }

    /// Change the status. No change is slow: the sync thread makes some.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Change the status of an address family.
    pub(crate) fn update_family(&self, family: IpFamily, change: impl FnOnce(&mut Family)) {
        let name = family.to_string();
        self.update(|status| {
            if let Some(family) = status.families.iter_mut().find(|f| f.family == name) {
                return change(family);
            }
            let mut new = Family {
                family: name,
                ..Family::default()
            };
            change(&mut new);
            status.families.push(new);
            status.families.sort_by(|a, b| a.family.cmp(&b.family));
        });
    }

    /// Return the present status.
    pub(crate) fn get(&self) -> Status {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Status {
    /// Return the status of this process at its start.
    pub(crate) fn starting(node: &str, mode: Mode, configuration: Value) -> Self {
        Self {
            node: node.to_owned(),
            mode: mode.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            started: Time::now(),
            network_namespace: super::network_namespace().unwrap_or_default(),
            healthy: true,
            source: Source::default(),
            services: 0,
            families: Vec::new(),
            sandbox: Vec::new(),
            warnings: Vec::new(),
            configuration,
        }
    }

    /// Whether the proxy serves everything that the objects state, with current objects.
    pub(crate) fn is_fine(&self) -> bool {
        self.troubles().is_empty()
    }

    /// Return what needs attention, each as a sentence.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.source.complete {
            found.push("some objects are still missing: no rules are written".into());
        }
        for failing in &self.source.failing {
            found.push(format!(
                "the watch of {} fails for {}, and the last known objects are used: {}",
                failing.kind,
                ago(failing.since),
                failing.error
            ));
        }
        for family in &self.families {
            family.troubles(&mut found);
        }
        if !self.healthy && self.families.iter().all(|f| f.failing.is_none()) {
            found.push("a change has been waiting for too long: /healthz answers 503".into());
        }
        let problems = &self.source.problems;
        found.extend(problems.iter().cloned());
        let more = self.source.problem_count.saturating_sub(problems.len());
        if more > 0 {
            found.push(format!("… and {more} more problems with objects"));
        }
        found
    }

    /// Return the effective configuration.
    ///
    /// # Errors
    /// It is another version's, with values that this one does not accept.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let text = self.configuration.to_string();
        let (mut file, _) = KubeProxyConfiguration::from_yaml_lenient(&text)?;
        file.set_defaults();
        Ok(Config::from_file(file)?)
    }

    /// The status for people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let troubles = self.troubles();
        let verdict = match troubles.len() {
            0 => "no problems",
            1 => "1 problem",
            _ => "problems",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{}: {} mode, {verdict}; sluice {}, process {}, running for {}",
            self.node,
            self.mode,
            self.version,
            self.process,
            ago(self.started)
        );
        for (number, trouble) in (1..).zip(&troubles) {
            let _ = writeln!(out, "  {number}. {trouble}");
        }
        let _ = writeln!(out, "  objects: {}", self.source.text(self.services));
        for family in &self.families {
            let _ = writeln!(out, "  {}: {}", family.family, family.text());
        }
        let restrictions = self.sandbox.iter().map(|r| {
            let not = if r.enforced { "" } else { "not enforced: " };
            format!("{} ({not}{})", r.name, r.detail)
        });
        let restrictions: Vec<String> = restrictions.collect();
        let sandbox = match restrictions.is_empty() {
            true => "off".to_owned(),
            false => restrictions.join(", "),
        };
        let _ = writeln!(out, "  sandbox: {sandbox}");
        if !self.warnings.is_empty() {
            let _ = writeln!(out, "  last warnings in the log:");
        }
        for warning in &self.warnings {
            let times = match warning.count {
                1 => String::new(),
                n => format!(" ({n} times)"),
            };
            let _ = writeln!(
                out,
                "    {} ago {}{times}: {}",
                ago(warning.at),
                warning.level,
                warning.text
            );
        }
        out
    }
}

impl Source {
    fn text(&self, services: usize) -> String {
        let state = match (self.complete, self.failing.is_empty()) {
            (false, _) => "not complete yet",
            (true, true) => "up to date",
            (true, false) => "watch failing",
        };
        let heard = self.heard.map_or(String::new(), |at| {
            format!(", last message {} ago", ago(at))
        });
        format!("{services} Services from {}, {state}{heard}", self.place)
    }
}

impl Family {
    fn troubles(&self, found: &mut Vec<String>) {
        let family = &self.family;
        if let Some(reason) = &self.unserved
            && self.ports > 0
        {
            let ports = self.ports;
            found.push(format!(
                "{family}: none of {ports} Service ports is served: {reason}"
            ));
        }
        if let Some(error) = &self.failing {
            found.push(format!(
                "{family}: syncs fail, and the last committed state stays in force: {error}"
            ));
        }
        if let Some(syncing) = &self.syncing
            && syncing.since.age() > Duration::from_secs(10)
        {
            let since = ago(syncing.since);
            found.push(format!("{family}: a sync has been running for {since}"));
        }
        for refused in &self.refusals {
            found.push(format!(
                "{family}: {}/{} is refused, and its last accepted state stays in force: {}",
                refused.port, refused.protocol, refused.reason
            ));
        }
        let more = self.refused.saturating_sub(self.refusals.len());
        if more > 0 {
            found.push(format!("{family}: {more} more Service ports are refused"));
        }
    }

    fn text(&self) -> String {
        if let Some(reason) = &self.unserved {
            return format!("not served: {reason}");
        }
        let served = self.ports.saturating_sub(self.refused);
        let mut out = format!(
            "{served} of {} Service ports in force, {} endpoints",
            self.ports, self.endpoints
        );
        if self.pending > 0 {
            let _ = write!(out, ", {} changes waiting", self.pending);
        }
        if let Some(rules) = self.rules {
            let _ = write!(out, ", {rules} rules");
        }
        match &self.synced {
            Some(synced) => {
                let _ = write!(
                    out,
                    "; last sync {} ago ({}, {} ms)",
                    ago(synced.at),
                    synced.work,
                    synced.took
                );
            }
            None => out.push_str("; never synced"),
        }
        if let Some(adopted) = &self.adopted {
            let _ = write!(
                out,
                "; found {} at the start, kept {} ports and wrote {}",
                adopted.found, adopted.kept, adopted.written
            );
        }
        out
    }
}

/// Return the age of a time in whole units: `3m 4s`.
pub(crate) fn ago(time: Time) -> String {
    let seconds = time.age().as_secs();
    // Beyond an hour, seconds are noise.
    let seconds = match seconds {
        0..3600 => seconds,
        3600..172_800 => seconds / 60 * 60,
        _ => seconds / 3600 * 3600,
    };
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
