//! The cluster of the experiments, and the roles of its hosts.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use model::{IpFamily, Mode};
use serde_json::Value;

use super::Abilities;
use crate::control::address::slot;
use crate::control::{Cluster, Pod, service};
use crate::manifest::ObjectName;
use crate::probe::{Outcome, Probe};
use crate::{Host, Lab};

pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) mode: Mode,
    pub(crate) abilities: Abilities,
    patience: u32,
}

impl Stage {
    pub(crate) fn new(lab: Lab, mode: Mode, patience: u32) -> Self {
        Self {
            lab,
            mode,
            abilities: Abilities::of(mode),
            patience,
        }
    }

    /// Scale a time limit for a slow machine.
    pub(crate) fn patience(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds) * self.patience
    }

    /// Scale the timeout of a probe for a slow machine.
    pub(crate) fn patient(&self, probe: Probe) -> Probe {
        probe.timeout(probe.timeout * self.patience)
    }

    /// Wait until every node's proxy has synced and the Service web answers on the node.
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
            .with_context(|| format!("Service {name} does not exist"))
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
        let node = cluster.nodes.get(node).context("the node does not exist")?;
        Ok(node.ips()[slot(family)])
    }

    /// Return the pods with an `app` label that are not terminating.
    pub(crate) fn pods(&self, app: &str) -> Result<Vec<Pod>> {
        let mut pods: Vec<Pod> = self.cluster()?.pods.into_values().collect();
        pods.retain(|p| {
            p.gone_at.is_none() && p.template.labels.get("app").is_some_and(|a| a == app)
        });
        Ok(pods)
    }

    /// Return the pod that most experiments use.
    pub(crate) fn nginx(&self) -> Result<Pod> {
        self.pods("nginx")?
            .pop()
            .context("the pod nginx does not exist")
    }

    /// Return the first node other than this one.
    pub(crate) fn other_node(&self, than: &str) -> Result<String> {
        let nodes = self.cluster()?.nodes.into_keys();
        nodes
            .into_iter()
            .find(|node| node != than)
            .context("the experiments need two nodes")
    }

    /// Return a pod that acts as a client, on another node than nginx.
    pub(crate) fn client_pod(&self) -> Result<Pod> {
        let nginx = self.nginx()?;
        let mut pods = self.pods("web")?;
        pods.retain(|pod| pod.node != nginx.node);
        pods.into_iter()
            .next()
            .context("no pod can act as a client")
    }

    pub(crate) fn pod_host(&self, pod: &Pod) -> Result<Host> {
        self.lab.host(&pod.name.to_string())
    }
}
