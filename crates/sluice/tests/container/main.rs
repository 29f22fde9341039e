//! The image in containers: built from the Dockerfile's steps, started by crun with exactly the security
//! context, volumes, arguments and environment of the chart's Pod, against an API server. The init container
//! runs first.

mod bundle;
mod image;
mod inject;
mod pod;
mod restrictions;
#[path = "../support/mod.rs"]
mod support;

use model::Mode;
use support::vm::in_this_vm;
use support::{Host, eventually_or};
use trace::Facts;
use xtask::vm::Vm;

use image::Image;
use pod::{Cluster, Pod};

/// `CAP_NET_ADMIN`, `<linux/capability.h>`: the proxy's only capability, as SECURITY.md states.
const NET_ADMIN: u64 = 1 << 12;

/// kubelet's hint, which selects the back end.
fn hint(host: &Host, backend: &str) {
    for tables in ["iptables", "ip6tables"] {
        host.sh(&format!(
            "{tables}-{backend} -t mangle -N KUBE-IPTABLES-HINT"
        ));
    }
}

/// The whole life of the chart's Pod in a mode.
fn serves_services(cluster: &Cluster, mode: Mode) {
    lives(cluster, &cluster.pod(mode), mode);
}

fn lives(cluster: &Cluster, pod: &Pod<'_>, mode: Mode) {
    pod.init();
    let mut proxy = pod.start();
    cluster.wait_for_web(&proxy);
    proxy.wait_until_restricted();

    for status in proxy.statuses() {
        assert_eq!(status.permitted, NET_ADMIN, "{status:?}");
        assert_eq!(status.effective, NET_ADMIN, "{status:?}");
        assert_eq!(status.bounding, NET_ADMIN, "{status:?}");
        assert_eq!(status.inheritable | status.ambient, 0, "{status:?}");
        assert!(status.no_new_privs, "{status:?}");
        assert_eq!(status.seccomp, "2", "a filter: {status:?}");
    }
    let before = restrictions::show(&proxy);
    let status = proxy.exec(&["status"]);
    assert!(status.contains("no problems"), "{status}");
    let explained = proxy.exec(&["explain", "demo/web"]);
    let refused = explained.contains("denied") || explained.contains("permitted");
    assert!(explained.contains("demo/web") && !refused, "{explained}");

    // Everything that the proxy does later still works.
    cluster.a_new_service_is_served(&proxy);
    cluster.a_removed_endpoint_loses_its_flows(&proxy);
    assert_eq!(
        before,
        proxy.pid(),
        "the process is the same:\n{}",
        proxy.log()
    );
    assert_eq!(proxy.warnings(), Vec::<String>::new());
    proxy.stop();
    // In userspace mode the connections pass through the process.
    if mode != Mode::Userspace {
        cluster.wait_for_web(&proxy);
    }
}

#[test]
fn nftables_mode_works_with_the_security_context_of_its_pod() {
    serves_services(&Cluster::new(), Mode::Nftables);
}

#[test]
fn userspace_mode_works_with_the_security_context_of_its_pod() {
    serves_services(&Cluster::new(), Mode::Userspace);
}

#[test]
fn iptables_mode_works_with_the_security_context_of_its_pod() {
    for backend in ["nft", "legacy"] {
        let cluster = Cluster::new();
        hint(&cluster.host, backend);
        serves_services(&cluster, Mode::Iptables);
        let rules = cluster.host.sh(&format!("iptables-{backend}-save -t nat"));
        assert!(rules.contains("demo/web"), "{backend}: {rules}");
    }
}

