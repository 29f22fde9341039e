//! The conditions for programming the kernel for the first time.

use std::time::Instant;

use anyhow::bail;
use model::IpFamily;
use source::Batch;

use super::node_wait::Answer;
use super::probe::Unsupported;
use super::run::Cluster;
use crate::settings::families;

/// The conditions, and whether they hold.
pub(super) struct Start {
    listed: bool,
    /// The kernel has the features that the mode needs.
    probed: bool,
    /// The reason why a family is not served.
    unserved: Option<Unsupported>,
    cluster: Option<Cluster>,
    served: Vec<IpFamily>,
}

impl Start {
    /// Return the conditions at the start of a process with drivers for these families.
    pub(super) fn new(
        cluster: Option<Cluster>,
        families: impl IntoIterator<Item = IpFamily>,
    ) -> Self {
        Self {
            listed: false,
            probed: false,
            unserved: None,
            cluster,
            served: families.into_iter().collect(),
        }
    }

    /// Take the result of the probe: the families that cannot be served.
    pub(super) fn probed(&mut self, unserved: Option<Unsupported>) {
        self.probed = true;
        let families = unserved.as_ref().map(Unsupported::families);
        let families = families.unwrap_or_default();
        self.served.retain(|family| !families.contains(family));
        self.unserved = unserved;
    }

    /// Take objects.
    pub(super) fn see(&mut self, batch: &Batch) {
        self.listed |= batch.initial_list_complete;
        if let Some(cluster) = &mut self.cluster {
            cluster.wait.see(&batch.events);
        }
    }

    /// Return the longest wait for input; `None` if the engine decides.
    pub(super) fn next(&self) -> anyhow::Result<Option<Instant>> {
        let cluster = self.cluster.as_ref();
        let answer = cluster.map(|cluster| cluster.wait.answer(Instant::now()));
        match answer.filter(|_| self.listed && self.probed) {
            Some(Answer::Until(time)) => Ok(Some(time)),
            Some(Answer::Never(why)) => bail!(why),
            Some(Answer::Ready | Answer::ReadyWithout(_)) | None => Ok(None),
        }
    }

    /// Return whether all conditions hold.
    pub(super) fn is_over(&mut self) -> anyhow::Result<bool> {
        if !self.listed || !self.probed {
            return Ok(false);
        }
        let Some(cluster) = &self.cluster else {
            return Ok(true);
        };
        match cluster.wait.answer(Instant::now()) {
            Answer::Ready => {}
            Answer::ReadyWithout(reason) => {
                tracing::error!(reason, "Starting without this node's Node");
            }
            Answer::Until(_) => return Ok(false),
            Answer::Never(why) => bail!(why),
        }
        let mut verdict = families::check(&cluster.config, cluster.wait.node(), &self.served);
        if !verdict.refused.is_empty() {
            let unserved = self.unserved.as_ref().map(Unsupported::to_string);
            verdict.refused.extend(unserved);
            bail!(
                "the configuration does not fit this node: {}",
                verdict.refused.join("; ")
            );
        }
        for line in &verdict.doubtful {
            tracing::warn!(reason = line, "The configuration may not fit this node");
        }
        for line in &verdict.notes {
            tracing::info!(reason = line, "Note on the configuration");
        }
        self.cluster = None;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use config::{Config, KubeProxyConfiguration};
    use dataplane::Needed;
    use model::{Change, Event, Node, NodeAddress, NodeAddressType};

    use super::*;
    use crate::proxy::node_wait::NodeWait;
    use crate::proxy::probe::tests::{NUMGEN, judged};

    /// A dual-stack kernel on which IPv6 lacks a feature, and a Node with this first address.
    fn start(address: &str) -> Start {
        let mut file = KubeProxyConfiguration::default();
        file.set_defaults();
        let cluster = Cluster {
            wait: NodeWait::new("node1", false, Instant::now()),
            config: Config::from_file(file).unwrap(),
        };
        let mut start = Start::new(Some(cluster), IpFamily::ALL);
        let node = Node {
            name: "node1".into(),
            uid: "".into(),
            addresses: vec![NodeAddress {
                kind: NodeAddressType::InternalIp,
                ip: address.parse().unwrap(),
            }],
            pod_cidrs: Vec::new(),
            topology: Default::default(),
            deleting: false,
        };
        start.see(&Batch {
            events: vec![Event::Node(Change::Applied(Arc::new(node)))],
            initial_list_complete: true,
            ..Batch::default()
        });
        assert!(!start.is_over().unwrap(), "before the probe");
        let lacking = [(IpFamily::V6, NUMGEN, Needed::Always)];
        start.probed(judged(&lacking).unwrap().unserved);
        start
    }

    #[test]
    fn a_node_starts_without_its_secondary_family() {
        assert!(start("10.0.0.1").is_over().unwrap());
    }

    #[test]
    fn a_node_does_not_start_without_its_primary_family() {
        let error = start("fd00::1").is_over().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the configuration does not fit this node: the Node's first address is IPv6, which cannot be \
             served on this host; this kernel lacks what nftables mode needs: numgen for IPv6 \
             (nft_numgen, CONFIG_NFT_NUMGEN)"
        );
    }
}
