//! Stale flows after a change of a Service.

use model::{Change, Endpoint, EndpointSlice, Event, Protocol, Service, ServiceType};
use plan::testing::{Applied, endpoint, ips, name, service, slice};
use plan::{FlowFrontend, Planner, StaleFlows};

use super::{planner, texts};

fn dns(external: &[&str]) -> Event {
    Service {
        service_type: ServiceType::NodePort,
        external_ips: ips(external),
        ..service(
            "demo/dns",
            &["10.96.0.10"],
            &["dns:53:30053/UDP", "tcp:53:30053/TCP"],
        )
    }
    .applied()
}

fn slice_of(endpoints: Vec<Endpoint>) -> EndpointSlice {
    slice(
        "a",
        "demo/dns",
        &["dns:5353/UDP", "tcp:5353/TCP"],
        endpoints,
    )
}

fn serving(hosts: &[u8]) -> Event {
    let ip = |host| format!("10.244.1.{host}");
    let endpoints = hosts.iter().map(|host| endpoint(&ip(host), "node1"));
    slice_of(endpoints.collect()).applied()
}

/// Return the frontends of the next diff's stale flows, and the last digits of the endpoints whose
/// flows stay. They are the same for the UDP and the TCP port.
fn stale(
    planner: &mut Planner,
    events: impl IntoIterator<Item = Event>,
) -> Option<(Vec<String>, String)> {
    planner.apply_all(events);
    let flows = planner.take_diff().v4.stale_flows;
    let of = |protocol| {
        flows
            .iter()
            .find(|f: &&StaleFlows| f.protocol() == protocol)
    };
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(of);
    let content = |flows: &StaleFlows| (flows.frontends().collect::<Vec<_>>(), flows.keep.clone());
    assert_eq!(tcp.map(content), udp.map(content));
    let (frontends, keep) = udp.map(content)?;
    let text = |frontend: FlowFrontend| match frontend {
        FlowFrontend::Address(ip, port) => format!("{ip}:{port}"),
        FlowFrontend::NodePort(port) => format!("*:{port}"),
    };
    let digits = texts(&keep)
        .into_iter()
        .map(|t| t["10.244.1.".len()..][..1].to_owned());
    Some((frontends.into_iter().map(text).collect(), digits.collect()))
}

fn all(keep: &str) -> Option<(Vec<String>, String)> {
    let frontends = ["10.96.0.10:53", "*:30053"].map(str::to_owned);
    Some((frontends.to_vec(), keep.to_owned()))
}

#[test]
fn flows_to_removed_endpoints_are_stale() {
    let mut planner = planner([dns(&[]), serving(&[1, 2])]);
    let planner = &mut planner;
    assert_eq!(stale(planner, [serving(&[1, 2, 3])]), None, "one more");
    assert_eq!(stale(planner, [serving(&[2, 3])]), all("23"), "one less");
    assert_eq!(
        stale(planner, [serving(&[3, 4])]),
        all("34"),
        "one for another"
    );
    assert_eq!(stale(planner, [serving(&[])]), all(""), "none left");
    assert_eq!(
        stale(planner, [dns(&["192.0.2.1"])]),
        None,
        "none before or after"
    );
    assert_eq!(
        stale(planner, [dns(&[]), serving(&[5])]),
        all("5"),
        "from none to one"
    );
    let gone = Event::Service(Change::Deleted(name("demo/dns")));
    assert_eq!(stale(planner, [gone]), None, "flows outlive their Service");
}

#[test]
fn at_start_flows_to_serving_endpoints_are_kept() {
    let mut planner = Planner::new(plan::testing::settings("node1"));
    assert_eq!(
        stale(&mut planner, [dns(&[])]),
        None,
        "the slices may be on their way"
    );
    assert_eq!(stale(&mut planner, [serving(&[1, 2])]), all("12"));
    let mut planner = Planner::new(plan::testing::settings("node1"));
    assert_eq!(stale(&mut planner, [dns(&[]), serving(&[1, 2])]), all("12"));
}

#[test]
fn flows_end_with_serving_and_not_with_policies() {
    let state = |(ready, serving, terminating)| {
        let mut leaving = endpoint("10.244.1.1", "node1");
        leaving.conditions.ready = ready;
        leaving.conditions.serving = serving;
        leaving.conditions.terminating = terminating;
        slice_of(vec![leaving, endpoint("10.244.1.2", "node2")]).applied()
    };
    let mut planner = planner([dns(&[]), serving(&[1, 2])]);
    assert_eq!(
        stale(&mut planner, [state((true, true, false))]),
        all("12"),
        "it has moved"
    );
    assert_eq!(
        stale(&mut planner, [state((false, true, true))]),
        None,
        "terminating, serving"
    );
    assert_eq!(
        stale(&mut planner, [state((false, false, true))]),
        all("2"),
        "served out"
    );
}

#[test]
fn flows_older_than_a_new_frontend_are_stale() {
    let mut planner = planner([dns(&[]), serving(&[1])]);
    let new = Some((vec!["192.0.2.1:53".to_owned()], "1".to_owned()));
    assert_eq!(stale(&mut planner, [dns(&["192.0.2.1"])]), new);
    assert_eq!(stale(&mut planner, [dns(&[])]), None);
}
