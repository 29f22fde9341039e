//! The pages that describe this process: `/configz`, `/flagz`, `/statusz`, `/proxyMode`.

use std::fmt::Write as _;
use std::time::SystemTime;

/// What the pages show; made once at start.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The mode's name: `iptables`, `nftables`, `ipvs`, `userspace`.
    pub proxy_mode: String,
    /// The complete configuration with its defaults, under the key that upstream uses.
    pub configz: serde_json::Value,
    /// Every flag with its effective value, sorted by name.
    pub flags: Vec<(String, String)>,
    /// sluice's version.
    pub version: String,
    /// When the process started.
    pub started: SystemTime,
}

/// The warning that upstream's z-pages begin with.
const NOT_FOR_MACHINES: &str = "Warning: This endpoint is not meant to be machine parseable, has \
no formatting compatibility guarantees and is for debugging purposes only.";

/// The paths that `/statusz` lists.
pub(crate) const PATHS: &[&str] = &[
    "/configz",
    "/flagz",
    "/healthz",
    "/metrics",
    "/metrics/slis",
    "/proxyMode",
    "/statusz",
];

impl Pages {
    pub(crate) fn flagz(&self) -> String {
        let mut page = format!("\nkube-proxy flagz\n{NOT_FOR_MACHINES}\n\n");
        for (name, value) in &self.flags {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "{name}={value}");
        }
        page
    }

    pub(crate) fn statusz(&self, now: SystemTime) -> String {
        let uptime = now.duration_since(self.started).unwrap_or_default();
        let whole_seconds = std::time::Duration::from_secs(uptime.as_secs());
        format!(
            "\nkube-proxy statusz\n{NOT_FOR_MACHINES}\n\nStarted: {}\nUp: {}\nVersion: sluice {}\nMode: {}\nPaths: {}\n",
            humantime::format_rfc3339_seconds(self.started),
            humantime::format_duration(whole_seconds),
            self.version,
            self.proxy_mode,
            PATHS.join(" "),
        )
    }
}
