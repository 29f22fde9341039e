//! For every configuration that kube-proxy v1.36.2 was observed in, and both families: in iptables mode
//! the rules equal its own, as `render` prints them, and as the kernel lists them after `proxy --once`,
//! in both back ends; in nftables mode what `render` prints and what is programmed are the same.

#[path = "../../kernel/tests/support/listing.rs"]
mod listing;
mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use listing::{Blocks, blocks, same};
use netfilter::iptables::{Family, TableSet};
use support::{CLUSTER_CIDR, Host, SLUICE, assert_same, observed, text};

/// One observed configuration: its name, its flags, and the same as a configuration file.
struct Case {
    name: &'static str,
    flags: &'static [&'static str],
    config: &'static str,
}

const CIDR_FIELD: &str = "clusterCIDR: 10.244.0.0/16,fd00:10:244::/56\n";

const CASES: &[Case] = &[
    Case {
        name: "default",
        flags: &[],
        config: "",
    },
    Case {
        name: "masquerade-all",
        flags: &["--masquerade-all"],
        config: "iptables: {masqueradeAll: true}\n",
    },
    Case {
        name: "primary",
        flags: &["--nodeport-addresses=primary"],
        config: "nodePortAddresses: [primary]\n",
    },
    Case {
        name: "nodeport-cidr",
        flags: &["--nodeport-addresses=10.200.1.0/24,fd00:200:1::/64"],
        config: "nodePortAddresses: [10.200.1.0/24, 'fd00:200:1::/64']\n",
    },
    Case {
        name: "bridge",
        flags: &[
            "--detect-local-mode=BridgeInterface",
            "--pod-bridge-interface=cbr0",
        ],
        config: "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}\n",
    },
    Case {
        name: "prefix",
        flags: &[
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=veth",
        ],
        config: "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\n",
    },
    Case {
        name: "nodecidr",
        flags: &["--detect-local-mode=NodeCIDR"],
        config: "detectLocalMode: NodeCIDR\n",
    },
    Case {
        name: "no-localhost",
        flags: &["--iptables-localhost-nodeports=false"],
        config: "iptables: {localhostNodePorts: false}\n",
    },
];

impl Case {
    /// Whether the observation was made with a cluster range.
    fn has_cluster_cidr(&self) -> bool {
        !self.config.contains("detectLocalMode")
    }

    fn expected(&self, family: Family) -> TableSet {
        let version = match family {
            Family::Ipv4 => "v4",
            Family::Ipv6 => "v6",
        };
        let file = observed(&format!("iptables-{}.{version}.iptables-save", self.name));
        TableSet::parse(family, &fs::read_to_string(file).unwrap()).unwrap()
    }

    /// `proxy --once` in a mode.
    fn proxy(&self, host: &Host, mode: &str) -> Command {
        let mut command = host.command(SLUICE);
        command
            .args(["proxy", "--once", "--hostname-override=node1"])
            .arg(format!("--proxy-mode={mode}"))
            .arg("--manifests")
            .arg(observed("objects.json"))
            .args(self.flags);
        if self.has_cluster_cidr() {
            command.arg(format!("--cluster-cidr={CLUSTER_CIDR}"));
        }
        command
    }

    /// What `render` prints.
    fn rendered(&self, folder: &Path, mode: &str, family: &str) -> String {
        let config = folder.join("config.yaml");
        let text_of_mode = self.config_file().replace("iptables:", &format!("{mode}:"));
        fs::write(&config, text_of_mode).unwrap();
        let output = Command::new(SLUICE)
            .args(["render", "--mode", mode, "--node", "node1"])
            .args(["--ip-family", family])
            .arg("--config")
            .arg(&config)
            .args(["--interface-addresses", "10.200.1.2,fd00:200:1::2"])
            .arg("-f")
            .arg(observed("objects.json"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    fn config_file(&self) -> String {
        let mut yaml =
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
                .to_owned();
        if self.has_cluster_cidr() {
            yaml.push_str(CIDR_FIELD);
        }
        write!(yaml, "{}", self.config).unwrap();
        yaml
    }
}

#[test]
fn render_prints_the_observed_rules() {
    let folder = tempfile::tempdir().unwrap();
    for case in CASES {
        for (family, word) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
            let rendered = case.rendered(folder.path(), "iptables", word);
            let ours = TableSet::parse(family, &rendered).unwrap();
            let what = format!("{} {word}", case.name);
            assert_same(&ours, &case.expected(family), &what);
        }
    }
}

#[test]
fn the_kernel_has_the_observed_rules_after_one_sync_nft() {
    once("nft");
}

#[test]
fn the_kernel_has_the_observed_rules_after_one_sync_legacy() {
    once("legacy");
}

fn once(backend: &str) {
    for case in CASES {
        let host = Host::new();
        let mut command = case.proxy(&host, "iptables");
        command.arg(format!("--iptables-backend={backend}"));
        // The second run finds everything in place, and has to leave it so.
        for run in ["first", "second"] {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            for (family, tool) in [(Family::Ipv4, "iptables"), (Family::Ipv6, "ip6tables")] {
                let ours = host.rules(&format!("{tool}-{backend}-save"), family);
                let what = format!("{} after the {run} run, {tool}-{backend}", case.name);
                assert_same(&ours, &case.expected(family), &what);
            }
        }
    }
}

/// Loads a table of a family in a namespace of its own; what `nft` lists of it.
fn reloaded(table: &str, family: &str) -> Blocks {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.nft");
    fs::write(&file, table).unwrap();
    host.sh(&format!("nft -f {}", file.display()));
    blocks(&host.sh(&format!("nft list table {family} kube-proxy")))
}

/// The exception: learning a client's endpoint from registers has no words in nft's language.
fn without_learning(mut blocks: Blocks) -> Blocks {
    for rules in blocks.values_mut() {
        rules.retain(|rule| !rule.contains("affinity {"));
    }
    blocks
}

#[test]
fn what_nftables_mode_programs_is_what_it_renders_and_what_nft_saves_and_loads() {
    let folder = tempfile::tempdir().unwrap();
    // That one asks of this mode what no table can do.
    let cases = CASES.iter().filter(|case| case.name != "no-localhost");
    let mut count = 0;
    for case in cases {
        let host = Host::new();
        let output = case.proxy(&host, "nftables").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        for (family, word) in [("ip", "ipv4"), ("ip6", "ipv6")] {
            let saved = host.sh(&format!("nft list table {family} kube-proxy"));
            let programmed = blocks(&saved);
            assert!(programmed.len() > 30, "{saved}");
            same(&reloaded(&saved, family), &programmed);
            let rendered = case.rendered(folder.path(), "nftables", word);
            let rendered = reloaded(&rendered, family);
            assert_eq!(programmed.len(), rendered.len(), "{}", case.name);
            same(&rendered, &without_learning(programmed));
            let json = host.sh(&format!("nft -j list table {family} kube-proxy"));
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            let listed = json["nftables"].as_array().unwrap();
            assert!(listed.iter().any(|object| object.get("rule").is_some()));
            count += 1;
        }
    }
    assert_eq!(count, 14);
}
