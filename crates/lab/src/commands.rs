//! The commands on nodes and in pods: subcommands of this program.

use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use model::Mode;

use crate::control::address::POD_CIDRS;
use crate::state::ProxyCommand;

/// Parser of a proxy mode's name.
pub(crate) fn mode_parser() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name)).try_map(|name| name.parse::<Mode>())
}

/// Return the command for each node: `proxy` with the lab's pod network as the cluster CIDR.
///
/// # Errors
/// The path of this program is unknown.
pub(crate) fn proxy_command(mode: Mode, flags: &[String]) -> Result<ProxyCommand> {
    let cidrs = POD_CIDRS.map(|net| net.to_string());
    let mut argv = vec![
        this_program()?,
        "proxy".to_owned(),
        format!("--proxy-mode={mode}"),
        format!("--cluster-cidr={}", cidrs.join(",")),
    ];
    argv.extend_from_slice(flags);
    Ok(ProxyCommand { argv })
}

/// Return the command of the echo server, `lab-echo`.
///
/// # Errors
/// The path of this program is unknown.
pub(crate) fn echo_command() -> Result<Vec<String>> {
    Ok(vec![this_program()?, "lab-echo".to_owned()])
}

fn this_program() -> Result<String> {
    let program = std::env::current_exe().context("finding this program's file")?;
    let text = program
        .to_str()
        .context("this program's path is not UTF-8")?;
    Ok(text.to_owned())
}
