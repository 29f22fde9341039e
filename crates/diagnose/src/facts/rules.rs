//! What the host's tools print of its rules.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kernel::Family;
use kernel::exec::{self, Output};
use kernel::iptables::{Backend, ToolSet};
use kernel::nfnetlink::{NfTables, TableId};
use model::IpFamily;
use netfilter::nft::text::table_text;
use trace::Facts;

/// What a tool may take to print a very large rule set on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Fills in the dumps. What cannot be had and could matter becomes a note.
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
        // Three lines of head, then the virtual servers.
        std::fs::read_to_string("/proc/net/ip_vs").is_ok_and(|t| t.lines().count() > 3)
    });
}

/// Of each back end, what it has; where only one has rules, it is `iptables-save`'s.
fn iptables(facts: &mut Facts, family: Family) {
    let nft = backend(family, Backend::Nft, &mut facts.notes);
    let legacy = if may_have_legacy(family) {
        backend(family, Backend::Legacy, &mut facts.notes)
    } else {
        None
    };
    let (main, second) = match (nft, legacy) {
        (Some(nft), legacy) => (Some(nft), legacy),
        (None, legacy) => (legacy, None),
    };
    let dumps = &mut facts.dumps;
    match family {
        Family::Ipv4 => (dumps.iptables_save, dumps.iptables_legacy_save) = (main, second),
        Family::Ipv6 => (dumps.ip6tables_save, dumps.ip6tables_legacy_save) = (main, second),
    }
}

/// Whether the kernel has legacy tables. Asked first, since the tool loads modules.
fn may_have_legacy(family: Family) -> bool {
    let names = match family {
        Family::Ipv4 => "/proc/net/ip_tables_names",
        Family::Ipv6 => "/proc/net/ip6_tables_names",
    };
    std::fs::read_to_string(names).is_ok_and(|tables| !tables.trim().is_empty())
}

fn backend(family: Family, backend: Backend, notes: &mut Vec<String>) -> Option<String> {
    let Ok(tools) = ToolSet::find(family, backend) else {
        if backend == Backend::Legacy {
            notes.push(format!(
                "{family} has legacy iptables rules, and no iptables-legacy-save is there to read \
                 them: they are not considered"
            ));
        }
        return None;
    };
    // With counters, which a diagram shows; without -t, which would make the tables.
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

/// Without nft: the tables of kube-proxy's name, read over netlink.
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
                notes.extend(foreign.map(|what| format!("table {id}: left out: {what}")));
            }
            Ok((None, _)) => {}
            Err(error) => notes.push(format!("table {id}: {error}")),
        }
    }
    notes.push(format!(
        "nft is not there: of nf_tables only the tables {} were read, and rules of others are not \
         considered",
        dataplane::nftables::TABLE
    ));
    (!text.is_empty()).then_some(text)
}

/// What a tool prints; `None` where it is not there, with a note where that `matters`.
fn tool(
    program: &str,
    arguments: &[&str],
    notes: &mut Vec<String>,
    matters: impl Fn() -> bool,
) -> Option<String> {
    match exec::run(Command::new(program).args(arguments), b"", LIMIT) {
        // Without the kernel's module the tools fail, and there is nothing to read.
        Ok(output) if !output.status.success() && !matters() => None,
        Ok(output) => accepted(program, &output, notes).filter(|t| !t.trim().is_empty()),
        Err(error) => {
            if matters() {
                notes.push(format!("{error}: what it would print is not considered"));
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
