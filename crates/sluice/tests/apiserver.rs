//! The program against an API server over TLS in nftables mode: the kernel's state finally equals the
//! server's objects, whatever faults the server had.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use apiserver_sim::{Act, Config, Corruption, Refusal, Resource, Sim, acts, synthetic_cluster};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{CLUSTER_CIDR, Host, Running, SLUICE, eventually, text};
use tempfile::TempDir;

/// A host with an API server on its loopback and a proxy that watches it.
struct Cluster {
    host: Host,
    sim: Sim,
    folder: TempDir,
    kubeconfig: PathBuf,
    proxy: Option<Running>,
}

fn objects() -> Vec<Value> {
    let list: Value =
        serde_json::from_str(&fs::read_to_string(observed::path("objects.json")).unwrap()).unwrap();
    list["items"].as_array().unwrap().clone()
}

impl Cluster {
    /// A cluster without a proxy.
    fn new(objects: Vec<Value>) -> Self {
        Self::with(Config::default(), objects)
    }

    fn with(config: Config, objects: Vec<Value>) -> Self {
        let host = Host::new();
        // Its sockets belong into the namespace.
        let sim = host.run(|| Sim::start(config).unwrap());
        sim.apply(objects);
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = sim.write_kubeconfig(folder.path(), "{token: abc}").unwrap();
        Self {
            host,
            sim,
            folder,
            kubeconfig,
            proxy: None,
        }
    }

    fn start_proxy(&mut self) {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        let sluice = self.host.command(SLUICE);
        self.start(sluice, &[&kubeconfig]);
    }

