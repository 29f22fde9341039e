//! The kernel's state, read with the tools of each interface.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use lab::probe::Probe;
use model::Mode;
use netfilter::ipset::Sets;
use netfilter::iptables::{Family, Table, TableSet};
use netfilter::ipvs::Services;
use observed::Configuration;
use tempfile::TempDir;
use xtask::vm::Vm;

use crate::support::machine::Machine;
use crate::support::vm::{in_this_vm, in_vm};
use crate::support::{
    CLUSTER_CIDR, Host, Proxy, SLUICE, assert_same, eventually, ipvs_backend, text, web,
};
use crate::traffic;

pub(crate) const CASES: [Configuration; 3] = observed::IPVS;

fn recorded(case: &Configuration, what: &str) -> String {
    observed::read(&format!("ipvs-{}.{what}", case.name))
}

pub(crate) const FAMILIES: [(Family, &str, &str); 2] = [
    (Family::Ipv4, "v4", "iptables"),
    (Family::Ipv6, "v6", "ip6tables"),
];

/// The observed node, with an address of the machine that hosted it.
pub(crate) fn node() -> Host {
    let host = Host::new();
    host.sh("ip addr add 10.200.0.1/32 dev lo");
    host
}

/// `proxy --once` without any program in `PATH`.
pub(crate) fn once(host: &Host, objects: &Path, flags: &[&str]) -> Output {
    let mut command = host.command(SLUICE);
    command
        .args(["proxy", "--once", "--proxy-mode=ipvs"])
        .arg("--hostname-override=node1")
        .arg(format!("--iptables-backend={}", ipvs_backend()))
        .arg(format!("--cluster-cidr={CLUSTER_CIDR}"))
        .arg("--manifests")
        .arg(objects)
        .args(flags)
        .env("PATH", "/nonexistent");
    command.output().unwrap()
}

/// Replace the name of the legacy programs by that of the tested back end.
fn with_backend(line: &str) -> String {
    line.replace("tables-legacy", &format!("tables-{}", ipvs_backend()))
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(|l| l.trim().to_owned()).collect()
}

pub(crate) fn services(save: &str) -> BTreeSet<String> {
    lines(&Services::parse(save).unwrap().to_string())
}

/// The output without values that the kernel chooses.
pub(crate) fn sets(save: &str) -> BTreeSet<String> {
    let mut sets = Sets::parse(save).unwrap();
    for set in &mut sets.sets {
        set.options
            .retain(|(name, _)| !["bucketsize", "initval"].contains(&&**name));
    }
    lines(&sets.to_string())
}

/// The tables with rules of this mode.
fn rules(family: Family, save: &str) -> TableSet {
    let mut tables = TableSet::parse(family, save).unwrap();
    tables
        .tables
        .retain(|table, _| [Table::Filter, Table::Nat].contains(table));
    tables
}

fn routes(text: &str) -> BTreeSet<String> {
    let all = lines(text).into_iter();
    all.filter(|line| line.contains("dev kube-ipvs0")).collect()
}

fn addresses(text: &str) -> BTreeSet<String> {
    let line = text.lines().find(|line| line.starts_with("kube-ipvs0"));
    let words = line.unwrap_or_default().split_whitespace();
    words.map(str::to_owned).collect()
}

/// The output of the tools, without order and counters.
fn everything(host: &Host) -> BTreeSet<String> {
    lines(&host.sh(&with_backend(
        "ipvsadm-save -n; ipset save; iptables-legacy-save | sed -n '/^-/p'
         ip -o addr show dev kube-ipvs0 | sed 's/^[0-9]*: //'; ip6tables-legacy-save | sed -n '/^-/p'",
    )))
}

