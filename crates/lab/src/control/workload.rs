//! Pods and the workloads that own them.

use std::collections::BTreeMap;

use model::Protocol;
use serde::{Deserialize, Serialize};

use crate::manifest::{Field, ManifestError, ObjectName};

/// The lab's part of a pod's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodTemplate {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.nodeName`.
    pub node_name: Option<String>,
    /// `spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.containers[].ports` of all containers.
    pub ports: Vec<ContainerPort>,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace_seconds: Option<u32>,
}

/// One of `spec.containers[].ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// `name`, which a Service's `targetPort` may refer to.
    pub name: Option<String>,
    /// `containerPort`.
    pub port: u16,
    /// `protocol`.
    #[serde(with = "protocol")]
    pub protocol: Protocol,
}

/// A protocol in the API's spelling.
pub(crate) mod protocol {
    use model::Protocol;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(p: &Protocol, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(p.upper())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Protocol, D::Error> {
        let text = String::deserialize(d)?;
        super::protocol_of(&text)
            .ok_or_else(|| D::Error::custom(format!("unknown protocol {text}")))
    }
}

/// Find a protocol by its API name.
pub(crate) fn protocol_of(text: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|p| p.upper() == text)
}

/// Read `protocol`; the default is TCP.
pub(super) fn read_protocol(field: &Field<'_>) -> Result<Protocol, ManifestError> {
    let word = field.word(&["TCP", "UDP", "SCTP"], "TCP")?;
    Ok(protocol_of(word).unwrap_or(Protocol::Tcp))
}

impl PodTemplate {
    /// Read a Pod, or a workload's `spec.template`.
    pub(super) fn read(pod: &Field<'_>) -> Result<Self, ManifestError> {
        let spec = pod.get("spec");
        let containers = spec.get("containers");
        let mut ports = Vec::new();
        for container in containers.items()? {
            for port in container.get("ports").items()? {
                ports.push(ContainerPort::read(&port)?);
            }
        }
        if containers.value().is_none() {
            return Err(containers.error("a pod must have containers"));
        }
        Ok(Self {
            labels: pod.get("metadata").get("labels").map()?,
            node_name: spec.get("nodeName").text()?.map(str::to_owned),
            node_selector: spec.get("nodeSelector").map()?,
            host_network: spec.get("hostNetwork").flag()?.unwrap_or(false),
            ports,
            grace_seconds: spec
                .get("terminationGracePeriodSeconds")
                .number(0..=86400)?,
        })
    }
}

impl PodTemplate {
    /// Return whether `spec.nodeSelector` admits a node.
    pub(super) fn fits(&self, node: &super::Node) -> bool {
        let mut wanted = self.node_selector.iter();
        wanted.all(|(key, value)| node.labels.get(key) == Some(value))
    }
}

impl ContainerPort {
    fn read(field: &Field<'_>) -> Result<Self, ManifestError> {
        let number = field.get("containerPort");
        Ok(Self {
            name: field.get("name").text()?.map(str::to_owned),
            port: number
                .port()?
                .ok_or_else(|| number.error("must be a port from 1 to 65535"))?,
            protocol: read_protocol(&field.get("protocol"))?,
        })
    }
}

/// The kinds of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// Interchangeable pods.
    Deployment,
    /// Pods with fixed names.
    StatefulSet,
    /// One pod on each node that its node selector admits.
    DaemonSet,
}

impl WorkloadKind {
    const ALL: [Self; 3] = [Self::Deployment, Self::StatefulSet, Self::DaemonSet];

    /// `kind` in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }

    /// Find a kind by its name in any case, singular, plural or short.
    pub fn named(text: &str) -> Option<Self> {
        let text = text.to_lowercase();
        let short = |kind| match kind {
            Self::Deployment => "deploy",
            Self::StatefulSet => "sts",
            Self::DaemonSet => "ds",
        };
        Self::ALL.into_iter().find(|kind| {
            let name = kind.name().to_lowercase();
            text == name || text == format!("{name}s") || text == short(*kind)
        })
    }
}

/// Kind and name of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadName {
    /// `kind`.
    pub kind: WorkloadKind,
    /// `metadata.namespace` and `metadata.name`.
    pub name: ObjectName,
}

/// `kind namespace/name`.
impl std::fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

impl From<WorkloadName> for String {
    fn from(name: WorkloadName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for WorkloadName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split_once(' ');
        let known = parts.and_then(|(kind, name)| Some((WorkloadKind::named(kind)?, name)));
        let (kind, name) = known.ok_or_else(|| format!("{text}: not a workload"))?;
        Ok(Self {
            kind,
            name: ObjectName::parse(name),
        })
    }
}

/// The lab's part of a Deployment, StatefulSet or DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// `spec.replicas`; not used by DaemonSets.
    pub replicas: u32,
    /// `spec.ordinals.start` of StatefulSets.
    pub first: u32,
    /// `spec.template`.
    pub template: PodTemplate,
    /// Number in the name of the next pod; not used by StatefulSets.
    pub next: u32,
}

impl Workload {
    pub(super) fn read(root: &Field<'_>, kind: WorkloadKind) -> Result<Self, ManifestError> {
        let spec = root.get("spec");
        let template = PodTemplate::read(&spec.get("template"))?;
        let selector = spec.get("selector").get("matchLabels");
        if let Some((key, value)) = selector
            .map()?
            .into_iter()
            .find(|(key, value)| template.labels.get(key) != Some(value))
        {
            return Err(selector.error(format!(
                "{key}={value} is not among the labels of spec.template"
            )));
        }
        let first = match kind {
            WorkloadKind::StatefulSet => spec.get("ordinals").get("start").number(0..=100_000)?,
            WorkloadKind::Deployment | WorkloadKind::DaemonSet => None,
        };
        Ok(Self {
            replicas: spec.get("replicas").number(0..=250)?.unwrap_or(1),
            first: first.unwrap_or(0),
            template,
            next: 1,
        })
    }
}

/// A pod of the cluster. Two may have the same name while one of them terminates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// Its description.
    pub template: PodTemplate,
    /// The workload that created it.
    pub owner: Option<WorkloadName>,
    /// Its node.
    pub node: String,
    /// Its addresses, IPv4 first; the node's own for `hostNetwork`.
    pub ips: [std::net::IpAddr; 2],
    /// The condition Ready.
    pub ready: bool,
    /// The end of its grace period, in milliseconds since the epoch, if it is being deleted.
    pub gone_at: Option<u64>,
}
