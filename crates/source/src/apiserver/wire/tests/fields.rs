//! The decoder's fields against upstream's numbers (`testdata/wire/fields.txt`) and against the
//! fields of `model::object`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::Kind;
use model::object::{self, Object};
use serde::Deserializer;
use serde::de::{DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::apiserver::wire::messages::{self, stated};
use crate::apiserver::wire::protobuf::Message;
use crate::manifests;

const TABLE: &str = include_str!("../../../../testdata/wire/fields.txt");

/// Number and type of each field, by message and field name.
type Table = BTreeMap<(&'static str, &'static str), (u32, &'static str)>;

fn table() -> Table {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    let rows = lines.filter(|line| !line.is_empty()).map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let number = words[2].parse().expect(line);
        ((words[0], words[1]), (number, words[3]))
    });
    rows.collect()
}

#[test]
fn field_numbers_equal_upstreams() {
    let table = table();
    let check = |message, fields: &[(&'static str, u32)]| {
        for (field, number) in fields {
            let upstream = table.get(&(message, *field)).map(|(number, _)| number);
            assert_eq!(upstream, Some(number), "{message}.{field}");
        }
    };
    check("TypeMeta", messages::TypeMeta::FIELDS);
    check("ListMeta", messages::ListMeta::FIELDS);
    check("Status", super::Status::FIELDS);
    check("StatusDetails", messages::StatusDetails::FIELDS);
    check("ObjectMeta", messages::ObjectMeta::FIELDS);
    check("Time", messages::Time::FIELDS);
    check("Service", object::Service::FIELDS);
    check("ServiceSpec", object::ServiceSpec::FIELDS);
    check("ServicePort", object::ServicePort::FIELDS);
    check(
        "SessionAffinityConfig",
        object::SessionAffinityConfig::FIELDS,
    );
    check("ClientIPConfig", object::ClientIpConfig::FIELDS);
    check("ServiceStatus", object::ServiceStatus::FIELDS);
    check("LoadBalancerStatus", object::LoadBalancerStatus::FIELDS);
    check("LoadBalancerIngress", object::LoadBalancerIngress::FIELDS);
    check("EndpointSlice", object::EndpointSlice::FIELDS);
    check("Endpoint", object::Endpoint::FIELDS);
    check("ObjectReference", object::TargetRef::FIELDS);
    check("EndpointConditions", object::EndpointConditions::FIELDS);
    check("EndpointHints", object::EndpointHints::FIELDS);
    check("ForZone", object::NamedHint::FIELDS);
    check("ForNode", object::NamedHint::FIELDS);
    check("EndpointPort", object::EndpointPort::FIELDS);
    check("Node", object::Node::FIELDS);
    check("NodeSpec", object::NodeSpec::FIELDS);
    check("Taint", object::Taint::FIELDS);
    check("NodeStatus", object::NodeStatus::FIELDS);
    check("NodeAddress", object::NodeAddress::FIELDS);
    check("ServiceCIDR", object::ServiceCidr::FIELDS);
    check("ServiceCIDRSpec", object::ServiceCidrSpec::FIELDS);
    for message in ["Service", "EndpointSlice", "Node", "ServiceCIDR"] {
        check(message, &[("metadata", messages::METADATA)]);
    }
    let unknown = [
        ("typeMeta", messages::UNKNOWN_TYPE_META),
        ("raw", messages::UNKNOWN_RAW),
    ];
    check("Unknown", &unknown);
    check("RawExtension", &[("raw", messages::RAW_EXTENSION_RAW)]);
    let event = [
        ("type", messages::WATCH_EVENT_TYPE),
        ("object", messages::WATCH_EVENT_OBJECT),
    ];
    check("WatchEvent", &event);
}

#[test]
fn every_field_of_the_model_is_read_from_protobuf() {
    let table = table();
    for kind in Kind::ALL {
        let (mut json, mut count) = (Value::Null, 0);
        let probe = Probe {
            json: &mut json,
            count: &mut count,
            time: false,
        };
        let object = Object::deserialize(kind, probe).expect("every type is supported");
        let message = encode(&table, kind.name(), &json);
        let decoded = stated(kind, &message).expect("readable");
        assert_eq!(decoded.object, object, "{kind}: {json:#}");
    }
}

/// Fields that no scenario contains, because they decide about no connection.
const WITHOUT_SCENARIO: &[&str] = &[
    // The older form of podCIDRs.
    "Node.spec.podCIDR",
    // Decide about answers of `/healthz`.
    "Node.spec.taints.key",
    // For `explain`.
    "Service.spec.selector",
    "Service.status.loadBalancer.ingress.hostname",
];

/// Insert the paths of all fields below `path`, without metadata; lists and maps count as one value.
fn paths(path: &str, json: &Value, found: &mut BTreeSet<String>) {
    match json {
        _ if path.ends_with(".metadata") => {}
        Value::Object(fields) if !path.ends_with(".selector") => {
            for (name, value) in fields {
                paths(&format!("{path}.{name}"), value, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| paths(path, item, found));
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

#[test]
fn every_field_of_the_model_occurs_in_a_scenario() {
    let mut read = BTreeSet::new();
    for kind in Kind::ALL {
        let (mut json, mut count) = (Value::Null, 0);
        let probe = Probe {
            json: &mut json,
            count: &mut count,
            time: false,
        };
        Object::deserialize(kind, probe).expect("every type is supported");
        paths(kind.name(), &json, &mut read);
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/scenarios");
    let mut stated = BTreeSet::new();
    for file in std::fs::read_dir(folder).expect("the scenarios") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
        let Some((_, objects)) = text.split_once("--- objects\n") else {
            continue; // The README.
        };
        let objects = objects.split("\n--- ").next().unwrap_or_default();
        for tree in manifests::trees(objects.as_bytes()) {
            let object = tree.value.expect("an object");
            let kind = object["kind"].as_str().expect("a kind").to_owned();
            paths(&kind, &object, &mut stated);
        }
    }
    let missing: Vec<_> = read.difference(&stated).map(String::as_str).collect();
    assert_eq!(missing, WITHOUT_SCENARIO);
}

/// Encode an object with upstream's numbers.
fn encode(table: &Table, message: &str, json: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, value) in json.as_object().expect("an object") {
        let row = table.iter().find(|(key, _)| **key == (message, field));
        let Some((_, (number, field_type))) = row else {
            panic!("{message}.{field} is not in fields.txt");
        };
        let one = std::slice::from_ref(value);
        let values = value.as_array().map_or(one, Vec::as_slice);
        for value in values {
            out.extend(encode_field(table, *number, field_type, value));
        }
    }
    out
}

fn encode_field(table: &Table, number: u32, field_type: &str, value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    match field_type.trim_start_matches('*') {
        "string" => bytes(number, text.as_bytes()),
        "int" => varint_field(number, value.as_u64().expect("a number")),
        "bool" => varint_field(number, value.as_bool().expect("a boolean").into()),
        "map" => {
            let entries = value.as_object().expect("a map").iter();
            let entry = |(key, value): (&String, &Value)| {
                let value = value.as_str().expect("a string").as_bytes();
                bytes(
                    number,
                    &[bytes(1, key.as_bytes()), bytes(2, value)].concat(),
                )
            };
            entries.flat_map(entry).collect()
        }
        "time" => {
            let seconds = model::parse_rfc3339(text).expect("a time");
            let (number_of_seconds, _) = table[&("Time", "seconds")];
            bytes(
                number,
                &varint_field(number_of_seconds, seconds.cast_unsigned()),
            )
        }
        message => bytes(number, &encode(table, message, value)),
    }
}

fn bytes(number: u32, value: &[u8]) -> Vec<u8> {
    [
        &varint(u64::from(number) << 3 | 2),
        &varint(value.len() as u64),
        value,
    ]
    .concat()
}

fn varint_field(number: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
    out
}

/// A deserializer that sets every field that a type has, each to a different value, and writes the
/// same as JSON.
struct Probe<'a> {
    json: &'a mut Value,
    count: &'a mut u32,
    /// The field is a time: RFC 3339 in JSON, a message in protobuf.
    time: bool,
}

#[derive(Debug)]
struct Unsupported(String);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}

impl serde::de::Error for Unsupported {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Probe<'_> {
    fn next(&mut self) -> u32 {
        *self.count += 1;
        *self.count
    }

    fn text(&mut self) -> String {
        let number = self.next();
        if self.time {
            format!("2026-01-01T00:{:02}:{:02}Z", number / 60, number % 60)
        } else {
            format!("text-{number}")
        }
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Unsupported;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        let what = &visitor as &dyn serde::de::Expected;
        Err(Unsupported(format!("the probe has no value for {what}")))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        *self.json = true.into();
        visitor.visit_bool(true)
    }

    fn deserialize_i64<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Unsupported> {
        let number = self.next();
        *self.json = number.into();
        visitor.visit_i64(number.into())
    }

    fn deserialize_string<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Unsupported> {
        let text = self.text();
        *self.json = text.clone().into();
        visitor.visit_string(text)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        visitor.visit_seq(Two {
            probe: self,
            left: 2,
        })
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Unsupported> {
        let key = self.text();
        visitor.visit_map(Fields {
            probe: self,
            keys: vec![key],
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        visitor.visit_map(Fields {
            probe: self,
            keys: fields.iter().rev().map(|&field| field.to_owned()).collect(),
        })
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct enum identifier ignored_any
    }
}

/// A list of two.
struct Two<'a> {
    probe: Probe<'a>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Two<'_> {
    type Error = Unsupported;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Unsupported> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut json = Value::Null;
        let value = seed.deserialize(Probe {
            json: &mut json,
            count: self.probe.count,
            time: false,
        })?;
        if self.probe.json.is_null() {
            *self.probe.json = Value::Array(Vec::new());
        }
        let list = self.probe.json.as_array_mut().expect("a list");
        list.push(json);
        Ok(Some(value))
    }
}

struct Fields<'a> {
    probe: Probe<'a>,
    /// The last one is next.
    keys: Vec<String>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Unsupported;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Unsupported> {
        let Some(key) = self.keys.last() else {
            return Ok(None);
        };
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Unsupported> {
        let key = self.keys.pop().expect("a key was read");
        seed.deserialize(Probe {
            json: &mut self.probe.json[&key],
            count: self.probe.count,
            time: key.ends_with("Timestamp"),
        })
    }
}
