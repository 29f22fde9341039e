//! A running lab.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use kernel::link::RtNetlink;
use kernel::netns::NetNs;
use nix::sys::signal::Signal;

use crate::control::address::{MAX_NODES, node_ips};
use crate::control::{Applied, Cluster, ContainerPort, Pod, PodId, Target, service};
use crate::echo::{READY, kernel_has};
use crate::fabric;
use crate::host::Host;
use crate::manifest::{Documents, ObjectName};
use crate::names::LabName;
use crate::process::{Process, end_all_in};
use crate::state::{Folder, ProxyCommand, State};

/// Options of [`Lab::up`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The lab's name.
    pub name: LabName,
    /// Number of nodes if the manifests contain none.
    pub nodes: u8,
    /// The first manifests.
    pub documents: Documents,
    /// Program and first arguments of the echo server, such as `sluice lab-echo`.
    pub echo: Vec<String>,
    /// The proxy on each node.
    pub proxy: Option<ProxyCommand>,
}

/// A running lab. A lab from [`Lab::up`] is taken down on drop, unless [`keep`](Lab::keep) was called.
#[derive(Debug)]
pub struct Lab {
    name: LabName,
    folder: Folder,
    down_on_drop: bool,
}

impl Lab {
    /// Create a lab: namespaces, pods, and a proxy on each node.
    ///
    /// Invalid documents are reported in [`Applied::errors`]; the lab runs without them.
    ///
    /// # Errors
    /// A lab of that name exists, the caller is not root, or the kernel lacks namespaces or veth.
    /// Everything created until then is removed.
    pub fn up(options: Options) -> Result<(Self, Applied)> {
        let Options {
            name,
            nodes,
            documents,
            echo,
            proxy,
        } = options;
        if nodes == 0 || nodes > MAX_NODES {
            bail!("a lab has 1 to {MAX_NODES} nodes, not {nodes}");
        }
        if Self::list()?.contains(&name) {
            bail!("lab {name} exists already; take it down with: sluice lab down --name {name}");
        }
        let cluster = Cluster::new(&documents, nodes)?;
        let folder = Folder::of(&name);
        folder.create()?;
        let mut lab = Self {
            name,
            folder,
            down_on_drop: true,
        };
        fabric::raise(&lab.name, &cluster)?;
        let state = State {
            cluster,
            echo,
            proxy,
            pods: [].into(),
            proxies: [].into(),
        };
        lab.folder.publish(&state.cluster.published())?;
        lab.folder.save(&state)?;
        let applied = lab.apply(&documents)?;
        for node in lab.state()?.cluster.nodes.keys() {
            lab.node_proxy(node)?.start()?;
        }
        Ok((lab, applied))
    }

    /// Open a running lab.
    ///
    /// # Errors
    /// No lab has that name.
    pub fn open(name: LabName) -> Result<Self> {
        let folder = Folder::of(&name);
        if !folder.path().is_dir() {
            let labs: Vec<String> = Self::list()?.iter().map(ToString::to_string).collect();
            let known = if labs.is_empty() {
                "none".to_owned()
            } else {
                labs.join(", ")
            };
            bail!("lab {name} does not exist; running labs: {known}");
        }
        Ok(Self {
            name,
            folder,
            down_on_drop: false,
        })
    }

    /// List the labs of this machine, including the remains of crashed ones.
    ///
    /// # Errors
    /// `/run` cannot be read.
    pub fn list() -> Result<BTreeSet<LabName>> {
        let mut labs: BTreeSet<LabName> = NetNs::list()?
            .iter()
            .filter_map(|netns| LabName::of_netns(netns))
            .collect();
        if let Ok(folders) = fs::read_dir(crate::state::STATE_DIR) {
            let names = folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            labs.extend(names.filter_map(|name| LabName::new(&name).ok()));
        }
        Ok(labs)
    }

