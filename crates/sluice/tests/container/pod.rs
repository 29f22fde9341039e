//! A node with an API server and endpoints, and the proxy's Pod on it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use apiserver_sim::{Config, Sim};
use lab::echo::Answer;
use lab::probe::Probe;
use model::Mode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bundle::{self, Node};
use crate::image::Image;
use crate::support::machine::Machine;
use crate::support::manifests::{chart_with, of_kind};
use crate::support::{Host, Running, eventually_or, text};

const NODE: &str = "10.200.1.2";
const TOKEN: &str = "token-of-the-service-account";
const PORTS: [&str; 2] = ["TCP:8080", "UDP:8053"];

/// A node and what it reaches.
pub(crate) struct Cluster {
    pub(crate) host: Host,
    sim: Sim,
    pods: [Machine; 2],
    outside: Machine,
    folder: TempDir,
}

fn service(name: &str, last: u8, port: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {"type": "NodePort", "clusterIP": format!("10.96.10.{last}"), "ports": [port]},
    })
}

fn slice(service: &str, port: &Value, pod: u8) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-a"), "namespace": "demo",
            "labels": {"kubernetes.io/service-name": service},
        },
        "ports": [port],
        "endpoints": [{
            "addresses": [format!("10.244.1.{pod}")], "nodeName": "node1",
            "conditions": {"ready": true},
        }],
    })
}

fn http(node_port: u16) -> [Value; 2] {
    [
        json!({"name": "http", "port": 80, "nodePort": node_port}),
        json!({"name": "http", "port": 8080, "protocol": "TCP"}),
    ]
}

fn dns() -> [Value; 2] {
    [
        json!({"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}),
        json!({"name": "dns", "port": 8053, "protocol": "UDP"}),
    ]
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let host = Host::new();
        host.sh("ip route add default dev eth0");
        let pods = [5, 6].map(|number| Machine::pod_with(&host, number, &PORTS));
        let outside = Machine::outside(&host);
        let config = Config {
            listen: format!("{NODE}:0").parse().unwrap(),
            tokens: vec![TOKEN.to_owned()],
            ..Config::default()
        };
        let sim = host.run(|| Sim::start(config).unwrap());
        let ([web, web_target], [dns, dns_target]) = (http(30080), dns());
        sim.apply([
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
                "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": NODE}]},
            }),
            service("web", 80, &web),
            slice("web", &web_target, 5),
            service("dns", 53, &dns),
            slice("dns", &dns_target, 5),
        ]);
        Self {
            host,
            sim,
            pods,
            outside,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Return the chart's Pod on this node.
    pub(crate) fn pod(&self, mode: Mode) -> Pod<'_> {
        let mode = format!("config.mode={mode}");
        let server = format!("apiServer=https://{}", self.sim.address());
        let objects = chart_with(&[&mode, &server, "config.clusterCIDR=10.244.0.0/16"]);
        let account = self.folder.path().join("service-account");
        fs::create_dir_all(&account).unwrap();
        for (file, content) in [
            ("token", TOKEN),
            ("ca.crt", self.sim.ca_pem()),
            ("namespace", "kube-system"),
        ] {
            fs::write(account.join(file), content).unwrap();
        }
        let template = &of_kind(&objects, "DaemonSet")["spec"]["template"];
        Pod {
            cluster: self,
            spec: template["spec"].clone(),
            config_map: of_kind(&objects, "ConfigMap"),
        }
    }

    /// Wait until the Service answers at its cluster IP and its NodePort.
    pub(crate) fn wait_for_web(&self, proxy: &Container) {
        for (from, to) in [
            (&self.pods[1], "10.96.10.80:80"),
            (&self.outside, "10.200.1.2:30080"),
        ] {
            let answers = || pod_that_answers(from, to).as_deref() == Some("pod5");
            let what = || {
                let outcome = from.ask(Probe::http(to.parse().unwrap()));
                format!("{to} answers ({outcome})\n{}", proxy.log())
            };
            eventually_or(&what, answers);
        }
    }

    pub(crate) fn a_new_service_is_served(&self, proxy: &Container) {
        let [port, target] = http(30081);
        self.sim
            .apply([service("new", 81, &port), slice("new", &target, 6)]);
        let answers = || {
            let pod = pod_that_answers(&self.outside, "10.200.1.2:30081");
            pod.as_deref() == Some("pod6")
        };
        eventually_or(
            &|| format!("the new Service answers\n{}", proxy.log()),
            answers,
        );
    }

    /// One client port keeps sending to a Service whose endpoint is replaced.
    pub(crate) fn a_removed_endpoint_loses_its_flows(&self, proxy: &Container) {
        let client = self.pods[1]
            .netns
            .run(|| UdpSocket::bind("10.244.1.6:0").unwrap());
        let client = client.unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        for endpoint in [5, 6] {
            let [_, target] = dns();
            self.sim.apply([slice("dns", &target, endpoint)]);
            let answers = || {
                let mut buffer = [0; 4096];
                let sent = client.send_to(b"\n", "10.96.10.53:53");
                let length = sent.and_then(|_| client.recv(&mut buffer));
                let answer = length.map(|length| serde_json::from_slice(&buffer[..length]));
                answer.is_ok_and(|answer: Result<Answer, _>| {
                    answer.is_ok_and(|answer| answer.pod == format!("pod{endpoint}"))
                })
            };
            let what = || format!("pod{endpoint} answers datagrams\n{}", proxy.log());
            eventually_or(&what, answers);
        }
    }
}

