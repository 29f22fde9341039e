//! kube-proxy's flags as one table.
//!
//! Each row of [`FLAGS`] defines one flag, with a typed reference to the value that it sets.
//! Arguments, help and effect derive from the row.

mod table;
mod value;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::{ConfigError, GoDuration, KubeProxyConfiguration, VModuleItem};
pub use table::FLAGS;

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// One-letter form.
    pub short: Option<char>,
    /// Default as shown in the help; empty without one.
    pub default: &'static str,
    /// Help text.
    pub help: &'static str,
    /// Field of a KubeProxyConfiguration that the flag sets; empty if none.
    pub field: &'static str,
    /// Replacement of a deprecated flag.
    pub deprecated: Option<&'static str>,
    /// Whether the flag applies together with `--config`.
    pub beside_config: bool,
    /// Value that the flag sets, and its type.
    pub(crate) set: Set,
}

/// The value in the [`Draft`] that a flag sets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Set {
    Bool(fn(&mut Draft) -> &mut bool),
    Int(fn(&mut Draft) -> &mut i32),
    Level(fn(&mut Draft) -> &mut u32),
    Float(fn(&mut Draft) -> &mut f32),
    Text(fn(&mut Draft) -> &mut String),
    Ip(fn(&mut Draft) -> &mut String),
    IpPort(fn(&mut Draft) -> &mut String),
    Bytes(fn(&mut Draft) -> &mut String),
    Duration(fn(&mut Draft) -> &mut GoDuration),
    List(fn(&mut Draft) -> &mut Vec<String>),
    Gates(fn(&mut Draft) -> &mut BTreeMap<String, bool>),
    Modules(fn(&mut Draft) -> &mut Vec<VModuleItem>),
    /// `true`, `false` or `raw`.
    Version(fn(&mut Draft) -> &mut Option<String>),
}

/// State of the flags during parsing.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) file: KubeProxyConfiguration,
    pub(crate) config: String,
    pub(crate) write_config_to: String,
    pub(crate) cleanup: bool,
    pub(crate) init_only: bool,
    pub(crate) version: Option<String>,
    pub(crate) master: String,
    pub(crate) hostname_override: String,
    pub(crate) healthz_port: i32,
    pub(crate) metrics_port: i32,
    pub(crate) iptables_sync_period: Option<GoDuration>,
    pub(crate) iptables_min_sync_period: Option<GoDuration>,
    pub(crate) ipvs_sync_period: Option<GoDuration>,
    pub(crate) ipvs_min_sync_period: Option<GoDuration>,
    pub(crate) masquerade_all: bool,
}

impl Draft {
    /// Return the state before any flag.
    pub(crate) fn new() -> Self {
        Self {
            file: KubeProxyConfiguration::defaulted(),
            healthz_port: 10256,
            metrics_port: 10249,
            ..Self::default()
        }
    }

    /// Apply the given flags for which `wanted` returns true.
    pub(crate) fn apply(
        &mut self,
        matches: &ArgMatches,
        wanted: impl Fn(&Flag) -> bool,
    ) -> Result<(), ConfigError> {
        for flag in FLAGS.iter().filter(|flag| wanted(flag)) {
            for text in given(matches, flag) {
                flag.set
                    .apply(self, text)
                    .map_err(|reason| ConfigError::Flag {
                        flag: flag.name,
                        reason,
                    })?;
            }
        }
        Ok(())
    }
}

/// Return the values given for a flag. A list may be split; otherwise the last value counts.
fn given<'a>(matches: &'a ArgMatches, flag: &Flag) -> Vec<&'a str> {
    if !is_given(matches, flag) {
        return Vec::new();
    }
    let values = matches.get_many::<String>(flag.name).into_iter().flatten();
    values.map(String::as_str).collect()
}

/// Return whether a flag was given.
pub(crate) fn is_given(matches: &ArgMatches, flag: &Flag) -> bool {
    let source = matches.try_contains_id(flag.name).unwrap_or(false);
    source && matches.value_source(flag.name) == Some(ValueSource::CommandLine)
}

impl Flag {
    /// Return the flag as an argument of clap; its id is the flag's name.
    fn arg(&'static self) -> Arg {
        let mut help = self.help.to_owned();
        if let Some(instead) = self.deprecated {
            help = format!("Deprecated: use {instead}. {help}");
        }
        if !self.default.is_empty() {
            help = format!("{help} [default: {}]", self.default);
        }
        let set = self.set;
        let check = move |text: &str| -> Result<String, String> {
            set.apply(&mut Draft::new(), text)?;
            Ok(text.to_owned())
        };
        let mut arg = Arg::new(self.name)
            .long(self.name)
            .value_name(set.value_name())
            .help(help)
            .action(if set.repeats() {
                ArgAction::Append
            } else {
                ArgAction::Set
            })
            .allow_hyphen_values(true)
            .hide(self.deprecated.is_some())
            .help_heading("kube-proxy's flags")
            .value_parser(check);
        if let Some(short) = self.short {
            arg = arg.short(short);
        }
        if self.name == "proxy-mode" {
            // The name in the other commands.
            arg = arg.alias("mode");
        }
        if let Set::Bool(_) | Set::Version(_) = set {
            // As with pflag: `--flag` and `--flag=false`, but not `--flag false`.
            arg = arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true");
        }
        if !set.repeats() {
            arg = arg.overrides_with(self.name);
        }
        arg
    }
}

/// Return all flags as arguments of clap; each id is the flag's name.
pub fn command_args() -> Vec<Arg> {
    FLAGS.iter().map(Flag::arg).collect()
}

/// Add all flags to a command. `--version` is one of them and replaces clap's.
pub fn augment(command: Command) -> Command {
    command.disable_version_flag(true).args(command_args())
}

/// Replace underscores in flag names (`--proxy_mode`) with dashes, as kube-proxy does. Only names
/// in the table change.
pub fn normalize(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    args.into_iter()
        .map(|arg| {
            literal |= arg == "--";
            let named = arg.to_str().and_then(|arg| arg.strip_prefix("--"));
            let Some(named) = named.filter(|_| !literal) else {
                return arg;
            };
            let (name, value) = match named.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (named, None),
            };
            let name = name.replace('_', "-");
            if !FLAGS.iter().any(|flag| flag.name == name) {
                return arg;
            }
            let value = value.map(|v| format!("={v}")).unwrap_or_default();
            OsStr::new(&format!("--{name}{value}")).to_owned()
        })
        .collect()
}