fn assert_observed(host: &Host, case: &Configuration) {
    let name = case.name;
    let is = host.sh("ipvsadm-save -n");
    assert_eq!(
        services(&is),
        services(&recorded(case, "ipvsadm")),
        "{name}"
    );
    let is = host.sh("ipset save");
    assert_eq!(sets(&is), sets(&recorded(case, "ipset")), "{name}");
    let is = host.sh("ip -br addr");
    assert_eq!(addresses(&is), addresses(&recorded(case, "addr")), "{name}");
    let is = host.sh("ip route show table all; ip -6 route show table all");
    assert_eq!(routes(&is), routes(&recorded(case, "route")), "{name}");
    for line in recorded(case, "sysctl").lines() {
        let (key, should) = line.split_once(" = ").unwrap();
        // These depend on the machine's memory, and on the kernel's option CONFIG_IP_VS_DEBUG.
        if !["net.ipv4.vs.sync_qlen_max", "net.ipv4.vs.debug_level"].contains(&key) {
            let is = host.sh(&format!("cat /proc/sys/{}", key.replace('.', "/")));
            assert_eq!(is.trim_end(), should, "{name}: {key}");
        }
    }
    for (family, version, tool) in FAMILIES {
        let is = rules(family, &host.sh(&format!("{tool}-{}-save", ipvs_backend())));
        let should = rules(family, &recorded(case, &format!("{version}.iptables-save")));
        assert_same(&is, &should, &format!("{name}, {tool}"));
    }
}

