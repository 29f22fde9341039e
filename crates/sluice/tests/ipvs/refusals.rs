//! A refusal of the kernel affects only the Service ports that own the refused piece.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use lab::probe::{Outcome, Probe};
use model::Mode;
use xtask::vm::Vm;

use crate::support::machine::{Machine, OUTSIDE};
use crate::support::vm::{in_this_vm, in_vm};
use crate::support::{Proxy, eventually, eventually_or, web};
use crate::traffic;

fn wait_for_log(proxy: &Proxy, what: &str) {
    eventually_or(&|| format!("the log says: {what}\n{}", proxy.log()), || {
        proxy.log().contains(what)
    });
}

fn eventually_has(proxy: &Proxy, dump: &str, what: &str) {
    let is = || proxy.host.sh(dump);
    eventually_or(&|| format!("{what}\n{}\n{}", is(), proxy.log()), || {
        is().contains(what)
    });
}

const SERVERS: &str = "ipvsadm-save -n";

/// Prevent the kernel from loading modules of this name.
fn withhold(module: &str) {
    let but_one =
        format!("#!/bin/sh\ncase \"$*\" in *{module}*) exit 1;; esac\nexec /run/modprobe \"$@\"\n");
    fs::write("/run/modprobe-but-one", but_one).unwrap();
    fs::set_permissions("/run/modprobe-but-one", fs::Permissions::from_mode(0o755)).unwrap();
    fs::write("/proc/sys/kernel/modprobe", "/run/modprobe-but-one").unwrap();
}

fn restore_modprobe() {
    fs::write("/proc/sys/kernel/modprobe", "/run/modprobe").unwrap();
}

/// IPVS refuses a broadcast address as a destination.
#[test]
fn a_refused_destination_quarantines_its_port() {
    in_vm(
        "refusals::a_refused_destination_quarantines_its_port",
        || {
            let proxy = Proxy::start(Mode::Ipvs, &[], &["--ipvs-sync-period=1s"]);
            let host = &proxy.host;
            let _pod = Machine::pod(host, 11);
            let client = Machine::outside(host);
            host.sh("ip route add broadcast 10.244.1.99 dev eth0 table local");
            let bad = web("bad", 2, "10.244.1.99");
            proxy.write("bad.yaml", &bad);
            let left_out = "port=\"demo/bad:http\" error=\"\
                        ipvs: -a -t 10.96.10.2:80 -r 10.244.1.99:8080 -w 1: EINVAL";
            wait_for_log(&proxy, left_out);
            // Services after it are served, and so is its other endpoint.
            proxy.write("good.yaml", &web("good", 1, "10.244.1.11"));
            let to = "10.96.10.1:80".parse().unwrap();
            eventually("the others are served", || {
                client.ask(Probe::http(to)).answer().is_some()
            });
            proxy.write(
                "bad.yaml",
                &bad.replace(
                    "addresses: [10.244.1.99]",
                    "addresses: [10.244.1.11]}, {addresses: [10.244.1.99]",
                ),
            );
            let to = "10.96.10.2:80".parse().unwrap();
            eventually("its other endpoint", || {
                client.ask(Probe::http(to)).answer().is_some()
            });
            assert!(!proxy.log().contains("accepted or removed"));
            // It is not a foreign change either, which the next check would report.
            host.sh("ip addr add 10.99.99.99/32 dev kube-ipvs0");
            wait_for_log(&proxy, "Another program changed the rules");
            assert_eq!(proxy.log().matches("Another program changed").count(), 1);
            // Refused pieces are tried again from time to time.
            host.sh("ip route del broadcast 10.244.1.99 dev eth0 table local");
            wait_for_log(
                &proxy,
                "Service port accepted or removed family=\"IPv4\" port=\"demo/bad:http\"",
            );
            assert!(
                host.sh(SERVERS)
                    .contains("-a -t 10.96.10.2:80 -r 10.244.1.99:8080 -m -w 1")
            );
            assert_eq!(proxy.log().matches(left_out).count(), 1);
        },
    );
}

