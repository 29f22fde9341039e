//! Rules of other programs (`testdata/foreign`) before, between and after those of iptables mode over netlink keep
//! their place while Services change.

#[path = "support/ipt.rs"]
mod ipt;
#[path = "../../kernel/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dataplane::iptables::{Netlink, Options, Sync};
use ipt::{Live, assert_settled, is_of_proxy, kernel_family};
use model::IpFamily;
use plan::testing::{big_cluster_of, big_cluster_settings};
use plan::{Planner, PortChange};
use support::{create_objects, in_namespace, run};

/// Changes of the Services of each family, several Services each.
const ROUNDS: usize = 250;

fn program(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "iptables-nft",
        IpFamily::V6 => "ip6tables-nft",
    }
}

/// Return a file of a program's rules; nothing if the program has none of this kind.
fn recorded(name: &str, ending: &str) -> Option<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/foreign");
    std::fs::read_to_string(format!("{root}/{name}.{ending}")).ok()
}

/// Return the program's rules of a family: those recorded, or the same for IPv6.
fn rules(name: &str, family: IpFamily) -> Option<String> {
    match family {
        IpFamily::V4 => recorded(name, "iptables-save"),
        IpFamily::V6 => recorded(name, "ip6tables-save")
            .or_else(|| Some(in_ipv6(&recorded(name, "iptables-save")?))),
    }
}

/// Translate rules to IPv6: addresses as by NAT64, names of ICMP, and ipsets of the other family.
fn in_ipv6(text: &str) -> String {
    // IPv6 has no broadcasts, and kubelet's chain has no rules there.
    let absent = |line: &&str| line.contains("BROADCAST") || line.starts_with("-A KUBE-FIREWALL ");
    let lines = text.lines().filter(|line| !absent(line));
    let mut translated = String::new();
    for line in lines {
        let mut before = "";
        for word in line.split(' ') {
            let word_in_ipv6 = match (before, word) {
                ("--match-set", name) => format!("{name}6"),
                ("--mask", _) => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".to_owned(),
                ("-p", "icmp") => "ipv6-icmp".to_owned(),
                ("-m", "icmp") => "icmp6".to_owned(),
                (_, "--icmp-type") => "--icmpv6-type".to_owned(),
                (_, "icmp-port-unreachable") => "icmp6-port-unreachable".to_owned(),
                (_, word) => address_in_ipv6(word).unwrap_or_else(|| word.to_owned()),
            };
            translated.push_str(&word_in_ipv6);
            translated.push(' ');
            before = word;
        }
        // iptables refuses a space after `COMMIT`.
        translated.truncate(translated.trim_end().len());
        translated.push('\n');
    }
    translated
}

/// Translate an address, a network, or an address with a port.
fn address_in_ipv6(word: &str) -> Option<String> {
    if let Some((ip, port)) = word.split_once(':') {
        let ip: Ipv4Addr = ip.parse().ok()?;
        return Some(format!("[64:ff9b::{ip}]:{port}"));
    }
    let Some((ip, len)) = word.split_once('/') else {
        let ip: Ipv4Addr = word.parse().ok()?;
        return Some(format!("64:ff9b::{ip}"));
    };
    let (ip, len): (Ipv4Addr, u8) = (ip.parse().ok()?, len.parse().ok()?);
    Some(format!("64:ff9b::{ip}/{}", 96 + len))
}

/// Load a program's rules.
fn load(name: &str) {
    if let Some(text) = recorded(name, "nft") {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        run(&format!("nft -f {}", file.path().display()));
    }
    for family in IpFamily::ALL {
        let Some(text) = rules(name, family) else {
            continue;
        };
        // The kernel lacks IPVS.
        let lines = text.lines().filter(|line| !line.contains("-m ipvs "));
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        create_objects(kernel_family(family), &text);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let (program, path) = (program(family), file.path().display());
        run(&format!("{program}-restore --noflush < {path}"));
    }
}

/// Insert rules of an administrator before, between and after the rules of built-in chains.
fn insert_between(name: &str) {
    // The table `ip nat` of this rule set has chains that iptables-nft does not accept.
    let tables: &[&str] = match name {
        "host-firewall" => &["filter INPUT FORWARD OUTPUT"],
        _ => &[
            "filter INPUT FORWARD OUTPUT",
            "nat PREROUTING OUTPUT POSTROUTING",
        ],
    };
    for (family, network) in [(IpFamily::V4, "192.0.2."), (IpFamily::V6, "2001:db8::")] {
        let program = program(family);
        for table in tables {
            let (table, chains) = table.split_once(' ').unwrap();
            run(&format!(
                "for c in {chains}; do
                   {program} -t {table} -I $c 1 -s {network}1 -m comment --comment first -j RETURN
                   {program} -t {table} -I $c 2 -s {network}2 -m comment --comment between -j RETURN
                   {program} -t {table} -A $c -s {network}3 -m comment --comment last -j RETURN
                 done"
            ));
        }
    }
}

