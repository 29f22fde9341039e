//! Flags and KubeProxyConfiguration, resolved once into one struct.
//!
//! The surface is that of kube-proxy 1.36, with the additions of 1.37. [`augment`] adds the flags to a
//! command. [`Resolved::from_matches`] turns the arguments and the file of `--config` into a
//! [`Config`] of typed values; nothing else in sluice reads a flag or a field. It keeps these
//! peculiarities of kube-proxy:
//! - With `--config`, all flags are ignored except the logging flags, `--hostname-override`,
//!   `--master`, and the flags that select an action (`--cleanup`, `--init-only`,
//!   `--write-config-to`, `--version`).
//! - `--iptables-sync-period` and `--iptables-min-sync-period` also apply to nftables mode, and not to
//!   ipvs mode; the `--ipvs-…` flags apply to ipvs mode only. In ipvs mode the minimum sync period
//!   defaults to 1 s with flags, and to 0 s in a file.
//! - An IPv6 address in `--bind-address` does not move the health and metrics servers to IPv6;
//!   `bindAddress` in a file does.
//! - Empty `--healthz-bind-address` and `--metrics-bind-address` select the default, contrary to
//!   upstream's help.
//! - Unknown fields, and all but the last of duplicate fields, are ignored with a warning.
//!
//! Differences: `--metrics-port=0` switches the server off, as upstream's help states but its
//! validation prevents; the mode `userspace` is sluice's own. All differences are listed, each with
//! an example, at the end of `testdata/verdicts.txt`.

mod duration;
mod error;
mod file;
mod flags;
mod gates;
mod resolve;
mod validate;

#[cfg(test)]
mod tests;

pub use duration::GoDuration;
pub use error::{ConfigError, FieldError};
pub use file::{
    API_VERSION, ClientConnectionConfiguration, ConntrackConfiguration, DetectLocalConfiguration,
    FlushFrequency, FormatOptions, IpTablesConfiguration, IpvsConfiguration, KIND,
    KubeProxyConfiguration, LoggingConfiguration, NfTablesConfiguration, OutputRoutingOptions,
    Quantity, VModuleItem, WinkernelConfiguration,
};
pub use flags::{FLAGS, Flag, augment, command_args, normalize};
pub use resolve::{
    Action, ClientConnection, Config, ConfigFile, Conntrack, Ipvs, LogFormat, LogStream, Logging,
    Resolved, ignored_note,
};

/// For fuzzing: a file that can be read can be written, and reads back as the same; nothing
/// panics.
///
/// # Panics
/// If it reads back as something else.
pub fn read_and_write(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(mut file) = KubeProxyConfiguration::from_yaml(text) else {
        return;
    };
    let back = KubeProxyConfiguration::from_yaml(&file.to_yaml());
    assert_eq!(back.ok().as_ref(), Some(&file), "reads back as the same");
    file.set_defaults();
    // Refused or not, it must not panic.
    let _ = Config::from_file(file);
}
