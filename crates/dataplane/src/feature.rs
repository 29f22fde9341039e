//! Kernel features that a mode needs and that a kernel may lack.

use model::IpFamily;

/// A feature of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The kernel module.
    pub module: &'static str,
    /// The option of the kernel's configuration, or the first version with the feature.
    pub option: &'static str,
}

impl Feature {
    pub(crate) const fn new(
        name: &'static str,
        module: &'static str,
        option: &'static str,
    ) -> Self {
        Self {
            name,
            module,
            option,
        }
    }
}

/// A match or target of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Whether it is a target, as in `-j NAME`, and not a match, as in `-m NAME`.
    pub target: bool,
    /// The extension; its name is that of iptables.
    pub feature: Feature,
    /// The rules that need it.
    pub needed: Needed,
}

/// The rules that need an extension or a type of sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needed {
    /// Those of every Service.
    Always,
    /// Those of the legacy back end; iptables-nft can write nf_tables expressions instead.
    Legacy,
    /// Those of Services with client affinity.
    Affinity,
    /// Those of ipvs mode's table filter, which restrict access. Virtual servers and the table nat do without.
    Filter,
}

const fn matching(
    name: &'static str,
    module: &'static str,
    option: &'static str,
    needed: Needed,
) -> Extension {
    Extension {
        target: false,
        feature: Feature::new(name, module, option),
        needed,
    }
}

const fn target(name: &'static str, module: &'static str, option: &'static str) -> Extension {
    Extension {
        target: true,
        feature: Feature::new(name, module, option),
        needed: Needed::Always,
    }
}

/// The extensions of the rules that iptables mode and ipvs mode have in common.
const COMMON: [Extension; 9] = [
    matching(
        "conntrack",
        "xt_conntrack",
        "CONFIG_NETFILTER_XT_MATCH_CONNTRACK",
        Needed::Always,
    ),
    matching(
        "addrtype",
        "xt_addrtype",
        "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE",
        Needed::Always,
    ),
    matching(
        "comment",
        "xt_comment",
        "CONFIG_NETFILTER_XT_MATCH_COMMENT",
        Needed::Legacy,
    ),
    matching(
        "mark",
        "xt_mark",
        "CONFIG_NETFILTER_XT_MARK",
        Needed::Legacy,
    ),
    matching(
        "tcp",
        "xt_tcpudp",
        "CONFIG_NETFILTER_XTABLES",
        Needed::Legacy,
    ),
    matching(
        "udp",
        "xt_tcpudp",
        "CONFIG_NETFILTER_XTABLES",
        Needed::Legacy,
    ),
    target("MARK", "xt_mark", "CONFIG_NETFILTER_XT_MARK"),
    target(
        "MASQUERADE",
        "xt_MASQUERADE",
        "CONFIG_NETFILTER_XT_TARGET_MASQUERADE",
    ),
    target("DNAT", "xt_nat", "CONFIG_NETFILTER_XT_NAT"),
];

/// Return the names of extensions in rules that are neither listed nor optional.
#[cfg(test)]
pub(crate) fn unlisted(
    tables: &netfilter::iptables::TableSet,
    listed: &[Extension],
) -> std::collections::BTreeSet<(bool, String)> {
    const OPTIONAL: [&str; 3] = ["sctp", "nfacct", "physdev"];
    let chains = tables.tables.values().flat_map(|t| t.chains.values());
    let mut used = std::collections::BTreeSet::new();
    for rule in chains.flat_map(|chain| &chain.rules) {
        let jumps = rule.target.as_ref().is_some_and(|t| t.chain().is_some());
        let text = rule.to_string();
        let words: Vec<&str> = text.split(' ').collect();
        for pair in words.windows(2) {
            match pair {
                ["-m", name] => used.insert((false, (*name).to_owned())),
                ["-j", "ACCEPT" | "DROP" | "RETURN"] => false,
                ["-j", name] if !jumps => used.insert((true, (*name).to_owned())),
                _ => false,
            };
        }
    }
    used.retain(|(target, name)| {
        let mut listed = listed.iter();
        !OPTIONAL.contains(&name.as_str())
            && !listed.any(|e| e.target == *target && e.feature.name == name)
    });
    used
}

/// Return the extensions of iptables mode's rules. SCTP's match and the packet counters are not among
/// them: their rules are left out, or refused for their Service only.
pub(crate) fn of_iptables(family: IpFamily) -> Vec<Extension> {
    let mut all = COMMON.to_vec();
    all.extend([
        matching(
            "statistic",
            "xt_statistic",
            "CONFIG_NETFILTER_XT_MATCH_STATISTIC",
            Needed::Always,
        ),
        matching(
            "recent",
            "xt_recent",
            "CONFIG_NETFILTER_XT_MATCH_RECENT",
            Needed::Affinity,
        ),
        reject(family),
    ]);
    all
}

/// Return the extensions of ipvs mode's rules.
pub(crate) fn of_ipvs(family: IpFamily) -> Vec<Extension> {
    let mut all = COMMON.to_vec();
    // IPVS translates destinations.
    all.retain(|extension| extension.feature.name != "DNAT");
    all.extend([
        matching(
            "ipvs",
            "xt_ipvs",
            "CONFIG_NETFILTER_XT_MATCH_IPVS",
            Needed::Filter,
        ),
        matching("set", "xt_set", "CONFIG_NETFILTER_XT_SET", Needed::Always),
        reject(family),
    ]);
    for extension in &mut all {
        if ["conntrack", "REJECT"].contains(&extension.feature.name) {
            extension.needed = Needed::Filter;
        }
    }
    all
}

fn reject(family: IpFamily) -> Extension {
    match family {
        IpFamily::V4 => target("REJECT", "ipt_REJECT", "CONFIG_IP_NF_TARGET_REJECT"),
        IpFamily::V6 => target("REJECT", "ip6t_REJECT", "CONFIG_IP6_NF_TARGET_REJECT"),
    }
}
