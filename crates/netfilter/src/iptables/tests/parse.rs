use super::*;

#[test]
fn spellings_of_one_rule_parse_to_equal_rules() {
    for (a, b) in [
        (
            "-j MARK --or-mark 0x4000",
            "-j MARK --set-xmark 0x4000/0x4000",
        ),
        (
            "-j MARK --xor-mark 0x4000",
            "-j MARK --set-xmark 0x4000/0x0",
        ),
        (
            "-j MARK --and-mark 0xffffbfff",
            "-j MARK --set-xmark 0x0/0x4000",
        ),
        ("-j MARK --set-mark 0x1/0x2", "-j MARK --set-xmark 0x1/0x3"),
        ("-j MARK --set-mark 1", "-j MARK --set-xmark 0x1/0xffffffff"),
        (
            "-p tcp --dport 80 -j ACCEPT",
            "-p tcp -m tcp --dport 80 -j ACCEPT",
        ),
        ("-m tcp -p tcp --dport 80", "-p tcp -m tcp --dport 80"),
        ("-d 10.0.0.1 -j DROP", "-d 10.0.0.1/32 -j DROP"),
        ("--destination 10.0.0.1/255.0.0.0", "-d 10.0.0.0/8"),
        ("-s 0.0.0.0/0 -j DROP", "-j DROP"),
        ("-p all -j DROP", "-j DROP"),
        ("-p 6 --dport 0x50", "-p tcp -m tcp --dport 80"),
        ("-p tcp --dport=80", "-p tcp -m tcp --dport 80"),
        (
            "-p tcp --syn",
            "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
        ),
        (
            "-m conntrack --ctstate DNAT,NEW",
            "-m conntrack --ctstate NEW,DNAT",
        ),
        ("-m mark --mark 0x1/0xffffffff", "-m mark --mark 0x1"),
        ("-m comment --comment x", "-m comment --comment \"x\""),
        ("-j REJECT", "-j REJECT --reject-with icmp-port-unreachable"),
        ("-j NOTRACK", "-j CT --notrack"),
        ("-j LOG --log-level warning", "-j LOG"),
        (
            "-m limit --limit 5/m",
            "-m limit --limit 5/minute --limit-burst 5",
        ),
        (
            "-m recent --name L --set",
            "-m recent --set --name L --mask 255.255.255.255 --rsource",
        ),
        (
            "-m tcp -p tcp -m comment --dport 80 --comment x",
            "-p tcp -m tcp --dport 80 -m comment --comment x",
        ),
    ] {
        assert_eq!(rule(a), rule(b), "{a} | {b}");
    }
    assert_eq!(
        rule6("-j REJECT"),
        rule6("-j REJECT --reject-with icmp6-port-unreachable")
    );
    assert_eq!(
        rule6("-j REJECT --reject-with port-unreach"),
        rule6("-j REJECT")
    );
}

#[test]
fn different_rules_are_different() {
    for (a, b) in [
        ("-s 10.0.0.1", "! -s 10.0.0.1"),
        ("-i eth0", "-i eth0+"),
        ("-p tcp -m tcp", "-p tcp"),
        ("-j WEB", "-g WEB"),
        ("-m comment --comment a", "-m comment --comment b"),
    ] {
        assert_ne!(rule(a), rule(b), "{a} | {b}");
    }
}

#[test]
fn probabilities_are_rounded_as_in_the_kernel() {
    let third = rule("-m statistic --mode random --probability 0.3333333333");
    let [
        Match::Statistic(Negatable {
            value: Statistic::Random(p),
            negated: false,
        }),
    ] = third.matches[..]
    else {
        panic!("{third:?}");
    };
    assert_eq!(p, Probability(715_827_883));
    assert_eq!(
        third.to_string(),
        "-m statistic --mode random --probability 0.33333333349"
    );
    for (value, printed) in [
        (0, "0.00000000000"),
        (1, "0.00000000047"),
        (1 << 19, "0.00024414062"),
        (3 << 19, "0.00073242188"),
        (1 << 30, "0.50000000000"),
        ((1 << 31) - 1, "0.99999999953"),
        (1 << 31, "1.00000000000"),
    ] {
        let statistic = Statistic::Random(Probability(value));
        let text = Rule {
            matches: vec![Match::Statistic(Negatable::is(statistic))],
            ..Rule::default()
        }
        .to_string();
        assert_eq!(
            text,
            format!("-m statistic --mode random --probability {printed}")
        );
        assert_eq!(printed, format!("{:.11}", Probability(value).as_f64()));
    }
}

