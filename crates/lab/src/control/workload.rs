//! Pods and Deployments.

use std::collections::BTreeMap;

use model::Protocol;
use serde::{Deserialize, Serialize};

use crate::manifest::{Field, ManifestError, ObjectName};

/// What the lab keeps of a pod's description.
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
    /// `name`, which a Service's `targetPort` may be.
    pub name: Option<String>,
    /// `containerPort`.
    pub port: u16,
    /// `protocol`.
    #[serde(with = "protocol")]
    pub protocol: Protocol,
}

/// A Protocol in the API's own spelling.
pub(crate) mod protocol {
    use model::Protocol;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(p: &Protocol, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(p.upper())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Protocol, D::Error> {
        let text = String::deserialize(d)?;
        super::protocol_of(&text).ok_or_else(|| D::Error::custom(format!("no protocol: {text}")))
    }
}

/// A protocol by its API name.
pub(crate) fn protocol_of(text: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|p| p.upper() == text)
}

/// `protocol`, TCP where absent.
pub(super) fn read_protocol(field: &Field<'_>) -> Result<Protocol, ManifestError> {
    let word = field.word(&["TCP", "UDP", "SCTP"], "TCP")?;
    Ok(protocol_of(word).unwrap_or(Protocol::Tcp))
}

impl PodTemplate {
    /// Reads a Pod, or a Deployment's `spec.template`.
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

impl ContainerPort {
    fn read(field: &Field<'_>) -> Result<Self, ManifestError> {
        let number = field.get("containerPort");
        Ok(Self {
            name: field.get("name").text()?.map(str::to_owned),
            port: number
                .port()?
                .ok_or_else(|| number.error("a port from 1 to 65535 is needed"))?,
            protocol: read_protocol(&field.get("protocol"))?,
        })
    }
}

/// What the lab keeps of a Deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// `spec.replicas`.
    pub replicas: u32,
    /// `spec.template`.
    pub template: PodTemplate,
    /// The number in the name of the pod to be made next.
    pub next: u32,
}

impl Deployment {
    pub(super) fn read(root: &Field<'_>) -> Result<Self, ManifestError> {
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
        Ok(Self {
            replicas: spec.get("replicas").number(0..=250)?.unwrap_or(1),
            template,
            next: 1,
        })
    }
}

/// A pod of the cluster. There may be two of one name while one of them terminates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// Its description.
    pub template: PodTemplate,
    /// The Deployment that made it.
    pub owner: Option<ObjectName>,
    /// The node that it is on.
    pub node: String,
    /// Its addresses, IPv4 first; the node's own for `hostNetwork`.
    pub ips: [std::net::IpAddr; 2],
    /// The condition Ready.
    pub ready: bool,
    /// When it will be gone, milliseconds since the epoch, if it is being deleted.
    pub gone_at: Option<u64>,
}
