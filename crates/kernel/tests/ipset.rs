//! ipsets on the real kernel, checked with the `ipset` program.

mod support;

use kernel::ipset::IpSets;
use netfilter::ipset::{Op, Set, Sets};
use support::{in_namespace, run};

fn observed() -> Vec<Set> {
    Sets::parse(&observed::read("ipvs-default.ipset"))
        .unwrap()
        .sets
}

fn sorted(mut sets: Vec<Set>) -> Vec<Set> {
    for set in &mut sets {
        let kept = |n: &str| ["family", "hashsize", "maxelem", "range"].contains(&n);
        set.options.retain(|(name, _)| kept(name));
        set.elements.sort_by_key(ToString::to_string);
    }
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    sets
}

fn ops(sets: &[Set]) -> Vec<Op> {
    let add = |set: &Set| Op::Add {
        set: set.name.clone(),
        elements: set.elements.clone(),
    };
    sets.iter()
        .flat_map(|set| [Op::Create(set.clone()), add(set)])
        .collect()
}

#[test]
fn created_sets_equal_the_listings_of_ipset_and_of_sluice() {
    in_namespace(|| {
        let mut kernel = IpSets::open().unwrap();
        let sets = observed();
        assert_eq!(kernel.run(&ops(&sets)).unwrap(), []);
        // Again: existing sets and members are not an error.
        assert_eq!(kernel.run(&ops(&sets)).unwrap(), []);
        let shown = Sets::parse(&run("ipset save")).unwrap().sets;
        assert_eq!(sorted(shown), sorted(sets.clone()));
        let listed = kernel.list(&|_| true).unwrap().sets;
        assert_eq!(sorted(listed), sorted(sets.clone()));
        let remove = |set: &Set| Op::Delete {
            set: set.name.clone(),
            elements: set.elements.clone(),
        };
        let removals: Vec<Op> = sets.iter().map(remove).collect();
        assert_eq!(kernel.run(&removals).unwrap(), []);
        assert_eq!(kernel.run(&removals).unwrap(), []);
        let listed = kernel.list(&|_| true).unwrap().sets;
        assert!(listed.iter().all(|set| set.elements.is_empty()));
        let destroy: Vec<Op> = sets.iter().map(|s| Op::Destroy(s.name.clone())).collect();
        assert_eq!(kernel.run(&destroy).unwrap(), []);
        assert_eq!(kernel.run(&destroy).unwrap(), []);
        assert_eq!(run("ipset save"), "");
    });
}

#[test]
fn many_elements_are_added_and_a_refused_one_affects_no_other() {
    in_namespace(|| {
        let mut text = "create many hash:ip,port family inet maxelem 100000\n".to_owned();
        for n in 0..20_000 {
            text += &format!("add many 10.{}.{}.1,tcp:{}\n", n >> 8, n & 255, n % 60_000);
        }
        let mut sets = Sets::parse(&text).unwrap().sets;
        // An IPv6 address does not fit.
        let bad = Sets::parse("create b hash:ip,port family inet6\nadd b fd00::1,tcp:1\n");
        let bad = bad.unwrap().sets[0].elements[0].clone();
        sets[0].elements.insert(10_000, bad.clone());
        let mut kernel = IpSets::open().unwrap();
        let refused = kernel.run(&ops(&sets)).unwrap();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].element, Some(bad.clone()));
        sets[0].elements.remove(10_000);
        assert_eq!(sorted(kernel.list(&|_| true).unwrap().sets), {
            let mut sets = sorted(sets);
            // It has grown.
            sets[0].options = sorted(kernel.list(&|_| true).unwrap().sets)[0]
                .options
                .clone();
            sets
        });
    });
}

#[test]
fn refusals_name_set_element_and_reason() {
    in_namespace(|| {
        let mut kernel = IpSets::open().unwrap();
        let small = Sets::parse("create small hash:ip family inet hashsize 64 maxelem 2\nadd small 10.0.0.1\nadd small 10.0.0.2\nadd small 10.0.0.3\n").unwrap().sets;
        let refused = kernel.run(&ops(&small)).unwrap();
        assert_eq!(
            refused[0].to_string(),
            "ipset small, 10.0.0.3: the set is full"
        );
        let other = Sets::parse("create small hash:ip,port family inet\n")
            .unwrap()
            .sets;
        let refused = kernel.run(&[Op::Create(other[0].clone())]).unwrap();
        assert_eq!(
            refused[0].to_string(),
            "ipset small: a set of this name with another type or size exists"
        );
    });
}
