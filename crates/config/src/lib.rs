//! Flags and KubeProxyConfiguration, resolved once into one struct.
//!
//! The surface is kube-proxy v1.36's. [`augment`] adds its flags to a command, [`Resolved::from_matches`]
//! turns what was given, with the file of `--config`, into a [`Config`] of typed values; nothing
//! else in sluice reads a flag or a field. Where upstream has quirks they are kept, and said here:
//! - With `--config` the file alone counts, and flags are ignored, but for the logging flags,
//!   `--hostname-override` and `--master`, and those that say what to do (`--cleanup`,
//!   `--init-only`, `--write-config-to`, `--version`).
//! - `--iptables-sync-period` and `--iptables-min-sync-period` also drive nftables mode, and are
//!   ignored in ipvs mode; the `--ipvs-…` ones act in ipvs mode only. With flags alone ipvs mode
//!   has a minimum sync period of 1 s, from a file 0 s.
//! - `--bind-address` with an IPv6 address does not move the health and metrics servers to IPv6;
//!   `bindAddress` in a file does.
//! - `--healthz-bind-address` and `--metrics-bind-address` with nothing mean the default, whatever
//!   upstream's help says.
//!
//! Differences: unknown and duplicate fields in the file are refused, where upstream reads such a
//! file a second time without minding them; `--metrics-port=0` switches the server off, as
//! upstream's help says but its validation prevents; the mode `userspace` is sluice's own. These and
//! the lesser ones, each with an example, are at the end of `testdata/verdicts.txt`; but for them
//! kube-proxy's verdict on a configuration is sluice's.

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
    Resolved,
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
