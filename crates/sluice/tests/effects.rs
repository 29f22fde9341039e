//! Effects of single flags on the running program. `surface.rs` lists the test for each flag.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use apiserver_sim::{Config, Sim};
use model::Mode;
use support::{Host, Proxy, Running, SLUICE, eventually, text, web};

/// Return a page from a host, head and body; empty if no server listens.
fn page(host: &Host, address: &str, path: &str) -> String {
    host.run(|| {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(address) {
            let limit = Some(Duration::from_secs(5));
            stream.set_read_timeout(limit).unwrap();
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    })
}

fn one_service() -> [(&'static str, String); 1] {
    [("a.yaml", web("a", 1, "10.244.1.1"))]
}

fn start(mode: Mode, flags: &[&str]) -> Proxy {
    let [(name, content)] = one_service();
    Proxy::start(mode, &[(name, &content)], flags)
}

fn served(proxy: &Proxy) {
    proxy.wait_for("demo/a", true);
}

/// A host with an API server, and proxies that follow it.
struct Cluster {
    host: Host,
    sim: Sim,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        let host = Host::new();
        let sim = host.run(|| Sim::start(Config::default()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        Self { host, sim, folder }
    }

    fn kubeconfig(&self) -> PathBuf {
        let folder = self.folder.path();
        self.sim.write_kubeconfig(folder, "{token: abc}").unwrap()
    }

    fn start(&self, kubeconfig: &Path, flags: &[&str]) -> Running {
        let mut command = self.host.command(SLUICE);
        command
            .args(["proxy", "--proxy-mode=nftables", "--kubeconfig"])
            .arg(kubeconfig)
            .args(flags)
            .stderr(Stdio::null());
        Running(command.spawn().unwrap())
    }

    fn asked(&self) -> Vec<String> {
        self.sim.requests()
    }
}

#[test]
fn version_has_the_form_of_kube_proxy() {
    let print = |flag: &str| {
        let output = Command::new(SLUICE).args(["proxy", flag]).output().unwrap();
        (output.status.success(), text(&output.stdout))
    };
    let version = env!("CARGO_PKG_VERSION");
    let line = format!("v{version} (sluice, for Kubernetes 1.36 and 1.37)\n");
    assert_eq!(print("--version"), (true, format!("Kubernetes {line}")));
    assert_eq!(print("--version=raw"), (true, line));
}

#[test]
fn the_master_flag_overrides_the_server_of_the_kubeconfig() {
    let cluster = Cluster::new();
    let kubeconfig = cluster.kubeconfig();
    let server = format!("https://{}", cluster.sim.address());
    let yaml = fs::read_to_string(&kubeconfig).unwrap();
    assert!(yaml.contains(&server), "{yaml}");
    fs::write(&kubeconfig, yaml.replace(&server, "https://127.0.0.1:1")).unwrap();
    let _proxy = cluster.start(&kubeconfig, &[&format!("--master={server}")]);
    eventually("Services are requested", || {
        cluster
            .asked()
            .iter()
            .any(|r| r.contains("/api/v1/services"))
    });
}

#[test]
fn the_requested_node_is_that_of_hostname_override() {
    let cluster = Cluster::new();
    let _proxy = cluster.start(&cluster.kubeconfig(), &["--hostname-override=Node-7"]);
    eventually("the Node is requested", || {
        let mut asked = cluster.asked().into_iter();
        asked.any(|r| r.contains("/api/v1/nodes") && r.contains("metadata.name%3Dnode-7"))
    });
}

#[test]
fn requests_are_paced_by_qps_and_burst() {
    let (quick, slow) = (Cluster::new(), Cluster::new());
    let flags = ["--kube-api-qps=0.0001", "--kube-api-burst=2"];
    let _slow = slow.start(&slow.kubeconfig(), &flags);
    eventually("the burst is over", || slow.asked().len() == 2);
    let _quick = quick.start(&quick.kubeconfig(), &["--kube-api-qps=1000"]);
    eventually("all kinds are requested", || quick.asked().len() >= 4);
    assert_eq!(slow.asked().len(), 2);
}

#[test]
fn flags_set_the_addresses_of_health_and_metrics() {
    let proxy = start(
        Mode::Nftables,
        &[
            "--healthz-bind-address=127.0.0.2:4321",
            "--metrics-bind-address=127.0.0.3",
            "--metrics-port=1234",
        ],
    );
    served(&proxy);
    let mode = page(&proxy.host, "127.0.0.3:1234", "/proxyMode");
    assert!(mode.ends_with("nftables"), "{mode}");
    let health = page(&proxy.host, "127.0.0.2:4321", "/healthz");
    assert!(health.contains("200 OK"), "{health}");
    for address in ["127.0.0.1:10249", "127.0.0.1:10256", "127.0.0.1:4321"] {
        assert_eq!(page(&proxy.host, address, "/healthz"), "", "{address}");
    }
    let none = start(Mode::Nftables, &["--healthz-port=0"]);
    served(&none);
    assert_eq!(page(&none.host, "127.0.0.1:10256", "/healthz"), "");
    assert_ne!(page(&none.host, "127.0.0.1:10249", "/healthz"), "");
}

#[test]
fn an_occupied_address_ends_the_process_only_if_configured() {
    let host = Host::new();
    let taken = host.run(|| TcpListener::bind("0.0.0.0:10256").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let run = |flags: &[&str]| {
        let mut command = host.command(SLUICE);
        command
            .args(["proxy", "--proxy-mode=nftables", "--manifests"])
            .arg(folder.path())
            .args(flags)
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let strict = run(&["--bind-address-hard-fail"]);
    let output = strict.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("cannot listen on 0.0.0.0:10256 for healthz"),
        "{said}"
    );
    let _lax = Running(run(&[]));
    eventually("the proxy continues", || {
        let tables = host.sh("nft list tables");
        tables.contains("kube-proxy")
    });
    drop(taken);
    eventually("the address is bound once it is free", || {
        page(&host, "127.0.0.1:10256", "/livez").contains("200 OK")
    });
}

#[test]
fn show_hidden_metrics_is_noted_as_ineffective() {
    let proxy = start(Mode::Nftables, &["--show-hidden-metrics-for-version=1.35"]);
    served(&proxy);
    let lines = proxy.log();
    let said = lines
        .lines()
        .filter(|line| line.contains("hide no metrics"));
    assert_eq!(said.count(), 1, "{lines}");
}

#[test]
fn each_ignored_windows_field_is_logged() {
    let (_folder, flag) = config(
        "mode: nftables\nportRange: 1-2\nwindowsRunAsService: true\nwinkernel: {enableDSR: true}",
    );
    let proxy = start(Mode::Nftables, &[&flag]);
    served(&proxy);
    let log = proxy.log();
    for field in ["portRange", "windowsRunAsService", "winkernel"] {
        let said = log
            .lines()
            .filter(|line| line.contains(&format!("reason=\"{field}: ")));
        assert_eq!(said.count(), 1, "{field}: {log}");
    }
}

/// Write a file with these fields; return the folder, and the flag that names the file.
fn config(fields: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let yaml = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    fs::write(&path, format!("{yaml}{fields}\n")).unwrap();
    (folder, format!("--config={}", path.display()))
}

#[test]
fn fields_without_a_flag_take_effect() {
    let fields = "mode: nftables\nclusterCIDR: 10.244.0.0/16\n\
                  nftables: {masqueradeBit: 3, masqueradeAll: true, syncPeriod: 2h}";
    let (_folder, flag) = config(fields);
    let masked = start(Mode::Nftables, &[&flag]);
    served(&masked);
    let table = masked.rules();
    assert!(
        table.contains("0x00000008") && !table.contains("0x00004000"),
        "{table}"
    );
    let (_folder, flag) = config("mode: nftables\nclusterCIDR: 10.244.0.0/16");
    let usual = start(Mode::Nftables, &[&flag]);
    served(&usual);
    // Without masqueradeAll only external traffic is marked.
    assert!(
        usual.rules().contains("10.244.0.0/16") && !table.contains("10.244.0.0/16"),
        "{table}"
    );
    let (_folder, flag) = config("mode: iptables\niptables: {masqueradeAll: true, syncPeriod: 2h}");
    let all = start(Mode::Iptables, &[&flag]);
    served(&all);
    let masquerades = |line: &str| line.contains("cluster IP") && line.contains("KUBE-MARK-MASQ");
    let always = |line: &str| masquerades(line) && !line.contains("! -s");
    let rules = all.rules();
    assert!(rules.lines().any(always), "{rules}");
    let cluster = Cluster::new();
    let kubeconfig = cluster.kubeconfig();
    let (_folder, flag) = config(&format!(
        "mode: nftables\nhostnameOverride: node1\nclientConnection: {{kubeconfig: {}, acceptContentTypes: application/json}}",
        kubeconfig.display()
    ));
    let _proxy = cluster.start(&kubeconfig, &[&flag]);
    eventually("Services are requested as JSON", || {
        let mut asked = cluster.asked().into_iter();
        asked.any(|r| r.contains("/api/v1/services") && r.ends_with(" application/json"))
    });
}

#[test]
fn strict_config_refuses_unknown_fields_that_are_otherwise_ignored() {
    let (_folder, config) = config("mode: nftables\niptables: {masqueradBit: 3}");
    let proxy = start(Mode::Nftables, &[&config]);
    served(&proxy);
    let ignored = "iptables.masqueradBit";
    assert!(proxy.log().contains(ignored), "{}", proxy.log());
    let host = Host::new();
    let output = host.sluice(&["proxy", "--strict-config", &config, "--once"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(ignored), "{error}");
}

#[test]
fn sandbox_off_keeps_all_privileges() {
    for (flag, filter) in [("--sandbox=on", "2"), ("--sandbox=off", "0")] {
        let proxy = start(Mode::Nftables, &[flag]);
        served(&proxy);
        let status = |process: &str, field: &str| {
            let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            value.unwrap().trim().to_owned()
        };
        let id = proxy.process.0.id().to_string();
        eventually(flag, || status(&id, "Seccomp") == filter);
        let kept_all = status(&id, "CapEff") == status("self", "CapEff");
        assert_eq!(kept_all, filter == "0", "{flag}");
    }
}

#[test]
fn the_masquerade_bit_sets_the_mark() {
    let proxy = start(Mode::Iptables, &["--iptables-masquerade-bit=3"]);
    served(&proxy);
    let rules = proxy.rules();
    assert!(rules.contains("--set-xmark 0x8/0x8"), "{rules}");
    assert!(!rules.contains("0x4000"), "{rules}");
}

#[test]
fn the_oom_score_is_set() {
    let proxy = start(Mode::Nftables, &["--oom-score-adj=123"]);
    served(&proxy);
    let pid = proxy.process.0.id();
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "123");
}

#[test]
fn every_conntrack_setting_that_a_namespace_has_is_set() {
    let host = Host::new();
    let output = host.sluice(&[
        "proxy",
        "--init-only",
        "--proxy-mode=nftables",
        "--conntrack-tcp-timeout-established=11m",
        "--conntrack-tcp-timeout-close-wait=12s",
        "--conntrack-tcp-be-liberal",
        "--conntrack-udp-timeout=13s",
        "--conntrack-udp-timeout-stream=14s",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for (name, value) in [
        ("tcp_timeout_established", "660"),
        ("tcp_timeout_close_wait", "12"),
        ("tcp_be_liberal", "1"),
        ("udp_timeout", "13"),
        ("udp_timeout_stream", "14"),
    ] {
        let read = host.sh(&format!("cat /proc/sys/net/netfilter/nf_conntrack_{name}"));
        assert_eq!(read.trim(), value, "{name}");
    }
}

#[test]
fn objects_are_synced_again_every_config_sync_period() {
    let count = |proxy: &Proxy| -> u64 {
        let text = page(&proxy.host, "127.0.0.1:10249", "/metrics");
        let line = "kubeproxy_sync_proxy_rules_service_changes_total ";
        let found = text.lines().find_map(|l| l.strip_prefix(line));
        found.map_or(0, |n| n.parse().unwrap())
    };
    let often = start(Mode::Nftables, &["--config-sync-period=50ms"]);
    served(&often);
    eventually("the objects are counted repeatedly", || count(&often) >= 5);
    let seldom = start(Mode::Nftables, &[]);
    served(&seldom);
    assert_eq!(count(&seldom), 1);
    assert!(
        !often.log().contains("Another program changed"),
        "{}",
        often.log()
    );
}

#[test]
fn logs_have_the_format_of_klog_or_json() {
    let text_log = start(Mode::Nftables, &[]);
    served(&text_log);
    let klog = |line: &str| {
        let (head, _) = line.split_once("] ").unwrap_or_default();
        let mut words = head.split_whitespace();
        let date = words.next().unwrap_or_default();
        date.len() == 5 && date.starts_with(['I', 'W', 'E']) && head.contains(".rs:")
    };
    let log = text_log.log();
    assert!(!log.is_empty() && log.lines().all(klog), "{log}");
    let json_log = start(Mode::Nftables, &["--logging-format=json"]);
    served(&json_log);
    for line in json_log.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["ts"].is_number() && line["msg"].is_string(), "{line}");
    }
}

#[test]
fn verbosity_applies_to_all_or_to_named_files() {
    let details = |flags: &[&str]| {
        let host = Host::new();
        let folder = tempfile::tempdir().unwrap();
        let objects = folder.path().to_str().unwrap();
        let words = [
            "proxy",
            "--proxy-mode=nftables",
            "--logging-format=text",
            "--once",
        ];
        let output = host.sluice(&[&words[..], &["--manifests", objects], flags].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    // Details of the files engine.rs and cleanup/mod.rs.
    let of = |log: &str| {
        (
            log.contains("] Synced "),
            log.contains("] Checking for the state of an earlier proxy"),
        )
    };
    assert_eq!(of(&details(&[])), (false, false));
    assert_eq!(of(&details(&["-v=9"])), (true, true));
    assert_eq!(of(&details(&["--vmodule=engine=9"])), (true, false));
    assert_eq!(of(&details(&["--vmodule=cleanup=9"])), (false, true));
}

#[test]
fn info_lines_are_buffered_as_long_as_flags_set() {
    for format in ["text", "json"] {
        let start = |flush: &str| {
            let host = Host::new();
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a.yaml"), web("a", 1, "10.244.1.1")).unwrap();
            let out = folder.path().join(".out");
            let mut command = host.command(SLUICE);
            command
                .args([
                    "proxy",
                    "--proxy-mode=nftables",
                    "--hostname-override=node1",
                ])
                .args(["--feature-gates=LoggingAlphaOptions=true", "-v=9"])
                .arg(format!("--logging-format={format}"))
                .arg(format!("--log-{format}-split-stream"))
                .arg(format!("--log-{format}-info-buffer-size=1Mi"))
                .arg(format!("--log-flush-frequency={flush}"))
                .arg("--manifests")
                .arg(folder.path())
                .stdout(fs::File::create(&out).unwrap())
                .stderr(Stdio::null());
            let process = Running(command.spawn().unwrap());
            eventually("it serves", || {
                let table = host.sh("nft list table ip kube-proxy 2>/dev/null || true");
                table.contains("demo/a")
            });
            (host, folder, process, out)
        };
        let read = |out: &Path| fs::read_to_string(out).unwrap();
        let (_host, _folder, _process, out) = start("20ms");
        eventually("lines are written while it runs", || !read(&out).is_empty());
        let (host, _folder, mut process, out) = start("1h");
        assert_eq!(read(&out), "", "{format}");
        host.sh(&format!("kill -TERM {}", process.0.id()));
        assert!(process.0.wait().unwrap().success());
        assert!(read(&out).contains("ending"), "{format}: {}", read(&out));
    }
}
