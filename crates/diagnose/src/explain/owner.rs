//! Identifies the program that made a rule by its names for tables and chains.

use trace::{Backend, Step};

/// Chains (by prefix) and the program that makes them. More specific names come first.
const CHAINS: [(&str, &str); 38] = [
    ("KUBE-FIREWALL", "kubelet or kube-proxy"),
    ("KUBE-KUBELET-CANARY", "kubelet"),
    ("KUBE-IPTABLES-HINT", "kubelet"),
    ("KUBE-ROUTER", "kube-router"),
    ("KUBE-NWPLCY", "kube-router"),
    ("KUBE-POD-FW", "kube-router"),
    ("KUBE-", "the proxy"),
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
    ("OLD_CILIUM_", "Cilium"),
    ("FLANNEL-", "flannel"),
    ("FLANNEL", "flannel"),
    ("WEAVE", "Weave Net"),
    ("CNI-HOSTPORT-", "the CNI plugin portmap"),
    ("CNI-HN-", "the CNI plugin portmap"),
    ("CNI-DN-", "the CNI plugin portmap"),
    ("CNI-FORWARD", "the CNI plugin firewall"),
    ("CNI-ADMIN", "the CNI plugin firewall"),
    ("CNI-", "a CNI plugin"),
    ("AWS-", "the AWS VPC CNI"),
    ("ANTREA-", "Antrea"),
    ("OVN-", "OVN-Kubernetes"),
    ("IP-MASQ", "ip-masq-agent"),
    ("DOCKER", "Docker"),
    ("NETAVARK", "Podman (netavark)"),
    ("LIBVIRT_", "libvirt"),
    ("ufw-", "ufw"),
    ("ufw6-", "ufw"),
    ("f2b-", "fail2ban"),
    ("fail2ban", "fail2ban"),
    ("ts-", "Tailscale"),
    ("ISTIO_", "Istio"),
    ("INPUT_", "firewalld"),
    ("FORWARD_", "firewalld"),
    ("FWD", "firewalld"),
    ("FWDI_", "firewalld"),
    ("filter_FORWARD", "firewalld"),
    ("filter_INPUT", "firewalld"),
];

/// Tables of nf_tables and the program that makes them.
const TABLES: [(&str, &str); 9] = [
    ("kube-proxy", "the proxy"),
    (dataplane::userspace::TABLE, "sluice"),
    ("sluice-nat", "sluice"),
    ("firewalld", "firewalld"),
    ("calico", "Calico"),
    ("cilium", "Cilium"),
    ("kindnet-network-policies", "kindnet"),
    ("netavark", "Podman (netavark)"),
    ("docker-bridges", "Docker"),
];

/// Words in comments and the program that writes them.
const COMMENTS: [(&str, &str); 4] = [
    ("NodeLocal DNS", "NodeLocal DNSCache"),
    ("flanneld", "flannel"),
    ("AWS, ", "the AWS VPC CNI"),
    ("cali:", "Calico"),
];

/// Return the program that made the rule of a step, if its names identify it.
pub(crate) fn of(step: &Step) -> Option<&'static str> {
    let table = TABLES.iter().find(|(name, _)| *name == step.table);
    let comment = || COMMENTS.iter().find(|(word, _)| step.rule.contains(word));
    let found = table.or_else(comment).map(|(_, owner)| *owner);
    found.or_else(|| of_chain(&step.chain))
}

fn of_chain(name: &str) -> Option<&'static str> {
    let found = CHAINS.iter().find(|(prefix, _)| name.starts_with(prefix));
    found.map(|(_, owner)| *owner)
}

/// Return whether a chain is one that a proxy makes for Services.
pub(crate) fn is_service_chain(name: &str) -> bool {
    of_chain(name) == Some("the proxy")
}

/// Return whether a table is one that a proxy makes for Services.
pub(crate) fn is_service_table(name: &str) -> bool {
    let found = TABLES.iter().find(|(table, _)| *table == name);
    matches!(found, Some((_, "the proxy" | "sluice")))
}

/// Return whether a chain's purpose is to block single hosts.
pub(crate) fn blocks_hosts(name: &str) -> bool {
    of_chain(name) == Some("fail2ban")
}

/// Return whether the rule is one that a proxy makes for Services.
pub(crate) fn is_service_rule(step: &Step) -> bool {
    matches!(of(step), Some("the proxy" | "sluice"))
}

/// Describe a rule: its text, its place and its owner.
pub(crate) fn describe(step: &Step) -> String {
    let owner = match of(step) {
        Some("the proxy") if step.backend == Some(Backend::Legacy) => {
            ", left by an earlier proxy".to_owned()
        }
        Some(owner) => format!(", made by {owner}"),
        None => String::new(),
    };
    let family = match (step.backend, step.family) {
        (Some(Backend::Legacy), "ip6") => "ip6tables-legacy ",
        (Some(Backend::Legacy), _) => "iptables-legacy ",
        _ => "",
    };
    if step.rule == "policy" {
        return format!(
            "the policy of chain {} in {family}table {} ({}){owner}",
            step.chain, step.table, step.hook
        );
    }
    format!(
        "the rule `{}` in {family}table {}, chain {} ({}){owner}",
        step.rule, step.table, step.chain, step.hook
    )
}
