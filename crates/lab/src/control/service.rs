//! Services: defaults, and the addresses and ports that the API server and the cloud's load
//! balancer assign.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::{IpFamily, Protocol};
use serde_json::{Value, json};

use super::address::{
    NODE_PORTS, SERVICE_CIDRS, free_cluster_ip, free_load_balancer_ip, free_node_port, slot,
};
use super::workload::read_protocol;
use crate::manifest::{Document, Field, ManifestError, ObjectName};

/// Addresses and ports of the other Services, with their owners.
#[derive(Debug, Default)]
pub(super) struct Taken {
    ips: BTreeMap<IpAddr, ObjectName>,
    node_ports: BTreeMap<u16, ObjectName>,
}

impl Taken {
    /// Return the addresses and ports of all Services but one.
    pub(super) fn by_others(services: &BTreeMap<ObjectName, Value>, but: &ObjectName) -> Self {
        let mut taken = Self::default();
        for (name, service) in services.iter().filter(|(name, _)| *name != but) {
            for ip in ips_at(service, "/spec/clusterIPs").chain(ingress_ips(service)) {
                taken.ips.insert(ip, name.clone());
            }
            for port in node_ports(service) {
                taken.node_ports.insert(port, name.clone());
            }
        }
        taken
    }
}

fn ips_at<'a>(service: &'a Value, pointer: &str) -> impl Iterator<Item = IpAddr> + use<'a> {
    let list = service.pointer(pointer).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|v| v.as_str()?.parse().ok())
}

/// Return `status.loadBalancer.ingress[].ip`.
pub(crate) fn ingress_ips(service: &Value) -> impl Iterator<Item = IpAddr> {
    let list = service
        .pointer("/status/loadBalancer/ingress")
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|ingress| ingress.get("ip")?.as_str()?.parse().ok())
}

/// Return all NodePorts of a Service, including the health check port.
fn node_ports(service: &Value) -> impl Iterator<Item = u16> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let health = service.pointer("/spec/healthCheckNodePort");
    ports
        .into_iter()
        .flatten()
        .filter_map(|port| port.get("nodePort"))
        .chain(health)
        .filter_map(|n| u16::try_from(n.as_u64()?).ok())
        .filter(|&n| n != 0)
}

/// Complete a Service with defaults, addresses and ports. Those of `old`, its last state, are kept.
pub(super) fn complete(
    document: &Document,
    old: Option<&Value>,
    taken: &Taken,
) -> Result<Value, ManifestError> {
    let mut service = document.value.clone();
    let root = document.root();
    let spec = root.get("spec");
    if !spec.value().is_some_and(Value::is_object) {
        return Err(spec.error("a Service must have a spec"));
    }
    let kinds = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    let kind = spec.get("type").word(&kinds, "ClusterIP")?;
    spec.get("selector").map()?;
    service["metadata"]["namespace"] = json!(document.name.namespace);
    service["spec"]["type"] = json!(kind);
    if kind == "ExternalName" {
        if spec.get("externalName").text()?.is_none() {
            return Err(spec
                .get("externalName")
                .error("type ExternalName requires a host name"));
        }
        return Ok(service);
    }
    let filler = Filler {
        spec,
        kind,
        old,
        taken,
    };
    let headless = filler.families(&mut service)?;
    filler.ports(&mut service, headless)?;
    filler.policies(&mut service)?;
    if kind == "LoadBalancer" {
        filler.ingress(&root, &mut service)?;
    }
    Ok(service)
}

/// A Service that is being completed.
struct Filler<'a> {
    spec: Field<'a>,
    kind: &'static str,
    old: Option<&'a Value>,
    taken: &'a Taken,
}

