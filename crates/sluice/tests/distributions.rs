//! kube-proxy's configuration in each distribution of `docs/distributions.md` is accepted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The mode, ranges and kubeconfig that each configuration results in.
const EXPECTED: [(&str, &str, &str, &str); 11] = [
    (
        "aks.flags",
        "iptables",
        "10.244.0.0/16",
        "/var/lib/kubelet/kubeconfig",
    ),
    ("eks.yaml", "iptables", "", "/var/lib/kube-proxy/kubeconfig"),
    (
        "gke.flags",
        "iptables",
        "10.8.0.0/14",
        "/var/lib/kube-proxy/kubeconfig",
    ),
    (
        "k3s.flags",
        "iptables",
        "10.42.0.0/16",
        "/var/lib/rancher/k3s/agent/kubeproxy.kubeconfig",
    ),
    (
        "kind.yaml",
        "nftables",
        "10.244.0.0/16",
        "/var/lib/kube-proxy/kubeconfig.conf",
    ),
    (
        "kops.flags",
        "iptables",
        "100.96.0.0/11",
        "/var/lib/kube-proxy/kubeconfig",
    ),
    (
        "kubeadm.yaml",
        "iptables",
        "10.244.0.0/16",
        "/var/lib/kube-proxy/kubeconfig.conf",
    ),
    (
        "microk8s.flags",
        "iptables",
        "10.1.0.0/16",
        "/var/snap/microk8s/current/credentials/proxy.config",
    ),
    (
        "minikube.yaml",
        "iptables",
        "10.244.0.0/16",
        "/var/lib/kube-proxy/kubeconfig.conf",
    ),
    (
        "rke2.flags",
        "iptables",
        "10.42.0.0/16",
        "/var/lib/rancher/rke2/agent/kubeproxy.kubeconfig",
    ),
    (
        "talos.flags",
        "nftables",
        "10.244.0.0/16",
        "/etc/kubernetes/kubeconfig",
    ),
];

#[test]
fn the_configuration_of_each_distribution_is_accepted() {
    let folder = root().join("testdata/distributions");
    for (name, mode, range, kubeconfig) in EXPECTED {
        let temporary = tempfile::tempdir().unwrap();
        // The name under which the distributions start it.
        let program = temporary.path().join("kube-proxy");
        std::os::unix::fs::symlink(SLUICE, &program).unwrap();
        let written = temporary.path().join("written");
        let mut command = Command::new(program);
        command.arg("--write-config-to").arg(&written);
        let file = folder.join(name);
        if name.ends_with(".yaml") {
            command.arg("--config").arg(&file);
        } else {
            command.args(fs::read_to_string(&file).unwrap().lines());
        }
        let output = command.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {log}");
        assert!(!log.contains("unknown"), "{name}: {log}");
        let text = fs::read_to_string(&written).unwrap();
        let file = config::KubeProxyConfiguration::from_yaml(&text).unwrap();
        let resolved = config::Config::from_file(file).unwrap();
        assert_eq!(resolved.mode.to_string(), mode, "{name}");
        let line = |field: &str, value: &str| {
            let value = if value.is_empty() { "\"\"" } else { value };
            text.lines()
                .any(|line| line.trim() == format!("{field}: {value}"))
        };
        assert!(line("clusterCIDR", range), "{name}: {text}");
        assert!(line("kubeconfig", kubeconfig), "{name}: {text}");
    }
}

#[test]
fn each_distribution_has_a_section_and_a_configuration() {
    let page = fs::read_to_string(root().join("docs/distributions.md")).unwrap();
    let sections: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    for (file, ..) in EXPECTED {
        let name = file.split('.').next().unwrap();
        let has = |section: &&str| section.to_lowercase().starts_with(name);
        assert!(sections.iter().any(has), "{name}: {sections:?}");
    }
    let files = fs::read_dir(root().join("testdata/distributions")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let tested = |name: &String| EXPECTED.iter().any(|(file, ..)| file == name);
    let untested: Vec<_> = names.filter(|name| !tested(name)).collect();
    assert_eq!(untested, ["README.md"]);
}
