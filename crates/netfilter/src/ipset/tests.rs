use super::*;

fn observed(name: &str) -> String {
    observed::read(&format!("{name}.ipset"))
}

#[test]
fn observed_dumps_round_trip() {
    for name in ["ipvs-default", "ipvs-masquerade-all", "ipvs-lc-strictarp"] {
        let text = observed(name);
        let sets = Sets::parse(&text).unwrap();
        assert_eq!(sets.to_string(), text);
        let set = sets.get("KUBE-LOAD-BALANCER-SOURCE-CIDR").unwrap();
        assert_eq!(set.elements.len(), 2);
        assert!(!set.is_v6());
    }
}

#[test]
fn every_kind_of_part_round_trips() {
    let text = "\
create a hash:net,iface family inet hashsize 64 maxelem 65536 timeout 30 counters comment
add a 10.0.0.0/8,eth0 timeout 12 nomatch comment \"of the house\"
add a 10.0.0.0/8,physdev:eth0
create b bitmap:ip,mac range 10.0.0.0-10.0.0.255
add b 10.0.0.1,02:00:00:00:00:0A
create c hash:ip,mark family inet6
add c fd00::1,0x00004000
create d list:set size 8
add d a
create e hash:ip,port family inet
add e 10.0.0.1,udp:53-55
add e 10.0.0.1,47:0
";
    let sets = Sets::parse(text).unwrap();
    assert_eq!(
        sets.get("a").unwrap().elements[0].to_string(),
        "10.0.0.0/8,eth0 nomatch timeout 12 comment \"of the house\""
    );
    assert_eq!(Sets::parse(&sets.to_string()).unwrap(), sets);
}

#[test]
fn errors_name_line_and_column() {
    let at = |text: &str| {
        let e = Sets::parse(text).unwrap_err();
        (e.line, e.column)
    };
    assert_eq!(at("create a hash:ip\nadd a 10.0.0.999\n"), (2, 7));
    assert_eq!(at("create a hash:ip,port\nadd a 10.0.0.9,tcp:x\n"), (2, 16));
    assert_eq!(at("add a 10.0.0.9"), (1, 5));
    assert_eq!(at("create a hash:zip"), (1, 10));
    assert_eq!(at("create a"), (1, 9));
    assert_eq!(at("table ip nat {"), (1, 1));
    assert_eq!(at("create a hash:ip comment \"x"), (1, 26));
    assert_eq!(at("create a hash:ip\ncreate a hash:ip"), (2, 8));
}

#[test]
fn mutated_dumps_never_panic_and_round_trip() {
    let text = observed("ipvs-default");
    let mut seed = 1_u64;
    for _ in 0..3000 {
        let mutated = crate::mutate::mutate(text.as_bytes(), &mut seed);
        if let Ok(text) = std::str::from_utf8(&mutated)
            && let Ok(sets) = Sets::parse(text)
        {
            assert_eq!(Sets::parse(&sets.to_string()).as_ref(), Ok(&sets), "{text}");
        }
    }
}

/// The kernel's reply to a list request, with the attributes of `create` and `add`.
fn listed(set: &Set) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Op::Create(set.clone())
        .encode(6)
        .into_iter()
        .map(|m| m.payload)
        .collect();
    let add = Op::Add {
        set: set.name.clone(),
        elements: set.elements.clone(),
    };
    parts.extend(add.encode(0).into_iter().map(|m| m.payload));
    parts
}

fn without_kernel_defaults(mut sets: Vec<Set>) -> Vec<Set> {
    for set in &mut sets {
        let kept = |n: &str| ["family", "hashsize", "maxelem", "range"].contains(&n);
        set.options.retain(|(name, _)| kept(name));
    }
    sets
}

#[test]
fn observed_sets_round_trip_through_messages() {
    for name in ["ipvs-default", "ipvs-masquerade-all", "ipvs-lc-strictarp"] {
        let sets = without_kernel_defaults(Sets::parse(&observed(name)).unwrap().sets);
        let mut read = Vec::new();
        for message in sets.iter().flat_map(listed) {
            netlink::decode_list(&message, &mut read, &|_| true).unwrap();
        }
        assert_eq!(read, sets);
    }
}

#[test]
fn many_elements_take_several_messages() {
    let mut text = "create many hash:ip,port,net family inet6 hashsize 64 maxelem 9\n".to_owned();
    for n in 0..1000 {
        text += &format!("add many fd00::{n:x},udp:{n},fd00:{n:x}::/32\n");
    }
    let sets = Sets::parse(&text).unwrap().sets;
    let messages = listed(&sets[0]);
    assert_eq!(messages.len(), 4);
    assert!(messages.iter().all(|m| m.len() < 65536));
    let mut read = Vec::new();
    for message in &messages {
        netlink::decode_list(message, &mut read, &|_| true).unwrap();
    }
    assert_eq!(read, sets);
}

#[test]
fn other_programs_sets_are_skipped() {
    let text = "create theirs hash:mac family inet\ncreate a hash:ip,mark family inet\nadd a 10.0.0.1,7\ncreate b hash:ip family inet\nadd b 10.0.0.1\n";
    let sets = Sets::parse(text).unwrap().sets;
    let mut read = Vec::new();
    for message in sets.iter().flat_map(listed) {
        netlink::decode_list(&message, &mut read, &|name| name == "b").unwrap();
    }
    assert_eq!(read, sets[2..]);
}

#[test]
fn mutated_messages_never_panic() {
    let sets = Sets::parse(&observed("ipvs-default")).unwrap().sets;
    let mut seed = 3_u64;
    for _ in 0..100 {
        let mut read = Vec::new();
        for message in sets.iter().flat_map(listed) {
            let mutated = crate::mutate::mutate(&message, &mut seed);
            let _ = netlink::decode_list(&mutated, &mut read, &|_| true);
            let _ = netlink::decode_revision(&mutated);
        }
        for set in read {
            // A parsed value is written in a form that is parsed as the same value.
            let mut again = Vec::new();
            for message in listed(&set) {
                netlink::decode_list(&message, &mut again, &|_| true).unwrap();
            }
            assert_eq!(again[0].elements.len(), set.elements.len());
        }
    }
}
