use super::*;

fn observed(name: &str) -> String {
    observed::read(&format!("{name}.nft"))
}

/// Return all text that is kept verbatim because it is not modelled.
fn unknowns(ruleset: &Ruleset) -> Vec<String> {
    fn of(e: &Term, all: &mut Vec<String>) {
        match e {
            Term::Unknown(u) => all.push(u.text.to_string()),
            Term::Concat(parts) => parts.iter().for_each(|p| of(p, all)),
            Term::Map { key, .. } => of(key, all),
            Term::Binary { left, right, .. } => {
                of(left, all);
                of(right, all);
            }
            _ => {}
        }
    }
    let mut all = Vec::new();
    for table in &ruleset.tables {
        all.extend(table.others.iter().map(|u| u.text.to_string()));
        for s in table
            .chains
            .iter()
            .flat_map(|c| &c.rules)
            .flat_map(|r| &r.statements)
        {
            match s {
                Statement::Unknown(u) => all.push(u.text.to_string()),
                Statement::Match { left, right, .. } => {
                    of(left, &mut all);
                    of(right, &mut all);
                }
                Statement::Vmap { key, .. } => of(key, &mut all),
                _ => {}
            }
        }
    }
    all
}

const CONFIGS: [&str; 7] = [
    "default",
    "masquerade-all",
    "primary",
    "nodeport-cidr",
    "bridge",
    "prefix",
    "nodecidr",
];

#[test]
fn observed_listings_are_fully_modelled() {
    for config in CONFIGS {
        for family in ["v4", "v6"] {
            let text = observed(&format!("nftables-{config}.{family}"));
            let ruleset = Ruleset::parse(&text).unwrap();
            assert_eq!(
                unknowns(&ruleset),
                Vec::<String>::new(),
                "{config} {family}"
            );
            let table = &ruleset.tables[0];
            assert_eq!(&*table.name, "kube-proxy");
            assert_eq!(
                table.chains.iter().map(|c| c.rules.len()).sum::<usize>(),
                table
                    .chains
                    .iter()
                    .flat_map(|c| &c.rules)
                    .filter(|r| !r.statements.is_empty())
                    .count()
            );
            let map = table.set("service-ips").unwrap();
            assert!(
                map.elements
                    .iter()
                    .all(|e| matches!(e.data, Some(Mapped::Verdict(VerdictStatement::Goto(_)))))
            );
        }
    }
}

#[test]
fn base_chains_are_parsed() {
    let ruleset = Ruleset::parse(&observed("nftables-default.v4")).unwrap();
    let base = |name: &str| ruleset.tables[0].chain(name).unwrap().base.clone().unwrap();
    assert_eq!(base("filter-prerouting-pre-dnat").priority, -110);
    assert_eq!(base("nat-postrouting").priority, 100);
    assert_eq!(base("nat-output").kind, ChainType::Nat);
    assert!(!base("filter-forward").drops);
}

