//! Effects of kube-proxy's flags on the running program that the other tests do not show.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use apiserver_sim::{Config, Sim};
use model::Mode;
use support::{Host, Proxy, SLUICE, eventually, text, web};

/// The modes that every kernel supports. For ipvs mode see `tests/ipvs`.
fn modes() -> impl Iterator<Item = Mode> {
    let all = Mode::ALL.into_iter();
    all.filter(|mode| !mode.has_virtual_servers())
}

/// Send a request to the metrics server of a host; return the answer, empty if no server listens.
fn ask(host: &Host, request: &str) -> String {
    host.run(|| {
        let mut answer = String::new();
        let Ok(mut stream) = TcpStream::connect("127.0.0.1:10249") else {
            return answer;
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        write!(
            stream,
            "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\n5"
        )
        .unwrap();
        let _ = stream.read_to_string(&mut answer);
        answer
    })
}

fn no_rules(host: &Host) {
    let rules = host.sh("iptables-nft-save; ip6tables-nft-save; nft list ruleset");
    assert!(!rules.contains("KUBE-"), "{rules}");
    assert!(!rules.contains("kube-proxy"), "{rules}");
    assert!(!rules.contains("sluice"), "{rules}");
}

#[test]
fn init_only_applies_the_root_settings_and_exits() {
    for mode in Mode::ALL {
        let host = Host::new();
        let output = host.sluice(&[
            "proxy",
            "--init-only",
            "--conntrack-tcp-timeout-established=1234s",
            &format!("--proxy-mode={mode}"),
        ]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let value = host.sh("cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established");
        assert_eq!(value.trim(), "1234", "{mode}");
        let localnet = host.sh("cat /proc/sys/net/ipv4/conf/all/route_localnet");
        let wanted = if mode == Mode::Iptables { "1" } else { "0" };
        assert_eq!(localnet.trim(), wanted, "{mode}");
        no_rules(&host);
    }
}

#[test]
fn cleanup_removes_the_state_of_every_mode() {
    for mode in modes() {
        let mut proxy = Proxy::start(mode, &[("a.yaml", &web("a", 1, "10.244.1.1"))], &[]);
        proxy.wait_for("demo/a", true);
        proxy.kill();
        assert!(proxy.rules().contains("demo/a"), "rules outlive the proxy");
        // In any configured mode.
        let clean = || {
            let output = proxy
                .host
                .sluice(&["proxy", "--cleanup", "--proxy-mode=iptables"]);
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stderr)
        };
        let said = clean();
        if mode == Mode::Iptables {
            // As in kube-proxy, the chain that protects loopback stays while other hosts can reach it.
            assert!(said.contains("Keeping KUBE-FIREWALL"), "{said}");
            let left = proxy.host.sh("iptables-nft-save; ip6tables-nft-save");
            let mut chains = left.lines().filter_map(|line| line.strip_prefix(":KUBE-"));
            assert!(chains.all(|chain| chain.starts_with("FIREWALL ")), "{left}");
            proxy
                .host
                .sh("sysctl -qw net.ipv4.conf.all.route_localnet=0");
            clean();
        }
        no_rules(&proxy.host);
    }
}

#[test]
fn config_reads_the_file_of_write_config_to() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("1"), folder.path().join("2"));
    let path = |p: &std::path::Path| p.to_str().unwrap().to_owned();
    let output = host.sluice(&[
        "proxy",
        "--proxy-mode=nftables",
        "--cluster-cidr=10.1.0.0/16",
        "--write-config-to",
        &path(&first),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let written = fs::read_to_string(&first).unwrap();
    assert!(written.contains("10.1.0.0/16"), "{written}");
    let again = ["proxy", "--config", &path(&first), "--write-config-to"];
    let output = host.sluice(&[&again[..], &[&path(&second)]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&second).unwrap(), written);
    no_rules(&host);
}

#[test]
fn external_ips_are_served_unless_the_feature_gate_is_off() {
    let service = web("a", 1, "10.244.1.1").replace(
        "clusterIP: 10.96.10.1",
        "clusterIP: 10.96.10.1, externalIPs: [203.0.113.7]",
    );
    for mode in modes() {
        let files = [("a.yaml", service.as_str())];
        let open = Proxy::start(mode, &files, &[]);
        open.wait_for("203.0.113.7", true);
        let gate = ["--feature-gates=AllowServiceExternalIPs=false"];
        let closed = Proxy::start(mode, &files, &gate);
        closed.wait_for("10.96.10.1", true);
        assert!(
            !closed.rules().contains("203.0.113.7"),
            "{}",
            closed.rules()
        );
    }
}

#[test]
fn split_streams_put_only_errors_on_standard_error() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let bad = web("bad", 1, "10.244.1.1").replace("port: 80}", "port: 99999}");
    fs::write(folder.path().join("a.yaml"), bad).unwrap();
    let run = |flags: &[&str]| {
        let output = host
            .command(SLUICE)
            .args([
                "proxy",
                "--proxy-mode=nftables",
                "--hostname-override=node1",
            ])
            .args(["--logging-format=json", "--once", "--manifests"])
            .arg(folder.path())
            .args(flags)
            .output()
            .unwrap();
        (text(&output.stdout), text(&output.stderr))
    };
    let (stdout, stderr) = run(&[]);
    assert_eq!(stdout, "");
    assert!(stderr.contains("\"level\":\"error\""), "{stderr}");
    let (stdout, stderr) = run(&[
        "--feature-gates=LoggingAlphaOptions=true",
        "--log-json-split-stream",
        "-v=6",
    ]);
    assert!(stderr.contains("99999"), "{stderr}");
    let only = |text: &str, errors: bool| {
        !text.is_empty()
            && text
                .lines()
                .all(|line| line.contains("\"level\":\"error\"") == errors)
    };
    assert!(only(&stderr, true), "{stderr}");
    assert!(only(&stdout, false), "{stdout}");
}

