//! Routes to the API server after a reboot: the Service `kubernetes` does not answer.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use apiserver_sim::{Config, Sim, service_cidr};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// The address of the Service, at which no server listens.
const SERVICE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A node with the files of a Pod on it, and an API server.
struct Node {
    sim: Sim,
    folder: TempDir,
}

impl Node {
    /// The server's certificate contains the Service's address.
    fn new() -> Self {
        Self::with_certificate_for(vec![SERVICE.into()])
    }

    fn with_certificate_for(certificate_addresses: Vec<IpAddr>) -> Self {
        let sim = Sim::start(Config {
            certificate_addresses,
            tokens: vec!["secret".into()],
            ..Config::default()
        });
        let node = Self {
            sim: sim.expect("a simulator"),
            folder: tempfile::tempdir().expect("a folder"),
        };
        let ca = node.folder.path().join("ca.crt");
        fs::write(ca, node.sim.ca_pem()).expect("written");
        fs::write(node.folder.path().join("token"), "secret").expect("written");
        node
    }

    fn address_file(&self) -> PathBuf {
        self.folder.path().join("state/addresses.json")
    }

    fn store(&self, addresses: &[SocketAddr]) {
        let text = json!({ "apiServers": addresses }).to_string();
        fs::create_dir_all(self.folder.path().join("state")).expect("created");
        fs::write(self.address_file(), text).expect("written");
    }

