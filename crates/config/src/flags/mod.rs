//! kube-proxy's flags as one table.
//!
//! Each row of [`FLAGS`] holds what there is to know about a flag, with a typed reference to what
//! it sets; arguments, help and the effect on the configuration all come from the row.

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
    /// Its name, without dashes.
    pub name: &'static str,
    /// Its one-letter form.
    pub short: Option<char>,
    /// What holds where it is not given, in words for the help; empty for nothing.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
    /// The field of a KubeProxyConfiguration that it sets; empty if there is none.
    pub field: &'static str,
    /// What to use instead, if it is deprecated.
    pub deprecated: Option<&'static str>,
    /// Whether it counts beside `--config`.
    pub beside_config: bool,
    /// What it sets, and so what kind of value it takes.
    pub(crate) set: Set,
}

/// What a flag sets in the [`Draft`].
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

/// What the flags have said so far.
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
    /// Before any flag.
    pub(crate) fn new() -> Self {
        Self {
            file: KubeProxyConfiguration::defaulted(),
            healthz_port: 10256,
            metrics_port: 10249,
            ..Self::default()
        }
    }

    /// Applies the flags that were given and that `wanted` picks.
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

/// The values that were given for a flag. A list may come in pieces; otherwise the last counts.
fn given<'a>(matches: &'a ArgMatches, flag: &Flag) -> Vec<&'a str> {
    if !is_given(matches, flag) {
        return Vec::new();
    }
    let values = matches.get_many::<String>(flag.name).into_iter().flatten();
    values.map(String::as_str).collect()
}

/// Whether a flag was given at all.
pub(crate) fn is_given(matches: &ArgMatches, flag: &Flag) -> bool {
    let source = matches.try_contains_id(flag.name).unwrap_or(false);
    source && matches.value_source(flag.name) == Some(ValueSource::CommandLine)
}

impl Flag {
    /// The flag as clap's argument, its id the flag's name.
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
            // As the other commands call it.
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

/// All flags as clap's arguments; each id is the flag's name.
pub fn command_args() -> Vec<Arg> {
    FLAGS.iter().map(Flag::arg).collect()
}

/// Adds all flags to a command. `--version` is one of them, so clap's own is switched off.
pub fn augment(command: Command) -> Command {
    command.disable_version_flag(true).args(command_args())
}

/// Lets flags be written with underscores (`--proxy_mode`), as kube-proxy does. Only names in the
/// table are touched.
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