#[test]
fn verbosity_can_change_at_runtime_if_profiling_is_enabled() {
    let files = [("a.yaml", web("a", 1, "10.244.1.1"))];
    let files: Vec<_> = files.iter().map(|(n, c)| (*n, c.as_str())).collect();
    let on = Proxy::start(Mode::Nftables, &files, &["--profiling"]);
    eventually("the server answers", || {
        ask(&on.host, "PUT /debug/flags/v").starts_with("HTTP/1.1 200")
    });
    assert!(ask(&on.host, "GET /flagz").contains("profiling=true"));
    // Go's profiles do not exist here.
    assert!(ask(&on.host, "GET /debug/pprof/heap").starts_with("HTTP/1.1 404"));
    let off = Proxy::start(Mode::Nftables, &files, &[]);
    eventually("the server answers", || {
        ask(&off.host, "GET /proxyMode").contains("nftables")
    });
    assert!(ask(&off.host, "PUT /debug/flags/v").starts_with("HTTP/1.1 404"));
}

#[test]
fn without_a_node_object_the_bind_address_is_the_node_address() {
    let service = web("a", 1, "10.244.1.1")
        .replace("clusterIP:", "type: NodePort, clusterIP:")
        .replace("port: 80}", "port: 80, nodePort: 30123}");
    let files = [("a.yaml", service.as_str())];
    let proxy = Proxy::start(Mode::Nftables, &files, &["--bind-address=10.200.1.2"]);
    proxy.wait_for("30123", true);
    let addresses = proxy.host.sh("nft list set ip kube-proxy nodeport-ips");
    assert!(addresses.contains("10.200.1.2"), "{addresses}");
}

#[test]
fn the_content_type_flag_sets_the_accept_header() {
    for (flag, wanted) in [
        (
            "--kube-api-content-type=application/json",
            "application/json",
        ),
        (
            "--kube-api-content-type=application/vnd.kubernetes.protobuf",
            "application/vnd.kubernetes.protobuf",
        ),
    ] {
        let host = Host::new();
        let sim = host.run(|| Sim::start(Config::default()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}").unwrap();
        let _running = host.follow(&kubeconfig, &[flag]);
        let asked = || {
            sim.requests()
                .into_iter()
                .find(|r| r.contains("/api/v1/services"))
        };
        eventually("Services are requested", || asked().is_some());
        let request = asked().unwrap();
        let accept = request.split_whitespace().last().unwrap();
        let first = accept.split([',', ';']).next().unwrap();
        assert_eq!(first, wanted, "{request}");
    }
}
