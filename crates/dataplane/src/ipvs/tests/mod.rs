//! Tests of the ipvs mode.

mod change;
mod golden;
mod host;
mod properties;
mod termination;

use std::net::IpAddr;
use std::path::PathBuf;

use model::{Interner, Kind, object::Object};
use plan::{Planner, Settings};

use super::*;

/// The configurations that were observed.
const CONFIGURATIONS: [&str; 3] = ["default", "masquerade-all", "lc-strictarp"];

fn observed(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/observed");
    std::fs::read_to_string(path.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn options(configuration: &str) -> Options {
    let scheduler = match configuration {
        "lc-strictarp" => "lc",
        _ => "rr",
    };
    Options {
        scheduler: scheduler.into(),
        ..Options::default()
    }
}

/// The addresses of the observed node: the machine that the virtual one ran on had lent it one
/// more, on the loopback interface.
fn interface_addresses() -> Vec<IpAddr> {
    plan::testing::ips(&[
        "127.0.0.1",
        "10.200.0.1",
        "10.200.1.2",
        "::1",
        "fd00:200:1::2",
        "fe80::80a4:37ff:fe6c:7d3",
    ])
}

fn planner(configuration: &str) -> Planner {
    let mut planner = Planner::new(Settings {
        masquerade_all: configuration == "masquerade-all",
        ..plan::testing::settings("node1")
    });
    planner.set_host_addresses(interface_addresses());
    let list: serde_json::Value = serde_json::from_str(&observed("objects.json")).unwrap();
    let mut interner = Interner::default();
    for item in list["items"].as_array().unwrap() {
        let text = |field: &str| item[field].as_str().unwrap();
        let kind = Kind::of(text("apiVersion"), text("kind")).unwrap();
        let object = Object::deserialize(kind, item).unwrap();
        planner.apply(object.check(&mut interner).unwrap().value);
    }
    planner.take_diff();
    planner
}