    /// Start a command that executes the program, with additional flags.
    fn start(&mut self, mut command: Command, flags: &[&str]) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        command.args([
            "proxy",
            "--proxy-mode=nftables",
            "--hostname-override=node1",
        ]);
        command.args(["--iptables-min-sync-period=10ms"]);
        command.arg(format!("--cluster-cidr={CLUSTER_CIDR}"));
        command.args(flags).stderr(Stdio::from(log));
        self.proxy = Some(Running(command.spawn().unwrap()));
    }

    /// Add (`-I`) or delete (`-D`) a rule for packets from or to the server's port.
    fn firewall(&self, option: &str, ports: &str, target: &str) {
        let port = self.sim.address().port();
        self.host.sh(&format!(
            "iptables-nft {option} INPUT -p tcp -m multiport {ports} {port} -j {target}"
        ));
    }

    /// Change this node's Node.
    fn change_node(&self, change: impl FnOnce(&mut Value)) {
        let mut nodes = self.sim.objects(Resource::Nodes);
        let node = nodes.iter_mut().find(|n| n["metadata"]["name"] == "node1");
        change(node.unwrap());
        self.sim.apply(nodes);
    }

    fn is_running(&mut self) -> bool {
        let process = &mut self.proxy.as_mut().unwrap().0;
        process.try_wait().unwrap().is_none()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn table(&self) -> String {
        self.host
            .sh("nft list table ip kube-proxy 2>/dev/null || true")
    }

    /// Wait until the table has the elements that `render` derives from the server's objects.
    fn wait_until_right(&self, when: &str) {
        let mut items = Vec::new();
        for resource in Resource::ALL {
            items.extend(self.sim.objects(resource));
        }
        let file = self.folder.path().join("objects.json");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        fs::write(&file, list.to_string()).unwrap();
        let config = self.folder.path().join("config.yaml");
        fs::write(
            &config,
            format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                 mode: nftables\nclusterCIDR: {CLUSTER_CIDR}\n"
            ),
        )
        .unwrap();
        let other = Host::new();
        let output = other.sluice(&[
            "render",
            "--mode=nftables",
            "--node=node1",
            "--config",
            config.to_str().unwrap(),
            "-f",
            file.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let rendered = self.folder.path().join("rendered.nft");
        fs::write(&rendered, &output.stdout).unwrap();
        other.sh(&format!("nft -f {}", rendered.display()));
        let expected = elements(&other.sh("nft list table ip kube-proxy"));
        let mut seen = Vec::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::time::Instant::now() < deadline {
            seen = elements(&self.table());
            if seen == expected {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let missing: Vec<_> = expected.iter().filter(|e| !seen.contains(e)).collect();
        let more: Vec<_> = seen.iter().filter(|e| !expected.contains(e)).collect();
        panic!(
            "{when}: missing {missing:#?}, too many {more:#?}\n{}",
            self.log()
        );
    }
}

/// The elements of a listing, regardless of its lines.
fn elements(listing: &str) -> Vec<String> {
    let mut found = Vec::new();
    for block in listing.split("elements = {").skip(1) {
        let Some((inside, _)) = block.split_once('}') else {
            continue;
        };
        for element in inside.split(',') {
            // Learnt elements, which expire, do not come from objects.
            let words: Vec<&str> = element.split_whitespace().collect();
            if !words.contains(&"expires") {
                found.push(words.join(" "));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn observed_objects_and_their_changes_are_programmed() {
    let mut cluster = Cluster::new(objects());
    cluster.start_proxy();
    cluster.wait_until_right("at start");
    assert!(cluster.table().contains("10.244.1.11 . 8080"));
    let mut slice = cluster
        .sim
        .objects(Resource::EndpointSlices)
        .into_iter()
        .find(|s| s["metadata"]["name"] == "web-a")
        .unwrap();
    slice["endpoints"][0]["addresses"][0] = json!("10.244.1.77");
    cluster.sim.apply([slice]);
    cluster.wait_until_right("after a changed slice");
    assert!(cluster.table().contains("10.244.1.77 . 8080"));
    assert!(cluster.sim.delete(Resource::Services, "demo", "web"));
    cluster.wait_until_right("after a deleted Service");
    eventually("the Event about the start", || {
        let events = cluster.sim.posted_events();
        events
            .iter()
            .any(|e| e["reason"] == "Starting" && e["regarding"]["name"] == "node1")
    });
}

#[test]
fn metrics_common_to_all_components_are_served() {
    let mut cluster = Cluster::new(objects());
    cluster.sim.misbehave(|faults| {
        faults.refusals.push(Refusal {
            code: 503,
            reason: "ServiceUnavailable".to_owned(),
            retry_after: None,
            times: 1,
            resource: Some(Resource::Services),
        });
    });
    cluster.start_proxy();
    cluster.wait_until_right("at start");
    let ask = "printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' | nc -w 2 127.0.0.1 10249";
    let value = |metrics: &str, sample: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    };
    let host = cluster.sim.address();
    let requests = |code, method: &str| {
        format!("rest_client_requests_total{{code=\"{code}\",host=\"{host}\",method=\"{method}\"}}")
    };
    eventually("requests are counted", || {
        let metrics = cluster.host.sh(ask);
        // Four kinds and an Event.
        value(&metrics, &requests(200, "GET")) >= 4.0
            && value(&metrics, &requests(503, "GET")) == 1.0
            && value(&metrics, &requests(201, "POST")) == 1.0
    });
    let metrics = cluster.host.sh(ask);
    let posted =
        format!("rest_client_request_duration_seconds_count{{host=\"{host}\",verb=\"POST\"}}");
    assert!(value(&metrics, &posted) == 1.0, "{metrics}");
    let mebibyte = f64::from(1 << 20);
    assert!(
        value(&metrics, "process_resident_memory_bytes") > mebibyte,
        "{metrics}"
    );
    assert!(
        value(&metrics, "process_cpu_seconds_total") > 0.0,
        "{metrics}"
    );
    assert!(metrics.contains("git_version=\"v1.36"), "{metrics}");
}

#[test]
fn a_health_check_port_in_use_is_reported_as_an_event_of_the_service() {
    let mut cluster = Cluster::new(objects());
    let local = |s: &Value| s["spec"]["healthCheckNodePort"].is_u64();
    let services = cluster.sim.objects(Resource::Services);
    let service = services.iter().find(|s| local(s)).unwrap();
    let port = service["spec"]["healthCheckNodePort"].as_u64().unwrap();
    let taken = format!("0.0.0.0:{port}");
    let _taken = cluster.host.run(|| TcpListener::bind(&taken).unwrap());
    cluster.start_proxy();
    let failed = |e: &Value| {
        e["reason"] == "FailedToStartServiceHealthcheck"
            && e["action"] == "Listen"
            && e["type"] == "Warning"
            && e["regarding"]["kind"] == "Service"
            && e["regarding"]["name"] == service["metadata"]["name"]
            && e["note"]
                .as_str()
                .unwrap()
                .contains(&format!("on port {port}: "))
    };
    eventually("the Event is posted", || {
        cluster.sim.posted_events().iter().any(failed)
    });
}

#[test]
fn faults_of_the_server_leave_no_difference() {
    let mut cluster = Cluster::new(objects());
    cluster.start_proxy();
    cluster.wait_until_right("at start");
    let before = elements(&cluster.table());

    cluster.sim.cut_connections();
    cluster.sim.expire();
    cluster.sim.repeat_events(50);
    cluster
        .sim
        .send_garbage(Resource::Services, Corruption::Whole);
    cluster.sim.misbehave(|faults| {
        faults.no_streaming_lists = true;
        faults.no_protobuf = true;
        faults.chunk = 7;
        faults.refusals.push(Refusal {
            code: 429,
            reason: "TooManyRequests".to_owned(),
            retry_after: Some(1),
            times: 3,
            resource: None,
        });
    });
    cluster.sim.cut_connections();
    cluster.wait_until_right("after cuts, 410, 429 and JSON in pieces");
    assert_eq!(elements(&cluster.table()), before);

    // An unreadable object keeps its last valid version; others are updated.
    let services = cluster.sim.objects(Resource::Services);
    cluster
        .sim
        .corrupt(Resource::Services, "demo", "web", Corruption::Body);
    let slices = cluster.sim.objects(Resource::EndpointSlices);
    let mut slice = slices
        .iter()
        .find(|s| s["metadata"]["name"] == "lb-a")
        .unwrap()
        .clone();
    slice["endpoints"][0]["addresses"][0] = json!("10.244.2.99");
    cluster.sim.apply([slice]);
    eventually("others are updated", || {
        cluster.table().contains("10.244.2.99 . 8443")
    });
    assert!(
        cluster.table().contains("10.96.10.1 . tcp . 80"),
        "demo/web is kept"
    );
    eventually("the problem is logged", || {
        cluster.log().contains("demo/web")
    });

    // Unreachable: the kernel keeps its state, which is updated later.
    cluster.sim.misbehave(|faults| faults.stalled = true);
    cluster.sim.cut_connections();
    let stalled = elements(&cluster.table());
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(elements(&cluster.table()), stalled);
    cluster.sim.apply(
        services
            .into_iter()
            .filter(|s| s["metadata"]["name"] == "web"),
    );
    cluster.sim.delete(Resource::Services, "demo", "sticky");
    cluster
        .sim
        .misbehave(|faults| *faults = apiserver_sim::Faults::default());
    cluster.sim.cut_connections();
    cluster.wait_until_right("after the server answers again");
}

#[test]
fn nothing_is_programmed_before_the_first_complete_list() {
    let mut cluster = Cluster::new(objects());
    cluster.sim.misbehave(|faults| {
        faults.refusals.push(Refusal {
            code: 500,
            reason: "InternalError".to_owned(),
            retry_after: None,
            times: usize::MAX,
            resource: Some(Resource::EndpointSlices),
        });
    });
    cluster.start_proxy();
    eventually("the failure is logged", || {
        cluster.log().contains("EndpointSlice")
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(cluster.table(), "");
    cluster.sim.misbehave(|faults| faults.refusals.clear());
    cluster.wait_until_right("after the list");
}

#[test]
fn a_missing_permission_is_logged_with_verb_and_resource() {
    let mut cluster = Cluster::new(objects());
    cluster.sim.misbehave(|faults| {
        faults.forbidden.insert(("watch", "endpointslices"));
    });
    cluster.start_proxy();
    let message = "cannot watch resource \"endpointslices\"";
    eventually("the missing verb is logged", || {
        cluster.log().replace('\\', "").contains(message)
    });
    assert_eq!(cluster.table(), "");
    cluster.sim.misbehave(|faults| faults.forbidden.clear());
    cluster.wait_until_right("once it is granted");
}

#[test]
fn the_proxy_waits_for_its_node() {
    let all = objects();
    let (nodes, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|o| o["kind"] == "Node");
    let mut cluster = Cluster::new(others);
    cluster.start_proxy();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(cluster.table(), "", "{}", cluster.log());
    cluster.sim.apply(nodes);
    cluster.wait_until_right("once the Node exists");
    assert!(
        cluster.table().contains("10.200.1.2"),
        "its NodePort address"
    );
}

#[test]
fn changes_of_the_nodes_pod_range_and_zone_are_programmed() {
    let mut cluster = Cluster::new(objects());
    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig.display());
    let sluice = cluster.host.command(SLUICE);
    cluster.start(sluice, &["--detect-local-mode=NodeCIDR", &kubeconfig]);
    cluster.wait_until_right("at start");
    let has = |what: &str| cluster.table().contains(what);
    assert!(has("10.244.1.0/24"), "pods of this node");
    assert!(
        has("10.244.1.24 . 80") && !has("10.244.2.24 . 80"),
        "zone a"
    );
    cluster.change_node(|node| {
        node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("zone-b");
    });
    cluster.wait_until_right("in another zone");
    assert!(
        has("10.244.2.24 . 80") && !has("10.244.1.24 . 80"),
        "zone b"
    );
    cluster.change_node(|node| {
        node["spec"] = json!({"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"]});
    });
    eventually("the new range", || {
        has("10.244.9.0/24") && !has("10.244.1.0/24")
    });
}

#[test]
fn a_configuration_that_does_not_fit_the_node_is_an_error_before_programming() {
    let mut cluster = Cluster::new(objects());
    cluster.change_node(|node| {
        node["spec"] = json!({"podCIDR": "fd00:1::/64", "podCIDRs": ["fd00:1::/64"]});
    });
    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig.display());
    let sluice = cluster.host.command(SLUICE);
    cluster.start(sluice, &["--detect-local-mode=NodeCIDR", &kubeconfig]);
    eventually("the process ends", || !cluster.is_running());
    let refused = "the Node's spec.podCIDRs has no range for IPv4";
    assert!(cluster.log().contains(refused), "{}", cluster.log());
    assert_eq!(cluster.table(), "");
}

#[test]
fn an_unreachable_server_changes_nothing_at_start_and_later() {
    let mut cluster = Cluster::new(objects());
    cluster.start_proxy();
    cluster.wait_until_right("at start");
    let before = elements(&cluster.table());
    // Packets are lost silently.
    cluster.firewall("-I", "--ports", "DROP");
    cluster.sim.delete(Resource::Services, "demo", "sticky");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(elements(&cluster.table()), before);
    cluster.firewall("-D", "--ports", "DROP");
    cluster.wait_until_right("once packets arrive");

    // Connections are refused from the start.
    let before = elements(&cluster.table());
    cluster.firewall("-I", "--dports", "REJECT --reject-with tcp-reset");
    cluster.proxy = None;
    cluster.sim.delete(Resource::Services, "demo", "web");
    cluster.start_proxy();
    eventually("the failure is logged", || {
        cluster.log().contains("refused")
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(elements(&cluster.table()), before);
    assert!(cluster.is_running(), "{}", cluster.log());
    cluster.firewall("-D", "--dports", "REJECT --reject-with tcp-reset");
    cluster.wait_until_right("once the server accepts connections");
}

#[test]
fn the_service_account_of_a_pod_is_used_and_its_token_rotates() {
    let config = Config {
        tokens: vec!["first".to_owned()],
        ..Config::default()
    };
    let mut cluster = Cluster::with(config, objects());
    let address = cluster.sim.address();
    cluster.start_pod(&address.ip().to_string(), address.port(), "first", &[]);
    cluster.wait_until_right("with the first token");
    fs::write(cluster.folder.path().join("account/token"), "second").unwrap();
    cluster.sim.set_tokens(vec!["second".to_owned()]);
    cluster.sim.cut_connections();
    cluster.sim.delete(Resource::Services, "demo", "sticky");
    cluster.wait_until_right("with the second token");
}

/// The Service `kubernetes` and its EndpointSlice, which names the server's real address.
fn kubernetes(address: SocketAddr) -> [Value; 2] {
    let metadata = json!({
        "name": "kubernetes",
        "namespace": "default",
        "labels": {"kubernetes.io/service-name": "kubernetes"},
    });
    let service = json!({
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": SERVICE_IP,
            "clusterIPs": [SERVICE_IP],
            "ports": [{"name": "https", "protocol": "TCP", "port": 443}],
        },
    });
    let slice = json!({
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "ports": [{"name": "https", "protocol": "TCP", "port": address.port()}],
        "endpoints": [{"addresses": [address.ip().to_string()]}],
    });
    [service, slice]
}

const SERVICE_IP: &str = "10.96.0.1";

/// The API server listens at a real address of the node; Pods know its Service only.
fn cluster_with_service() -> Cluster {
    let listen: SocketAddr = "10.200.1.2:6443".parse().unwrap();
    let config = Config {
        listen,
        certificate_addresses: vec![SERVICE_IP.parse().unwrap()],
        ..Config::default()
    };
    let cluster = Cluster::with(config, objects());
    cluster.sim.apply(kubernetes(listen));
    cluster
        .host
        .sh("ip route add default via 10.200.1.1 2>/dev/null || ip route add default dev eth0");
    cluster
}

impl Cluster {
    /// Start the proxy like its Pod: with a service account, a state folder, and the address of the
    /// Service `kubernetes`.
    fn start_pod(&mut self, host: &str, port: u16, token: &str, flags: &[&str]) {
        let account = self.folder.path().join("account");
        fs::create_dir_all(&account).unwrap();
        fs::write(account.join("ca.crt"), self.sim.ca_pem()).unwrap();
        fs::write(account.join("token"), token).unwrap();
        // The path of a Pod's account, in its own mount namespace.
        let line = format!(
            "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount && \
             mount --bind {} /run/secrets/kubernetes.io/serviceaccount && exec {SLUICE} \"$@\"",
            account.display()
        );
        let mut command = self.host.command("unshare");
        command
            .args(["--mount", "sh", "-c", &line, "sluice"])
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", port.to_string());
        let state = format!("--api-server-addresses={}", self.state().display());
        self.start(command, &[&[&*state], flags].concat());
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state/api-servers.json")
    }
}

#[test]
fn a_rebooted_node_reaches_the_api_server_at_its_stored_address() {
    let mut cluster = cluster_with_service();
    // Another proxy has programmed the Service before the first start.
    cluster.host.sh("nft add table ip other; \
         nft add chain ip other output '{ type nat hook output priority -100; }'; \
         nft add rule ip other output ip daddr 10.96.0.1 tcp dport 443 dnat to 10.200.1.2:6443");
    cluster.start_pod(SERVICE_IP, 443, "abc", &[]);
    cluster.wait_until_right("behind another proxy");
    eventually("the address is stored", || {
        fs::read_to_string(cluster.state()).is_ok_and(|text| text.contains("10.200.1.2:6443"))
    });
    // The reboot: rules and connection tracking are lost, the state folder is kept.
    cluster.proxy = None;
    cluster
        .host
        .sh("nft flush ruleset; conntrack -F 2>/dev/null || true");
    assert_eq!(cluster.table(), "");
    cluster.start_pod(SERVICE_IP, 443, "abc", &[]);
    cluster.wait_until_right("after the reboot");
    assert!(
        cluster.table().contains("10.200.1.2 . 6443"),
        "the Service works"
    );
    assert!(
        !cluster.log().contains("Cannot reach the API server"),
        "{}",
        cluster.log()
    );
}

#[test]
fn a_node_that_never_ran_a_proxy_asks_for_the_api_servers_address() {
    let mut cluster = cluster_with_service();
    cluster.start_pod(SERVICE_IP, 443, "abc", &[]);
    let asked = "no proxy has run here";
    eventually("the log asks for it", || cluster.log().contains(asked));
    let log = cluster.log();
    let line = log.lines().find(|line| line.contains(asked)).unwrap();
    for part in ["--master=https://HOST:PORT", "apiServer", "10.96.0.1:443"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(cluster.is_running(), "it retries: {log}");
    assert_eq!(cluster.log().matches(asked).count(), 1, "once: {log}");
}

#[test]
fn a_node_that_never_ran_a_proxy_asks_the_server_of_its_kubeconfig() {
    let mut cluster = cluster_with_service();
    let server = cluster.sim.address();
    let file = cluster.folder.path().join("kubelet.conf");
    // Other credentials than the Pod's, which must not be used.
    let kubeconfig = format!(
        "{{clusters: [{{name: c, cluster: {{server: 'https://{server}'}}}}], \
          users: [{{name: u, user: {{token: of-the-node}}}}], \
          contexts: [{{name: x, context: {{cluster: c, user: u}}}}], current-context: x}}"
    );
    fs::write(&file, kubeconfig).unwrap();
    let flag = format!("--node-kubeconfig={}", file.display());
    cluster.start_pod(SERVICE_IP, 443, "abc", &[&flag]);
    cluster.wait_until_right("with the node's kubeconfig");
}

#[test]
fn a_changed_configuration_is_announced_as_an_event() {
    let mut cluster = Cluster::new(objects());
    let config = cluster.folder.path().join("config.conf");
    let text = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         mode: nftables\nhostnameOverride: node1\nclusterCIDR: {CLUSTER_CIDR}\n\
         clientConnection: {{kubeconfig: {}}}\n",
        cluster.kubeconfig.display()
    );
    fs::write(&config, &text).unwrap();
    let mut command = cluster.host.command(SLUICE);
    command.arg("proxy").arg("--config").arg(&config);
    let log = fs::File::create(cluster.folder.path().join("log")).unwrap();
    command.stderr(Stdio::from(log));
    cluster.proxy = Some(Running(command.spawn().unwrap()));
    cluster.wait_until_right("at start");
    fs::write(&config, format!("{text}# changed\n")).unwrap();
    eventually("the process ends", || !cluster.is_running());
    let announced = |e: &Value| {
        e["reason"] == "ConfigurationChanged"
            && e["regarding"]["name"] == "node1"
            && e["note"].as_str().unwrap().contains("config.conf")
    };
    let events = cluster.sim.posted_events();
    assert!(events.iter().any(announced), "{events:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 0, ..ProptestConfig::with_cases(6) })]

    #[test]
    fn after_recovery_the_kernel_equals_the_objects(acts in acts()) {
        let mut cluster = Cluster::new(objects());
        cluster.sim.apply(synthetic_cluster(8, 3));
        cluster.start_proxy();
        for act in &acts {
            // The program waits half a minute for such a server.
            if !matches!(act, Act::IgnoreInitialEvents(_)) {
                act.on(&cluster.sim);
            }
        }
        cluster.sim.heal(&[synthetic_cluster(8, 3).collect(), objects()].concat());
        cluster.sim.cut_connections();
        cluster.wait_until_right(&format!("after {acts:?}"));
    }
}

/// The filter of system calls does not stop a credential plugin, which runs again for a new token.
#[test]
fn a_credential_plugin_runs_in_the_sandbox() {
    let config = Config {
        tokens: vec!["first".into()],
        ..Config::default()
    };
    let mut cluster = Cluster::with(config, objects());
    let plugin = cluster.folder.path().join("plugin");
    let answer_file = cluster.folder.path().join("answer");
    let answer = |token: &str| {
        let answer = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": token},
        });
        fs::write(&answer_file, answer.to_string()).unwrap();
    };
    fs::write(&plugin, "#!/bin/sh\ncat \"$(dirname \"$0\")/answer\"\n").unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let user = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: ./plugin, \
                interactiveMode: Never}}";
    let folder = cluster.folder.path();
    cluster.kubeconfig = cluster.sim.write_kubeconfig(folder, user).unwrap();
    answer("first");
    cluster.start_proxy();
    let pid = cluster.proxy.as_ref().unwrap().0.id();
    eventually("the system calls are filtered", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.contains("Seccomp:\t2")
    });
    answer("second");
    cluster.sim.set_tokens(vec!["second".into()]);
    let before = cluster.sim.requests().len();
    cluster.sim.cut_connections();
    eventually("the watches are open with the second token", || {
        cluster.sim.requests().len() >= before + 4 && cluster.sim.open_watches() == 4
    });
}
