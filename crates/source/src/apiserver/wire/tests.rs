//! Answers of a real API server (v1.36.2), kept in `testdata/wire` in both formats, intact and
//! damaged.

mod fields;

use std::path::PathBuf;

use model::{Kind, object::Object};
use proptest::prelude::*;

use super::*;

const KINDS: [(Kind, &str); 4] = [
    (Kind::Service, "services"),
    (Kind::EndpointSlice, "endpointslices"),
    (Kind::Node, "nodes"),
    (Kind::ServiceCidr, "servicecidrs"),
];

fn sample(name: &str, format: Format) -> Vec<u8> {
    let extension = match format {
        Format::Protobuf => "pb",
        Format::Json => "json",
    };
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/wire")
        .join(format!("{name}.{extension}"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn events(kind: Kind, format: Format, stream: &[u8]) -> Vec<WatchEvent> {
    let mut frames = Frames::new(format);
    frames.push(stream);
    let mut events = Vec::new();
    while let Some(frame) = frames.next_frame().expect("framing") {
        events.push(decode_event(kind, format, frame).expect("event"));
    }
    assert!(frames.is_between_events());
    events
}

fn objects(page: &Page) -> Vec<&Object> {
    page.items
        .iter()
        .map(|item| &item.as_ref().expect("readable").object)
        .collect()
}

#[test]
fn both_formats_of_a_list_decode_to_the_same_objects() {
    for (kind, name) in KINDS {
        let read = |format| {
            let body = sample(&format!("{name}.list"), format);
            decode_page(kind, format, &body).expect(name)
        };
        let (protobuf, json) = (read(Format::Protobuf), read(Format::Json));
        assert!(!protobuf.items.is_empty(), "{name}");
        assert!(protobuf == json, "{name}");
        assert!(protobuf.resource_version.parse::<u64>().expect("number") > 0);
    }
}

#[test]
fn a_page_has_a_continue_token() {
    for format in [Format::Protobuf, Format::Json] {
        let page = decode_page(Kind::Service, format, &sample("services.page", format));
        let page = page.expect("page");
        assert_eq!(page.items.len(), 2);
        assert!(!page.continue_token.is_empty());
    }
}

#[test]
fn both_formats_of_a_streaming_list_decode_to_the_same_events() {
    for (kind, name) in KINDS {
        let read = |format| events(kind, format, &sample(&format!("{name}.watch"), format));
        let (protobuf, json) = (read(Format::Protobuf), read(Format::Json));
        // Recorded one after the other, so the bookmarks differ.
        let applied = |events: &[WatchEvent]| events.split_last().map(|(_, rest)| rest.to_vec());
        assert!(applied(&protobuf) == applied(&json), "{name}");
        let ends = |e: &&WatchEvent| {
            matches!(
                e,
                WatchEvent::Bookmark {
                    initial_events_end: true,
                    ..
                }
            )
        };
        assert_eq!(protobuf.iter().filter(ends).count(), 1, "{name}");
        let list = decode_page(
            kind,
            Format::Protobuf,
            &sample(&format!("{name}.list"), Format::Protobuf),
        );
        let listed = list.expect("list").items.len();
        assert_eq!(protobuf.len(), listed + 1, "{name}");
    }
}

#[test]
fn an_expired_watch_decodes_to_an_error_event() {
    for format in [Format::Protobuf, Format::Json] {
        let events = events(Kind::Service, format, &sample("expired.watch", format));
        let [WatchEvent::Error(status)] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert!(status.is_expired());
        assert_eq!(status.code, 410);
        assert_eq!(status.message, "too old resource version: 1 (522)");
    }
}

#[test]
fn a_refusal_decodes_to_its_status() {
    for format in [Format::Protobuf, Format::Json] {
        let status = decode_status(format, &sample("invalid.status", format)).expect("status");
        assert_eq!(status.code, 500);
        assert!(status.message.starts_with("resourceVersion: Invalid value"));
        assert_eq!(decode_status(format, b"<html>"), None);
    }
}

#[test]
fn recorded_services_have_the_fields_that_routing_needs() {
    let page = decode_page(
        Kind::Service,
        Format::Protobuf,
        &sample("services.list", Format::Protobuf),
    );
    let page = page.expect("page");
    let service = |name: &str| {
        objects(&page)
            .into_iter()
            .find_map(|o| match o {
                Object::Service(s) if s.metadata.name == name => Some(s.clone()),
                _ => None,
            })
            .unwrap_or_else(|| panic!("{name}"))
    };
    let local = service("lb-local").spec;
    assert_eq!(local.external_traffic_policy, "Local");
    assert_eq!(local.health_check_node_port, 30999);
    assert_eq!(local.ports[0].node_port, 30080);
    assert_eq!(
        service("lb").spec.load_balancer_source_ranges,
        ["203.0.113.0/24", "198.51.100.7/32"]
    );
    assert_eq!(
        service("lb").status.load_balancer.ingress[0].ip,
        "203.0.113.200"
    );
    let config = service("sticky").spec.session_affinity_config;
    assert_eq!(config.client_ip.timeout_seconds, Some(600));
    assert_eq!(service("int-local").spec.internal_traffic_policy, "Local");
    assert_eq!(service("zoned").spec.traffic_distribution, "PreferSameZone");
    assert_eq!(service("dual").spec.cluster_ips.len(), 2);
}

#[test]
fn an_unreadable_object_does_not_affect_the_rest_of_a_list() {
    for format in [Format::Protobuf, Format::Json] {
        let body = match format {
            Format::Json => br#"{"kind":"ServiceList","metadata":{"resourceVersion":"5"},"items":[
                {"metadata":{"name":"a","namespace":"n","resourceVersion":"4"},"spec":7},
                {"metadata":{"name":7}},
                {"metadata":{"name":"c","namespace":"n"}}]}"#
                .to_vec(),
            Format::Protobuf => {
                let text = |number: u8, s: &str| {
                    let len = u8::try_from(s.len()).expect("short");
                    [&[number << 3 | 2, len], s.as_bytes()].concat()
                };
                let part = |number: u8, b: &[u8]| {
                    let len = u8::try_from(b.len()).expect("short");
                    [&[number << 3 | 2, len], b].concat()
                };
                let meta = |name| part(1, &[text(1, name), text(3, "n"), text(6, "4")].concat());
                let list = [
                    part(1, &text(2, "5")),
                    part(2, &[meta("a"), vec![0x12, 0x7f]].concat()),
                    part(2, &[0x0a, 0x7f]),
                    part(2, &meta("c")),
                ];
                let kind = part(1, &[text(1, "v1"), text(2, "ServiceList")].concat());
                [b"k8s\0".to_vec(), kind, part(2, &list.concat())].concat()
            }
        };
        let page = decode_page(Kind::Service, format, &body).expect("page");
        assert_eq!(page.resource_version, "5");
        let [a, b, c] = page.items.as_slice() else {
            panic!("{page:?}");
        };
        let a = a.as_ref().expect_err("a");
        assert_eq!(a.subject, Subject::new(Kind::Service, "n", "a"));
        assert_eq!(a.resource_version, "4");
        assert_eq!(b.as_ref().expect_err("b").subject.key(), None);
        assert!(
            matches!(&c.as_ref().expect("c").object, Object::Service(s) if s.metadata.name == "c")
        );
    }
}

#[test]
fn invalid_numbers_and_keys_are_errors() {
    let body = |raw: &[u8]| [b"k8s\0", raw].concat();
    let read = |raw: &[u8]| decode_page(Kind::Node, Format::Protobuf, &body(raw));
    assert_eq!(
        read(&[0xff; 11]),
        Err(DecodeError::Protobuf(Malformed::NumberTooLong))
    );
    assert_eq!(
        read(&[0x02, 0]),
        Err(DecodeError::Protobuf(Malformed::Key(2)))
    );
    assert_eq!(
        read(&[0x0b]),
        Err(DecodeError::Protobuf(Malformed::Key(11)))
    );
    assert_eq!(
        read(&[0x12, 5, 0]),
        Err(DecodeError::Protobuf(Malformed::CutShort))
    );
    assert_eq!(
        read(&[0x10, 0]),
        Err(DecodeError::Protobuf(Malformed::WireType(2)))
    );
    let page = decode_page(Kind::Node, Format::Protobuf, b"{}");
    assert_eq!(page, Err(DecodeError::Magic));
}

#[test]
fn an_oversized_frame_is_an_error() {
    let mut frames = Frames::new(Format::Protobuf);
    frames.push(b"<htm");
    assert!(frames.next_frame().is_err());
}

#[test]
fn the_content_type_selects_the_format() {
    let of = Format::of_content_type;
    assert_eq!(
        of("application/vnd.kubernetes.protobuf;stream=watch"),
        Some(Format::Protobuf)
    );
    assert_eq!(of("application/json; charset=utf-8"), Some(Format::Json));
    assert_eq!(of("text/html"), None);
}

/// A sample, damaged in a few places.
fn damaged() -> impl Strategy<Value = (Kind, Format, bool, Vec<u8>)> {
    let which = (0..KINDS.len(), any::<bool>(), any::<bool>());
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..8);
    (which, damage).prop_map(|((kind, protobuf, watch), damage)| {
        let (kind, name) = KINDS[kind];
        let format = if protobuf {
            Format::Protobuf
        } else {
            Format::Json
        };
        let suffix = if watch { "watch" } else { "list" };
        let mut bytes = sample(&format!("{name}.{suffix}"), format);
        for (at, byte, how) in damage {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        (kind, format, watch, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Neither decoding nor checking panics.
    #[test]
    fn arbitrary_bytes_do_not_panic((_, _, _, mut bytes) in damaged(), choice: u8) {
        bytes.insert(0, choice);
        decode_anything(&bytes);
    }

    /// Decoding does not panic, and its result does not depend on the pieces that arrive.
    #[test]
    fn damaged_bytes_decode_the_same_in_any_pieces((kind, format, watch, bytes) in damaged(), piece in 1..2000usize) {
        if !watch {
            let _ = decode_page(kind, format, &bytes);
            let _ = decode_status(format, &bytes);
            return Ok(());
        }
        let read = |piece: usize| {
            let mut frames = Frames::new(format);
            let mut events = Vec::new();
            for part in bytes.chunks(piece) {
                frames.push(part);
                loop {
                    match frames.next_frame() {
                        Ok(Some(frame)) => events.push(decode_event(kind, format, frame)),
                        Ok(None) => break,
                        Err(_) => return events,
                    }
                }
            }
            events
        };
        prop_assert_eq!(read(piece), read(bytes.len().max(1)));
    }
}