/// Rules as firewalld, Docker, ufw, CNIs and people write them.
const ZOO: &str = r#"
table inet firewalld {
	flags dormant
	ct helper ftp {
		type "ftp" protocol tcp
		l3proto inet
	}
	flowtable f {
		hook ingress priority filter
		devices = { eth0 }
	}
	set blocked {
		type ipv4_addr
		flags interval
		auto-merge
		elements = { 10.0.0.0/8, 192.0.2.1-192.0.2.9,
			     198.51.100.7 timeout 5m expires 4m3s }
	}
	map ports {
		typeof ip daddr . meta l4proto . th dport . numgen random mod 3 : ip daddr . th dport
		elements = { 10.96.0.1 . tcp . 80 . 0 : 10.244.1.1 . 8080 }
	}
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy drop;
		ct state { established, related } accept
		ct state established,related accept
		ct status dnat accept
		iifname "lo" accept
		iifname { "eth*", "ens3" } oifname != "docker0" accept
		ct state invalid drop
		meta l4proto { icmp, ipv6-icmp } accept
		tcp flags & (fin | syn | rst | ack) == syn counter packets 1 bytes 60 accept
		tcp flags syn / fin,syn,rst,ack log prefix "new: " level info flags tcp sequence,options
		tcp dport { 22, 80-90 } limit rate 5/minute burst 5 packets accept
		meta nfproto ipv4 udp dport 53 ct state new add @seen { ip saddr timeout 30s limit rate over 10/second } drop
		icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
		ip saddr . tcp dport @pairs accept
		fib saddr . iif oif missing drop
		fib daddr type local ip protocol tcp accept
		ct original ip daddr 10.0.0.1 accept
		meta mark & 0x0000ff00 == 0x00000100 return
		meta mark set ct mark and 0xff
		ip saddr vmap { 10.0.0.1 : jump a, 10.0.0.2-10.0.0.9 : goto b, * : drop }
		dnat ip to 10.0.0.1-10.0.0.3:8080-8090 persistent
		dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @ports
		snat to [fd00::1]:80 random,persistent
		redirect to :8080
		masquerade to :1024-65535 fully-random
		reject with icmpx type admin-prohibited
		reject with tcp reset
		tcp option maxseg size set rt mtu
		ct helper set "ftp"
		notrack
		queue flags bypass to 0
		comment "nothing" accept
	}
	chain a {
	}
	chain b {
	}
}
"#;

#[test]
fn rules_of_other_programs_are_parsed() {
    let ruleset = Ruleset::parse(ZOO).unwrap();
    let table = &ruleset.tables[0];
    assert!(table.dormant);
    assert_eq!(table.others.len(), 2);
    let chain = table.chain("filter_INPUT").unwrap();
    assert_eq!(chain.base.as_ref().unwrap().priority, 10);
    assert!(chain.base.as_ref().unwrap().drops);
    let bad: Vec<String> = unknowns(&ruleset).into_iter().skip(2).collect();
    assert_eq!(bad, Vec::<String>::new());
    let rule = |n: usize| &chain.rules[n].statements;
    let Statement::Match { right, .. } = &rule(1)[0] else {
        panic!()
    };
    assert_eq!(right, &Term::Flags(vec![Literal::Int(2), Literal::Int(4)]));
    let Statement::Nat(nat) = &rule(19)[0] else {
        panic!("{:?}", rule(19))
    };
    assert_eq!(
        nat.port,
        Some(Term::Range(Literal::Int(8080), Literal::Int(8090)))
    );
    assert!(matches!(nat.address, Some(Term::Range(..))));
    assert!(matches!(&rule(8)[0], Statement::Match { op: Op::Eq, .. }));
    assert!(matches!(
        &rule(10)[3],
        Statement::Dynset {
            condition: Some(_),
            ..
        }
    ));
    assert_eq!(table.set("ports").unwrap().key.len(), 4);
    let found = table.set("blocked").unwrap();
    let ip = |s: &str| [Literal::Ip(s.parse().unwrap())];
    assert!(found.find(&ip("10.9.9.9")).is_some());
    assert!(found.find(&ip("192.0.2.9")).is_some());
    assert!(found.find(&ip("192.0.2.10")).is_none());
}

#[test]
fn unknown_text_stays_in_place() {
    let text = "table ip t {\n\tchain c {\n\t\tip ttl 64 frobnicate { 1 } hard drop\n\t\txt match \"u32\" accept\n\t}\n}\n";
    let ruleset = Ruleset::parse(text).unwrap();
    let rules = &ruleset.tables[0].chain("c").unwrap().rules;
    let Statement::Match {
        left: Term::Unknown(left),
        ..
    } = &rules[0].statements[0]
    else {
        panic!("{:?}", rules[0])
    };
    assert_eq!((&*left.text, left.line, left.column), ("ip ttl", 3, 3));
    let Statement::Unknown(rest) = &rules[0].statements[1] else {
        panic!()
    };
    assert_eq!((&*rest.text, rest.line), ("frobnicate { 1 } hard", 3));
    assert_eq!(
        rules[0].statements[2],
        Statement::Verdict(VerdictStatement::Drop)
    );
    assert!(
        matches!(&rules[1].statements[0], Statement::Unknown(u) if &*u.text == "xt match \"u32\"")
    );
    assert_eq!(
        rules[1].statements[1],
        Statement::Verdict(VerdictStatement::Accept)
    );
}

