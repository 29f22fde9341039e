//! The host's rules, read from the kernel, in the form of its tools.

use kernel::Family;
use kernel::ipset::IpSets;
use kernel::iptables::legacy::{self, Legacy};
use kernel::ipvs::Ipvs;
use kernel::link::RtNetlink;
use kernel::nfnetlink::NfTables;
use netfilter::iptables_nft::SetIndex;
use netfilter::nft_hooks::HOOKS;
use netfilter::nft_list::Listing;
use trace::{Facts, HookOrder};

/// Fill in the dumps. A note names each part that could not be read.
pub(super) fn collect(facts: &mut Facts) {
    let sets = ipsets(facts);
    nf_tables(facts, &sets);
    for family in [Family::Ipv4, Family::Ipv6] {
        legacy(facts, family);
    }
    ipvs(facts);
}

/// Return the indices of ipsets, by which rules name them.
fn ipsets(facts: &mut Facts) -> SetIndex {
    let read = || {
        let mut ipsets = IpSets::open()?;
        Ok((ipsets.index()?, ipsets.list_all()?))
    };
    match read() {
        Ok((index, (sets, unknown))) => {
            let notes = unknown.into_iter();
            facts
                .notes
                .extend(notes.map(|name| format!("ipset {name} is left out: its type is unknown")));
            facts.dumps.ipset_save = (!sets.sets.is_empty()).then(|| sets.to_string());
            index
        }
        Err(error) => {
            let error: kernel::netlink::Error = error;
            facts
                .notes
                .push(format!("ipsets are not considered: {error}"));
            SetIndex::default()
        }
    }
}

fn nf_tables(facts: &mut Facts, sets: &SetIndex) {
    let ruleset = match NfTables::open().and_then(|mut nft| nft.ruleset(sets)) {
        Ok(ruleset) => ruleset,
        Err(error) => {
            facts
                .notes
                .push(format!("nf_tables is not considered: {error}"));
            return;
        }
    };
    facts.hooks = hooks();
    let problems = ruleset.problems.iter();
    facts
        .notes
        .extend(problems.map(|what| format!("nf_tables: left out: {what}")));
    for set in ruleset.iptables {
        let text = (!set.tables.is_empty()).then(|| set.to_string());
        match set.family {
            Family::Ipv4 => facts.dumps.iptables_save = text,
            Family::Ipv6 => facts.dumps.ip6tables_save = text,
        }
    }
    let text = listing(&ruleset.listing);
    facts.dumps.nft_ruleset = (!text.trim().is_empty()).then_some(text);
}

/// Return the order of the chains; nothing if the kernel does not report it.
fn hooks() -> Vec<HookOrder> {
    let Ok(mut nft) = NfTables::open() else {
        return Vec::new();
    };
    let mut orders = Vec::new();
    for (family, number) in [(Family::Ipv4, 4), (Family::Ipv6, 6)] {
        for (hook, name, built_in) in HOOKS {
            let Ok(Some(chains)) = nft.hooked(family, (hook, built_in)) else {
                return Vec::new();
            };
            orders.push(HookOrder {
                family: number,
                hook: name.to_owned(),
                chains,
            });
        }
    }
    orders
}

/// Return tables as nft lists them.
fn listing(tables: &Listing) -> String {
    let links = RtNetlink::open().and_then(|mut netlink| netlink.links());
    let links = links.unwrap_or_default();
    let interface = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map(|link| link.name.clone())
    };
    tables.text(&interface)
}

fn legacy(facts: &mut Facts, family: Family) {
    let tables = legacy::tables(family);
    if tables.is_empty() {
        return;
    }
    let read = Legacy::open(family).and_then(|legacy| legacy.table_set(&tables));
    let text = match read {
        Ok((set, problems)) => {
            facts.notes.extend(problems);
            // A table without rules has no influence, like one that does not exist.
            Some(set.to_string())
        }
        Err(error) => {
            facts.notes.push(format!(
                "legacy {family} tables are not considered: {error}"
            ));
            None
        }
    };
    match family {
        Family::Ipv4 => facts.dumps.iptables_legacy_save = text,
        Family::Ipv6 => facts.dumps.ip6tables_legacy_save = text,
    }
}

fn ipvs(facts: &mut Facts) {
    // The virtual servers follow three header lines. Opening IPVS would load it.
    let listed = std::fs::read_to_string("/proc/thread-self/net/ip_vs");
    if !listed.is_ok_and(|text| text.lines().count() > 3) {
        return;
    }
    match Ipvs::open().and_then(|mut ipvs| ipvs.list()) {
        Ok(services) => facts.dumps.ipvsadm_save = Some(services.to_string()),
        Err(error) => facts.notes.push(format!("IPVS is not considered: {error}")),
    }
}