/// Load each section of the output of `render` with its tool.
fn load_rendered(host: &Host, case: &Configuration) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("config"), case.file("ipvs")).unwrap();
    for (word, tool) in [("ipv4", "iptables"), ("ipv6", "ip6tables")] {
        let output = std::process::Command::new(SLUICE)
            .args(["render", "--mode=ipvs", "--node=node1", "--ip-family", word])
            .args(["--config", &at("config"), "-f"])
            .arg(observed::path("objects.json"))
            .args(["--interface-addresses", "10.200.0.1,10.200.1.2"])
            .args(["--interface-addresses", "fd00:200:1::2"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let all = text(&output.stdout);
        let (ipvsadm, rest) = all.split_once("# ipset\n").unwrap();
        let (ipset, iptables) = rest.split_once("# iptables\n").unwrap();
        fs::write(at("ipvsadm"), ipvsadm.strip_prefix("# ipvsadm\n").unwrap()).unwrap();
        fs::write(at("ipset"), ipset).unwrap();
        fs::write(at("iptables"), iptables).unwrap();
        host.sh(&format!("ipvsadm -R <{}", at("ipvsadm")));
        host.sh(&format!("ipset restore <{}", at("ipset")));
        let backend = ipvs_backend();
        host.sh(&format!("{tool}-{backend}-restore <{}", at("iptables")));
    }
}

fn assert_loaded_is_programmed(loaded: &Host, programmed: &Host, name: &str) {
    let both = |line: &str| (loaded.sh(line), programmed.sh(line));
    let (is, should) = both("ipvsadm-save -n");
    assert_eq!(services(&is), services(&should), "{name}");
    let (is, should) = both("ipset save");
    assert_eq!(sets(&is), sets(&should), "{name}");
    for (family, _, tool) in FAMILIES {
        let (is, should) = both(&format!("{tool}-{}-save", ipvs_backend()));
        let what = format!("{name}: {tool}");
        assert_same(&rules(family, &is), &rules(family, &should), &what);
    }
}

fn clean(host: &Host) {
    // Another program's rule and set.
    host.sh(&with_backend(
        "iptables-legacy -A INPUT -s 10.9.9.9 -j DROP; ipset create THEIRS hash:ip",
    ));
    for _ in ["all of it", "nothing"] {
        let output = host.sluice(&["cleanup"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(host.sh("ipvsadm-save -n"), "");
    assert_eq!(host.sh("ipset list -n"), "THEIRS\n");
    host.sh("! ip link show kube-ipvs0 2>/dev/null");
    let rules = host.sh(&with_backend("iptables-legacy-save; ip6tables-legacy-save"));
    assert!(!rules.contains("KUBE-"), "{rules}");
    assert!(rules.contains("-A INPUT -s 10.9.9.9/32 -j DROP"), "{rules}");
}

/// The program writes kube-proxy's observed state; a second run changes nothing; the tools can load the
/// same from `render`; and `cleanup` removes everything.
#[test]
fn kernel_state_equals_the_observation() {
    in_vm("state::kernel_state_equals_the_observation", || {
        for case in CASES {
            let host = node();
            let mut before = BTreeSet::new();
            for run in ["first", "second"] {
                let output = once(&host, &observed::path("objects.json"), case.flags);
                assert!(output.status.success(), "{}", text(&output.stderr));
                println!("{}, {run} run", case.name);
                assert_observed(&host, &case);
                let now = everything(&host);
                if run == "second" {
                    assert_eq!(now, before, "{}", case.name);
                }
                before = now;
            }
            let loaded = node();
            load_rendered(&loaded, &case);
            assert_loaded_is_programmed(&loaded, &host, case.name);
            clean(&host);
        }
    });
}

fn one_service() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yaml");
    fs::write(file, web("web", 1, "10.244.1.11")).unwrap();
    folder
}

#[test]
fn other_programs_servers_stay_and_timeouts_and_node_ports_are_set() {
    in_vm(
        "state::other_programs_servers_stay_and_timeouts_and_node_ports_are_set",
        || {
            let host = node();
            host.sh(
                "ipvsadm -A -t 10.9.1.1:80 -s wlc; ipvsadm -a -t 10.9.1.1:80 -r 10.1.1.1:80 -g -w 7
             ipvsadm -A -t 10.8.1.1:80 -s wlc; ipvsadm -A -f 7 -s rr",
            );
            let flags = [
                "--ipvs-exclude-cidrs=10.9.0.0/16",
                "--ipvs-tcp-timeout=15m",
                "--ipvs-tcpfin-timeout=7s",
                "--ipvs-udp-timeout=90s",
            ];
            let objects = one_service();
            let output = once(&host, objects.path(), &flags);
            assert!(output.status.success(), "{}", text(&output.stderr));
            assert_eq!(
                lines(&host.sh("ipvsadm-save -n")),
                lines(
                    "-A -t 10.9.1.1:80 -s wlc\n-a -t 10.9.1.1:80 -r 10.1.1.1:80 -g -w 7\n\
                 -A -f 7 -s rr\n\
                 -A -t 10.96.10.1:80 -s rr\n-a -t 10.96.10.1:80 -r 10.244.1.11:8080 -m -w 1"
                )
            );
            let timeouts = host.sh("ipvsadm -L --timeout");
            assert!(timeouts.contains(": 900 7 90"), "{timeouts}");

            // NodePorts on the configured addresses of the node; never on loopback.
            let node_port = traffic::web("ports", 5, 30500, "", &[]);
            fs::write(objects.path().join("ports.yaml"), node_port).unwrap();
            let chosen = "--nodeport-addresses=10.200.1.0/24,127.0.0.0/8";
            for (flags, wanted) in [
                (&[][..], &["10.200.0.1", "10.200.1.2"][..]),
                (&[chosen], &["10.200.1.2"]),
            ] {
                let output = once(&host, objects.path(), flags);
                assert!(output.status.success(), "{}", text(&output.stderr));
                let all = lines(&host.sh("ipvsadm-save -n")).into_iter();
                let is: BTreeSet<String> = all.filter(|l| l.contains(":30500")).collect();
                // Without an IPv6 range, every IPv6 address counts.
                let wanted = wanted.iter().copied().chain(["[fd00:200:1::2]"]);
                let should = wanted.map(|ip| format!("-A -t {ip}:30500 -s rr"));
                assert_eq!(is, should.collect(), "{flags:?}");
            }
        },
    );
}

/// `KUBE-LOOP-BACK` has every endpoint of the node in any condition. `KUBE-HEALTH-CHECK-NODE-PORT` has
/// the Service only while its NodePort has an address. As in kube-proxy.
#[test]
fn local_endpoints_and_health_checks_are_in_their_sets() {
    in_vm(
        "state::local_endpoints_and_health_checks_are_in_their_sets",
        || {
            let host = node();
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("lb.yaml"), LOAD_BALANCER).unwrap();
            for (flags, check) in [
                (&[][..], &["KUBE-HEALTH-CHECK-NODE-PORT 32077"][..]),
                (&["--nodeport-addresses=192.0.2.0/24"], &[]),
            ] {
                let output = once(&host, folder.path(), flags);
                assert!(output.status.success(), "{}", text(&output.stderr));
                let saved = host.sh("ipset save");
                let elements = |set: &str| -> BTreeSet<String> {
                    let added = saved.lines().filter_map(|line| line.strip_prefix("add "));
                    let added = added.filter(|added| added.split(' ').next() == Some(set));
                    added.map(str::to_owned).collect()
                };
                let local = ["10.244.1.71", "10.244.1.72", "10.244.1.73"];
                let local = local.map(|ip| format!("KUBE-LOOP-BACK {ip},tcp:8080,{ip}"));
                assert_eq!(elements("KUBE-LOOP-BACK"), local.into(), "{flags:?}");
                let check: BTreeSet<String> = check.iter().map(ToString::to_string).collect();
                assert_eq!(elements("KUBE-HEALTH-CHECK-NODE-PORT"), check, "{flags:?}");
            }
        },
    );
}

/// A load balancer of Local policy with a ready, an unready and a terminating endpoint on node1, and
/// one elsewhere.
const LOAD_BALANCER: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: lb, namespace: demo}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32077
  clusterIP: 10.96.10.7
  clusterIPs: [10.96.10.7]
  ipFamilies: [IPv4]
  ports: [{name: http, port: 80, nodePort: 30577, protocol: TCP, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: lb-1, namespace: demo, labels: {kubernetes.io/service-name: lb}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.1.71], nodeName: node1, conditions: {ready: true, serving: true, terminating: false}}
- {addresses: [10.244.1.72], nodeName: node1, conditions: {ready: false, serving: false, terminating: false}}
- {addresses: [10.244.1.73], nodeName: node1, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.244.2.71], nodeName: node2, conditions: {ready: true, serving: true, terminating: false}}
"#;