/// Return the rules of built-in chains as the program lists them, in both families: the place of ours among
/// others.
fn built_in() -> String {
    run("iptables-nft-save | grep -e '^-A [A-Z]* '; ip6tables-nft-save | grep -e '^-A [A-Z]* '")
}

/// Return each chain, set and map of other programs as nft lists it, without counters.
fn others() -> BTreeMap<String, String> {
    let listing = run("nft -s list ruleset");
    let mut found = BTreeMap::new();
    let (mut table, mut object) = ("", String::new());
    for line in listing.lines() {
        if line.starts_with("table ") {
            table = line;
        } else if line.starts_with('\t') && !line.starts_with("\t\t") && line.ends_with('{') {
            object = format!("{table} {}", line.trim());
        }
        let name = object.split(' ').nth_back(1).unwrap_or_default();
        // Rules of built-in chains are compared as iptables-nft lists them.
        let is_built_in = name.chars().all(|c| c.is_ascii_uppercase());
        if !is_of_proxy(name) && !is_built_in {
            let text: &mut String = found.entry(object.clone()).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    found
}

/// One family's Services and rules.
struct Family {
    family: IpFamily,
    planner: Planner,
    host: Netlink<Live>,
    sync: Sync,
}

impl Family {
    fn start(family: IpFamily) -> Self {
        let mut planner = Planner::new(big_cluster_settings());
        planner.apply_all(big_cluster_of(family, 12, 4));
        planner.take_diff();
        let mut host = Live::transport(family);
        let mut sync = Sync::new(family, Options::default());
        sync.resync(planner.plan(family), &mut host).unwrap();
        Self {
            family,
            planner,
            host,
            sync,
        }
    }

    fn change(&mut self, round: usize) {
        let events = big_cluster_of(self.family, 8 + round % 7, 1 + round % 4);
        self.planner.apply_all(events);
        let diff = self.planner.take_diff();
        let ports = diff.family(self.family).ports.iter();
        let changed = ports.filter_map(PortChange::key).collect();
        let plan = self.planner.plan(self.family);
        let synced = match round % 100 {
            99 => self.sync.resync(plan, &mut self.host),
            _ => self.sync.sync(plan, &changed, &mut self.host),
        };
        synced.unwrap();
    }
}

fn keep_their_place(name: &str) {
    in_namespace(|| {
        load(name);
        let mut families = IpFamily::ALL.map(Family::start);
        insert_between(name);
        let (rules, objects) = (built_in(), others());
        assert!(rules.contains("between"), "{rules}");
        for round in 0..ROUNDS {
            families.iter_mut().for_each(|family| family.change(round));
        }
        for family in &families {
            assert_settled(&family.sync, family.planner.plan(family.family), name);
        }
        assert_eq!(built_in(), rules, "{name}");
        assert_eq!(others(), objects, "{name}");
    });
}

macro_rules! programs {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() {
            keep_their_place($name);
        })*
        const PROGRAMS: &[&str] = &[$($name),*];
    };
}

programs! {
    rules_of_docker_keep_their_place: "docker",
    rules_of_calico_keep_their_place: "calico",
    rules_of_cilium_keep_their_place: "cilium",
    rules_of_aws_vpc_cni_keep_their_place: "aws-vpc-cni",
    rules_of_k3s_keep_their_place: "k3s",
    rules_of_ufw_keep_their_place: "ufw",
    rules_of_kubelet_keep_their_place: "kubelet",
    rules_of_firewalld_keep_their_place: "firewalld",
    rules_of_an_administrator_keep_their_place: "host-firewall",
    rules_with_every_extension_keep_their_place: "extensions",
}

#[test]
fn every_recorded_rule_set_is_tried() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/foreign");
    for entry in std::fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (name, ending) = name.rsplit_once('.').unwrap();
        // The former proxy's rules are replaced.
        let is_other = ending.ends_with("save") || ending == "nft";
        if is_other && name != "kube-proxy-1.18" {
            assert!(PROGRAMS.contains(&name), "{name}");
        }
    }
}