fn pod_that_answers(from: &Machine, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    let outcome = from.ask(Probe::http(to).timeout(Duration::from_secs(2)));
    outcome.answer().map(|answer| answer.pod.clone())
}

/// The proxy's Pod, not started.
pub(crate) struct Pod<'a> {
    cluster: &'a Cluster,
    pub(crate) spec: Value,
    config_map: Value,
}

impl Pod<'_> {
    /// Add an argument to both containers.
    pub(crate) fn add_argument(&mut self, argument: &str) {
        for containers in ["initContainers", "containers"] {
            let args = &mut self.spec[containers][0]["args"];
            args.as_array_mut().unwrap().push(json!(argument));
        }
    }

    /// Run the init container to its end and return its log.
    pub(crate) fn init(&self) -> String {
        let mut init = self.container(&self.spec["initContainers"][0]);
        let status = init.process.0.wait().unwrap();
        let log = init.log();
        assert!(status.success(), "{log}");
        log
    }

    /// Start the proxy.
    pub(crate) fn start(&self) -> Container<'_> {
        self.container(&self.spec["containers"][0])
    }

    fn container(&self, container: &Value) -> Container<'_> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", self.cluster.host.name);
        let folder = self.cluster.folder.path().join(&id);
        fs::create_dir_all(&folder).unwrap();
        let network = Path::new(kernel::netns::RUN_DIR).join(&self.cluster.host.name);
        let config_map = self.config_map["metadata"]["name"].as_str().unwrap();
        let node = Node {
            folder: self.cluster.folder.path(),
            network: &network,
            fields: BTreeMap::from([("spec.nodeName", "node1")]),
            environment: vec![
                // The Service `kubernetes`, which no proxy has programmed yet.
                "KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned(),
                "KUBERNETES_SERVICE_PORT=443".to_owned(),
            ],
            config_maps: BTreeMap::from([(config_map, &self.config_map["data"])]),
            service_account: &self.cluster.folder.path().join("service-account"),
        };
        let config = bundle::config(&self.spec, container, Image::built(), &node);
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let log = folder.join("log");
        let output = fs::File::create(&log).unwrap();
        let mut command = crun(&folder);
        command.arg("run").arg("--bundle").arg(&folder);
        command.arg("--pid-file").arg(folder.join("pid")).arg(&id);
        command.stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        Container {
            process: Running(command.spawn().unwrap()),
            cluster: self.cluster,
            folder,
            id,
        }
    }
}