#[test]
fn foreign_changes_are_repaired() {
    in_vm("state::foreign_changes_are_repaired", || {
        let flags = ["--ipvs-sync-period=1s"];
        let (one, two) = (web("one", 1, "10.244.1.11"), web("two", 2, "10.244.1.12"));
        let files = [("one.yaml", &*one), ("two.yaml", &*two)];
        let proxy = Proxy::start(Mode::Ipvs, &files, &flags);
        let there = || {
            let servers = proxy.host.sh("ipvsadm-save -n");
            ["10.244.1.11", "10.244.1.12"].map(|pod| servers.contains(pod)) == [true; 2]
                // Without Services the rules are the last change of the other family.
                && proxy.host.sh(&with_backend("ip6tables-legacy-save")).contains("-A KUBE-POSTROUTING")
        };
        eventually("both Services and both families", there);
        let should = everything(&proxy.host);
        for damage in [
            "ip addr del 10.96.10.1/32 dev kube-ipvs0",
            "ip addr add 10.99.99.99/32 dev kube-ipvs0",
            "ipvsadm -D -t 10.96.10.1:80; ipvsadm -A -t 10.96.10.77:80",
            "ipvsadm -e -t 10.96.10.2:80 -r 10.244.1.12:8080 -m -w 0",
            "ipvsadm -E -t 10.96.10.2:80 -s wlc -p 60",
            "ipset flush KUBE-CLUSTER-IP; ipset add KUBE-CLUSTER-IP 1.2.3.4,tcp:5",
            "iptables-legacy -t nat -F KUBE-SERVICES; iptables-legacy -D INPUT 1",
            "ip6tables-legacy -t nat -F; ip6tables-legacy -F",
            "ip link del kube-ipvs0",
        ] {
            proxy.host.sh(&with_backend(damage));
            let wrong = || {
                let is = everything(&proxy.host);
                let is: Vec<String> = should.symmetric_difference(&is).cloned().collect();
                is.join("\n")
            };
            let deadline = Instant::now() + Duration::from_secs(60);
            while !wrong().is_empty() {
                let log = || proxy.log();
                assert!(
                    Instant::now() < deadline,
                    "{damage}:\n{}\n{}",
                    wrong(),
                    log()
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
}

/// The kernel's schedulers, from its modules: User Mode Linux' own, or those of a kernel under qemu.
fn schedulers() -> Vec<String> {
    let folders = "/usr/lib/uml/modules/$(uname -r) /lib/modules/$(uname -r)";
    let line =
        format!("for f in {folders}; do ls $f/kernel/net/netfilter/ipvs 2>/dev/null && exit; done");
    let names = text(
        &std::process::Command::new("sh")
            .args(["-c", &line])
            .output()
            .unwrap()
            .stdout,
    );
    let modules = names.lines().filter_map(|name| {
        let name = name.strip_prefix("ip_vs_")?.strip_suffix(".ko")?;
        // A protocol helper, and a persistence engine.
        (!["ftp", "pe_sip"].contains(&name)).then(|| name.to_owned())
    });
    modules.collect()
}

#[test]
fn every_scheduler_of_the_kernel_works() {
    in_vm("state::every_scheduler_of_the_kernel_works", || {
        let host = node();
        let objects = one_service();
        let all = schedulers();
        assert!(all.len() >= 13, "{all:?}");
        let _pod = Machine::pod(&host, 11);
        let cluster_ip = Probe::http("10.96.10.1:80".parse().unwrap());
        for scheduler in all {
            let flag = format!("--ipvs-scheduler={scheduler}");
            let output = once(&host, objects.path(), &[&flag]);
            assert!(output.status.success(), "{}", text(&output.stderr));
            let flags = if scheduler == "mh" { " -b mh-port" } else { "" };
            assert_eq!(
                lines(&host.sh("ipvsadm-save -n")),
                lines(&format!(
                    "-A -t 10.96.10.1:80 -s {scheduler}{flags}\n\
                     -a -t 10.96.10.1:80 -r 10.244.1.11:8080 -m -w 1"
                ))
            );
            let outcome = host.run(|| cluster_ip.timeout(Duration::from_secs(20)).ask());
            assert!(outcome.answer().is_some(), "{scheduler}: {outcome}");
        }
        let before = everything(&host);
        let output = once(&host, objects.path(), &["--ipvs-scheduler=nosuch"]);
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{said}");
        let wanted = "the kernel lacks the IPVS scheduler \"nosuch\"";
        assert_eq!(said.matches(wanted).count(), 1, "{said}");
        assert_eq!(everything(&host), before);
    });
}

/// One error that names the missing feature; nothing is changed.
#[test]
fn a_kernel_without_ipvs_causes_one_error() {
    let vm = Vm {
        modules: ["ipv6", "veth", "ip_tables", "iptable_filter", "iptable_nat"]
            .map(str::to_owned)
            .into(),
        ..Vm::default()
    };
    in_this_vm("state::a_kernel_without_ipvs_causes_one_error", vm, || {
        fs::write("/proc/sys/kernel/modprobe", "/bin/false").unwrap();
        let host = Host::new();
        let objects = one_service();
        let attempt = |wanted: &str| {
            let output = once(&host, objects.path(), &[]);
            let said = text(&output.stderr);
            assert!(!output.status.success(), "{said}");
            // The last line is the cause of the exit.
            let last = said.lines().last().unwrap();
            assert!(last.contains(wanted), "{said}");
        };
        attempt("this kernel lacks IPVS: load it with `modprobe ip_vs`");
        let rules = host.sh("iptables-legacy-save");
        assert!(!rules.contains("KUBE-"), "{rules}");
        // With IPVS, but without dummy interfaces.
        host.sh("for m in ip_vs ip_vs_rr xt_set xt_comment; do /run/modprobe $m; done");
        attempt("this kernel lacks dummy interfaces: load them with `modprobe dummy`");
    });
}
