//! The other commands on a node in ipvs mode read virtual servers, sets, addresses and rules from the kernel:
//! no program is in `PATH`.

use std::process::Output;

use model::Mode;
use netfilter::iptables::{Table, TableSet};
use trace::Facts;

use crate::state::{CASES, FAMILIES, node, once, services, sets};
use crate::support::machine::Machine;
use crate::support::vm::in_vm;
use crate::support::{Host, Proxy, SLUICE, eventually_or, ipvs_backend, text};
use crate::traffic;

/// Run `sluice` where no program can be found.
fn alone(host: &Host, words: &[&str]) -> Output {
    let mut command = host.command(SLUICE);
    command.args(words).env("PATH", "/nonexistent");
    command.output().unwrap()
}

/// The rules of filter and nat; built-in chains without rules are not listed by every reader.
fn rules(tables: &TableSet) -> Vec<String> {
    let mut lines = Vec::new();
    for table in [Table::Filter, Table::Nat] {
        for (name, chain) in tables.tables.get(&table).iter().flat_map(|t| &t.chains) {
            let rules = chain.rules.iter();
            lines.extend(rules.map(|rule| format!("{} {name} {rule}", table.name())));
        }
    }
    assert!(lines.len() > 20, "{lines:?}");
    lines
}

#[test]
fn facts_equal_the_listings_of_the_programs() {
    in_vm("native::facts_equal_the_listings_of_the_programs", || {
        for case in CASES {
            let host = node();
            let programmed = once(&host, &observed::path("objects.json"), case.flags);
            assert!(programmed.status.success(), "{}", text(&programmed.stderr));
            let output = alone(&host, &["facts"]);
            assert!(output.status.success(), "{}", text(&output.stderr));
            let facts = Facts::parse(&text(&output.stdout)).unwrap();
            assert_eq!(facts.notes, [] as [String; 0], "{}", case.name);
            let dumps = facts.dumps;
            assert_eq!(
                services(&dumps.ipvsadm_save.unwrap()),
                services(&host.sh("ipvsadm-save -n")),
                "{}",
                case.name
            );
            assert_eq!(
                sets(&dumps.ipset_save.unwrap()),
                sets(&host.sh("ipset save")),
                "{}",
                case.name
            );
            let backend = ipvs_backend();
            let listings = match backend.as_str() {
                "nft" => [dumps.iptables_save, dumps.ip6tables_save],
                _ => [dumps.iptables_legacy_save, dumps.ip6tables_legacy_save],
            };
            for ((family, _, tool), listing) in FAMILIES.into_iter().zip(listings) {
                let own = TableSet::parse(family, &listing.unwrap()).unwrap();
                let theirs = host.rules(&format!("{tool}-{backend}-save"), family);
                assert_eq!(rules(&own), rules(&theirs), "{}, {tool}", case.name);
            }
        }
    });
}

#[test]
fn explain_and_verify_name_what_another_program_removed() {
    in_vm(
        "native::explain_and_verify_name_what_another_program_removed",
        || {
            let file = traffic::web("web", 1, 30080, "", &traffic::here(&[1]));
            let files = [("web.yaml", file.as_str())];
            let mut proxy = Proxy::start(Mode::Ipvs, &files, &["--ipvs-sync-period=1h"]);
            let _pod = Machine::pod(&proxy.host, 1);
            for damage in [
                None,
                Some(("ipvsadm -D -t 10.96.10.1:80", "10.96.10.1:80")),
                Some((
                    "ipvsadm -d -t 10.96.10.1:80 -r 10.244.1.1:8080",
                    "10.244.1.1:8080",
                )),
                Some((
                    "ipset del KUBE-CLUSTER-IP 10.96.10.1,tcp:80",
                    "KUBE-CLUSTER-IP",
                )),
                Some(("ip addr del 10.96.10.1/32 dev kube-ipvs0", "10.96.10.1")),
            ] {
                let Some((damage, named)) = damage else {
                    wait_until_fine(&proxy);
                    continue;
                };
                proxy.host.sh(damage);
                for words in [&["verify"][..], &["explain", "demo/web"]] {
                    let output = alone(&proxy.host, words);
                    let said = text(&output.stdout);
                    assert_eq!(output.status.code(), Some(1), "{damage}: {said}");
                    assert!(said.contains(named), "{damage}: {said}");
                }
                // At start it compares everything.
                proxy.kill();
                proxy.respawn();
                wait_until_fine(&proxy);
            }
        },
    );
}

/// Wait until `verify` and `explain` report no problem.
fn wait_until_fine(proxy: &Proxy) {
    for words in [&["verify"][..], &["explain", "demo/web"]] {
        let ask = || alone(&proxy.host, words);
        let what = || {
            let output = ask();
            let (said, error) = (text(&output.stdout), text(&output.stderr));
            format!("{words:?}: {said}{error}{}", proxy.log())
        };
        eventually_or(&what, || ask().status.success());
    }
}
