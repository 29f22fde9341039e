//! The kinds of damage.

use model::IpFamily;
use model::Mode::{self, Iptables, Ipvs, Nftables, Userspace};

use crate::node::How;

/// Whether connections are expected to fail or change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Harmful,
    Harmless,
}

/// One kind of damage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Damage {
    pub(crate) name: &'static str,
    pub(crate) how: How,
    /// The shell line that undoes what a restart of the proxy does not.
    pub(crate) undo: &'static str,
    pub(crate) effect: Effect,
    /// What the findings have to name.
    pub(crate) names: &'static [&'static str],
    modes: &'static [Mode],
    families: &'static [IpFamily],
}

const ALL: &[Mode] = &[Iptables, Nftables, Userspace, Ipvs];
const KERNEL: &[Mode] = &[Iptables, Nftables, Ipvs];

/// Return the kinds for a mode and family.
pub(crate) fn all(mode: Mode, family: IpFamily) -> impl Iterator<Item = Damage> {
    let all = DAMAGES.iter().filter(move |d| d.modes.contains(&mode));
    all.filter(move |d| d.families.contains(&family)).copied()
}

/// The other family lacks it, or treats it differently.
const fn only(family: IpFamily, damage: Damage) -> Damage {
    let families: &'static [IpFamily] = match family {
        IpFamily::V4 => &[IpFamily::V4],
        IpFamily::V6 => &[IpFamily::V6],
    };
    Damage { families, ..damage }
}

const fn line(
    modes: &'static [Mode],
    name: &'static str,
    how: &'static str,
    undo: &'static str,
    names: &'static [&'static str],
) -> Damage {
    Damage {
        name,
        how: How::Line(how),
        undo,
        effect: Effect::Harmful,
        names,
        modes,
        families: &IpFamily::ALL,
    }
}

const fn harmless(
    modes: &'static [Mode],
    name: &'static str,
    how: &'static str,
    undo: &'static str,
) -> Damage {
    Damage {
        name,
        how: How::Line(how),
        undo,
        effect: Effect::Harmless,
        names: &[],
        modes,
        families: &IpFamily::ALL,
    }
}

const fn proxy(
    modes: &'static [Mode],
    name: &'static str,
    how: How,
    names: &'static [&'static str],
) -> Damage {
    Damage {
        name,
        how,
        undo: "",
        effect: Effect::Harmful,
        names,
        modes,
        families: &IpFamily::ALL,
    }
}