#[test]
fn unmodelled_extensions_are_kept_word_for_word() {
    for text in [
        "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name ssh -j ACCEPT",
        "-m string ! --string \"a b\" --algo bm --to 65535 -j DROP",
        "-m u32 --u32 0x0>>0x16&0x3c@0x4=0x1 -j DROP",
        "-m set ! --match-set s src ! --update-counters --packets-gt 5 -j DROP",
        "-p sctp -m sctp --dport 80 --chunk-types any INIT -j DROP",
        "-m owner --uid-owner nobody -j DROP",
        "-j TEE --gateway 10.0.0.9",
        "-j NFQUEUE --queue-num 3 --queue-bypass",
        "-p udp -j DNAT --to-destination 10.0.0.1:80-90/8080",
        "-j TRACE",
    ] {
        let parsed = rule(text);
        assert_eq!(parsed.to_string(), text);
    }
    let parsed = rule("-m bpf --bytecode \"4,48 0 0 9\" -p tcp --dport 80 -j X");
    assert!(matches!(parsed.matches[1], Match::Tcp(_)), "{parsed:?}");
}

#[test]
fn rules_of_other_programs_are_modelled() {
    for text in [
        "-m conntrack ! --ctorigdst 10.96.0.0/12 --ctdir ORIGINAL -m set ! --match-set cali40all-ipam-pools dst -j MASQUERADE --to-ports 1024-65535",
        "-p udp -m multiport --dports 53,500:510 -j NFLOG --nflog-prefix \"x y\" --nflog-group 1 --nflog-size 80",
        "-m rpfilter --validmark --invert -j DROP",
        "-p icmp -m icmp --icmp-type 8 -m limit --limit 1/sec --limit-burst 4 -j ACCEPT",
        "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        "-m conntrack --ctstate NEW -j LOG --log-prefix \"[UFW BLOCK] \" --log-level 6 --log-uid",
        "-o lo -m owner ! --uid-owner 1337-1339 -j RETURN",
        "-j CONNMARK --restore-mark --nfmask 0xf00 --ctmask 0xffffffff",
        "-p tcp -m mark --mark 0x1 -j TPROXY --on-port 15001 --on-ip 127.0.0.1 --tproxy-mark 0x1/0xffffffff",
        "-m iprange ! --src-range 10.0.0.1-10.0.0.9 -j SNAT --to-source 192.0.2.1-192.0.2.3:1024-2048 --random-fully --persistent",
        "-m physdev --physdev-is-in --physdev-in veth+ ! --physdev-is-bridged -j ACCEPT",
        "-j SET --add-set s src,dst --exist --timeout 60",
        "-m statistic --mode nth ! --every 3 --packet 0 -j ACCEPT",
        "-m ipvs ! --ipvs -j RETURN",
        "-p tcp -j REDIRECT --to-ports 15006 --random",
        "-m connmark ! --mark 0x8/0x8 -m state --state RELATED,ESTABLISHED -g OTHER",
        "-j CT --helper ftp --zone 3",
        "-f -j DROP",
        "-s 10.0.0.1/255.0.0.255 ! -i lo -p 250 -j QUEUEX",
    ] {
        let parsed = rule(text);
        assert_eq!(parsed.to_string(), text);
        assert!(
            parsed
                .matches
                .iter()
                .all(|m| !matches!(m, Match::Unknown(_))),
            "{text}"
        );
        assert!(!matches!(parsed.target, Some(Target::Unknown(_))), "{text}");
    }
    for text in [
        "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
        "-p tcp -j DNAT --to-destination [fd00::1]:80",
        "-j DNAT --to-destination fd00::1-fd00::9",
        "-p tcp -j DNAT --to-destination :8080",
    ] {
        assert_eq!(rule6(text).to_string(), text);
    }
}

