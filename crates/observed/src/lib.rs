//! The recordings in `testdata/observed`: what kube-proxy programmed for a set of objects.
//!
//! For tests only, so every function panics if a recording is missing or damaged. The README beside
//! the recordings describes how they were made. This crate contains the only list of the recorded
//! configurations; it leaves the parsing of rules to the tests.

mod configuration;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use model::object::Object;
use model::{Event, Interner, IpFamily, Kind};

pub use configuration::{Configuration, IPTABLES, IPVS, NFTABLES, configuration};

/// The name of the recorded node.
pub const NODE: &str = "node1";

/// The cluster ranges of all configurations that detect local traffic by range.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:10:244::/56";

/// Return the path of a recording.
pub fn path(name: &str) -> PathBuf {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/observed"
    ))
    .join(name)
}

/// Return a recording's content.
pub fn read(name: &str) -> String {
    let path = path(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Return the API server's objects, as JSON.
pub fn objects_json() -> Vec<serde_json::Value> {
    let mut list: serde_json::Value = serde_json::from_str(&read("objects.json")).unwrap();
    match list["items"].take() {
        serde_json::Value::Array(items) => items,
        other => panic!("objects.json: items is {other}"),
    }
}

/// Return the API server's objects, checked.
pub fn objects() -> Vec<Event> {
    let mut interner = Interner::new();
    let check = |item: &serde_json::Value| {
        let text = |field: &str| item[field].as_str().unwrap();
        let kind = Kind::of(text("apiVersion"), text("kind")).unwrap();
        let object = Object::deserialize(kind, item).unwrap();
        object.check(&mut interner).unwrap().value
    };
    objects_json().iter().map(check).collect()
}

/// Return the node's interface addresses.
pub fn host_addresses() -> Vec<IpAddr> {
    ["127.0.0.1", "10.200.1.2", "::1", "fd00:200:1::2"]
        .map(|ip| ip.parse().unwrap())
        .to_vec()
}

/// Return a family as file names contain it.
pub const fn version(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "v4",
        IpFamily::V6 => "v6",
    }
}
