//! Metrics that change only with the kernel: packet counters of rules, and removed flows.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};

use model::Mode;
use support::{Proxy, eventually};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: dns, namespace: demo}\n\
    spec: {clusterIP: 10.96.10.53, ports: [{name: dns, port: 53, protocol: UDP}]}\n";

fn slice(endpoint: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: dns-a, namespace: demo, labels: {{kubernetes.io/service-name: dns}}}}\n\
         addressType: IPv4\nports: [{{name: dns, port: 53, protocol: UDP}}]\n\
         endpoints: [{{addresses: [{endpoint}], conditions: {{ready: true}}}}]\n"
    )
}

/// The sum of a metric's samples, 0 while it has none.
fn value(proxy: &Proxy, metric: &str) -> f64 {
    let page = proxy.host.run(|| {
        let mut page = String::new();
        if let Ok(mut stream) = TcpStream::connect("127.0.0.1:10249") {
            write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
            stream.read_to_string(&mut page).unwrap();
        }
        page
    });
    let samples = page.lines().filter_map(|line| line.strip_prefix(metric));
    samples
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn start() -> Proxy {
    let files = [
        ("service.yaml", SERVICE),
        ("slice.yaml", &slice("10.244.1.1")),
    ];
    let proxy = Proxy::start(Mode::Iptables, &files, &[]);
    proxy.wait_for("10.244.1.1", true);
    proxy
}

#[test]
fn packet_counters_of_rules_reach_the_metrics() {
    let proxy = start();
    for (counter, metric) in [
        (
            "ct_state_invalid_dropped_pkts",
            "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
        ),
        (
            "localhost_nps_accepted_pkts",
            "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
        ),
    ] {
        assert_eq!(value(&proxy, metric), 0.0, "{metric}");
        proxy.host.sh(&format!(
            "iptables-nft -A OUTPUT -o lo -m nfacct --nfacct-name {counter}"
        ));
        eventually(metric, || value(&proxy, metric) > 0.0);
    }
}

#[test]
fn removed_flows_are_counted() {
    let proxy = start();
    let deleted = "kubeproxy_conntrack_reconciler_deleted_entries_total";
    let sweeps = "kubeproxy_conntrack_reconciler_sync_duration_seconds_count";
    assert_eq!(value(&proxy, deleted), 0.0);
    proxy.host.sh("ip route add default dev eth0");
    let socket = proxy.host.run(|| UdpSocket::bind("10.200.1.2:0").unwrap());
    socket.send_to(b"question", "10.96.10.53:53").unwrap();
    proxy.write("slice.yaml", &slice("10.244.1.2"));
    eventually(deleted, || value(&proxy, deleted) == 1.0);
    assert!(value(&proxy, sweeps) > 0.0);
}
