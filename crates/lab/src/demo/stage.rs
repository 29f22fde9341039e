//! The cluster that the experiments play on, and who is who in it.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use model::IpFamily;
use serde_json::Value;

use super::Abilities;
use crate::control::address::slot;
use crate::control::{Cluster, Pod, service};
use crate::manifest::ObjectName;
use crate::probe::{Outcome, Probe};
use crate::{Host, Lab};

pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) abilities: Abilities,
    patience: u32,
}

impl Stage {
    pub(crate) fn new(lab: Lab, abilities: Abilities, patience: u32) -> Self {
        Self {
            lab,
            abilities,
            patience,
        }
    }

    /// How long to wait for what takes at most so many seconds on a usual machine.
    pub(crate) fn patience(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds) * self.patience
    }

    /// The same probe, for this machine.
    pub(crate) fn patient(&self, probe: Probe) -> Probe {
        probe.timeout(probe.timeout * self.patience)
    }

    /// Waits until every node's proxy has synced, then until its Services answer on it.
    pub(crate) fn settle(&mut self, patience: Duration) -> Result<()> {
        self.lab.wait_synced(patience)?;
        let end = Instant::now() + patience;
        let web = self.cluster_ip("web", IpFamily::V4)?;
        let nodes: Vec<String> = self.cluster()?.nodes.into_keys().collect();
        for node in nodes {
            let probe = Probe::http(SocketAddr::new(web, 80)).timeout(Duration::from_millis(500));
            let host = self.lab.host(&node)?;
            loop {
                let outcome = host.probe(probe)?;
                if matches!(outcome, Outcome::Answered(_)) {
                    break;
                }
                if Instant::now() > end {
                    bail!("Service web does not answer on {node}: {outcome}");
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    pub(crate) fn cluster(&self) -> Result<Cluster> {
        Ok(self.lab.state()?.cluster)
    }

    fn service(&self, name: &str) -> Result<Value> {
        let mut services = self.cluster()?.services;
        services
            .remove(&ObjectName::parse(name))
            .with_context(|| format!("there is no Service {name}"))
    }

    pub(crate) fn cluster_ip(&self, name: &str, family: IpFamily) -> Result<IpAddr> {
        let service = self.service(name)?;
        let ips = service
            .pointer("/spec/clusterIPs")
            .and_then(Value::as_array);
        ips.into_iter()
            .flatten()
            .filter_map(|ip| ip.as_str()?.parse().ok())
            .find(|ip| IpFamily::of(*ip) == family)
            .with_context(|| format!("Service {name} has no {family} cluster IP"))
    }

    pub(crate) fn load_balancer_ip(&self, name: &str, family: IpFamily) -> Result<IpAddr> {
        service::ingress_ips(&self.service(name)?)
            .find(|ip| IpFamily::of(*ip) == family)
            .with_context(|| format!("Service {name} has no {family} load-balancer address"))
    }

    pub(crate) fn node_ip(&self, node: &str, family: IpFamily) -> Result<IpAddr> {
        let cluster = self.cluster()?;
        let node = cluster.nodes.get(node).context("the node is gone")?;
        Ok(node.ips()[slot(family)])
    }

    /// The live pods of an `app` label.
    pub(crate) fn pods(&self, app: &str) -> Result<Vec<Pod>> {
        let mut pods: Vec<Pod> = self.cluster()?.pods.into_values().collect();
        pods.retain(|p| {
            p.gone_at.is_none() && p.template.labels.get("app").is_some_and(|a| a == app)
        });
        Ok(pods)
    }

    /// The pod that most experiments are about.
    pub(crate) fn nginx(&self) -> Result<Pod> {
        self.pods("nginx")?.pop().context("pod nginx is gone")
    }

    /// The first node of those that do not have the pod.
    pub(crate) fn other_node(&self, than: &str) -> Result<String> {
        let nodes = self.cluster()?.nodes.into_keys();
        nodes
            .into_iter()
            .find(|node| node != than)
            .context("the experiments need two nodes")
    }

    /// A pod that acts as a client, on another node than nginx.
    pub(crate) fn client_pod(&self) -> Result<Pod> {
        let nginx = self.nginx()?;
        let mut pods = self.pods("web")?;
        pods.retain(|pod| pod.node != nginx.node);
        pods.into_iter().next().context("no pod to act as a client")
    }

    pub(crate) fn pod_host(&self, pod: &Pod) -> Result<Host> {
        self.lab.host(&pod.name.to_string())
    }
}
