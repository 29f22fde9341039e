//! The host's rules, as its tools print them.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kernel::Family;
use kernel::exec::{self, Output};
use kernel::iptables::legacy::{self, Legacy};
use kernel::iptables::{Backend, ToolSet};
use kernel::nfnetlink::{NfTables, TableId};
use model::IpFamily;
use netfilter::nft::text::table_text;
use trace::Facts;

/// Time limit for a tool; large rule sets take long on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Fill in the dumps. A note names each dump that is missing and could matter.
pub(super) fn collect(facts: &mut Facts) {
    for family in [Family::Ipv4, Family::Ipv6] {
        iptables(facts, family);
    }
    nft(facts);
    let notes = &mut facts.notes;
    facts.dumps.ipset_save = tool("ipset", &["save"], notes, || {
        Path::new("/sys/module/ip_set").exists()
    });
    facts.dumps.ipvsadm_save = tool("ipvsadm-save", &["-n"], notes, || {
        // The virtual servers follow three header lines.
        std::fs::read_to_string("/proc/net/ip_vs").is_ok_and(|t| t.lines().count() > 3)
    });
}

/// Add the rules of each back end.
fn iptables(facts: &mut Facts, family: Family) {
    let nft = backend(family, Backend::Nft, &mut facts.notes);
    let legacy = legacy(family, &mut facts.notes);
    let dumps = &mut facts.dumps;
    match family {
        Family::Ipv4 => (dumps.iptables_save, dumps.iptables_legacy_save) = (nft, legacy),
        Family::Ipv6 => (dumps.ip6tables_save, dumps.ip6tables_legacy_save) = (nft, legacy),
    }
}

/// Return the rules of the legacy tables that exist. Its program is preferred, since it prints every rule;
/// in the proxy's container, without NET_RAW, it cannot be used.
fn legacy(family: Family, notes: &mut Vec<String>) -> Option<String> {
    let tables = legacy::tables(family);
    if tables.is_empty() {
        return None;
    }
    if let Some(text) = backend(family, Backend::Legacy, &mut Vec::new()) {
        return Some(text);
    }
    match Legacy::open(family).and_then(|legacy| legacy.table_set(&tables)) {
        Ok((set, problems)) => {
            let ignored = |problem| format!("{family} iptables-legacy: ignored: {problem}");
            notes.extend(problems.into_iter().map(ignored));
            Some(set.to_string())
        }
        Err(error) => {
            notes.push(format!(
                "{family} has iptables-legacy rules, which are not considered: {error}"
            ));
            None
        }
    }
}

fn backend(family: Family, backend: Backend, notes: &mut Vec<String>) -> Option<String> {
    let tools = ToolSet::find(family, backend).ok()?;
    // With counters, which diagrams show. -t would create the tables.
    let program = tools.save.display().to_string();
    let text = printed(&program, &["-c"], notes)?;
    text.lines()
        .any(|line| line.starts_with('*'))
        .then_some(text)
}

fn nft(facts: &mut Facts) {
    match exec::run(Command::new("nft").args(["list", "ruleset"]), b"", LIMIT) {
        Ok(output) => {
            let text = accepted("nft list ruleset", &output, &mut facts.notes);
            facts.dumps.nft_ruleset = text.filter(|t| !t.trim().is_empty());
        }
        Err(exec::Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            facts.dumps.nft_ruleset = own_tables(&mut facts.notes);
        }
        Err(error) => facts.notes.push(error.to_string()),
    }
}

/// Return the tables named kube-proxy, read over netlink, for hosts without nft.
fn own_tables(notes: &mut Vec<String>) -> Option<String> {
    let mut text = String::new();
    for family in IpFamily::ALL {
        let family = dataplane::nftables::table_family(family);
        let id = TableId::new(family, dataplane::nftables::TABLE);
        let read = NfTables::open().and_then(|mut nft| nft.read_table(&id));
        match read {
            Ok((Some(table), _)) => {
                text += &table_text(family, dataplane::nftables::TABLE, &table.contents);
                let foreign = table.foreign.iter();
                notes.extend(foreign.map(|what| format!("table {id}: ignored: {what}")));
            }
            Ok((None, _)) => {}
            Err(error) => notes.push(format!("table {id}: {error}")),
        }
    }
    notes.push(format!(
        "nft is not installed: only the nf_tables tables {} are considered",
        dataplane::nftables::TABLE
    ));
    (!text.is_empty()).then_some(text)
}

/// Return the output of a tool; `None` if it is not installed, with a note if that `matters`.
fn tool(
    program: &str,
    arguments: &[&str],
    notes: &mut Vec<String>,
    matters: impl Fn() -> bool,
) -> Option<String> {
    match exec::run(Command::new(program).args(arguments), b"", LIMIT) {
        // Without the kernel module the tool fails, and there is nothing to read.
        Ok(output) if !output.status.success() && !matters() => None,
        Ok(output) => accepted(program, &output, notes).filter(|t| !t.trim().is_empty()),
        Err(error) => {
            if matters() {
                notes.push(format!("{error}; its output is not considered"));
            }
            None
        }
    }
}

fn printed(program: &str, arguments: &[&str], notes: &mut Vec<String>) -> Option<String> {
    match exec::run(Command::new(program).args(arguments), b"", LIMIT) {
        Ok(output) => accepted(program, &output, notes),
        Err(error) => {
            notes.push(error.to_string());
            None
        }
    }
}

fn accepted(program: &str, output: &Output, notes: &mut Vec<String>) -> Option<String> {
    if output.status.success() {
        return Some(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    notes.push(format!(
        "{program} failed ({}): {}",
        output.status,
        output.stderr.trim()
    ));
    None
}
