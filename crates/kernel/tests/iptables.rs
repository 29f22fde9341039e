//! The choice of the back end on the real kernel.

mod support;

use kernel::Family;
use kernel::iptables::{Backend, Reason, Rules};
use support::{in_namespace, run};

const BACKENDS: [Backend; 2] = [Backend::Nft, Backend::Legacy];

#[test]
fn the_back_end_with_kubelets_hint_is_chosen() {
    for (family, other, tool) in [
        (Family::Ipv4, Family::Ipv6, "iptables"),
        (Family::Ipv6, Family::Ipv4, "ip6tables"),
    ] {
        for backend in BACKENDS {
            in_namespace(|| {
                run(&format!(
                    "{tool}-{backend} -t mangle -N KUBE-KUBELET-CANARY"
                ));
                let (rules, choice) = Rules::find(family).unwrap();
                assert_eq!(
                    (choice.backend, choice.reason),
                    (backend, Reason::KubeletHint)
                );
                assert_eq!(rules.backend(), backend);
                let (_, found) = Rules::find(other).unwrap();
                assert_eq!(
                    (found.backend, found.reason),
                    (backend, Reason::KubeletHintOtherFamily)
                );
            });
        }
    }
}

#[test]
fn the_back_end_with_the_kube_chains_is_chosen_or_else_the_default() {
    in_namespace(|| {
        let (_, choice) = Rules::find(Family::Ipv4).unwrap();
        assert_eq!(choice.reason, Reason::PlainTool);
        // Reading must not have created legacy tables.
        let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap();
        assert_eq!(names, "");
        run("iptables-legacy -t nat -N KUBE-SERVICES");
        let (_, choice) = Rules::find(Family::Ipv4).unwrap();
        assert_eq!(
            (choice.backend, choice.reason),
            (Backend::Legacy, Reason::KubeChains)
        );
        run("iptables-nft -t nat -N KUBE-SERVICES; iptables-nft -t filter -N KUBE-FORWARD");
        let (_, choice) = Rules::find(Family::Ipv4).unwrap();
        assert_eq!(
            (choice.backend, choice.reason),
            (Backend::Nft, Reason::KubeChains)
        );
    });
}