impl Filler<'_> {
    /// Complete `ipFamilies`, `ipFamilyPolicy`, `clusterIP` and `clusterIPs`. Return whether the Service is
    /// headless.
    fn families(&self, service: &mut Value) -> Result<bool, ManifestError> {
        let (headless, given) = self.given_cluster_ips()?;
        let mut families = Vec::new();
        for field in self.spec.get("ipFamilies").items()? {
            let word = field.word(&["IPv4", "IPv6"], "IPv4")?;
            families.push(if word == "IPv6" {
                IpFamily::V6
            } else {
                IpFamily::V4
            });
        }
        for (index, ip) in given.iter().enumerate() {
            match families.get(index) {
                None => families.push(IpFamily::of(*ip)),
                Some(family) if *family == IpFamily::of(*ip) => {}
                Some(family) => {
                    let field = self.spec.get("clusterIPs");
                    return Err(field.error(format!(
                        "{ip} is not {family}, which spec.ipFamilies states"
                    )));
                }
            }
        }
        if families.is_empty() {
            families.push(IpFamily::V4);
        }
        if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
            return Err(self
                .spec
                .get("ipFamilies")
                .error("at most one of each family"));
        }
        let default = if families.len() == 2 {
            "RequireDualStack"
        } else {
            "SingleStack"
        };
        let words = ["SingleStack", "PreferDualStack", "RequireDualStack"];
        let policy_field = self.spec.get("ipFamilyPolicy");
        let policy = policy_field.word(&words, default)?;
        match (policy, families.len()) {
            ("SingleStack", 2) => {
                return Err(
                    policy_field.error("SingleStack cannot be combined with two IP families")
                );
            }
            ("PreferDualStack" | "RequireDualStack", 1) => {
                families.extend(IpFamily::ALL.into_iter().find(|f| *f != families[0]));
            }
            _ => {}
        }
        let names: Vec<String> = families.iter().map(ToString::to_string).collect();
        service["spec"]["ipFamilies"] = json!(names);
        service["spec"]["ipFamilyPolicy"] = json!(policy);
        let ips = if headless {
            vec!["None".to_owned()]
        } else {
            let ips = self.cluster_ips(&families, &given)?;
            ips.iter().map(ToString::to_string).collect()
        };
        service["spec"]["clusterIP"] = json!(ips.first());
        service["spec"]["clusterIPs"] = json!(ips);
        Ok(headless)
    }

    /// Return whether the manifest states a headless Service, and the addresses that it states.
    fn given_cluster_ips(&self) -> Result<(bool, Vec<IpAddr>), ManifestError> {
        let mut fields = self.spec.get("clusterIPs").items()?;
        if fields.is_empty() {
            fields.push(self.spec.get("clusterIP"));
        }
        let mut given = Vec::new();
        for field in fields {
            match field.text()? {
                None => {}
                Some("None") if self.kind == "ClusterIP" => return Ok((true, Vec::new())),
                Some("None") => {
                    return Err(
                        field.error(format!("None cannot be combined with type {}", self.kind))
                    );
                }
                Some(text) => given.push(self.check_cluster_ip(&field, text)?),
            }
        }
        Ok((false, given))
    }

    fn check_cluster_ip(&self, field: &Field<'_>, text: &str) -> Result<IpAddr, ManifestError> {
        let ip = address(field, text)?;
        let range = SERVICE_CIDRS[slot(IpFamily::of(ip))];
        if !range.contains(&ip) {
            return Err(field.error(format!("{ip} is not in the Service CIDR {range}")));
        }
        match self.taken.ips.get(&ip) {
            Some(other) => Err(field.error(format!(
                "{ip} is already taken by Service {other}; choose another or leave it out"
            ))),
            None => Ok(ip),
        }
    }

    fn cluster_ips(
        &self,
        families: &[IpFamily],
        given: &[IpAddr],
    ) -> Result<Vec<IpAddr>, ManifestError> {
        let kept: Vec<IpAddr> = self
            .old
            .map(|old| ips_at(old, "/spec/clusterIPs").collect())
            .unwrap_or_default();
        let of =
            |list: &[IpAddr], family| list.iter().copied().find(|ip| IpFamily::of(*ip) == family);
        families
            .iter()
            .map(|&family| {
                of(given, family)
                    .or_else(|| of(&kept, family))
                    .or_else(|| free_cluster_ip(family, |ip| self.taken.ips.contains_key(&ip)))
                    .ok_or_else(|| {
                        let range = SERVICE_CIDRS[slot(family)];
                        self.spec
                            .get("clusterIP")
                            .error(format!("all addresses in {range} are in use"))
                    })
            })
            .collect()
    }

    fn ports(&self, service: &mut Value, headless: bool) -> Result<(), ManifestError> {
        let list = self.spec.get("ports");
        let fields = list.items()?;
        if fields.is_empty() && !headless {
            return Err(list.error("a Service needs at least one port"));
        }
        let allocate = self
            .spec
            .get("allocateLoadBalancerNodePorts")
            .flag()?
            .unwrap_or(true);
        let wants_node_port = match self.kind {
            "NodePort" => true,
            "LoadBalancer" => allocate,
            _ => false,
        };
        let mut names = BTreeSet::new();
        let mut own = BTreeMap::new();
        let mut keys = BTreeSet::new();
        for (index, field) in fields.iter().enumerate() {
            let name = field.get("name").text()?.unwrap_or_default();
            if fields.len() > 1 && name.is_empty() {
                return Err(field
                    .get("name")
                    .error("a Service with several ports must name each"));
            }
            if !names.insert(name) {
                return Err(field.get("name").error(format!("{name:?} is used twice")));
            }
            let number = field.get("port");
            let port = number
                .port()?
                .ok_or_else(|| number.error("must be a port from 1 to 65535"))?;
            let protocol = read_protocol(&field.get("protocol"))?;
            if !keys.insert((port, protocol)) {
                return Err(number.error(format!("{port}/{protocol} is used twice")));
            }
            let target = field.get("targetPort");
            if !target.value().is_some_and(Value::is_string) {
                target.port()?;
            }
            let out = &mut service["spec"]["ports"][index];
            out["protocol"] = json!(protocol.upper());
            if target
                .value()
                .is_none_or(|v| *v == json!(0) || *v == json!(""))
            {
                out["targetPort"] = json!(port);
            }
            if let Some(node_port) = self.node_port(field, port, protocol, wants_node_port, &own)? {
                own.insert((node_port, protocol), ());
                out["nodePort"] = json!(node_port);
            }
        }
        self.health_port(service, &own)
    }

    fn node_port(
        &self,
        field: &Field<'_>,
        port: u16,
        protocol: Protocol,
        wanted: bool,
        own: &BTreeMap<(u16, Protocol), ()>,
    ) -> Result<Option<u16>, ManifestError> {
        let field = field.get("nodePort");
        if let Some(asked) = field.port()? {
            if !matches!(self.kind, "NodePort" | "LoadBalancer") {
                return Err(field.error(format!("cannot be combined with type {}", self.kind)));
            }
            // One Service may use a number once for each protocol; two Services may not share one.
            if own.contains_key(&(asked, protocol)) {
                return Err(field.error(format!("{asked} is used twice in this Service")));
            }
            self.check_node_port(&field, asked)?;
            return Ok(Some(asked));
        }
        if !wanted {
            return Ok(None);
        }
        let kept = self.kept_node_port(port, protocol);
        let free = || {
            free_node_port(|n| {
                self.taken.node_ports.contains_key(&n) || own.keys().any(|(own, _)| *own == n)
            })
        };
        let (low, high) = NODE_PORTS.into_inner();
        kept.or_else(free)
            .map(Some)
            .ok_or_else(|| field.error(format!("no NodePort left from {low} to {high}")))
    }

    fn check_node_port(&self, field: &Field<'_>, asked: u16) -> Result<(), ManifestError> {
        let (low, high) = NODE_PORTS.into_inner();
        if !NODE_PORTS.contains(&asked) {
            return Err(field.error(format!("{asked} is not from {low} to {high}")));
        }
        match self.taken.node_ports.get(&asked) {
            Some(other) => Err(field.error(format!(
                "{asked} is already taken by Service {other}; choose another or leave it out"
            ))),
            None => Ok(()),
        }
    }

    fn kept_node_port(&self, port: u16, protocol: Protocol) -> Option<u16> {
        let old = self.old?.pointer("/spec/ports")?.as_array()?;
        let same = old.iter().find(|p| {
            p.get("port") == Some(&json!(port))
                && p.get("protocol") == Some(&json!(protocol.upper()))
        })?;
        u16::try_from(same.get("nodePort")?.as_u64()?).ok()
    }

    fn health_port(
        &self,
        service: &mut Value,
        own: &BTreeMap<(u16, Protocol), ()>,
    ) -> Result<(), ManifestError> {
        let field = self.spec.get("healthCheckNodePort");
        let local = self.spec.get("externalTrafficPolicy").text()? == Some("Local");
        if self.kind != "LoadBalancer" || !local {
            return match field.port()? {
                None => Ok(()),
                Some(_) => {
                    Err(field.error("requires type LoadBalancer and externalTrafficPolicy Local"))
                }
            };
        }
        let is_own = |n: u16| own.keys().any(|(own, _)| *own == n);
        let kept = self.old.and_then(|old| {
            u16::try_from(old.pointer("/spec/healthCheckNodePort")?.as_u64()?).ok()
        });
        let port = match field.port()? {
            Some(asked) if is_own(asked) => {
                return Err(field.error(format!("{asked} is used twice in this Service")));
            }
            Some(asked) => {
                self.check_node_port(&field, asked)?;
                Some(asked)
            }
            None => kept.filter(|n| !is_own(*n)).or_else(|| {
                free_node_port(|n| self.taken.node_ports.contains_key(&n) || is_own(n))
            }),
        };
        let port = port.ok_or_else(|| field.error("all NodePorts are in use"))?;
        service["spec"]["healthCheckNodePort"] = json!(port);
        Ok(())
    }

    fn policies(&self, service: &mut Value) -> Result<(), ManifestError> {
        let affinity = self
            .spec
            .get("sessionAffinity")
            .word(&["None", "ClientIP"], "None")?;
        service["spec"]["sessionAffinity"] = json!(affinity);
        if affinity == "ClientIP" {
            let field = self
                .spec
                .get("sessionAffinityConfig")
                .get("clientIP")
                .get("timeoutSeconds");
            // The API's default, three hours.
            let seconds = field.number(1..=86400)?.unwrap_or(10800);
            service["spec"]["sessionAffinityConfig"] =
                json!({"clientIP": {"timeoutSeconds": seconds}});
        }
        let policies = ["Cluster", "Local"];
        let internal = self
            .spec
            .get("internalTrafficPolicy")
            .word(&policies, "Cluster")?;
        service["spec"]["internalTrafficPolicy"] = json!(internal);
        let field = self.spec.get("externalTrafficPolicy");
        let external = field.word(&policies, "Cluster")?;
        let outside = matches!(self.kind, "NodePort" | "LoadBalancer")
            || !self.spec.get("externalIPs").items()?.is_empty();
        if outside {
            service["spec"]["externalTrafficPolicy"] = json!(external);
        } else if field.value().is_some() {
            return Err(field.error(format!(
                "cannot be combined with type {} without externalIPs",
                self.kind
            )));
        }
        let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        self.spec
            .get("trafficDistribution")
            .word(&distributions, "PreferClose")?;
        for range in self.spec.get("loadBalancerSourceRanges").items()? {
            let text = range.text()?.unwrap_or_default().trim();
            if text.parse::<IpNet>().is_err() {
                return Err(range.error(format!(
                    "{text:?} is not an address range such as 10.0.0.0/8"
                )));
            }
        }
        Ok(())
    }

    /// Complete `status.loadBalancer.ingress` with an address of each family, unless it is stated.
    fn ingress(&self, root: &Field<'_>, service: &mut Value) -> Result<(), ManifestError> {
        let status = root.get("status");
        for field in [status.clone(), status.get("loadBalancer")] {
            if field.value().is_some_and(|v| !v.is_object()) {
                return Err(field.error("must be an object"));
            }
        }
        let stated = status.get("loadBalancer").get("ingress");
        if !stated.items()?.is_empty() {
            return Ok(());
        }
        let asked_field = self.spec.get("loadBalancerIP");
        let asked = asked_field
            .text()?
            .map(|text| address(&asked_field, text))
            .transpose()?;
        if let Some((ip, other)) = asked.and_then(|ip| Some((ip, self.taken.ips.get(&ip)?))) {
            return Err(asked_field.error(format!("{ip} is already taken by Service {other}")));
        }
        let kept: Vec<IpAddr> = self
            .old
            .map(|old| ingress_ips(old).collect())
            .unwrap_or_default();
        let mut ingress = Vec::new();
        for family in IpFamily::ALL {
            if !service["spec"]["ipFamilies"]
                .as_array()
                .is_some_and(|list| list.contains(&json!(family.to_string())))
            {
                continue;
            }
            let of = |ip: &IpAddr| IpFamily::of(*ip) == family;
            let ip = asked
                .filter(of)
                .or_else(|| kept.iter().copied().find(of))
                .or_else(|| free_load_balancer_ip(family, |ip| self.taken.ips.contains_key(&ip)))
                .ok_or_else(|| {
                    root.get("status")
                        .error("all load-balancer addresses are in use")
                })?;
            ingress.push(json!({"ip": ip.to_string(), "ipMode": "VIP"}));
        }
        service["status"]["loadBalancer"]["ingress"] = json!(ingress);
        Ok(())
    }
}

fn address(field: &Field<'_>, text: &str) -> Result<IpAddr, ManifestError> {
    text.parse()
        .map_err(|_| field.error(format!("{text:?} is not an IP address")))
}