const DAMAGES: &[Damage] = &[
    harmless(ALL, "nothing", "true", ""),
    // The rules of iptables mode.
    line(
        &[Iptables],
        "the Service's rule is removed",
        "iptables-nft -t nat -D KUBE-SERVICES -d 10.96.10.1 -p tcp -m comment --comment 'demo/web:http cluster IP' -m tcp --dport 80 -j KUBE-SVC-XRY76EGRC3BSCIIJ",
        "",
        &["rules-differ", "KUBE-SERVICES"],
    ),
    line(
        &[Iptables],
        "the Service's chain is flushed",
        "iptables-nft -t nat -F KUBE-SVC-XRY76EGRC3BSCIIJ",
        "",
        &["KUBE-SVC-XRY76EGRC3BSCIIJ"],
    ),
    line(
        &[Iptables],
        "the endpoint's rule is removed",
        "iptables-nft -t nat -F KUBE-SEP-4R67FX26EEAQJQLI",
        "",
        &["KUBE-SEP-4R67FX26EEAQJQLI"],
    ),
    line(
        &[Iptables],
        "the first rule for an endpoint is moved to the end",
        "iptables-nft -t nat -D KUBE-SVC-XRY76EGRC3BSCIIJ 2; iptables-nft -t nat -A KUBE-SVC-XRY76EGRC3BSCIIJ -m statistic --mode random --probability 0.5 -j KUBE-SEP-4R67FX26EEAQJQLI",
        "",
        &["KUBE-SVC-XRY76EGRC3BSCIIJ"],
    ),
    line(
        &[Iptables],
        "a rule that leads to another Service is added",
        "iptables-nft -t nat -I KUBE-SERVICES -d 10.96.10.1 -p tcp --dport 80 -j KUBE-SVC-FXTZXRHZLXSAASJU",
        "",
        &["KUBE-SERVICES"],
    ),
    line(
        &[Iptables],
        "the masquerade rule is removed",
        "iptables-nft -t nat -F KUBE-POSTROUTING",
        "",
        &["KUBE-POSTROUTING"],
    ),
    line(
        &[Iptables],
        "the rule that marks connections from outside is removed",
        "iptables-nft -t nat -D KUBE-EXT-XRY76EGRC3BSCIIJ 1",
        "",
        &["KUBE-EXT-XRY76EGRC3BSCIIJ"],
    ),
    line(
        &[Iptables],
        "the rule that marks an endpoint's connections to itself is removed",
        "iptables-nft -t nat -D KUBE-SEP-4R67FX26EEAQJQLI 1",
        "",
        &["KUBE-SEP-4R67FX26EEAQJQLI"],
    ),
    line(
        &[Iptables],
        "the jump from PREROUTING is removed",
        "iptables-nft -t nat -D PREROUTING -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES",
        "",
        &["PREROUTING"],
    ),
    line(
        &[Iptables],
        "the jump from OUTPUT is removed",
        "iptables-nft -t nat -D OUTPUT -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES",
        "",
        &["OUTPUT"],
    ),
    line(
        &[Iptables],
        "the jump from POSTROUTING is removed",
        "iptables-nft -t nat -D POSTROUTING -m comment --comment 'kubernetes postrouting rules' -j KUBE-POSTROUTING",
        "",
        &["POSTROUTING"],
    ),
    line(
        &[Iptables],
        "the table nat is flushed",
        "iptables-nft -t nat -F",
        "",
        &["rules-differ"],
    ),
    line(
        &[Iptables],
        "the rule that refuses is removed",
        "iptables-nft -t filter -F KUBE-SERVICES",
        "",
        &["KUBE-SERVICES"],
    ),
    line(
        &[Iptables],
        "the firewall of source ranges is removed",
        "iptables-nft -t filter -F KUBE-PROXY-FIREWALL; iptables-nft -t nat -I KUBE-FW-XRY76EGRC3BSCIIJ -j KUBE-EXT-XRY76EGRC3BSCIIJ",
        "",
        &["KUBE-FW-XRY76EGRC3BSCIIJ"],
    ),
    // The elements and rules of nftables mode.
    line(
        &[Nftables],
        "the Service's element is removed",
        "nft delete element ip kube-proxy cluster-ip-ports '{ 10.96.10.1 . tcp . 80 }'",
        "",
        &["cluster-ip-ports"],
    ),
    line(
        &[Nftables],
        "an endpoint's element is removed",
        "nft delete element ip kube-proxy endpoints '{ 10.96.10.1 . tcp . 80 . 1 }'",
        "",
        &["map endpoints"],
    ),
    line(
        &[Nftables],
        "an endpoint's element is changed",
        "nft 'delete element ip kube-proxy endpoints { 10.96.10.1 . tcp . 80 . 1 }; add element ip kube-proxy endpoints { 10.96.10.1 . tcp . 80 . 1 : 10.244.2.99 . 8080 }'",
        "",
        &["10.244.2.99"],
    ),
    line(
        &[Nftables],
        "an endpoint's element is added",
        "nft 'add element ip kube-proxy endpoints { 10.96.10.2 . tcp . 80 . 1 : 10.244.2.99 . 8080 }; add element ip kube-proxy endpoint-counts { 10.96.10.2 . tcp . 80 . 2 }'",
        "",
        &["10.244.2.99"],
    ),
    line(
        &[Nftables],
        "the number of endpoints is lost",
        "nft delete element ip kube-proxy endpoint-counts '{ 10.96.10.1 . tcp . 80 . 2 }'",
        "",
        &["endpoint-counts"],
    ),
    line(
        &[Nftables],
        "the external address's element is removed",
        "nft delete element ip kube-proxy service-ips '{ 192.0.2.80 . tcp . 80 }'",
        "",
        &["service-ips"],
    ),
    line(
        &[Nftables],
        "the NodePort's element is removed",
        "nft delete element ip kube-proxy service-nodeports '{ tcp . 30080 }'",
        "",
        &["service-nodeports"],
    ),
    line(
        &[Nftables],
        "the node's address for NodePorts is removed",
        "nft delete element ip kube-proxy nodeport-ips '{ 10.200.1.2 }'",
        "",
        &["nodeport-ips"],
    ),
    line(
        &[Nftables],
        "the NodePort's element leads elsewhere",
        "nft 'delete element ip kube-proxy service-nodeports { tcp . 30081 }; add element ip kube-proxy service-nodeports { tcp . 30081 : goto nodeport-masquerade }'",
        "",
        &["nodeport-masquerade"],
    ),
    line(
        &[Nftables],
        "a Service with endpoints is refused",
        "nft 'delete element ip kube-proxy service-ips { 192.0.2.80 . tcp . 80 }; add element ip kube-proxy service-ips { 192.0.2.80 . tcp . 80 : goto reject-chain }'",
        "",
        &["reject-chain"],
    ),
    harmless(
        &[Nftables],
        "the element that refuses is removed: the node refuses",
        "nft delete element ip kube-proxy no-endpoint-nodeports '{ tcp . 30082 }'",
        "",
    ),
    line(
        &[Nftables],
        "the element of a hairpin connection is removed",
        "nft delete element ip kube-proxy hairpin-connections '{ 10.244.1.11 . 10.244.1.11 . tcp . 8080 }'",
        "",
        &["hairpin-connections"],
    ),
    line(
        &[Nftables],
        "the source range is widened",
        "nft add element ip kube-proxy source-ranges '{ 10.99.0.1 . tcp . 80 . 10.201.0.3 }'",
        "",
        &["source-ranges"],
    ),
    line(
        &[Nftables],
        "the chain that masquerades is flushed",
        "nft flush chain ip kube-proxy masquerading",
        "",
        &["masquerading"],
    ),
    line(
        &[Nftables],
        "the chain that translates is flushed",
        "nft flush chain ip kube-proxy services",
        "",
        &["services"],
    ),
    line(
        &[Nftables],
        "the base chain in PREROUTING is flushed",
        "nft flush chain ip kube-proxy nat-prerouting",
        "",
        &["nat-prerouting"],
    ),
    line(
        &[Nftables],
        "the table is deleted",
        "nft delete table ip kube-proxy",
        "",
        &["rules-differ"],
    ),
    line(
        &[Nftables],
        "the table is dormant",
        "nft add table ip kube-proxy '{ flags dormant; }'",
        "nft delete table ip kube-proxy",
        &["dormant"],
    ),
    // The table of userspace mode.
    line(
        &[Userspace],
        "the table is deleted",
        "nft delete table ip sluice-userspace",
        "",
        &["rules-differ"],
    ),
    line(
        &[Userspace],
        "the Service's element is removed",
        "nft delete element ip sluice-userspace frontends '{ 10.96.10.1 . tcp . 80 }'",
        "",
        &["frontends"],
    ),
    // Settings of the node.
    line(
        ALL,
        "forwarding is off",
        "sysctl -qw net.ipv4.ip_forward=0",
        "sysctl -qw net.ipv4.ip_forward=1",
        &["net.ipv4.ip_forward"],
    ),
    only(
        IpFamily::V4,
        line(
            KERNEL,
            "forwarding is off on the pod's interface",
            "sysctl -qw net.ipv4.conf.pod50.forwarding=0",
            "sysctl -qw net.ipv4.conf.pod50.forwarding=1",
            &["net.ipv4.conf.pod50.forwarding"],
        ),
    ),
    // IPv6 only knows the setting of the whole host.
    only(
        IpFamily::V6,
        harmless(
            ALL,
            "forwarding is off on the pod's interface",
            "sysctl -qw net.ipv6.conf.pod50.forwarding=0",
            "sysctl -qw net.ipv6.conf.pod50.forwarding=1",
        ),
    ),
    only(
        IpFamily::V4,
        harmless(
            ALL,
            "the reverse path filter is strict",
            "sysctl -qw net.ipv4.conf.ext.rp_filter=1",
            "sysctl -qw net.ipv4.conf.ext.rp_filter=0",
        ),
    ),
    only(
        IpFamily::V4,
        line(
            ALL,
            "the reverse path filter is strict, and the route back is another",
            "sysctl -qw net.ipv4.conf.ext.rp_filter=1; ip route replace 10.201.0.2 dev node2",
            "sysctl -qw net.ipv4.conf.ext.rp_filter=0; ip route replace 10.201.0.2 dev ext",
            &["reverse-path-filter", "rp_filter", "ext"],
        ),
    ),
    only(
        IpFamily::V4,
        line(
            &[Iptables],
            "loopback addresses may not be routed",
            "sysctl -qw net.ipv4.conf.all.route_localnet=0",
            "sysctl -qw net.ipv4.conf.all.route_localnet=1",
            &["martian", "net.ipv4.conf.all.route_localnet"],
        ),
    ),
    line(
        KERNEL,
        "packets between pods on a bridge bypass the rules",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=0",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1",
        &["bridge-bypass", "net.bridge.bridge-nf-call-ip"],
    ),
    // Known connections.
    line(
        ALL,
        "a client's known connection leads to a removed endpoint",
        "conntrack -D -p udp --sport 5353 2>/dev/null; conntrack -I -p udp -s 10.244.1.50 -d 10.96.10.4 --sport 5353 --dport 53 -g 10.244.1.99:8053 -t 600 2>/dev/null",
        "",
        &["stale-flow", "10.244.1.99"],
    ),
    only(
        IpFamily::V4,
        harmless(
            ALL,
            "a closed connection led to a removed endpoint",
            "conntrack -I -p tcp -s 10.244.1.50 -d 10.96.10.1 --sport 5353 --dport 80 -g 10.244.1.99:8080 --state TIME_WAIT -u SEEN_REPLY,ASSURED -t 100 2>/dev/null",
            "",
        ),
    ),
    // Routes.
    line(
        ALL,
        "the route to the other node's pods is unreachable",
        "ip route replace unreachable 10.244.2.0/24",
        "ip route del unreachable 10.244.2.0/24; ip route replace 10.244.2.0/24 via 10.200.1.3 dev node2 onlink",
        &["unreachable 10.244.2.0/24"],
    ),
    line(
        ALL,
        "the route to the other node's pods is a blackhole",
        "ip route replace blackhole 10.244.2.0/24",
        "ip route del blackhole 10.244.2.0/24; ip route replace 10.244.2.0/24 via 10.200.1.3 dev node2 onlink",
        &["blackhole 10.244.2.0/24"],
    ),
    line(
        ALL,
        "the route to the other node's pods is missing",
        "ip route del 10.244.2.0/24",
        "ip route replace 10.244.2.0/24 via 10.200.1.3 dev node2 onlink",
        &["no-route", "node2", "default"],
    ),
    line(
        ALL,
        "the route to the other node's pods leads to a pod",
        "ip route replace 10.244.2.0/24 dev pod50",
        "ip route replace 10.244.2.0/24 via 10.200.1.3 dev node2 onlink",
        &["no-route", "node2", "pod50"],
    ),
    line(
        ALL,
        "the route to the other node's pods ends here",
        "ip link add end type bridge; ip link set end up; ip route replace 10.244.2.0/24 dev end",
        "ip link del end; ip route replace 10.244.2.0/24 via 10.200.1.3 dev node2 onlink",
        &["no-route", "node2", "end"],
    ),
    line(
        ALL,
        "the endpoint's address is also the node's",
        "ip addr add 10.244.1.11 dev lo scope host",
        "ip addr del 10.244.1.11 dev lo",
        &["10.244.1.11", "lo"],
    ),
    line(
        KERNEL,
        "a policy rule refuses packets of the pods",
        "ip rule add from 10.244.1.50 prohibit",
        "ip rule del from 10.244.1.50 prohibit",
        &["no-route"],
    ),
    line(
        ALL,
        "the interface of the endpoint is down",
        "ip link set pod11 down",
        "ip link set pod11 up; ip route replace 10.244.1.11 dev pod11; ip -6 route replace fd00:10:244::11 dev pod11; ip addr add fe80::1/64 dev pod11 nodad",
        &["10.244.1.11"],
    ),
    // Other programs' rules.
    line(
        KERNEL,
        "a firewall drops in FORWARD",
        "iptables-nft -N MY-FIREWALL; iptables-nft -A FORWARD -j MY-FIREWALL; iptables-nft -A MY-FIREWALL -d 10.244.2.0/24 -j DROP",
        "iptables-nft -D FORWARD -j MY-FIREWALL; iptables-nft -F MY-FIREWALL; iptables-nft -X MY-FIREWALL",
        &["MY-FIREWALL", "10.244.2.0/24"],
    ),
    line(
        KERNEL,
        "a firewall of the other back end drops in FORWARD",
        "iptables-legacy -A FORWARD -d 10.244.1.11 -p tcp --dport 8080 -j DROP",
        "iptables-legacy -F FORWARD",
        &["foreign-drop", "iptables-legacy", "FORWARD"],
    ),
    line(
        ALL,
        "a firewall drops in raw PREROUTING",
        "iptables-nft -t raw -A PREROUTING -d 10.96.0.0/16 -j DROP",
        "iptables-nft -t raw -D PREROUTING -d 10.96.0.0/16 -j DROP",
        &["foreign-drop", "raw", "PREROUTING"],
    ),
    line(
        KERNEL,
        "a firewall drops in mangle POSTROUTING",
        "iptables-nft -t mangle -A POSTROUTING -d 10.244.2.11 -j DROP",
        "iptables-nft -t mangle -F POSTROUTING",
        &["mangle", "POSTROUTING", "10.244.2.11"],
    ),
    line(
        ALL,
        "a firewall drops the node's packets in OUTPUT",
        "iptables-nft -A OUTPUT -d 10.244.2.0/24 -j DROP",
        "iptables-nft -D OUTPUT -d 10.244.2.0/24 -j DROP",
        &["OUTPUT", "10.244.2.0/24"],
    ),
    line(
        ALL,
        "a firewall rejects with a reset",
        "nft 'add table inet fw; add chain inet fw pre { type filter hook prerouting priority -250; }; add rule inet fw pre tcp dport 30080 reject with tcp reset'",
        "nft delete table inet fw",
        &["foreign-drop", "table fw"],
    ),
    line(
        ALL,
        "a firewall drops answers",
        "nft 'add table inet fw; add chain inet fw pre { type filter hook prerouting priority -250; }; add rule inet fw pre tcp sport 8080 drop'",
        "nft delete table inet fw",
        &["reply-lost", "table fw"],
    ),
    line(
        ALL,
        "a firewall drops packets at a device",
        "nft 'add table netdev fw; add chain netdev fw in { type filter hook ingress device ext priority 0; }; add rule netdev fw in tcp dport 30080 drop'",
        "nft delete table netdev fw",
        &["foreign-drop", "table fw"],
    ),
    line(
        KERNEL,
        "the policy of FORWARD is DROP",
        "iptables-nft -P FORWARD DROP",
        "iptables-nft -P FORWARD ACCEPT",
        &["chain-policy", "FORWARD"],
    ),
    line(
        KERNEL,
        "the policy of the other back end's FORWARD is DROP",
        "iptables-legacy -P FORWARD DROP",
        "iptables-legacy -P FORWARD ACCEPT",
        &["chain-policy", "iptables-legacy"],
    ),
    line(
        ALL,
        "the policy of OUTPUT is DROP",
        "iptables-nft -P OUTPUT DROP",
        "iptables-nft -P OUTPUT ACCEPT",
        &["chain-policy", "OUTPUT"],
    ),
    line(
        ALL,
        "the policy of INPUT is DROP",
        "iptables-nft -P INPUT DROP",
        "iptables-nft -P INPUT ACCEPT",
        &["INPUT"],
    ),
    line(
        ALL,
        "a firewall drops clients in a range",
        "nft 'add table inet fw; add chain inet fw pre { type filter hook prerouting priority -250; }; add rule inet fw pre ip saddr 10.201.0.2/31 tcp dport 30080 drop'",
        "nft delete table inet fw",
        &["foreign-drop", "table fw", "10.201.0.2/31"],
    ),
    line(
        ALL,
        "a firewall drops clients in all ranges but one",
        "iptables-nft -t raw -A PREROUTING ! -s 10.201.0.2/31 -p tcp --dport 30080 -j DROP",
        "iptables-nft -t raw -D PREROUTING ! -s 10.201.0.2/31 -p tcp --dport 30080 -j DROP",
        &["foreign-drop", "raw", "10.201.0.2/31"],
    ),
    line(
        KERNEL,
        "a firewall drops pods in a range",
        "iptables-nft -A FORWARD -s 10.244.1.48/30 -j DROP",
        "iptables-nft -D FORWARD -s 10.244.1.48/30 -j DROP",
        &["foreign-drop", "FORWARD", "10.244.1.48/30"],
    ),
    line(
        ALL,
        "a firewall drops pods in a range for one Service",
        "iptables-nft -t raw -A PREROUTING -s 10.244.1.48/30 -d 10.96.10.4 -p udp -j DROP",
        "iptables-nft -t raw -D PREROUTING -s 10.244.1.48/30 -d 10.96.10.4 -p udp -j DROP",
        &["foreign-drop", "PREROUTING", "10.244.1.48/30"],
    ),
    line(
        ALL,
        "a firewall drops the other node's connections",
        "iptables-nft -t raw -A PREROUTING -s 10.200.1.3 -p tcp --dport 30080 -j DROP",
        "iptables-nft -t raw -D PREROUTING -s 10.200.1.3 -p tcp --dport 30080 -j DROP",
        &["foreign-drop", "raw", "10.200.1.3"],
    ),
    line(
        ALL,
        "a firewall drops connections of the other node's pods",
        "iptables-nft -t raw -A PREROUTING -s 10.244.2.0/24 -p tcp --dport 30081 -j DROP",
        "iptables-nft -t raw -D PREROUTING -s 10.244.2.0/24 -p tcp --dport 30081 -j DROP",
        &["foreign-drop", "raw", "10.244.2.0/24"],
    ),
    line(
        KERNEL,
        "a firewall drops the node's errors",
        "iptables-nft -A OUTPUT -p PING -j DROP",
        "iptables-nft -D OUTPUT -p PING -j DROP",
        &["reply-lost", "OUTPUT"],
    ),
    line(
        ALL,
        "a firewall accepts before rules for a DNS cache",
        "iptables-nft -t raw -I PREROUTING 2 -p tcp -j ACCEPT",
        "iptables-nft -t raw -D PREROUTING -p tcp -j ACCEPT",
        &["foreign-rule", "raw", "PREROUTING", "-p tcp -j ACCEPT"],
    ),
    line(
        ALL,
        "a rule for a DNS cache is removed",
        "iptables-nft -t raw -D PREROUTING -d 10.96.10.5 -p tcp --dport 53 -j CT --notrack",
        "iptables-nft -t raw -A PREROUTING -d 10.96.10.5 -p tcp --dport 53 -j CT --notrack",
        &["foreign-rule", "raw", "PREROUTING"],
    ),
    harmless(
        ALL,
        "a firewall drops another port",
        "iptables-nft -A FORWARD -p tcp --dport 9999 -j DROP",
        "iptables-nft -D FORWARD -p tcp --dport 9999 -j DROP",
    ),
    line(
        &[Iptables],
        "a firewall accepts in FORWARD before refusals",
        "iptables-nft -I FORWARD -j ACCEPT",
        "iptables-nft -D FORWARD -j ACCEPT",
        &["FORWARD"],
    ),
    harmless(
        &[Nftables, Userspace, Ipvs],
        "a firewall accepts in FORWARD",
        "iptables-nft -I FORWARD -j ACCEPT",
        "iptables-nft -D FORWARD -j ACCEPT",
    ),
    line(
        ALL,
        "another program translates before ours",
        "nft 'add table ip early; add chain ip early pre { type nat hook prerouting priority -150; }; add rule ip early pre ip daddr 10.96.10.1 tcp dport 80 dnat to 10.244.2.99:8080'",
        "nft delete table ip early",
        &["foreign-rule", "table early"],
    ),
    harmless(
        ALL,
        "another program translates after ours",
        "nft 'add table ip late; add chain ip late pre { type nat hook prerouting priority -50; }; add rule ip late pre ip daddr 10.96.10.1 tcp dport 80 dnat to 10.244.2.99:8080'",
        "nft delete table ip late",
    ),
    line(
        KERNEL,
        "another program masquerades packets to pods",
        "nft 'add table ip early; add chain ip early post { type nat hook postrouting priority 50; }; add rule ip early post ip daddr 10.244.0.0/16 masquerade'",
        "nft delete table ip early",
        &["source-replaced", "table early"],
    ),
    line(
        KERNEL,
        "another program masquerades connections between pods",
        "iptables-nft -t nat -I POSTROUTING -s 10.244.1.50 -j MASQUERADE",
        "iptables-nft -t nat -D POSTROUTING -s 10.244.1.50 -j MASQUERADE",
        &["source-replaced", "POSTROUTING"],
    ),
    line(
        &[Iptables],
        "another rule accepts in nat POSTROUTING before ours",
        "iptables-nft -t nat -I POSTROUTING -d 10.244.0.0/16 -j ACCEPT",
        "iptables-nft -t nat -D POSTROUTING -d 10.244.0.0/16 -j ACCEPT",
        &["source-kept", "POSTROUTING"],
    ),
    harmless(
        KERNEL,
        "another table accepts in nat POSTROUTING before ours",
        "nft 'add table ip early; add chain ip early post { type nat hook postrouting priority 50; }; add rule ip early post ip daddr 10.244.0.0/16 accept'",
        "nft delete table ip early",
    ),
    line(
        KERNEL,
        "another program clears the mark",
        "iptables-nft -t mangle -A POSTROUTING -j MARK --set-mark 0",
        "iptables-nft -t mangle -F POSTROUTING",
        &["source-kept", "mangle", "POSTROUTING"],
    ),
    line(
        ALL,
        "another program stops tracking",
        "iptables-nft -t raw -A PREROUTING -d 10.96.0.0/16 -j CT --notrack",
        "iptables-nft -t raw -D PREROUTING -d 10.96.0.0/16 -j CT --notrack",
        &["foreign-rule", "raw"],
    ),
    line(
        KERNEL,
        "another program stops tracking answers",
        "iptables-nft -t raw -A PREROUTING -s 10.244.0.0/16 -p tcp --sport 8080 -j CT --notrack",
        "iptables-nft -t raw -D PREROUTING -s 10.244.0.0/16 -p tcp --sport 8080 -j CT --notrack",
        &["reply-lost", "raw"],
    ),
    line(
        &[Iptables],
        "another chain accepts in nat PREROUTING before ours",
        "iptables-nft -t nat -I PREROUTING -d 10.96.0.0/16 -j ACCEPT",
        "iptables-nft -t nat -D PREROUTING -d 10.96.0.0/16 -j ACCEPT",
        &["foreign-rule", "PREROUTING"],
    ),
    harmless(
        ALL,
        "another table accepts in nat PREROUTING before ours",
        "nft 'add table ip early; add chain ip early pre { type nat hook prerouting priority -150; }; add rule ip early pre ip daddr 10.96.0.0/16 accept'",
        "nft delete table ip early",
    ),
    // Former proxies.
    harmless(
        &[Nftables, Userspace],
        "iptables-legacy has rules of a former proxy, called after ours",
        "iptables-legacy -t nat -N KUBE-SERVICES; iptables-legacy -t nat -I PREROUTING -j KUBE-SERVICES; iptables-legacy -t nat -A KUBE-SERVICES -d 10.96.10.1 -p tcp --dport 80 -j DNAT --to 10.244.2.99:8080",
        "iptables-legacy -t nat -F; iptables-legacy -t nat -X",
    ),
    line(
        &[Iptables],
        "iptables-legacy has rules of a former proxy",
        "iptables-legacy -t nat -N KUBE-SERVICES; iptables-legacy -t nat -I PREROUTING -j KUBE-SERVICES; iptables-legacy -t nat -A KUBE-SERVICES -d 10.96.10.1 -p tcp --dport 80 -j DNAT --to 10.244.2.99:8080",
        "iptables-legacy -t nat -F; iptables-legacy -t nat -X",
        &["stale-rules", "iptables-legacy"],
    ),
    // Objects.
    proxy(
        ALL,
        "the proxy has the name of another node",
        How::Proxy(&["--hostname-override=node2"]),
        &["node-name", "--hostname-override"],
    ),
    proxy(
        KERNEL,
        "the rules were made from older endpoints",
        How::Objects("addresses: [10.244.2.11]", "addresses: [10.244.2.12]"),
        &["10.244.2.12"],
    ),
];
