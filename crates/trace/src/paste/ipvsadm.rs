//! `ipvsadm -Ln`.

use std::fmt::Write as _;

use super::{PasteError, clean};

const COMMAND: &str = "ipvsadm-save -n";

fn refuse(what: String) -> PasteError {
    PasteError {
        what,
        command: COMMAND,
    }
}

/// Convert `ipvsadm -Ln` to what `ipvsadm-save -n` prints.
pub(crate) fn to_save(text: &str) -> Result<String, PasteError> {
    let text = clean(text);
    let mut out = String::with_capacity(text.len());
    let mut server = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] | ["IP", ..] | ["Prot", ..] | ["->", "RemoteAddress:Port", ..] => {}
            [command, ..] if command.starts_with('-') && *command != "->" => out.push_str(line),
            ["->", address, method, weight, ..] => {
                let method = match *method {
                    "Masq" | "Local" => "-m",
                    "Route" => "-g",
                    "Tunnel" => "-i",
                    other => return Err(refuse(format!("unknown forwarding method {other:?}"))),
                };
                let address = numeric(address)?;
                let _ = write!(out, "-a {server} -r {address} {method} -w {weight}");
            }
            [protocol, address, scheduler, flags @ ..] => {
                let option = match *protocol {
                    "TCP" => "-t",
                    "UDP" => "-u",
                    "SCTP" => "--sctp-service",
                    "FWM" => "-f",
                    other => return Err(refuse(format!("unknown protocol {other:?}"))),
                };
                let address = if option == "-f" {
                    address
                } else {
                    numeric(address)?
                };
                server = format!("{option} {address}");
                let _ = write!(out, "-A {server} -s {scheduler}");
                options(&mut out, flags)?;
            }
            _ => return Err(refuse(format!("{line:?} is not from `ipvsadm -Ln`"))),
        }
        out.push('\n');
    }
    Ok(out)
}

/// Refuse host and service names, which only `-n` leaves out.
fn numeric(address: &str) -> Result<&str, PasteError> {
    let is_numeric = address.parse::<std::net::SocketAddr>().is_ok();
    is_numeric
        .then_some(address)
        .ok_or_else(|| refuse(format!("{address:?} is not an address with a port")))
}

fn options(out: &mut String, flags: &[&str]) -> Result<(), PasteError> {
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        let mut value = || flags.next().copied().unwrap_or_default();
        let _ = match *flag {
            "persistent" => write!(out, " -p {}", value()),
            "mask" => write!(out, " -M {}", value()),
            "ops" => write!(out, " -o"),
            "pe" => write!(out, " --pe {}", value()),
            text if text.starts_with('(') => {
                write!(out, " -b {}", text.trim_matches(['(', ')']))
            }
            other => return Err(refuse(format!("unknown flag {other:?}"))),
        };
    }
    Ok(())
}
