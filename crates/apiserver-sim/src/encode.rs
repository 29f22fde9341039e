//! Encodes JSON objects as the API server's protobuf.
//!
//! Table-driven, and deliberately independent of sluice's decoder: each checks the other. Includes
//! fields that sluice does not read, to test that they are skipped. Field numbers: the API's
//! `generated.proto` files; a test compares them with `crates/source/testdata/wire/fields.txt`.

use serde_json::Value;

/// A message with its fields.
pub(crate) struct Message(&'static [Field]);

/// A field: JSON name, number and type. A JSON list makes it repeated.
struct Field(&'static str, u32, Type);

enum Type {
    Text,
    Number,
    Flag,
    Of(&'static Message),
    /// `map<string, string>`.
    Map,
    /// RFC 3339 in JSON, a message of seconds in protobuf.
    Time,
    /// A number or a string in JSON.
    IntOrString,
}

use Type::{Flag, IntOrString, Map, Number, Of, Text, Time};

static OWNER: Message = Message(&[
    Field("kind", 1, Text),
    Field("name", 3, Text),
    Field("uid", 4, Text),
    Field("apiVersion", 5, Text),
    Field("controller", 6, Flag),
    Field("blockOwnerDeletion", 7, Flag),
]);

static META: Message = Message(&[
    Field("name", 1, Text),
    Field("generateName", 2, Text),
    Field("namespace", 3, Text),
    Field("uid", 5, Text),
    Field("resourceVersion", 6, Text),
    Field("generation", 7, Number),
    Field("creationTimestamp", 8, Time),
    Field("deletionTimestamp", 9, Time),
    Field("deletionGracePeriodSeconds", 10, Number),
    Field("labels", 11, Map),
    Field("annotations", 12, Map),
    Field("ownerReferences", 13, Of(&OWNER)),
    Field("finalizers", 14, Text),
]);

static SERVICE_PORT: Message = Message(&[
    Field("name", 1, Text),
    Field("protocol", 2, Text),
    Field("port", 3, Number),
    Field("targetPort", 4, IntOrString),
    Field("nodePort", 5, Number),
    Field("appProtocol", 6, Text),
]);
static CLIENT_IP: Message = Message(&[Field("timeoutSeconds", 1, Number)]);
static AFFINITY: Message = Message(&[Field("clientIP", 1, Of(&CLIENT_IP))]);
static SERVICE_SPEC: Message = Message(&[
    Field("ports", 1, Of(&SERVICE_PORT)),
    Field("selector", 2, Map),
    Field("clusterIP", 3, Text),
    Field("type", 4, Text),
    Field("externalIPs", 5, Text),
    Field("sessionAffinity", 7, Text),
    Field("loadBalancerIP", 8, Text),
    Field("loadBalancerSourceRanges", 9, Text),
    Field("externalName", 10, Text),
    Field("externalTrafficPolicy", 11, Text),
    Field("healthCheckNodePort", 12, Number),
    Field("publishNotReadyAddresses", 13, Flag),
    Field("sessionAffinityConfig", 14, Of(&AFFINITY)),
    Field("ipFamilyPolicy", 17, Text),
    Field("clusterIPs", 18, Text),
    Field("ipFamilies", 19, Text),
    Field("allocateLoadBalancerNodePorts", 20, Flag),
    Field("loadBalancerClass", 21, Text),
    Field("internalTrafficPolicy", 22, Text),
    Field("trafficDistribution", 23, Text),
]);
static INGRESS: Message = Message(&[
    Field("ip", 1, Text),
    Field("hostname", 2, Text),
    Field("ipMode", 3, Text),
]);
static LOAD_BALANCER: Message = Message(&[Field("ingress", 1, Of(&INGRESS))]);
static SERVICE_STATUS: Message = Message(&[Field("loadBalancer", 1, Of(&LOAD_BALANCER))]);

/// `v1.Service`.
pub(crate) static SERVICE: Message = Message(&[
    Field("metadata", 1, Of(&META)),
    Field("spec", 2, Of(&SERVICE_SPEC)),
    Field("status", 3, Of(&SERVICE_STATUS)),
]);

static CONDITIONS: Message = Message(&[
    Field("ready", 1, Flag),
    Field("serving", 2, Flag),
    Field("terminating", 3, Flag),
]);
static TARGET: Message = Message(&[
    Field("kind", 1, Text),
    Field("namespace", 2, Text),
    Field("name", 3, Text),
    Field("uid", 4, Text),
]);
static HINT: Message = Message(&[Field("name", 1, Text)]);
static HINTS: Message = Message(&[
    Field("forZones", 1, Of(&HINT)),
    Field("forNodes", 2, Of(&HINT)),
]);
static ENDPOINT: Message = Message(&[
    Field("addresses", 1, Text),
    Field("conditions", 2, Of(&CONDITIONS)),
    Field("hostname", 3, Text),
    Field("targetRef", 4, Of(&TARGET)),
    Field("deprecatedTopology", 5, Map),
    Field("nodeName", 6, Text),
    Field("zone", 7, Text),
    Field("hints", 8, Of(&HINTS)),
]);
static ENDPOINT_PORT: Message = Message(&[
    Field("name", 1, Text),
    Field("protocol", 2, Text),
    Field("port", 3, Number),
    Field("appProtocol", 4, Text),
]);

/// `discovery.k8s.io/v1.EndpointSlice`.
pub(crate) static ENDPOINT_SLICE: Message = Message(&[
    Field("metadata", 1, Of(&META)),
    Field("endpoints", 2, Of(&ENDPOINT)),
    Field("ports", 3, Of(&ENDPOINT_PORT)),
    Field("addressType", 4, Text),
]);

static TAINT: Message = Message(&[
    Field("key", 1, Text),
    Field("value", 2, Text),
    Field("effect", 3, Text),
]);
static NODE_SPEC: Message = Message(&[
    Field("podCIDR", 1, Text),
    Field("providerID", 3, Text),
    Field("unschedulable", 4, Flag),
    Field("taints", 5, Of(&TAINT)),
    Field("podCIDRs", 7, Text),
]);
static NODE_ADDRESS: Message = Message(&[Field("type", 1, Text), Field("address", 2, Text)]);
static NODE_STATUS: Message = Message(&[
    Field("phase", 3, Text),
    Field("addresses", 5, Of(&NODE_ADDRESS)),
]);

/// `v1.Node`.
pub(crate) static NODE: Message = Message(&[
    Field("metadata", 1, Of(&META)),
    Field("spec", 2, Of(&NODE_SPEC)),
    Field("status", 3, Of(&NODE_STATUS)),
]);

static CIDR_SPEC: Message = Message(&[Field("cidrs", 1, Text)]);

/// `networking.k8s.io/v1.ServiceCIDR`.
pub(crate) static SERVICE_CIDR: Message = Message(&[
    Field("metadata", 1, Of(&META)),
    Field("spec", 2, Of(&CIDR_SPEC)),
]);

static DETAILS: Message = Message(&[Field("retryAfterSeconds", 5, Number)]);

/// `meta/v1.Status`.
pub(crate) static STATUS: Message = Message(&[
    Field("status", 2, Text),
    Field("message", 3, Text),
    Field("reason", 4, Text),
    Field("details", 5, Of(&DETAILS)),
    Field("code", 6, Number),
]);

static LIST_META: Message = Message(&[
    Field("resourceVersion", 2, Text),
    Field("continue", 3, Text),
    Field("remainingItemCount", 4, Number),
]);

/// Encode the metadata of a list, field 1.
pub(crate) fn list_head(meta: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, &message(&LIST_META, meta));
    out
}

/// Encode a message.
pub(crate) fn message(message: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for Field(name, number, field_type) in message.0 {
        match value.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => {
                for item in items {
                    field(&mut out, *number, field_type, item);
                }
            }
            Some(item) => field(&mut out, *number, field_type, item),
        }
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, field_type: &Type, value: &Value) {
    match field_type {
        Text => bytes(out, number, text(value).as_bytes()),
        Number => varint_field(out, number, integer(value)),
        Flag => varint_field(out, number, u64::from(value.as_bool().unwrap_or(false))),
        Of(schema) => bytes(out, number, &message(schema, value)),
        Map => {
            for (key, value) in value.as_object().into_iter().flatten() {
                let mut entry = Vec::new();
                bytes(&mut entry, 1, key.as_bytes());
                bytes(&mut entry, 2, text(value).as_bytes());
                bytes(out, number, &entry);
            }
        }
        Time => {
            let mut time = Vec::new();
            varint_field(&mut time, 1, epoch_seconds(text(value)));
            varint_field(&mut time, 2, 0);
            bytes(out, number, &time);
        }
        IntOrString => {
            let mut either = Vec::new();
            varint_field(&mut either, 1, u64::from(value.is_string()));
            varint_field(&mut either, 2, integer(value));
            bytes(&mut either, 3, text(value).as_bytes());
            bytes(out, number, &either);
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn integer(value: &Value) -> u64 {
    value.as_i64().unwrap_or(0).cast_unsigned()
}

/// Parse `2026-11-22T01:02:03Z` into seconds since the epoch; 0 for anything else.
fn epoch_seconds(time: &str) -> u64 {
    let mut numbers = time
        .trim_end_matches('Z')
        .split(['-', 'T', ':'])
        .map(|n| n.parse::<u64>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let (year, month, day) = (next(), next(), next());
    let (hour, minute, second) = (next(), next(), next());
    let leap = |y: u64| {
        let by = |n: u64| y.is_multiple_of(n);
        u64::from(by(4) && (!by(100) || by(400)))
    };
    let years: u64 = (1970..year).map(|y| 365 + leap(y)).sum();
    let lengths = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let past = usize::try_from(month.clamp(1, 12) - 1).unwrap_or(0);
    let months: u64 = lengths.iter().take(past).sum();
    let days = years + months + day.max(1) - 1;
    ((days * 24 + hour) * 60 + minute) * 60 + second
}

/// Encode a string or nested message.
pub(crate) fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Wrap a top-level object in its envelope: `k8s\0` and `runtime.Unknown`.
pub(crate) fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    bytes(&mut meta, 1, api_version.as_bytes());
    bytes(&mut meta, 2, kind.as_bytes());
    let mut out = b"k8s\0".to_vec();
    bytes(&mut out, 1, &meta);
    bytes(&mut out, 2, raw);
    bytes(&mut out, 3, b"");
    bytes(&mut out, 4, b"");
    out
}

/// Append a frame of a watch: four bytes of length and a `meta/v1.WatchEvent`.
pub(crate) fn frame(out: &mut Vec<u8>, event_type: &str, enveloped: &[u8]) {
    let mut raw = Vec::with_capacity(enveloped.len() + 8);
    bytes(&mut raw, 1, enveloped);
    let mut event = Vec::with_capacity(raw.len() + 16);
    bytes(&mut event, 1, event_type.as_bytes());
    bytes(&mut event, 2, &raw);
    out.extend_from_slice(&u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&event);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const TABLE: &str = include_str!("../../source/testdata/wire/fields.txt");

    /// Number and type of each field, and whether the simulator leaves it out, by message and name.
    type Table = BTreeMap<(&'static str, &'static str), (u32, &'static str, bool)>;

    fn table() -> Table {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        let rows = lines.filter(|line| !line.is_empty()).map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let number = words[2].parse().expect(line);
            let row = (number, words[3].trim_start_matches('*'), words.len() > 4);
            ((words[0], words[1]), row)
        });
        rows.collect()
    }

    /// Compare a message, and those within it, with upstream's.
    fn compare(table: &Table, name: &'static str, message: &Message) {
        let mut encoded = BTreeSet::new();
        for Field(field, number, field_type) in message.0 {
            let Some(&(upstream, upstream_type, _)) = table.get(&(name, *field)) else {
                panic!("{name}.{field} is not in fields.txt");
            };
            assert_eq!(*number, upstream, "{name}.{field}");
            let expected = match field_type {
                Text => "string",
                Number => "int",
                Flag => "bool",
                Map => "map",
                Time => "time",
                IntOrString => "intstr",
                Of(inner) => {
                    compare(table, upstream_type, inner);
                    upstream_type
                }
            };
            assert_eq!(upstream_type, expected, "{name}.{field}");
            encoded.insert(*field);
        }
        let of_message = table.iter().filter(|((message, _), _)| *message == name);
        for ((_, field), (.., left_out)) in of_message {
            assert_eq!(!encoded.contains(field), *left_out, "{name}.{field}");
        }
    }

    #[test]
    fn field_numbers_of_the_simulator_equal_upstreams() {
        let table = table();
        compare(&table, "Service", &SERVICE);
        compare(&table, "EndpointSlice", &ENDPOINT_SLICE);
        compare(&table, "Node", &NODE);
        compare(&table, "Status", &STATUS);
        compare(&table, "ListMeta", &LIST_META);
        compare(&table, "ServiceCIDR", &SERVICE_CIDR);
    }
}