#[test]
fn a_translation_to_an_address_and_a_port_from_a_map() {
    for (family, address, field) in [("ip", "10.0.0.1", "ip"), ("ip6", "[fd00::1]", "ip6")] {
        let text = format!(
            "table {family} t {{\n\tchain c {{\n\t\tdnat to {address}:{field} daddr . th dport map @m\n\
             \t\taccept\n\t}}\n}}\n"
        );
        let ruleset = Ruleset::parse(&text).unwrap();
        let rules = &ruleset.tables[0].chain("c").unwrap().rules;
        let Statement::Nat(nat) = &rules[0].statements[0] else {
            panic!("{:?}", rules[0])
        };
        let ip = address.trim_matches(['[', ']']).parse().unwrap();
        assert_eq!(nat.address, Some(Term::Value(Literal::Ip(ip))));
        assert!(matches!(nat.port, Some(Term::Map { .. })), "{nat:?}");
        assert_eq!(rules[0].statements.len(), 1);
        assert_eq!(
            rules[1].statements,
            [Statement::Verdict(VerdictStatement::Accept)]
        );
    }
}

#[test]
fn errors_name_line_and_column() {
    let at = |text: &str| {
        let e = Ruleset::parse(text).unwrap_err();
        (e.line, e.column)
    };
    assert_eq!(at("table ip t {\n\tchain c {\n\t\taccept\n"), (3, 9));
    assert_eq!(at("*nat\n"), (1, 1));
    assert_eq!(at("table ip4 t {\n}"), (1, 7));
    assert_eq!(
        at("table ip t {\n\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 1.2.3.4 5\n\t}\n}"),
        (6, 2)
    );
    assert_eq!(
        at("table ip t {\n\tchain c {\n\t\ttype filter hook input priority high; }\n}"),
        (3, 35)
    );
    assert_eq!(
        at("table ip t {\n\tchain c {\n\t\tlog prefix \"abc\n}}"),
        (3, 14)
    );
    assert_eq!(at("{\"nftables\": [}"), (1, 15));
    assert_eq!(at("{\"x\": 1}"), (1, 1));
    let table = "{\"table\": {\"family\": \"ip\", \"name\": \"[\\\"{\"}}";
    let no_table = "{\"chain\": {\"family\": \"ip\", \"table\": \"u\", \"name\": \"c\"}}";
    assert_eq!(
        at(&format!("{{\"nftables\": [\n  {table},\n  {no_table}]}}")),
        (3, 3)
    );
    assert_eq!(at("{\"nftables\": [{\"metainfo\": {}}, 7]}"), (1, 1));
}

