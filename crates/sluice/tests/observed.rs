//! The rules equal those that kube-proxy v1.36.2 was observed to program, for every iptables
//! configuration and both families: as `render` prints them, and as the kernel lists them after
//! `proxy --once`, in both back ends.

mod support;

use std::fmt::Write as _;
use std::fs;

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
        let config = folder.path().join("config.yaml");
        fs::write(&config, case.config_file()).unwrap();
        for (family, word) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
            let output = std::process::Command::new(SLUICE)
                .args(["render", "--mode", "iptables", "--node", "node1"])
                .args(["--ip-family", word])
                .arg("--config")
                .arg(&config)
                .args(["--interface-addresses", "10.200.1.2,fd00:200:1::2"])
                .arg("-f")
                .arg(observed("objects.json"))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            let ours = TableSet::parse(family, &text(&output.stdout)).unwrap();
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
        let objects = observed("objects.json");
        let mut command = host.command(SLUICE);
        command
            .args([
                "proxy",
                "--once",
                "--proxy-mode=iptables",
                "--hostname-override=node1",
            ])
            .arg(format!("--iptables-backend={backend}"))
            .arg("--manifests")
            .arg(&objects)
            .args(case.flags);
        if case.has_cluster_cidr() {
            command.arg(format!("--cluster-cidr={CLUSTER_CIDR}"));
        }
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
