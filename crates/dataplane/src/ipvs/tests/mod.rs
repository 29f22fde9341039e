//! Tests of the ipvs mode.

mod change;
mod golden;
mod host;
mod properties;
mod sync;
mod termination;

use std::net::IpAddr;

use observed::read as observed;
use plan::Planner;

use super::*;

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
    let mut planner = observed::configuration(configuration).planner();
    planner.set_host_addresses(interface_addresses());
    planner.take_diff();
    planner
}
