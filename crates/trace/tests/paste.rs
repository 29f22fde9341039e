//! Text as people paste it.
#![allow(missing_docs)]

mod common;

use common::{packet, shown};
use netfilter::iptables::Family;
use trace::{Facts, Origin, Proto, World, walk};

const SAVE: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
    :POSTROUTING ACCEPT [0:0]\n:WEB - [0:0]\n-A PREROUTING -d 10.96.3.3/32 -p tcp -m tcp --dport 80 -j WEB\n\
    -A WEB -p tcp -j DNAT --to-destination 10.244.2.9:8080\nCOMMIT\n";

/// Where a connection to 10.96.3.3:80 goes.
fn answer(iptables: &str) -> Result<Vec<String>, String> {
    let mut world = World::from_facts(&common::node_facts()).unwrap();
    let read = world.add_iptables(Family::Ipv4, iptables);
    read.map_err(|e| e.to_string())?;
    let packet = packet(Origin::Pod, "10.244.1.5", "10.96.3.3", Proto::TCP, 80);
    Ok(shown(&walk(&world, &packet).unwrap()))
}

#[track_caller]
fn assert_read(iptables: &str) {
    let expected = Ok(vec!["accept 1 10.244.2.9:8080".to_owned()]);
    assert_eq!(answer(iptables), expected, "{iptables}");
}

#[track_caller]
fn assert_refused(iptables: &str, words: &[&str]) {
    let error = answer(iptables).unwrap_err();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn text_around_a_pasted_dump_is_removed() {
    assert_read(SAVE);
    let lines =
        |prefix: &str| -> String { SAVE.lines().map(|l| format!("{prefix}{l}\n")).collect() };
    assert_read(&format!(
        "Here is the dump:\n\n```console\n$ sudo iptables-save\n{SAVE}```\nThanks!\n"
    ));
    assert_read(&format!("[root@worker-7 ~]# iptables-save -t nat\n{SAVE}"));
    assert_read(&lines("      "));
    assert_read(&lines("> "));
    assert_read(&lines("Mar  3 14:02:51 worker-7 dump[4711]: "));
    assert_read(&lines("2026-03-03T14:02:51.113Z worker-7 dump[4711]: "));
    assert_read(&SAVE.replace('\n', "\r\n"));
    assert_read(&format!("\u{feff}{SAVE}"));
}

#[test]
fn rule_specifications_are_read() {
    let list: String = SAVE
        .lines()
        .filter(|l| !l.starts_with('*') && *l != "COMMIT")
        .map(|l| match l.strip_prefix(':') {
            Some(rest) if rest.starts_with("WEB") => "-N WEB\n".to_owned(),
            Some(rest) => format!("-P {} ACCEPT\n", rest.split(' ').next().unwrap()),
            None => format!("{l}\n"),
        })
        .collect();
    assert_read(&list);
    // Single rules do not show their table.
    assert_refused(
        "-A PREROUTING -d 10.96.3.3/32 -j WEB\n",
        &["single rules", "iptables-save"],
    );
    assert_refused("Hello\n", &["\"Hello\"", "iptables-save"]);
}

#[test]
fn an_incomplete_dump_is_read_up_to_its_end() {
    let part: String = SAVE
        .lines()
        .filter(|l| !l.starts_with(':') && *l != "COMMIT")
        .map(|l| format!("{l}\n"))
        .collect();
    assert_read(&part);
}

const LIST: &str = "Chain PREROUTING (policy ACCEPT 12 packets, 720 bytes)\n \
    pkts bytes target     prot opt in     out     source               destination\n \
    120K   45M WEB        tcp  --  *      *       0.0.0.0/0            10.96.3.3            /* demo/web \
    cluster IP */ tcp dpt:80\n\n\
    Chain INPUT (policy ACCEPT 0 packets, 0 bytes)\n pkts bytes target     prot opt in     out     source               \
    destination\n\n\
    Chain OUTPUT (policy ACCEPT 0 packets, 0 bytes)\n pkts bytes target     prot opt in     out     source               \
    destination\n\n\
    Chain POSTROUTING (policy ACCEPT 0 packets, 0 bytes)\n pkts bytes target     prot opt in     out     source               \
    destination\n    0     0 RETURN     all  --  *      !eth0   10.244.0.0/16        !10.244.0.0/16        mark match \
    ! 0x4000/0x4000\n\n\
    Chain WEB (1 references)\n pkts bytes target     prot opt in     out     source               destination\n    \
    3   180            all  --  *      *       0.0.0.0/0            0.0.0.0/0            ctstate NEW\n    \
    3   180 DNAT       tcp  --  *      *       0.0.0.0/0            0.0.0.0/0            statistic mode random \
    probability 1.00000000000 to:10.244.2.9:8080\n";

#[test]
fn verbose_lists_are_read() {
    assert_read(LIST);
    let numbered: String = LIST
        .lines()
        .map(|l| match l.trim_start() {
            t if t.starts_with("pkts") => format!("num  {t}\n"),
            t if t.starts_with(|c: char| c.is_ascii_digit()) => format!("1    {t}\n"),
            _ => format!("{l}\n"),
        })
        .collect();
    assert_read(&numbered);
    let short =
        "Chain INPUT (policy ACCEPT)\ntarget     prot opt source               destination\n";
    assert_refused(short, &["without -v", "iptables-save"]);
    let named = LIST.replace("tcp dpt:80", "tcp dpt:http");
    assert_refused(&named, &["\"http\"", "-n"]);
    let odd = LIST.replace("ctstate NEW", "u32 \"0x0=0x1\"");
    assert_refused(&odd, &["\"u32\"", "iptables-save"]);
}

#[test]
fn lists_of_virtual_servers_and_sets_are_read() {
    let mut facts: Facts = common::node_facts();
    facts.dumps.ipvsadm_save = Some(
        "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> \
         RemoteAddress:Port           Forward Weight ActiveConn InActConn\nTCP  10.200.1.2:31000 rr persistent \
         10800\n  -> 10.244.1.12:80               Masq    1      0          0\n  -> 10.244.2.12:80               \
         Masq    1      0          0\n"
            .to_owned(),
    );
    facts.dumps.ipset_save = Some(
        "Name: CLIENTS\nType: hash:ip\nRevision: 5\nHeader: family inet hashsize 1024 maxelem 65536\nSize in \
         memory: 300\nReferences: 1\nNumber of entries: 1\nMembers:\n203.0.113.5\n"
            .to_owned(),
    );
    let world = World::from_facts(&facts).unwrap();
    assert_eq!(world.ipsets.get("CLIENTS").unwrap().elements.len(), 1);
    let [service] = &world.ipvs.services[..] else {
        panic!("{:?}", world.ipvs);
    };
    assert_eq!(service.destinations.len(), 2);
    assert_eq!(service.persistent, Some(10800));
    facts.dumps.ipvsadm_save = Some("TCP  worker-7:http rr\n".to_owned());
    let error = World::from_facts(&facts).unwrap_err().to_string();
    assert!(error.contains("ipvsadm-save -n"), "{error}");
}

#[test]
fn fenced_nft_and_facts_are_read() {
    let nft = "```\n$ nft list ruleset\ntable ip t {\n chain c {\n }\n}\n```\n";
    let mut world = World::default();
    world.add_nft(nft).unwrap();
    assert_eq!(world.nft.tables.len(), 1);
    let facts = common::node_facts().to_json();
    let fenced = format!("```json\n{facts}\n```\n");
    assert_eq!(Facts::parse(&fenced).unwrap(), common::node_facts());
}