    /// Take a lab down, whatever its state: kill every process in its namespaces, delete the
    /// namespaces and the folder. Continue after an error and return the first.
    ///
    /// # Errors
    /// A process does not end, or something cannot be deleted.
    pub fn down(name: &LabName) -> Result<()> {
        let ours: Vec<String> = NetNs::list()?
            .into_iter()
            .filter(|netns| LabName::of_netns(netns).as_ref() == Some(name))
            .collect();
        // A namespace that cannot be opened is a leftover file, and is deleted below.
        let open: Vec<NetNs> = ours
            .iter()
            .filter_map(|netns| NetNs::open(netns).ok())
            .collect();
        let mut results = vec![end_all_in(&open)];
        if let Ok(state) = Folder::of(name).load() {
            // A process may have left its namespace.
            let processes = state.pods.values().chain(state.proxies.values());
            results.extend(processes.map(Process::end));
        }
        drop(open);
        results.extend(ours.iter().map(|netns| Ok(NetNs::delete(netns)?)));
        results.push(
            Folder::of(name)
                .remove()
                .context("removing the lab's folder"),
        );
        results.into_iter().collect()
    }

    /// Keep the lab running after this is dropped.
    pub fn keep(&mut self) {
        self.down_on_drop = false;
    }

    /// Return the lab's name.
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// Return the lab's folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Return the current state.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn state(&self) -> Result<State> {
        self.folder.load()
    }

    /// Apply manifests, as `kubectl apply` does: new pods run before EndpointSlices contain them.
    /// Wait until replaced pods have ended.
    ///
    /// # Errors
    /// A pod cannot be started. The result contains the errors of documents.
    pub fn apply(&mut self, documents: &Documents) -> Result<Applied> {
        let mut applied = self.change(|cluster, now| Ok(cluster.apply(documents, now)))?;
        self.wait_for_ends()?;
        applied.notes.extend(unserved(&self.state()?.cluster));
        Ok(applied)
    }

    /// Delete an object. A pod first terminates: its endpoint is not ready, but serving and
    /// terminating, for `grace_seconds` (if `None`, its own grace period). Wait until it has ended.
    ///
    /// # Errors
    /// The object does not exist.
    pub fn delete(&mut self, target: &Target, grace_seconds: Option<u32>) -> Result<String> {
        let note = self.change(|cluster, now| Ok(cluster.delete(target, grace_seconds, now)?))?;
        self.wait_for_ends()?;
        Ok(note)
    }

    /// Scale a Deployment or StatefulSet. Wait until surplus pods have ended.
    ///
    /// # Errors
    /// The workload does not exist, or a pod cannot be started.
    pub fn scale(&mut self, name: &ObjectName, replicas: u32) -> Result<String> {
        let note = self.begin_scale(name, replicas)?;
        self.wait_for_ends()?;
        Ok(note)
    }

    /// Scale a workload and return while surplus pods still serve and terminate. The next operation
    /// that waits removes them.
    ///
    /// # Errors
    /// As [`scale`](Self::scale).
    pub fn begin_scale(&mut self, name: &ObjectName, replicas: u32) -> Result<String> {
        self.change(|cluster, now| Ok(cluster.scale(name, replicas, now)?))
    }

    /// Replace a pod by one on another node. Wait until the old one has ended.
    ///
    /// # Errors
    /// The pod or the node does not exist, or the new pod cannot be started.
    pub fn move_pod(&mut self, name: &ObjectName, node: &str) -> Result<String> {
        let note = self.change(|cluster, now| Ok(cluster.move_pod(name, node, now)?))?;
        self.wait_for_ends()?;
        Ok(note)
    }

    /// Drop all packets to a pod without an answer, like a pod that ended before its endpoint was
    /// removed. The address stays silent after the pod was deleted, until another pod gets it.
    ///
    /// # Errors
    /// The pod does not exist, or uses its node's network.
    pub fn silence_pod(&mut self, name: &ObjectName) -> Result<()> {
        let _lock = self.folder.lock()?;
        let cluster = self.state()?.cluster;
        let id = cluster.live_pod(name);
        let pod = id.and_then(|id| cluster.pods.get(&id));
        let pod = pod.with_context(|| format!("pod {name} does not exist"))?;
        if pod.template.host_network {
            bail!("pod {name} uses its node's network");
        }
        fabric::silence_pod(&self.name, pod)
    }

    /// Replace the command of the proxies. Running proxies continue with the old one until they are
    /// restarted.
    ///
    /// # Errors
    /// The lab's state cannot be written.
    pub fn set_proxy(&mut self, proxy: ProxyCommand) -> Result<()> {
        let _lock = self.folder.lock()?;
        let mut state = self.state()?;
        state.proxy = Some(proxy);
        self.folder.save(&state)
    }

    /// Set a pod's condition Ready.
    ///
    /// # Errors
    /// The pod does not exist.
    pub fn set_ready(&mut self, name: &ObjectName, ready: bool) -> Result<String> {
        self.change(|cluster, _| Ok(cluster.set_ready(name, ready)?))
    }

    /// Return a host: `client`, `router`, a node, or a pod as `NAME` or `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// The host does not exist.
    pub fn host(&self, name: &str) -> Result<Host> {
        let state = self.state()?;
        let netns = match name {
            "client" => self.name.client(),
            "router" => self.name.router(),
            node if state.cluster.nodes.contains_key(node) => self.name.node(node),
            pod => {
                let id = state.cluster.live_pod(&ObjectName::parse(pod));
                let id = id.ok_or_else(|| {
                    anyhow!("lab {} has no host {name}: name client, router, a node or a pod; sluice lab status lists them", self.name)
                })?;
                self.name.pod(id, &state.cluster.pods[&id])
            }
        };
        Ok(Host::new(name, NetNs::open(&netns)?))
    }

    /// Return the outside client.
    ///
    /// # Errors
    /// Its namespace does not exist.
    pub fn client(&self) -> Result<Host> {
        self.host("client")
    }

    /// Return a node's proxy.
    ///
    /// # Errors
    /// The node does not exist.
    pub fn node_proxy(&mut self, node: &str) -> Result<NodeProxy<'_>> {
        if !self.state()?.cluster.nodes.contains_key(node) {
            bail!("lab {} has no node {node}", self.name);
        }
        Ok(NodeProxy {
            node: node.to_owned(),
            lab: self,
        })
    }

    /// Wait until every node's proxy reports that it has synced both families: `/healthz` on port
    /// 10256.
    ///
    /// # Errors
    /// A proxy has ended, or does not report it in time.
    pub fn wait_synced(&mut self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        let nodes: Vec<String> = self.state()?.cluster.nodes.into_keys().collect();
        for node in nodes {
            while !self
                .host(&node)?
                .is_healthy(SocketAddr::from(([127, 0, 0, 1], 10256)))?
            {
                let log = self.folder.log(&format!("proxy-{node}"));
                if !self.node_proxy(&node)?.is_alive()? {
                    bail!("the proxy of {node} has ended:\n{}", tail(&log));
                }
                if Instant::now() > end {
                    bail!("the proxy of {node} did not sync in time:\n{}", tail(&log));
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Change the cluster, start new pods, then publish the objects.
    fn change<T>(&mut self, f: impl FnOnce(&mut Cluster, u64) -> Result<T>) -> Result<T> {
        let _lock = self.folder.lock()?;
        let mut state = self.state()?;
        let result = f(&mut state.cluster, now())?;
        let started = self.start_pods(&mut state);
        self.folder.publish(&state.cluster.published())?;
        self.folder.save(&state)?;
        self.announce(&state.cluster)?;
        started.map(|()| result)
    }

    /// Start the pods that do not run yet, all at once. Remove a pod that cannot start.
    fn start_pods(&self, state: &mut State) -> Result<()> {
        let new: Vec<(PodId, Pod)> = state
            .cluster
            .pods
            .iter()
            .filter(|(id, _)| !state.pods.contains_key(id))
            .map(|(id, pod)| (*id, pod.clone()))
            .collect();
        let starting: Vec<_> = new
            .iter()
            .map(|(id, pod)| (*id, pod, self.start_pod(*id, pod, &state.echo)))
            .collect();
        let mut result = Ok(());
        for (id, pod, started) in starting {
            let running = started.and_then(|(process, child)| {
                let ready = wait_ready(child);
                if ready.is_err() {
                    process.end()?;
                }
                ready.map(|()| process)
            });
            match running {
                Ok(process) => {
                    state.pods.insert(id, process);
                }
                Err(e) => {
                    let log = tail(&self.folder.log(&log_of(pod)));
                    result = Err(e.context(format!("pod {} cannot start: {log}", pod.name)));
                    self.remove_namespace(id, pod)?;
                    state.cluster.pods.remove(&id);
                }
            }
        }
        result
    }

    fn start_pod(&self, id: PodId, pod: &Pod, echo: &[String]) -> Result<(Process, Child)> {
        if !pod.template.host_network {
            fabric::add_pod(&self.name, id, pod)?;
        }
        let (program, arguments) = echo
            .split_first()
            .context("the command of the echo server is empty")?;
        let mut command = NetNs::open(&self.name.pod(id, pod))?.command(program)?;
        command.args(arguments);
        command.args(["--pod", &pod.name.to_string(), "--node", &pod.node]);
        for ip in pod.ips {
            command.args(["--address", &ip.to_string()]);
        }
        let served = |port: &&ContainerPort| kernel_has(port.protocol);
        for port in pod.template.ports.iter().filter(served) {
            command.args(["--port", &format!("{}:{}", port.protocol, port.port)]);
        }
        command.stdout(Stdio::piped());
        // The log is part of the error if the server cannot start.
        command.env("RUST_LIB_BACKTRACE", "0");
        Process::start(&mut command, &self.folder.log(&log_of(pod)))
    }

    fn remove_namespace(&self, id: PodId, pod: &Pod) -> Result<()> {
        let netns = self.name.pod(id, pod);
        if pod.template.host_network || !NetNs::list()?.contains(&netns) {
            return Ok(());
        }
        end_all_in(&[NetNs::open(&netns)?])?;
        // The kernel deletes namespaces later; the pod's address must be unreachable from now on.
        fabric::disconnect_pod(&self.name, id, pod)?;
        Ok(NetNs::delete(&netns)?)
    }

    /// Wait for the pods that are terminating, and remove them.
    fn wait_for_ends(&mut self) -> Result<()> {
        while let Some(end) = self.state()?.cluster.next_end() {
            thread::sleep(Duration::from_millis(end.saturating_sub(now())));
            self.reap()?;
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        let _lock = self.folder.lock()?;
        let mut state = self.state()?;
        let before = state.cluster.pods.clone();
        for id in state.cluster.reap(now()) {
            if let Some(process) = state.pods.remove(&id) {
                process.end()?;
            }
            self.remove_namespace(id, &before[&id])?;
        }
        self.folder.publish(&state.cluster.published())?;
        self.folder.save(&state)
    }

    /// Route load balancers' addresses to the first node, and those of Services with external policy
    /// Local to a node that has an endpoint, as a load balancer that announces routes does.
    fn announce(&self, cluster: &Cluster) -> Result<()> {
        let mut router = RtNetlink::open_in(&NetNs::open(&self.name.router())?)?;
        let Some(first) = cluster.nodes.values().next() else {
            return Ok(());
        };
        fabric::announce_pool(&mut router, first)?;
        let slices = cluster.endpoint_slices();
        for (name, object) in &cluster.services {
            let local = object
                .pointer("/spec/externalTrafficPolicy")
                .is_some_and(|p| p == "Local");
            let with_endpoint = slices
                .values()
                .filter(|s| {
                    s.pointer("/metadata/namespace")
                        .is_some_and(|n| *n == name.namespace)
                })
                .filter(|s| service_of(s).is_some_and(|n| n == name.name))
                .filter_map(|s| s.get("endpoints")?.as_array())
                .flatten()
                .filter(|e| e.pointer("/conditions/ready").is_some_and(|r| r == true))
                .filter_map(|e| cluster.nodes.get(e.get("nodeName")?.as_str()?))
                .next();
            let node = with_endpoint.filter(|_| local).unwrap_or(first);
            for ip in service::ingress_ips(object) {
                fabric::announce(&mut router, ip, node)?;
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.down_on_drop
            && let Err(e) = Self::down(&self.name)
        {
            tracing::error!(lab = %self.name, error = format!("{e:#}"), "Cannot take the lab down");
        }
    }
}

/// A node's proxy.
#[derive(Debug)]
pub struct NodeProxy<'a> {
    lab: &'a mut Lab,
    node: String,
}

impl NodeProxy<'_> {
    /// Start the proxy, unless the lab has no proxy or it runs already.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn start(&self) -> Result<()> {
        let _lock = self.lab.folder.lock()?;
        let mut state = self.lab.state()?;
        let running = state.proxies.get(&self.node).is_some_and(Process::is_alive);
        let Some(proxy) = state.proxy.clone().filter(|_| !running) else {
            return Ok(());
        };
        let (program, arguments) = proxy
            .argv
            .split_first()
            .context("the command of the proxy is empty")?;
        let mut command: Command =
            NetNs::open(&self.lab.name.node(&self.node))?.command(program)?;
        command.args(arguments);
        command.arg("--manifests").arg(self.lab.folder.manifests());
        command.args(["--hostname-override", &self.node]);
        command.stdout(Stdio::null());
        let log = self.lab.folder.log(&format!("proxy-{}", self.node));
        let (process, _child) = Process::start(&mut command, &log)?;
        state.proxies.insert(self.node.clone(), process);
        self.lab.folder.save(&state)
    }

    /// Kill the proxy with SIGKILL.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&self) -> Result<()> {
        match self.lab.state()?.proxies.get(&self.node) {
            Some(process) => process.end(),
            None => bail!("node {} has no proxy", self.node),
        }
    }

    /// Send the proxy a signal.
    ///
    /// # Errors
    /// The lab's state cannot be read.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(process) = self.lab.state()?.proxies.get(&self.node) {
            process.signal(signal);
        }
        Ok(())
    }

    /// Return whether the proxy runs.
    ///
    /// # Errors
    /// The lab's state cannot be read.
    pub fn is_alive(&self) -> Result<bool> {
        let state = self.lab.state()?;
        Ok(state.proxies.get(&self.node).is_some_and(Process::is_alive))
    }

    /// Return the node's addresses, IPv4 first.
    ///
    /// # Errors
    /// The lab's state cannot be read.
    pub fn node_ips(&self) -> Result<[IpAddr; 2]> {
        let state = self.lab.state()?;
        let node = state
            .cluster
            .nodes
            .get(&self.node)
            .context("the node does not exist")?;
        Ok(node_ips(node.index))
    }
}

fn service_of(slice: &serde_json::Value) -> Option<&str> {
    slice
        .get("metadata")?
        .get("labels")?
        .get("kubernetes.io/service-name")?
        .as_str()
}

/// Describe the ports that echo servers cannot open on this kernel.
fn unserved(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.pods.values();
    let ports = pods.flat_map(|pod| pod.template.ports.iter().map(move |port| (pod, port)));
    ports
        .filter(|(_, port)| !kernel_has(port.protocol))
        .map(|(pod, port)| {
            let ContainerPort { port, protocol, .. } = port;
            format!(
                "pod/{}: no listener on {port}/{protocol}: this kernel lacks {protocol}",
                pod.name.name
            )
        })
        .collect()
}

/// Wait for the line [`READY`].
fn wait_ready(child: Child) -> Result<()> {
    let stdout = child.stdout.context("the echo server has no pipe")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line == READY {
        Ok(())
    } else {
        bail!("the echo server ended")
    }
}

fn log_of(pod: &Pod) -> String {
    format!("pod-{}.{}", pod.name.namespace, pod.name.name)
}

/// Return the last lines of a log.
fn tail(path: &std::path::Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(12);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// Milliseconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
