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

/// How a lab is to be raised.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub name: LabName,
    /// How many nodes, where the manifests state none.
    pub nodes: u8,
    /// The manifests to begin with.
    pub documents: Documents,
    /// Program and first arguments of the echo server, such as `sluice lab-echo`.
    pub echo: Vec<String>,
    /// What runs on each node; nothing where `None`.
    pub proxy: Option<ProxyCommand>,
}

/// A running lab. Dropping one that was raised by [`Lab::up`] takes it down, unless it was told to
/// [`keep`](Lab::keep).
#[derive(Debug)]
pub struct Lab {
    name: LabName,
    folder: Folder,
    down_on_drop: bool,
}

impl Lab {
    /// Raises a lab: namespaces, pods, and a proxy on each node.
    ///
    /// Documents that are wrong are reported in [`Applied::errors`]; the lab stands without them.
    ///
    /// # Errors
    /// There is a lab of that name; not root; a kernel without namespaces or veth. What was made
    /// until then is taken down.
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
            bail!(
                "there is a lab {name} already; take it down with: sluice lab down --name {name}"
            );
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

    /// A lab that is up.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn open(name: LabName) -> Result<Self> {
        let folder = Folder::of(&name);
        if !folder.path().is_dir() {
            let labs: Vec<String> = Self::list()?.iter().map(ToString::to_string).collect();
            let known = if labs.is_empty() {
                "none".to_owned()
            } else {
                labs.join(", ")
            };
            bail!("there is no lab {name}; there is: {known}");
        }
        Ok(Self {
            name,
            folder,
            down_on_drop: false,
        })
    }

    /// The labs of this machine, also what crashed ones left behind.
    ///
    /// # Errors
    /// `/run` may not be read.
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

    /// Takes a lab down, whatever state it is in: ends every process in its namespaces, removes
    /// these and its folder. Goes on after an error and reports the first.
    ///
    /// # Errors
    /// Something does not go away.
    pub fn down(name: &LabName) -> Result<()> {
        let ours: Vec<String> = NetNs::list()?
            .into_iter()
            .filter(|netns| LabName::of_netns(netns).as_ref() == Some(name))
            .collect();
        // What cannot be opened is a leftover file; deleting it is all there is to do.
        let open: Vec<NetNs> = ours
            .iter()
            .filter_map(|netns| NetNs::open(netns).ok())
            .collect();
        let mut results = vec![end_all_in(&open)];
        if let Ok(state) = Folder::of(name).load() {
            // A process can have left its namespace.
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

    /// Leaves the lab up when this is dropped.
    pub fn keep(&mut self) {
        self.down_on_drop = false;
    }

    /// The lab's name.
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// The lab's folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What the lab knows now.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn state(&self) -> Result<State> {
        self.folder.load()
    }

    /// Applies manifests, as `kubectl apply` does: new pods run before slices name them. Waits
    /// for replaced pods to end.
    ///
    /// # Errors
    /// A pod cannot be started. What is wrong with a document is in the result.
    pub fn apply(&mut self, documents: &Documents) -> Result<Applied> {
        let mut applied = self.change(|cluster, now| Ok(cluster.apply(documents, now)))?;
        self.wait_for_ends()?;
        applied.notes.extend(unserved(&self.state()?.cluster));
        Ok(applied)
    }

    /// Deletes an object. A pod terminates first: its endpoint is not ready, serving and
    /// terminating until `grace_seconds` (its own grace period where `None`) are over. Waits for
    /// that.
    ///
    /// # Errors
    /// There is no such object.
    pub fn delete(&mut self, target: &Target, grace_seconds: Option<u32>) -> Result<String> {
        let note = self.change(|cluster, now| Ok(cluster.delete(target, grace_seconds, now)?))?;
        self.wait_for_ends()?;
        Ok(note)
    }

    /// Scales a Deployment. Waits for surplus pods to end.
    ///
    /// # Errors
    /// There is no such Deployment; a pod cannot be started.
    pub fn scale(&mut self, name: &ObjectName, replicas: u32) -> Result<String> {
        let note = self.begin_scale(name, replicas)?;
        self.wait_for_ends()?;
        Ok(note)
    }

    /// Scales a Deployment and comes back while surplus pods still serve and terminate. The next
    /// operation that waits takes them away.
    ///
    /// # Errors
    /// As [`scale`](Self::scale).
    pub fn begin_scale(&mut self, name: &ObjectName, replicas: u32) -> Result<String> {
        self.change(|cluster, now| Ok(cluster.scale(name, replicas, now)?))
    }

    /// Replaces a pod by one on another node. Waits for the old one to end.
    ///
    /// # Errors
    /// There is no such pod or node; the new pod cannot be started.
    pub fn move_pod(&mut self, name: &ObjectName, node: &str) -> Result<String> {
        let note = self.change(|cluster, now| Ok(cluster.move_pod(name, node, now)?))?;
        self.wait_for_ends()?;
        Ok(note)
    }

    /// Sets a pod's condition Ready.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn set_ready(&mut self, name: &ObjectName, ready: bool) -> Result<String> {
        self.change(|cluster, _| Ok(cluster.set_ready(name, ready)?))
    }

    /// A host: `client`, `router`, a node, or a pod as `NAME` or `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// There is no such host.
    pub fn host(&self, name: &str) -> Result<Host> {
        let state = self.state()?;
        let netns = match name {
            "client" => self.name.client(),
            "router" => self.name.router(),
            node if state.cluster.nodes.contains_key(node) => self.name.node(node),
            pod => {
                let id = state.cluster.live_pod(&ObjectName::parse(pod));
                let id = id.ok_or_else(|| {
                    anyhow!("lab {} has no host {name}: say client, router, a node or a pod; `sluice lab status` lists them", self.name)
                })?;
                self.name.pod(id, &state.cluster.pods[&id])
            }
        };
        Ok(Host::new(name, NetNs::open(&netns)?))
    }

    /// The outside client.
    ///
    /// # Errors
    /// The lab is broken.
    pub fn client(&self) -> Result<Host> {
        self.host("client")
    }

    /// A node's proxy.
    ///
    /// # Errors
    /// There is no such node.
    pub fn node_proxy(&mut self, node: &str) -> Result<NodeProxy<'_>> {
        if !self.state()?.cluster.nodes.contains_key(node) {
            bail!("lab {} has no node {node}", self.name);
        }
        Ok(NodeProxy {
            node: node.to_owned(),
            lab: self,
        })
    }

    /// Waits until every node's proxy says that it has synced both families: `/healthz` on port 10256.
    ///
    /// # Errors
    /// A proxy has ended, or does not say so in time.
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
                    bail!("the proxy of {node} has not synced:\n{}", tail(&log));
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Changes the cluster, starts what is new, then publishes.
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

    /// Starts the pods that do not run yet, all at once. One that cannot start is taken out again.
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
        let (program, arguments) = echo.split_first().context("no echo server given")?;
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
        // Its log is shown to people when it cannot start.
        command.env("RUST_LIB_BACKTRACE", "0");
        Process::start(&mut command, &self.folder.log(&log_of(pod)))
    }

    fn remove_namespace(&self, id: PodId, pod: &Pod) -> Result<()> {
        let netns = self.name.pod(id, pod);
        if pod.template.host_network || !NetNs::list()?.contains(&netns) {
            return Ok(());
        }
        end_all_in(&[NetNs::open(&netns)?])?;
        // The kernel takes namespaces apart at its leisure; the pod's address is to lead nowhere
        // from now on.
        fabric::disconnect_pod(&self.name, id, pod)?;
        Ok(NetNs::delete(&netns)?)
    }

    /// Waits for the pods that terminate now, and removes them.
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

    /// Load balancers' addresses lead to the first node; those of Services that keep traffic on
    /// the node lead to a node that has an endpoint, as an announcing load balancer would have it.
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
            tracing::error!("taking lab {} down: {e:#}", self.name);
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
    /// Starts it; nothing where the lab has none, or it runs.
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
        let (program, arguments) = proxy.argv.split_first().context("an empty proxy command")?;
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

    /// Kills it with SIGKILL: it can do nothing about it.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&self) -> Result<()> {
        match self.lab.state()?.proxies.get(&self.node) {
            Some(process) => process.end(),
            None => bail!("node {} has no proxy", self.node),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// The lab's state cannot be read.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(process) = self.lab.state()?.proxies.get(&self.node) {
            process.signal(signal);
        }
        Ok(())
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// The lab's state cannot be read.
    pub fn is_alive(&self) -> Result<bool> {
        let state = self.lab.state()?;
        Ok(state.proxies.get(&self.node).is_some_and(Process::is_alive))
    }

    /// Its node's addresses, IPv4 first.
    ///
    /// # Errors
    /// The lab's state cannot be read.
    pub fn node_ips(&self) -> Result<[IpAddr; 2]> {
        let state = self.lab.state()?;
        let node = state
            .cluster
            .nodes
            .get(&self.node)
            .context("the node is gone")?;
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

/// The ports that no echo server can open here.
fn unserved(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.pods.values();
    let ports = pods.flat_map(|pod| pod.template.ports.iter().map(move |port| (pod, port)));
    ports
        .filter(|(_, port)| !kernel_has(port.protocol))
        .map(|(pod, port)| {
            let ContainerPort { port, protocol, .. } = port;
            format!(
                "pod/{}: nobody listens on {port}/{protocol}: this kernel has no {protocol}",
                pod.name.name
            )
        })
        .collect()
}

/// Waits for the line that says that all ports are open.
fn wait_ready(child: Child) -> Result<()> {
    let stdout = child.stdout.context("no pipe to the echo server")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line == READY {
        Ok(())
    } else {
        bail!("its echo server ended")
    }
}

fn log_of(pod: &Pod) -> String {
    format!("pod-{}.{}", pod.name.namespace, pod.name.name)
}

/// The last lines of a log.
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