/// `crun` with its state in this folder. The tests are about privileges, not about limits of resources: crun
/// sees no control groups, whose layout it could refuse.
fn crun(folder: &Path) -> Command {
    let mut command = Command::new("unshare");
    let hidden = "mount -t tmpfs tmpfs /sys/fs/cgroup && exec \"$@\"";
    command.args(["--mount", "sh", "-c", hidden, "sh"]);
    command.args(["crun", "--cgroup-manager=disabled", "--root"]);
    command.arg(folder.join("state"));
    command
}

/// A container, removed on drop.
pub(crate) struct Container<'a> {
    process: Running,
    cluster: &'a Cluster,
    folder: PathBuf,
    id: String,
}

/// One thread's `/proc/PID/status`.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) permitted: u64,
    pub(crate) effective: u64,
    pub(crate) bounding: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: String,
}

impl Status {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path.join("status")).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        // In this order (proc(5)).
        let sets = text.lines().filter(|line| line.starts_with("Cap"));
        let sets: Vec<u64> = sets
            .map(|line| u64::from_str_radix(line[7..].trim(), 16).unwrap())
            .collect();
        let [inheritable, permitted, effective, bounding, ambient] = sets[..] else {
            panic!("not five capability sets: {text}");
        };
        Some(Self {
            permitted,
            effective,
            bounding,
            inheritable,
            ambient,
            no_new_privs: field("NoNewPrivs:") == "1",
            seccomp: field("Seccomp:"),
        })
    }
}

impl Container<'_> {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// Return the log's warnings and errors, except about settings that this machine denies to a container
    /// in a network namespace of its own, and about the OOM score, which the kubelet would have set.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.starts_with(['W', 'E']));
        let expected = [
            "Sysctl not set",
            "OOM score not set",
            "has deprecated the proxy mode",
        ];
        let lines = lines.filter(|line| !expected.iter().any(|text| line.contains(text)));
        lines.map(str::to_owned).collect()
    }

    /// Return the proxy's process.
    pub(crate) fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.folder.join("pid")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Return the status of every thread.
    pub(crate) fn statuses(&self) -> Vec<Status> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let tasks = tasks.map(|task| task.unwrap().path());
        // Threads may end meanwhile.
        tasks.filter_map(|task| Status::read(&task)).collect()
    }

    /// Wait until the log and `/statusz` report the last restriction.
    pub(crate) fn wait_until_restricted(&self) {
        let what = || format!("/statusz reports the filter\n{}", self.log());
        eventually_or(&what, || {
            self.log().contains("Restricted this process")
                && self.statusz().contains("seccomp (filter")
        });
    }

    /// Return the line of `/statusz` about restrictions.
    pub(crate) fn statusz(&self) -> String {
        let get = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect("127.0.0.1:10249")?;
            stream.write_all(b"GET /statusz HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let page = self.cluster.host.run(get).unwrap_or_default();
        let line = page.lines().find(|line| line.starts_with("Restrictions: "));
        line.unwrap_or_default().to_owned()
    }

    /// Run a command of the image's program in the container, as `kubectl exec` does, and return its output.
    pub(crate) fn exec(&self, words: &[&str]) -> String {
        let mut exec = crun(&self.folder);
        exec.args(["exec", &self.id, "/usr/local/bin/kube-proxy"])
            .args(words);
        let output = exec.output().unwrap();
        text(&output.stdout) + &text(&output.stderr)
    }

    /// Put an executable file into the folder of stored addresses, and return its path in the container.
    pub(crate) fn plant(&self) -> &'static str {
        let path = self.cluster.folder.path().join("var/lib/sluice/planted");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        "/var/lib/sluice/planted"
    }

    /// Stop the proxy as the kubelet does, and wait for its end.
    pub(crate) fn stop(&mut self) {
        let mut kill = crun(&self.folder);
        let output = kill.args(["kill", &self.id, "TERM"]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let status = self.process.0.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut delete = crun(&self.folder);
        let _ = delete.args(["delete", "--force", &self.id]).output();
    }
}
