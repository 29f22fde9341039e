//! The served pages over real sockets on loopback.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use model::{IpFamily, Mode, NamespacedName};
use observe::{Metrics, NodeEligibility, Options, Pages, Server, ServiceHealth};

fn free_port(ip: IpAddr) -> u16 {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn pages() -> Pages {
    Pages {
        proxy_mode: "nftables".to_owned(),
        configz: serde_json::json!({"kubeproxy.config.k8s.io": {"mode": "nftables"}}),
        flags: Some(BTreeMap::from([(
            "proxy-mode".to_owned(),
            "nftables".to_owned(),
        )])),
        statusz: true,
        version: "1.2.3".to_owned(),
        started: SystemTime::now(),
    }
}

/// Nothing but the pages.
fn options(healthz: Option<SocketAddr>, metrics: Option<SocketAddr>) -> Options {
    Options {
        healthz,
        metrics,
        bind_hard_fail: true,
        health_timeout: Duration::from_secs(60),
        pages: pages(),
        set_verbosity: None,
        before_scrape: Box::new(|_| {}),
        listen_failed: Box::new(|_, _, _| {}),
    }
}

struct Served {
    server: Server,
    healthz: SocketAddr,
    metrics: SocketAddr,
    failures: Arc<Mutex<Vec<String>>>,
}

fn start() -> Served {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let address = || SocketAddr::new(loopback, free_port(loopback));
    let (healthz, metrics) = (address(), address());
    let failures = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&failures);
    let options = Options {
        healthz: Some(healthz),
        metrics: Some(metrics),
        bind_hard_fail: true,
        health_timeout: Duration::from_secs(60),
        pages: pages(),
        set_verbosity: Some(Box::new(|v| {
            v.parse::<u8>().map(drop).map_err(|e| e.to_string())
        })),
        before_scrape: Box::new(|m| m.endpoint_changes_pending.set(7)),
        listen_failed: Box::new(move |name, port, _| {
            sink.lock().unwrap().push(format!("{name} {port}"));
        }),
    };
    let server = Server::start(options, Metrics::new(Mode::Nftables).unwrap()).unwrap();
    Served {
        server,
        healthz,
        metrics,
        failures,
    }
}

/// Status code, headers in lower case, body.
fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String, String) {
    accepting(address, method, path, "*/*", body)
}

fn accepting(
    address: SocketAddr,
    method: &str,
    path: &str,
    accept: &str,
    body: &str,
) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    request(address, "GET", path, "")
}

/// Tries until `wanted` holds: the ports are opened by another thread.
fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !wanted() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn probes_answer_with_status_and_json() {
    let served = start();
    served.server.synced(IpFamily::V4);
    let (status, head, body) = get(served.healthz, "/healthz");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"));
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["nodeEligible"], true);
    assert_eq!(body["status"]["IPv4"]["healthy"], true);

    served.server.set_node(NodeEligibility::Ineligible);
    assert_eq!(get(served.healthz, "/healthz").0, 503);
    assert_eq!(get(served.healthz, "/livez").0, 200);

    let past = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
    served.server.queued(IpFamily::V4, past);
    assert_eq!(get(served.healthz, "/livez").0, 503);

    let text = get(served.metrics, "/metrics").2;
    assert!(text.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 1\n"));
    assert!(text.contains("kubeproxy_proxy_livez_total{code=\"200\"} 1\n"));
}

#[test]
fn the_metrics_address_serves_every_page() {
    let served = start();
    assert_eq!(get(served.metrics, "/healthz").2, "ok");
    assert_eq!(get(served.metrics, "/proxyMode").2, "nftables");
    assert!(
        get(served.metrics, "/metrics")
            .2
            .contains("\nkubeproxy_sync_proxy_rules_endpoint_changes_pending 7\n")
    );
    // As every component of Kubernetes has it.
    let verbose = get(served.metrics, "/healthz?verbose").2;
    assert_eq!(verbose, "[+]ping ok\nhealthz check passed\n");
    assert_eq!(get(served.metrics, "/healthz/ping").2, "ok");
    let slis = get(served.metrics, "/metrics/slis").2;
    for sample in [
        "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 3\n",
        "process_start_time_seconds 0\n",
    ] {
        assert!(slis.contains(&format!("\n{sample}")), "{slis}");
    }
    assert_eq!(
        get(served.metrics, "/configz").2,
        r#"{"kubeproxy.config.k8s.io":{"mode":"nftables"}}"#
    );
    assert!(
        get(served.metrics, "/flagz")
            .2
            .contains("proxy-mode=nftables\n")
    );
    assert!(
        get(served.metrics, "/statusz")
            .2
            .contains("Binary version: sluice 1.2.3\n")
    );
    for address in [served.metrics, served.healthz] {
        let (status, head, body) = get(address, "/nonsense");
        assert_eq!((status, body.as_str()), (404, "404 page not found\n"));
        assert!(head.contains("content-type: text/plain"), "{head}");
    }
}