/// The image contains no program but its own.
#[test]
fn rules_of_other_programs_are_read_in_the_container() {
    let cluster = Cluster::new();
    hint(&cluster.host, "nft");
    cluster
        .host
        .sh("ipset create blocked hash:ip; ipset add blocked 10.244.1.6
         iptables-nft -N MINE; iptables-nft -I FORWARD -m set --match-set blocked src -j MINE
         iptables-nft -A MINE -m comment --comment 'blocked pods' -j DROP
         iptables-legacy -t mangle -A FORWARD -s 192.0.2.9 -j MARK --set-mark 7
         nft 'add table inet mine; add chain inet mine c { type filter hook forward priority 5; }'
         nft add rule inet mine c ip saddr 192.0.2.8 counter drop");
    let pod = cluster.pod(Mode::Iptables);
    pod.init();
    let mut proxy = pod.start();
    proxy.wait_until_restricted();
    let facts = proxy.exec(&["facts"]);
    let facts = Facts::parse(&facts).unwrap_or_else(|error| panic!("{error}: {facts}"));
    assert_eq!(facts.notes, [] as [String; 0]);
    let dumps = &facts.dumps;
    for (dump, expected) in [
        (
            &dumps.iptables_save,
            "-A FORWARD -m set --match-set blocked src -j MINE",
        ),
        (&dumps.iptables_save, "-j KUBE-SERVICES"),
        (
            &dumps.iptables_legacy_save,
            "-A FORWARD -s 192.0.2.9/32 -j MARK --set-xmark 0x7/0xffffffff",
        ),
        (&dumps.nft_ruleset, "ip saddr 192.0.2.8 counter"),
        (&dumps.ipset_save, "add blocked 10.244.1.6"),
    ] {
        let dump = dump.as_deref().unwrap_or_default();
        assert!(dump.contains(expected), "{expected}: {dump}");
    }
    let trace = [
        "trace",
        "--src",
        "10.244.1.6",
        "--dst",
        "10.96.10.80",
        "--dport",
        "80",
    ];
    let trace = proxy.exec(&trace);
    assert!(
        trace.contains("blocked pods") && trace.contains("DROP"),
        "{trace}"
    );
    let explained = proxy.exec(&["explain", "demo/web"]);
    assert!(explained.contains("MINE"), "{explained}");
    proxy.stop();
}

/// A proxy in iptables mode on iptables-legacy is replaced by one in nftables mode, which needs no program
/// and no further capability to remove its rules.
#[test]
fn legacy_rules_of_another_mode_are_removed_in_the_container() {
    let cluster = Cluster::new();
    hint(&cluster.host, "legacy");
    let left = || {
        cluster
            .host
            .sh("iptables-legacy-save")
            .contains("KUBE-SERVICES")
    };
    for (mode, expected) in [(Mode::Iptables, true), (Mode::Nftables, false)] {
        let pod = cluster.pod(mode);
        pod.init();
        let mut proxy = pod.start();
        proxy.wait_until_restricted();
        cluster.wait_for_web(&proxy);
        assert_eq!(proxy.warnings(), Vec::<String>::new());
        assert_eq!(left(), expected, "{}", proxy.log());
        proxy.stop();
    }
}

/// A machine without any module of netfilter or IPVS. Its kernel lacks NAT in nf_tables.
fn without_modules() -> Vm {
    Vm {
        modules: ["ipv6", "veth"].map(str::to_owned).into(),
        ..Vm::default()
    }
}

/// Nothing has loaded `ip_tables`, `ip_vs` or `nf_conntrack` before the init container.
#[test]
fn ipvs_mode_works_with_the_security_context_of_its_pod() {
    // The machine's file system is read-only.
    Image::built();
    let test = "ipvs_mode_works_with_the_security_context_of_its_pod";
    in_this_vm(test, without_modules(), || {
        let cluster = Cluster::new();
        let mut pod = cluster.pod(Mode::Ipvs);
        pod.add_argument("--iptables-backend=legacy");
        lives(&cluster, &pod, Mode::Ipvs);
        let servers = cluster.host.sh("ipvsadm-save -n");
        assert!(servers.contains("-A -t 10.96.10.80:80"), "{servers}");
    });
}

/// The init container makes the kernel load the modules with the node's `modprobe`; the proxy cannot.
#[test]
fn iptables_mode_starts_on_a_node_that_has_loaded_no_iptables_module() {
    // The machine's file system is read-only.
    Image::built();
    let test = "iptables_mode_starts_on_a_node_that_has_loaded_no_iptables_module";
    in_this_vm(test, without_modules(), || {
        let loaded = || std::fs::read_to_string("/proc/modules").unwrap();
        assert!(!loaded().contains("ip_tables") && !loaded().contains("nf_conntrack"));
        let cluster = Cluster::new();
        let mut pod = cluster.pod(Mode::Iptables);
        pod.add_argument("--iptables-backend=legacy");
        let without_init = pod.start();
        let reported = || {
            without_init
                .log()
                .contains("modprobe -a ip6_tables ip_tables")
        };
        eventually_or(&|| without_init.log(), reported);
        drop(without_init);
        // Any process may make the kernel load the modules of connection tracking.
        assert!(loaded().contains("nf_conntrack_netlink"), "{}", loaded());
        assert!(!loaded().contains("ip_tables"), "{}", loaded());
        lives(&cluster, &pod, Mode::Iptables);
        assert!(loaded().contains("ip6_tables"), "{}", loaded());
    });
}
