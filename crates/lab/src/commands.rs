//! What runs on nodes and in pods: this program under other names.

use anyhow::{Context, Result};

use crate::control::address::POD_CIDRS;
use crate::state::ProxyCommand;

/// The modes that a proxy can have.
pub(crate) const MODES: [&str; 4] = ["iptables", "nftables", "ipvs", "userspace"];

/// The command that runs on each node: this program as `proxy`, with the lab's pod network as its
/// cluster CIDR.
///
/// # Errors
/// This program's file is not known.
pub(crate) fn proxy_command(mode: &str, flags: &[String]) -> Result<ProxyCommand> {
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

/// The echo server: this program as `lab-echo`.
///
/// # Errors
/// This program's file is not known.
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