#[test]
fn quotes_and_escapes_are_parsed() {
    let text = r#"-m comment --comment "say \"hi\" \\ it\'s" -j A"#;
    assert_eq!(
        rule(text).comments().collect::<Vec<_>>(),
        [r#"say "hi" \ it's"#]
    );
    assert_eq!(rule(text).to_string(), text);
    assert_eq!(
        rule("-m comment --comment -j -j A").comments().next(),
        Some("-j")
    );
    assert_eq!(
        rule("-m comment --comment \"\" -j A").to_string(),
        "-m comment --comment \"\" -j A"
    );
}

#[test]
fn errors_name_line_and_column() {
    for (text, line, column, part) in [
        (
            "*nat\n-A X -s 1.2.3.400/8 -j A\nCOMMIT\n",
            2,
            9,
            "1.2.3.400/8",
        ),
        ("*nat\n-A X -p tcp --dport 99999\nCOMMIT\n", 2, 21, "99999"),
        (
            "*nat\n-A X -m comment --comment \"abc\nCOMMIT\n",
            2,
            27,
            "quote",
        ),
        ("*net\nCOMMIT\n", 1, 1, "*net"),
        ("-A X -j A\n", 1, 1, "no *table"),
        ("*nat\n:X - [0:0]\n", 3, 1, "COMMIT of table nat"),
        ("*nat\n*filter\n", 2, 1, "table nat has no COMMIT"),
        (
            "*nat\n:X-123456789-123456789-123456789 - [0:0]\n",
            2,
            1,
            "28 bytes",
        ),
        ("*nat\n:X\n", 2, 1, "policy"),
        ("*nat\n-A X --dport 80\n", 2, 6, "--dport"),
        ("*nat\n-A X -j A -j B\n", 2, 11, "only one target"),
        (
            "*nat\n-A X -s 10.0.0.1,10.0.0.2\n",
            2,
            9,
            "list of addresses",
        ),
        ("*nat\n-I X 0 -j A\n", 2, 1, "from 1"),
        ("*nat\n-A X -s 1.1.1.1 -s 1.1.1.1\n", 2, 17, "repeated"),
        (
            "*nat\n-A X -m statistic --mode random\n",
            2,
            9,
            "--probability",
        ),
        ("*nat\n-Q X\n", 2, 1, "command"),
        ("*nat\n-A X -m comment\n", 2, 9, "comment needs --comment"),
        ("*nat\n-A X -m comment --comment\n", 2, 17, "--comment"),
        ("*nat\n-A X !\n", 2, 6, "value"),
    ] {
        let error = Restore::parse(Family::Ipv4, text).unwrap_err();
        assert_eq!(
            (error.line, error.column),
            (line, column),
            "{text}: {error}"
        );
        assert!(error.message.contains(part), "{text}: {error}");
    }
    let error =
        TableSet::parse(Family::Ipv4, "*nat\n-A POSTROUTING -j GONE\nCOMMIT\n").unwrap_err();
    assert_eq!(error.line, 2);
    assert!(error.message.contains("GONE"), "{error}");
}

#[test]
fn counters_and_comment_lines_are_parsed() {
    let text = "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [3:4]\n:A - [0:0]\n[1:2] -A PREROUTING -j A\n-A PREROUTING -c 5 6 -j A\nCOMMIT\n# Completed\n";
    let set = TableSet::parse(Family::Ipv4, text).unwrap();
    let chain = set.chain(Table::Nat, Chain::literal("PREROUTING")).unwrap();
    assert_eq!(
        chain.counters,
        Counters {
            packets: 3,
            bytes: 4
        }
    );
    let counters: Vec<_> = chain.rules.iter().filter_map(|r| r.counters).collect();
    assert_eq!(
        counters,
        [
            Counters {
                packets: 1,
                bytes: 2
            },
            Counters {
                packets: 5,
                bytes: 6
            }
        ]
    );
    assert!(set.to_string().contains("[5:6] -A PREROUTING -j A\n"));
}

#[test]
fn chain_names_are_validated() {
    assert!(Chain::new("KUBE-SVC-ABCDEFGHIJKLMNOP").is_ok());
    assert!(Chain::new(&"X".repeat(28)).is_ok());
    for bad in ["", "-X", "!X", "A B", "A\"B", "A\n", &"X".repeat(29)] {
        assert!(Chain::new(bad).is_err(), "{bad:?}");
    }
    assert!(Chain::literal("A") < Chain::literal("AB"));
    assert!(Chain::literal("AB") < Chain::literal("B"));
}