    fn stored(&self) -> Value {
        let text = fs::read_to_string(self.address_file()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// An address at which no server listens.
    fn closed(&self, last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], self.sim.address().port()))
    }

    /// Start a source that knows the server as `service`.
    fn start(&self, service: IpAddr) -> (Running, Receiver<Batch>) {
        self.start_with(service, |_| {})
    }

    fn start_with(
        &self,
        service: IpAddr,
        change: impl FnOnce(&mut ClientOptions),
    ) -> (Running, Receiver<Batch>) {
        let environment = client::Environment {
            service: Some((service.to_string(), self.sim.address().port().to_string())),
            account: self.folder.path().to_owned(),
        };
        let mut options = ClientOptions {
            address_file: Some(self.address_file()),
            ..ClientOptions::default()
        };
        options.timing.backoff_base = Duration::from_millis(20);
        options.timing.backoff_cap = Duration::from_millis(100);
        change(&mut options);
        let source = ApiServer::with_environment(options, "node1", &environment);
        let (sender, batches) = channel();
        let running = source.expect("a configuration").start(move |batch| {
            let _ = sender.send(batch);
            ControlFlow::Continue(())
        });
        (running.expect("a thread"), batches)
    }

    fn apply_slice(&self, addresses: &[&str]) {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|address| json!({"addresses": [address]}))
            .collect();
        self.sim.apply([json!({
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "https", "protocol": "TCP", "port": 6443}],
            "endpoints": endpoints,
        })]);
    }

    fn wait_until_stored(&self, addresses: &[&str]) {
        let expected = json!({ "apiServers": addresses });
        let end = Instant::now() + PATIENCE;
        while self.stored() != expected {
            assert!(Instant::now() < end, "{} is not {expected}", self.stored());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn wait_until_complete(batches: &Receiver<Batch>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let batch = batches.recv_timeout(left).expect("a complete list");
        if batch.initial_list_complete {
            return;
        }
    }
}

#[test]
fn a_stored_address_replaces_the_unreachable_service() {
    let node = Node::new();
    node.store(&[node.sim.address()]);
    let (_running, batches) = node.start(SERVICE.into());
    wait_until_complete(&batches);
}

#[test]
fn tls_verifies_the_configured_name_at_a_stored_address() {
    // The certificate is valid for the stored address, but not for the Service.
    let node = Node::with_certificate_for(Vec::new());
    node.store(&[node.sim.address()]);
    let (_running, batches) = node.start(SERVICE.into());
    let result = batches.recv_timeout(Duration::from_secs(1));
    assert_eq!(result, Err(RecvTimeoutError::Timeout));
    assert_eq!(node.sim.requests(), [""; 0]);
}

#[test]
fn stale_addresses_are_skipped() {
    let node = Node::new();
    // Another server at a stale address, with a certificate of another CA.
    let other = Node::new();
    let addresses = [
        node.closed(3),
        other.sim.address(),
        node.closed(4),
        node.sim.address(),
    ];
    node.store(&addresses);
    let (_running, batches) = node.start(SERVICE.into());
    wait_until_complete(&batches);
    assert_eq!(other.sim.requests(), [""; 0]);
}

#[test]
fn a_corrupt_file_is_replaced_once_the_service_works() {
    let node = Node::new();
    fs::create_dir_all(node.folder.path().join("state")).expect("created");
    fs::write(node.address_file(), "{\"apiServers\": [\"192.0").expect("written");
    node.apply_slice(&["192.0.2.7"]);
    let (_running, batches) = node.start(node.sim.address().ip());
    wait_until_complete(&batches);
    node.wait_until_stored(&["192.0.2.7:6443"]);
}

#[test]
fn changed_addresses_are_stored_while_the_source_runs() {
    let node = Node::new();
    node.apply_slice(&["192.0.2.7"]);
    let (_running, batches) = node.start(node.sim.address().ip());
    wait_until_complete(&batches);
    node.wait_until_stored(&["192.0.2.7:6443"]);
    node.apply_slice(&["192.0.2.9", "192.0.2.8"]);
    node.wait_until_stored(&["192.0.2.8:6443", "192.0.2.9:6443"]);
    node.apply_slice(&[]);
    node.sim.apply([service_cidr("later", "10.97.0.0/16")]);
    let later = |batch: Batch| {
        batch
            .events
            .iter()
            .any(|e| e.key().to_string().contains("later"))
    };
    while !later(batches.recv_timeout(PATIENCE).expect("a batch")) {}
    assert_eq!(
        node.stored(),
        json!({"apiServers": ["192.0.2.8:6443", "192.0.2.9:6443"]})
    );
}

#[test]
fn the_server_of_the_nodes_kubeconfig_is_tried_first() {
    let node = Node::new();
    let kubeconfig = node.folder.path().join("kubelet.conf");
    let text = format!(
        "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: kubelet}}}}]\n\
         clusters: [{{name: c, cluster: {{server: \"https://{}\"}}}}]\n\
         users: [{{name: kubelet, user: {{token: refused}}}}]\n",
        node.sim.address()
    );
    fs::write(&kubeconfig, text).expect("written");
    let (_running, batches) = node.start_with(SERVICE.into(), |options| {
        options.node_kubeconfig = Some(kubeconfig);
    });
    wait_until_complete(&batches);
}

#[test]
fn errors_print_each_cause_once() {
    let missing = PathBuf::from("/nonexistent/file");
    let environment = client::Environment {
        service: None,
        account: missing.clone(),
    };
    let kubeconfig = ClientOptions {
        kubeconfig: Some(missing),
        ..ClientOptions::default()
    };
    let error = ApiServer::with_environment(kubeconfig, "node1", &environment)
        .map(|_| ())
        .expect_err("no file");
    assert_eq!(
        with_causes(&error),
        "cannot read /nonexistent/file: No such file or directory (os error 2)"
    );
    let malformed = wire::decode_page(Kind::Node, Format::Protobuf, b"k8s\0\x02\0");
    let error = malformed.expect_err("malformed");
    assert_eq!(
        with_causes(&error),
        "malformed protobuf: invalid field key 2"
    );
}

#[test]
fn an_explicit_address_is_the_only_one() {
    let node = Node::new();
    node.store(&[node.sim.address()]);
    let closed = node.closed(3);
    let (_running, batches) = node.start_with(SERVICE.into(), |options| {
        options.master = Some(format!("https://{closed}"));
    });
    let result = batches.recv_timeout(Duration::from_secs(1));
    assert_eq!(result, Err(RecvTimeoutError::Timeout));
}
