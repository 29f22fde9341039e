//! The tracer against the kernel in ipvs mode: it predicts the path of real packets from the output of
//! `sluice facts`, in every step of their connections. The test bed is the tracer's; see
//! `crates/trace/tests/kernel.rs`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::ipvs::{Options, render};
use ipnet::IpNet;
use model::IpFamily;
use netfilter::ipvs::ServiceId;
use observed::Configuration;
use plan::Plan;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use trace::{Facts, World};

use crate::generate::Random;
use crate::net::Net;
use crate::services::{self, Frontend};
use crate::state::CASES;
use crate::support::vm::in_vm;
use crate::support::{SLUICE, ipvs_backend};
use crate::try_out::Bed;

/// Run the program there.
fn run(net: &Net, case: &Configuration) {
    let objects = observed::path("objects.json").display().to_string();
    let flags = case.all_flags();
    let mut words = vec![SLUICE, "proxy", "--once", "--proxy-mode=ipvs"];
    let backend = format!("--iptables-backend={}", ipvs_backend());
    words.extend([&*backend, "--manifests", &*objects]);
    words.extend(flags.iter().map(String::as_str));
    net.node.feed(&words, "");
}

/// Load the rendered state of a plan with the tools.
fn load(net: &Net, plan: &Plan) {
    let addresses = net.node.sh("ip -o addr show scope global");
    let words = addresses
        .lines()
        .filter_map(|l| l.split_whitespace().nth(3));
    let addresses: Vec<IpAddr> = words.map(|a| a.parse::<IpNet>().unwrap().addr()).collect();
    let rendered = render(plan, &Options::default(), &addresses).unwrap();
    let node = &net.node;
    node.sh("ip link add kube-ipvs0 type dummy 2>/dev/null || true");
    let each = rendered.addresses.iter();
    let batch: String = each
        .map(|ip| format!("addr add {ip} dev kube-ipvs0\n"))
        .collect();
    node.feed(&["ip", "-batch", "-"], &batch);
    let tool = match plan.family {
        IpFamily::V4 => "iptables",
        IpFamily::V6 => "ip6tables",
    };
    let tool = format!("{tool}-{}-restore", ipvs_backend());
    node.feed(&["ipset", "restore"], &rendered.sets.to_string());
    node.feed(&[&tool], &rendered.tables.to_string());
    node.feed(&["ipvsadm", "-R"], &rendered.services.to_string());
}

/// Every virtual server.
fn frontends(world: &World, family: IpFamily) -> BTreeSet<Frontend> {
    let all = world.ipvs.services.iter().filter_map(|s| match s.id {
        ServiceId::Address { protocol, address } => {
            Some((Some(address.ip()), protocol.number(), address.port()))
        }
        ServiceId::Mark { .. } => None,
    });
    all.filter(|(ip, ..)| ip.map(IpFamily::of) == Some(family))
        .collect()
}

fn facts(net: &Net) -> World {
    let facts = net.node.feed(&[SLUICE, "facts"], "");
    World::from_facts(&Facts::parse(&facts).unwrap()).unwrap()
}

/// Remove all Services and their connections.
fn clean(net: &Net) {
    net.node.feed(&[SLUICE, "cleanup"], "");
    net.node.sh("conntrack -F 2>/dev/null || true");
}

#[test]
fn packets_take_the_predicted_path() {
    in_vm("agreement::packets_take_the_predicted_path", || {
        let net = Net::new();
        let mut bed = Bed::new(&net);
        let mut random = Random(13);
        let mut ask = |world: &World, what: &str| {
            for family in IpFamily::ALL {
                let all = frontends(world, family);
                let v6 = family == IpFamily::V6;
                services::ask(&mut bed, world, &mut random, v6, &all, what);
            }
        };
        for case in CASES {
            run(&net, &case);
            ask(&facts(&net), case.name);
            clean(&net);
        }
        let mut runner = TestRunner::deterministic();
        for number in 0..5 {
            let cluster = plan::testing::cluster().new_tree(&mut runner);
            let planner = cluster.unwrap().current().planner();
            for family in IpFamily::ALL {
                load(&net, planner.plan(family));
            }
            ask(&facts(&net), &format!("cluster {number}"));
            clean(&net);
        }
        bed.is_varied(0);
    });
}