#[test]
fn z_pages_serve_objects_on_request() {
    let served = start();
    let ask = |kind: &str| {
        let accept = format!("application/json;v=v1beta1;g=config.k8s.io;as={kind}");
        let path = format!("/{}", kind.to_lowercase());
        let (status, head, body) = accepting(served.metrics, "GET", &path, &accept, "");
        assert_eq!(status, 200, "{kind}");
        let said = format!("content-type: application/json;g=config.k8s.io;v=v1beta1;as={path}");
        assert!(head.contains(&said.replace("=/", "=")), "{head}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    let flagz = ask("Flagz");
    assert_eq!(flagz["kind"], "Flagz");
    assert_eq!(flagz["apiVersion"], "config.k8s.io/v1beta1");
    assert_eq!(flagz["flags"]["proxy-mode"], "nftables");
    let statusz = ask("Statusz");
    assert_eq!(statusz["metadata"]["name"], "kube-proxy");
    assert_eq!(statusz["binaryVersion"], "sluice 1.2.3");
    for path in statusz["paths"].as_array().unwrap() {
        assert_eq!(get(served.metrics, path.as_str().unwrap()).0, 200, "{path}");
    }
    let unknown = accepting(served.metrics, "GET", "/flagz", "application/json", "");
    assert_eq!(unknown.0, 406);
    assert!(unknown.2.contains("\"reason\":\"NotAcceptable\""));
}

#[test]
fn disabled_pages_are_not_found() {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let metrics = SocketAddr::new(loopback, free_port(loopback));
    let options = Options {
        pages: Pages {
            flags: None,
            statusz: false,
            ..pages()
        },
        ..options(None, Some(metrics))
    };
    let _server = Server::start(options, Metrics::new(Mode::Ipvs).unwrap()).unwrap();
    assert_eq!(get(metrics, "/proxyMode").0, 200);
    for path in ["/flagz", "/statusz", "/debug/flags/v", "/debug/pprof/heap"] {
        assert_eq!(get(metrics, path).0, 404, "{path}");
    }
}

#[test]
fn a_health_check_port_is_open_on_the_configured_addresses() {
    let served = start();
    let at = |last| IpAddr::from([127, 0, 0, last]);
    let port = free_port(at(1));
    let open = |ip| TcpStream::connect((ip, port)).is_ok();
    let health = ServiceHealth {
        port,
        local_endpoints: [Some(1), None],
    };
    served
        .server
        .set_service_health_addresses(vec![at(1), at(2)]);
    let name = NamespacedName::new("demo", "web");
    served.server.change_services([(name, Some(health))]);
    eventually("open", || open(at(1)) && open(at(2)));
    assert!(!open(at(3)));
    served
        .server
        .set_service_health_addresses(vec![at(2), at(3)]);
    eventually("moved", || open(at(3)) && !open(at(1)));
    assert!(open(at(2)));
}

#[test]
fn verbosity_is_set_and_invalid_values_are_refused() {
    let served = start();
    let put = |flag: &str, value: &str| {
        request(
            served.metrics,
            "PUT",
            &format!("/debug/flags/{flag}"),
            value,
        )
    };
    assert_eq!(put("v", "4").0, 200);
    assert_eq!(put("v", "loud").0, 400);
    assert_eq!(put("other", "4").0, 404);
    assert_eq!(get(served.metrics, "/debug/flags/v").0, 406);
    let (status, _, body) = get(served.metrics, "/debug/pprof/heap");
    assert!(status == 404 && body.contains("perf record"), "{body}");
}

#[test]
fn a_health_check_port_reports_local_endpoints_and_closes() {
    let served = start();
    let name = NamespacedName::new("demo", "web");
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let port = free_port(v6);
    let address = SocketAddr::new(v6, port);
    let service = |local_endpoints| {
        let health = ServiceHealth {
            port,
            local_endpoints: [None, Some(local_endpoints)],
        };
        [(name.clone(), Some(health))]
    };
    served.server.synced(IpFamily::V6);
    served.server.change_services(service(2));
    eventually("open", || TcpStream::connect(address).is_ok());
    let (status, head, body) = get(address, "/anything");
    assert_eq!(status, 200);
    assert!(head.contains("x-load-balancing-endpoint-weight: 2"));
    assert_eq!(
        body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"demo\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
    );
    served.server.change_services(service(0));
    assert_eq!(get(address, "/").0, 503);
    served.server.change_services([(name.clone(), None)]);
    eventually("closed", || TcpStream::connect(address).is_err());
}

/// kube-proxy 1.37: a node without a local IPv4 endpoint fails checks over IPv4 only.
#[test]
fn a_dual_stack_service_answers_per_family() {
    let served = start();
    let name = NamespacedName::new("demo", "web");
    let port = free_port(IpAddr::V6(Ipv6Addr::LOCALHOST));
    let health = ServiceHealth {
        port,
        local_endpoints: [Some(0), Some(2)],
    };
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let status = |address| get(address, "/").0;
    served.server.change_services([(name, Some(health))]);
    eventually("open", || {
        [v4, v6].iter().all(|at| TcpStream::connect(at).is_ok())
    });
    assert_eq!([status(v4), status(v6)], [503, 200]);
    // Checks over one family are for both.
    let only = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    served.server.set_service_health_addresses(only);
    eventually("moved", || TcpStream::connect(v6).is_err());
    eventually("listens", || TcpStream::connect(v4).is_ok());
    assert_eq!(status(v4), 200);
}

#[test]
fn an_occupied_port_is_reported_and_others_are_opened() {
    let served = start();
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let taken = TcpListener::bind((any, 0)).unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let port = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let with_port = |name, port| {
        let health = ServiceHealth {
            port,
            local_endpoints: [Some(1), None],
        };
        (NamespacedName::new("demo", name), Some(health))
    };
    served
        .server
        .change_services([with_port("a-taken", taken_port), with_port("b-free", port)]);
    eventually("the other opens", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    });
    assert_eq!(
        *served.failures.lock().unwrap(),
        [format!("demo/a-taken {taken_port}")]
    );
}

#[test]
fn an_occupied_address_is_an_error_with_hard_fail() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let options = options(Some(address), None);
    let error = Server::start(options, Metrics::new(Mode::Ipvs).unwrap())
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {address} for healthz")
    );
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.to_string().starts_with("Address already in use"));
}