#[test]
fn json_and_text_give_the_same_tree() {
    let text = include_str!("testdata/zoo.nft");
    let json = include_str!("testdata/zoo.json");
    let strip = |mut r: Ruleset| {
        for t in &mut r.tables {
            for c in &mut t.chains {
                for rule in &mut c.rules {
                    rule.text = "".into();
                    rule.line = 0;
                    // In text an equal sign shows only for flags.
                    for s in &mut rule.statements {
                        if let Statement::Match { left, op, .. } = s
                            && *op == Op::Eq
                            && !left.data_type().is_flags()
                        {
                            *op = Op::Implicit;
                        }
                        if let Statement::Vmap {
                            key: Term::Hash { text, .. },
                            ..
                        } = s
                        {
                            *text = "".into();
                        }
                        if let Statement::Inert(t) = s {
                            *t = "".into();
                        }
                        if let Statement::Limit { text, .. } | Statement::Reject(text) = s {
                            *text = "".into();
                        }
                    }
                }
            }
            for s in &mut t.sets {
                s.timeout = None;
            }
        }
        r
    };
    let from_text = strip(Ruleset::parse(text).unwrap());
    let from_json = strip(Ruleset::parse(json).unwrap());
    for (a, b) in from_text.tables.iter().zip(&from_json.tables) {
        for (a, b) in a.chains.iter().zip(&b.chains) {
            for (x, y) in a.rules.iter().zip(&b.rules) {
                assert_eq!(x, y, "chain {}", a.name);
            }
        }
        for (x, y) in a.sets.iter().zip(&b.sets) {
            assert_eq!(x.elements.len(), y.elements.len(), "set {}", x.name);
            for e in &x.elements {
                assert!(
                    y.elements
                        .iter()
                        .any(|f| f.key == e.key && f.data == e.data),
                    "{e:?}"
                );
            }
        }
    }
    assert_eq!(from_text.tables.len(), from_json.tables.len());
}

#[test]
fn json_statements_are_shown_as_text() {
    let texts = |listing: &str| -> Vec<String> {
        let ruleset = Ruleset::parse(listing).unwrap();
        let chains = ruleset.tables.iter().flat_map(|t| &t.chains);
        let rules = chains.flat_map(|c| &c.rules);
        rules.map(|r| r.text.to_string()).collect()
    };
    let json = texts(include_str!("testdata/zoo.json"));
    for (shown, text) in json.iter().zip(texts(include_str!("testdata/zoo.nft"))) {
        assert_eq!(*shown, text);
    }
    // The listings have most kinds of statement, and these the rest.
    let rule = |statement: &str| -> String {
        let before = r#"{"table": {"family": "ip", "name": "t"}}, {"chain": {"family": "ip", "table": "t", "name": "c"}}"#;
        let rule = format!(
            r#"{{"rule": {{"family": "ip", "table": "t", "chain": "c", "expr": [{statement}]}}}}"#
        );
        texts(&format!("{{\"nftables\": [{before}, {rule}]}}")).remove(0)
    };
    for (json, words) in [
        (r#"{"counter": "refused"}"#, "counter name \"refused\""),
        (r#"{"ct helper": "ftp"}"#, "ct helper set \"ftp\""),
        (
            r#"{"xt": {"type": "match", "name": "u32"}}"#,
            "xt match \"u32\"",
        ),
        (
            r#"{"dnat": {"addr": "fd00::1", "port": 80, "family": "ip6"}}"#,
            "dnat ip6 to [fd00::1]:80",
        ),
        (
            r#"{"match": {"op": "==", "left": {"meta": {"key": "hour"}}, "right": {"range": ["08:00", "17:00"]}}}"#,
            "meta hour 08:00-17:00",
        ),
        (
            r#"{"set": {"op": "add", "elem": {"elem": {"val": {"payload": {"protocol": "ip", "field": "saddr"}}, "timeout": 60}}, "set": "@s"}}"#,
            "add @s { ip saddr timeout 60s }",
        ),
        (r#"{"something": {"new": 1}}"#, r#"{"something":{"new":1}}"#),
    ] {
        assert_eq!(rule(json), words);
    }
}

#[test]
fn mutated_listings_never_panic() {
    let observed = observed("nftables-default.v4");
    let json = include_str!("testdata/zoo.json");
    let mut seed = 3_u64;
    for corpus in [observed.as_str(), ZOO, json] {
        for _ in 0..1500 {
            let mutated = crate::mutate::mutate(corpus.as_bytes(), &mut seed);
            if let Ok(text) = std::str::from_utf8(&mutated) {
                // Either is fine; panicking and hanging are not.
                drop(Ruleset::parse(text));
            }
        }
    }
    for depth in [10, 1000, 100_000] {
        let nested = format!("table ip t {{ chain c {{ meta mark {} 1", "(".repeat(depth));
        assert!(Ruleset::parse(&nested).is_err());
    }
}
