//! The effect of ipvs mode's flags on a kernel with IPVS, in a virtual machine.

#![allow(missing_docs)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use xtask::vm::Vm;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec: {clusterIP: 10.96.10.1, ports: [{name: http, port: 80}]}
";

#[test]
fn ipvs_flags_reach_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), SERVICE).unwrap();
    let objects = folder.path().display();
    let script = format!(
        "ip link add eth0 type dummy; ip link set eth0 up; ip addr add 10.200.1.2/24 dev eth0
ipvsadm -A -t 192.0.2.1:80 -s rr; ipvsadm -A -t 198.51.100.1:80 -s rr
{SLUICE} proxy --once --proxy-mode=ipvs --hostname-override=node1 --iptables-backend=legacy \\
  --ipvs-scheduler=lc --ipvs-exclude-cidrs=192.0.2.0/24 --ipvs-strict-arp \\
  --ipvs-tcp-timeout=11m --ipvs-tcpfin-timeout=77s --ipvs-udp-timeout=88s \\
  --manifests {objects} 2>&1 || echo FAILED
ipvsadm-save -n; ipvsadm -l --timeout
cd /proc/sys/net/ipv4/conf/all; echo arp: $(cat arp_ignore arp_announce)"
    );
    let mut vm = Vm::default();
    vm.folders.push(PathBuf::from(folder.path()));
    vm.folders
        .push(PathBuf::from(SLUICE).parent().unwrap().to_owned());
    vm.timeout = Duration::from_secs(240);
    let words = ["sh", "-c", &script].map(Into::into);
    let output = vm.output(&words).unwrap();
    for line in [
        "-A -t 10.96.10.1:80 -s lc",
        "-A -t 192.0.2.1:80 -s rr",
        "Timeout (tcp tcpfin udp): 660 77 88",
        "arp: 1 2",
    ] {
        let there = output.text.lines().any(|l| l.trim_end() == line);
        assert!(there, "{line} is not in:\n{}", output.text);
    }
    assert!(!output.text.contains("198.51.100.1"), "{}", output.text);
}
