//! Tests of the iptables language.

mod apply;
mod extensions;
mod fuzz;
mod golden;
mod parse;
mod round_trip;

use super::*;

fn rule(text: &str) -> Rule {
    match Rule::parse(Family::Ipv4, text) {
        Ok(rule) => rule,
        Err(error) => panic!("{text}: {error}"),
    }
}

fn rule6(text: &str) -> Rule {
    match Rule::parse(Family::Ipv6, text) {
        Ok(rule) => rule,
        Err(error) => panic!("{text}: {error}"),
    }
}
