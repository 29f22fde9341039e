use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use netfilter::netlink::{
    Builder, DecodeError, Messages, NFNL_SUBSYS_CTNETLINK, NLA_F_NESTED, nfgenmsg, nfnl_msg_type,
};
use proptest::prelude::*;

use super::flow::{CTA_ID, CTA_MARK, CTA_TIMEOUT, CTA_TUPLE_REPLY};
use super::*;

fn flow(from: &str, to: &str, endpoint: &str) -> Flow {
    let [from, to, endpoint] = [from, to, endpoint].map(|text| text.parse::<SocketAddr>().unwrap());
    let tuple = |source: SocketAddr, destination: SocketAddr| Tuple {
        protocol: IpProtocol::UDP,
        source: source.ip(),
        source_port: source.port(),
        destination: destination.ip(),
        destination_port: destination.port(),
    };
    Flow {
        original: tuple(from, to),
        reply: tuple(endpoint, from),
        tcp_state: None,
        status: Status(0x188 | 1 << 5),
        timeout: Some(30),
        mark: 0x4000,
        zone: Zone::default(),
        id: Some(77),
    }
}

/// A message as the kernel sends it for the flow.
fn message(flow: &Flow) -> Vec<u8> {
    let number = family::number(Family::of(flow.original.destination));
    let reply = Flow {
        original: flow.reply,
        zone: Zone::default(),
        id: None,
        ..*flow
    };
    let original = Flow { id: None, ..*flow };
    let start =
        Builder::new(nfnl_msg_type(NFNL_SUBSYS_CTNETLINK, 0), 2).fixed(&nfgenmsg(number, 0));
    let message = start.attributes(|w| original.write_key(w)).finish();
    // The key of the reversed flow is its reply tuple, except for the attribute's number.
    let turned = Builder::new(0, 0)
        .attributes(|w| reply.write_key(w))
        .finish();
    let mut tuple = turned[16..].to_vec();
    tuple[2..4].copy_from_slice(&(CTA_TUPLE_REPLY | NLA_F_NESTED).to_ne_bytes());
    Builder::new(nfnl_msg_type(NFNL_SUBSYS_CTNETLINK, 0), 2)
        .fixed(&message[16..])
        .fixed(&tuple)
        .bytes(CTA_STATUS, &flow.status.0.to_be_bytes())
        .bytes(CTA_TIMEOUT, &flow.timeout.unwrap_or_default().to_be_bytes())
        .bytes(CTA_MARK, &flow.mark.to_be_bytes())
        .bytes(CTA_ID, &flow.id.unwrap_or_default().to_be_bytes())
        .finish()
}

fn read(bytes: &[u8]) -> Result<Option<Flow>, DecodeError> {
    Flow::read(&Messages::new(bytes).next().unwrap()?)
}

#[test]
fn a_flow_is_read_as_it_was_written() {
    for flow in [
        flow("10.0.0.1:4000", "10.96.0.10:53", "10.244.0.5:5353"),
        flow("[fd00::1]:4000", "[fd00:96::a]:53", "[fd00:244::5]:5353"),
        Flow {
            zone: Zone {
                both: 7,
                original: 9,
                reply: 0,
            },
            ..flow("10.0.0.1:4000", "10.96.0.10:53", "10.244.0.5:5353")
        },
    ] {
        assert_eq!(read(&message(&flow)), Ok(Some(flow)));
    }
}

#[test]
fn flows_to_other_than_the_endpoints_are_stale() {
    let endpoints = |all: &[&str]| -> Endpoints {
        Arc::new(
            all.iter()
                .map(|e| e.parse().unwrap())
                .collect::<HashSet<SocketAddr>>(),
        )
    };
    let dns = endpoints(&["10.244.0.5:5353", "10.244.1.5:5353"]);
    let mut filter = StaleFlows::new(["192.0.2.1".parse().unwrap()]);
    assert!(filter.is_empty());
    filter.frontend(
        IpProtocol::UDP,
        "10.96.0.10:53".parse().unwrap(),
        dns.clone(),
    );
    filter.frontend(
        IpProtocol::UDP,
        "10.96.0.11:53".parse().unwrap(),
        endpoints(&[]),
    );
    filter.node_port(IpProtocol::UDP, 30053, dns);
    assert_eq!(filter.protocols(), [IpProtocol::UDP]);
    let cases = [
        ("10.96.0.10:53", "10.244.0.5:5353", false),
        ("10.96.0.10:53", "10.244.0.6:5353", true),
        // The right pod, but a removed port.
        ("10.96.0.10:53", "10.244.0.5:53", true),
        // The flow began before the rules existed: not rewritten.
        ("10.96.0.10:53", "10.96.0.10:53", true),
        ("10.96.0.10:54", "10.244.0.6:5353", false),
        // No endpoints remain.
        ("10.96.0.11:53", "10.244.0.5:5353", true),
        ("192.0.2.1:30053", "10.244.1.5:5353", false),
        ("192.0.2.1:30053", "10.244.1.6:5353", true),
        // A server elsewhere with the same port.
        ("198.51.100.1:30053", "198.51.100.1:30053", false),
    ];
    for (to, endpoint, stale) in cases {
        let flow = flow("10.0.0.1:4000", to, endpoint);
        assert_eq!(filter.is_stale(&flow), stale, "{flow:?}");
        let tcp = Tuple {
            protocol: IpProtocol::TCP,
            ..flow.original
        };
        assert!(!filter.is_stale(&Flow {
            original: tcp,
            ..flow
        }));
        let zone = Zone {
            both: 65520,
            ..Zone::default()
        };
        assert!(!filter.is_stale(&Flow { zone, ..flow }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Damaged messages are errors or other flows, never a panic.
    #[test]
    fn damaged_messages_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = message(&flow("[fd00::1]:4000", "[fd00:96::a]:53", "[fd00:244::5]:5353"));
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = read(&bytes);
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = read(&bytes);
    }
}