/// A full set, and a device that refuses IPv6 addresses.
#[test]
fn a_full_set_and_a_refused_address_quarantine_their_ports() {
    in_vm(
        "refusals::a_full_set_and_a_refused_address_quarantine_their_ports",
        || {
            let first = web("one", 1, "10.244.1.11");
            let mut proxy = Proxy::start(
                Mode::Ipvs,
                &[("one.yaml", &first)],
                &["--ipvs-sync-period=1h"],
            );
            eventually_has(&proxy, SERVERS, "10.244.1.11:8080");
            proxy.host.sh(
                "ipset create SMALL hash:ip,port maxelem 1; ipset add SMALL 10.96.10.1,tcp:80
             ipset swap SMALL KUBE-CLUSTER-IP; ipset destroy SMALL
             echo 1 >/proc/sys/net/ipv6/conf/kube-ipvs0/disable_ipv6",
            );
            proxy.write("two.yaml", &web("two", 2, "10.244.1.12"));
            wait_for_log(
                &proxy,
                "family=\"IPv4\" port=\"demo/two:http\" error=\"\
             ipset KUBE-CLUSTER-IP, 10.96.10.2,tcp:80: the set is full",
            );
            eventually_has(&proxy, SERVERS, "-a -t 10.96.10.2:80 -r 10.244.1.12:8080");
            proxy.write(
                "three.yaml",
                &traffic::web("three", 3, 30080, "", &traffic::here(&[13])),
            );
            for port in ["http", "dns", "sctp"] {
                let said = format!(
                    "family=\"IPv6\" port=\"demo/three:{port}\" error=\"\
                 address fd00:10:96::3 on kube-ipvs0"
                );
                wait_for_log(&proxy, &said);
            }
            for wanted in [
                "-a -t 10.96.10.3:80 -r 10.244.1.13:8080",
                "-a -t [fd00:10:96::3]:80 -r [fd00:10:244::13]:8080",
            ] {
                eventually_has(&proxy, SERVERS, wanted);
            }
            proxy
                .host
                .sh("echo 0 >/proc/sys/net/ipv6/conf/kube-ipvs0/disable_ipv6");
            proxy.kill();
            proxy.respawn();
            // At start the set is found to be too small.
            eventually_has(
                &proxy,
                "ipset save",
                "add KUBE-CLUSTER-IP 10.96.10.2,tcp:80",
            );
            eventually_has(&proxy, "ip addr", "fd00:10:96::3");
        },
    );
}

/// A kernel without a set type, which no rule names without source ranges.
#[test]
fn a_missing_set_type_affects_no_other_set() {
    in_vm("refusals::a_missing_set_type_affects_no_other_set", || {
        withhold("hash:ip,port,net");
        let object = web("one", 1, "10.244.1.11");
        let proxy = Proxy::start(Mode::Ipvs, &[("one.yaml", &object)], &[]);
        let _pod = Machine::pod(&proxy.host, 11);
        let client = Machine::outside(&proxy.host);
        let to = "10.96.10.1:80".parse().unwrap();
        eventually("it is served", || {
            client.ask(Probe::http(to)).answer().is_some()
        });
        wait_for_log(
            &proxy,
            "ipset KUBE-LOAD-BALANCER-SOURCE-CIDR: the kernel lacks this type of set: \
             load its module",
        );
        restore_modprobe();
        wait_for_log(&proxy, "Sync succeeded again family=\"IPv4\"");
    });
}

/// A kernel without a match of the filter table: NAT rules and virtual servers are written, except a
/// load balancer that no rule would protect.
#[test]
fn a_refused_filter_table_closes_only_restricted_servers() {
    let mut vm = Vm::default();
    vm.modules.retain(|module| module != "xt_ipvs");
    in_this_vm(
        "refusals::a_refused_filter_table_closes_only_restricted_servers",
        vm,
        || {
            withhold("ipvs");
            let ranges = "  loadBalancerSourceRanges: [10.201.0.2/32]\n\
                      status: {loadBalancer: {ingress: [{ip: 10.99.0.1}]}}\n";
            let pods = traffic::here(&[1]);
            let guarded = traffic::web("lb", 3, 30100, ranges, &pods);
            let guarded = guarded.replace("type: NodePort", "type: LoadBalancer");
            let proxy = Proxy::start(Mode::Ipvs, &[], &[]);
            let host = &proxy.host;
            let _pod = Machine::pod(host, 1);
            let client = Machine::outside(host);
            proxy.write("web.yaml", &traffic::web("web", 1, 30080, "", &pods));
            proxy.write("lb.yaml", &guarded);
            wait_for_log(&proxy, "Sync failed; retrying family=");
            wait_for_log(&proxy, "legacy IPv4 table filter: replacing it");
            let to = "10.200.1.2:30080".parse().unwrap();
            let masqueraded = || {
                let outcome = client.ask(Probe::http(to));
                let seen = outcome.answer().map(|a| a.client.ip().to_string());
                seen.is_some_and(|ip| !OUTSIDE.contains(&&*ip))
            };
            eventually("rules of the other table are there", masqueraded);
            let lb = "10.99.0.1:80".parse().unwrap();
            let stranger = || client.ask(Probe::http(lb).from(OUTSIDE[1].parse().unwrap()));
            assert!(stranger().answer().is_none());
            assert!(!host.sh(SERVERS).contains("10.99.0.1"));

            restore_modprobe();
            host.sh("/run/modprobe xt_ipvs");
            proxy.write("other.yaml", &web("other", 2, "10.244.1.12"));
            wait_for_log(&proxy, "Sync succeeded again family=\"IPv4\"");
            client.answer(Probe::http(lb).from(OUTSIDE[0].parse().unwrap()));
            assert_eq!(stranger(), Outcome::TimedOut);
        },
    );
}
