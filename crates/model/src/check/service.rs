//! Services.

use std::net::IpAddr;

use super::address::{parse_cidr, parse_ip, special};
use super::{Checked, Checker, Invalid, Kind, names};
use crate::{
    IngressIp, Interner, IpFamily, IpMode, NamespacedName, Service, ServicePort, ServiceType,
    SessionAffinity, TrafficPolicy, object,
};

/// The API server's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
const MAX_AFFINITY_SECONDS: u32 = 86_400;

impl Service {
    /// Check a Service and fill in the API's defaults.
    ///
    /// Invalid: the name; an unknown type, protocol, policy or affinity; ports that are missing,
    /// out of range, or duplicates in name, number or node port; cluster IPs without a valid
    /// address; an affinity timeout out of range.
    ///
    /// Ignored with a warning: other malformed addresses; malformed ranges in
    /// `loadBalancerSourceRanges`; a node port of a Service whose type has no node ports. A Service
    /// without a cluster IP is returned with a warning; nothing is planned for it.
    ///
    /// # Source ranges that do not parse
    /// An empty [`source_ranges`](Service::source_ranges) admits every client, so ignoring a
    /// malformed range could open a Service to the world, as kube-proxy does. Instead, if no valid
    /// range of a family remains, the load-balancer addresses of that family are ignored, which are
    /// all that the ranges protect. A range with neither a dot nor a colon counts for both
    /// families.
    pub fn check(
        object: object::Service,
        interner: &mut Interner,
    ) -> Result<Checked<Self>, Invalid> {
        let mut checker = Checker::new(Kind::Service, &object.metadata)?;
        let c = &mut checker;
        let object::Service {
            metadata,
            spec,
            status,
        } = object;
        let service_type = service_type(c, &spec.service_type)?;
        let (cluster_ips, no_cluster_ip) = if service_type == ServiceType::ExternalName {
            (Vec::new(), false)
        } else {
            cluster_ips(c, &spec)?
        };
        let headless = no_cluster_ip
            || metadata
                .labels
                .contains_key("service.kubernetes.io/headless");
        if spec.ports.is_empty() && !no_cluster_ip && service_type != ServiceType::ExternalName {
            return Err(c.invalid("spec.ports", "is required"));
        }
        let ports = ports(c, &spec.ports, service_type, interner)?;
        let affinity = affinity(c, &spec)?;
        let internal_policy = policy(
            c,
            "spec.internalTrafficPolicy",
            &spec.internal_traffic_policy,
        )?;
        let external_policy = policy(
            c,
            "spec.externalTrafficPolicy",
            &spec.external_traffic_policy,
        )?;
        let health_check_node_port = c.optional_port(
            || "spec.healthCheckNodePort".into(),
            spec.health_check_node_port,
        )?;
        let external_ips = external_ips(c, &spec.external_ips);
        let mut ingress = ingress(c, &status.load_balancer.ingress);
        let source_ranges = source_ranges(c, &spec.load_balancer_source_ranges, &mut ingress);
        let value = Service {
            name: NamespacedName {
                namespace: interner.intern(&c.object.namespace),
                name: metadata.name.into(),
            },
            uid: metadata.uid.into(),
            service_type,
            cluster_ips,
            headless,
            proxy_name: proxy_name(&metadata.labels),
            ports,
            external_ips,
            ingress,
            load_balancer_names: load_balancer_names(&status.load_balancer.ingress),
            has_selector: !spec.selector.is_empty(),
            source_ranges,
            internal_policy,
            external_policy,
            health_check_node_port,
            affinity,
        };
        Ok(checker.done(value))
    }
}

/// Label that assigns an object to another proxy.
pub(super) fn proxy_name(labels: &std::collections::BTreeMap<String, String>) -> Option<Box<str>> {
    let name = labels.get("service.kubernetes.io/service-proxy-name")?;
    Some(name.as_str().into())
}

fn service_type(c: &Checker, s: &str) -> Result<ServiceType, Invalid> {
    if s.is_empty() {
        return Ok(ServiceType::ClusterIp);
    }
    let named = ServiceType::ALL.into_iter().find(|of| of.name() == s);
    named.ok_or_else(|| {
        let reason =
            format!("{s:?} is not a type (ClusterIP, NodePort, LoadBalancer or ExternalName)");
        c.invalid("spec.type", reason)
    })
}

/// Return the cluster IPs, and whether the Service is headless (`None`).
fn cluster_ips(
    c: &mut Checker,
    spec: &object::ServiceSpec,
) -> Result<(Vec<IpAddr>, bool), Invalid> {
    let single = std::slice::from_ref(&spec.cluster_ip);
    let (stated, list) = match spec.cluster_ips.as_slice() {
        [] => (single, false),
        several => (several, true),
    };
    if list && !spec.cluster_ip.is_empty() && stated.first() != Some(&spec.cluster_ip) {
        let reason = format!(
            "{:?} differs from spec.clusterIPs[0], {:?}, which is used",
            spec.cluster_ip,
            stated.first().map_or("", String::as_str),
        );
        c.warn("spec.clusterIP", reason);
    }
    match stated.first().map(String::as_str) {
        Some("None") => return Ok((Vec::new(), true)),
        None | Some("") => {
            c.warn(
                "spec.clusterIP",
                "is not set; the Service is served once it is",
            );
            return Ok((Vec::new(), false));
        }
        Some(_) => {}
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for (i, s) in stated.iter().enumerate() {
        let field = match list {
            true => format!("spec.clusterIPs[{i}]"),
            false => "spec.clusterIP".into(),
        };
        match parse_ip(s) {
            None if stated.len() == 1 => {
                return Err(c.invalid(field, format!("{s:?} is not an IP address")));
            }
            None => c.warn(field, format!("{s:?} is not an IP address; ignored")),
            Some(ip) if ips.iter().any(|o| IpFamily::of(*o) == IpFamily::of(ip)) => {
                let family = IpFamily::of(ip);
                c.warn(field, format!("{ip} is a second {family} address; ignored"));
            }
            Some(ip) => ips.push(ip),
        }
    }
    if ips.is_empty() {
        return Err(c.invalid("spec.clusterIPs", "contains no valid IP address"));
    }
    Ok((ips, false))
}

fn ports(
    c: &mut Checker,
    stated: &[object::ServicePort],
    service_type: ServiceType,
    interner: &mut Interner,
) -> Result<Vec<ServicePort>, Invalid> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(stated.len());
    for (i, p) in stated.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{i}].{field}");
        if p.name.is_empty() && stated.len() > 1 {
            return Err(c.invalid(at("name"), "is required if the Service has several ports"));
        }
        if !p.name.is_empty() && !names::is_label(&p.name) {
            return Err(c.invalid(at("name"), format!("{:?} is not a port name", p.name)));
        }
        let protocol = c.protocol(|| at("protocol"), &p.protocol)?;
        let port = c.required_port(|| at("port"), p.port)?;
        let mut node_port = c.optional_port(|| at("nodePort"), p.node_port)?;
        if let Some(n) = node_port
            && !matches!(
                service_type,
                ServiceType::NodePort | ServiceType::LoadBalancer
            )
        {
            let reason = format!("{n} is ignored: this type of Service has no node ports");
            c.warn(at("nodePort"), reason);
            node_port = None;
        }
        for (j, other) in ports.iter().enumerate() {
            if *other.name == *p.name {
                let reason = format!("{:?} is also the name of spec.ports[{j}]", p.name);
                return Err(c.invalid(at("name"), reason));
            }
            if other.protocol != protocol {
                continue;
            }
            if other.port == port {
                let reason = format!("{protocol} {port} is also the port of spec.ports[{j}]");
                return Err(c.invalid(at("port"), reason));
            }
            if let Some(n) = node_port
                && other.node_port == node_port
            {
                let reason = format!("{protocol} {n} is also the node port of spec.ports[{j}]");
                return Err(c.invalid(at("nodePort"), reason));
            }
        }
        ports.push(ServicePort {
            name: interner.intern(&p.name),
            protocol,
            port,
            node_port,
        });
    }
    Ok(ports)
}

fn affinity(c: &Checker, spec: &object::ServiceSpec) -> Result<SessionAffinity, Invalid> {
    match spec.session_affinity.as_str() {
        "" | "None" => Ok(SessionAffinity::None),
        "ClientIP" => {
            let stated = spec.session_affinity_config.client_ip.timeout_seconds;
            let timeout_seconds = stated.map_or(Some(DEFAULT_AFFINITY_SECONDS), |s| {
                let seconds = u32::try_from(s).ok()?;
                (1..=MAX_AFFINITY_SECONDS)
                    .contains(&seconds)
                    .then_some(seconds)
            });
            let timeout_seconds = timeout_seconds.ok_or_else(|| {
                c.invalid(
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                    format!(
                        "{} is out of range (1 to {MAX_AFFINITY_SECONDS})",
                        stated.unwrap_or_default()
                    ),
                )
            })?;
            Ok(SessionAffinity::ClientIp { timeout_seconds })
        }
        other => Err(c.invalid(
            "spec.sessionAffinity",
            format!("{other:?} is not an affinity (None or ClientIP)"),
        )),
    }
}

fn policy(c: &Checker, field: &str, s: &str) -> Result<TrafficPolicy, Invalid> {
    match s {
        "" | "Cluster" => Ok(TrafficPolicy::Cluster),
        "Local" => Ok(TrafficPolicy::Local),
        _ => {
            let reason = format!("{s:?} is not a traffic policy (Cluster or Local)");
            Err(c.invalid(field, reason))
        }
    }
}

fn external_ips(c: &mut Checker, stated: &[String]) -> Vec<IpAddr> {
    let mut ips = Vec::with_capacity(stated.len());
    for (i, s) in stated.iter().enumerate() {
        let field = || format!("spec.externalIPs[{i}]");
        match parse_ip(s) {
            None => c.warn(field(), format!("{s:?} is not an IP address; ignored")),
            Some(ip) => match special(ip) {
                Some(why) => c.warn(field(), format!("{ip} {why}; ignored")),
                None => ips.push(ip),
            },
        }
    }
    ips
}

fn load_balancer_names(stated: &[object::LoadBalancerIngress]) -> Box<[Box<str>]> {
    let names = stated.iter().map(|i| &i.hostname);
    let names = names.filter(|name| !name.is_empty());
    names.map(|name| name.as_str().into()).collect()
}

fn ingress(c: &mut Checker, stated: &[object::LoadBalancerIngress]) -> Vec<IngressIp> {
    let mut ips = Vec::with_capacity(stated.len());
    for (i, stated) in stated.iter().enumerate() {
        if stated.ip.is_empty() {
            continue; // A load balancer that is known by host name.
        }
        let at = |field: &str| format!("status.loadBalancer.ingress[{i}].{field}");
        let Some(ip) = parse_ip(&stated.ip) else {
            let reason = format!("{:?} is not an IP address; ignored", stated.ip);
            c.warn(at("ip"), reason);
            continue;
        };
        let mode = match stated.ip_mode.as_deref() {
            None | Some("VIP") => IpMode::Vip,
            Some("Proxy") => IpMode::Proxy,
            Some(other) => {
                // The meaning of future modes is unknown; only VIP requests that nodes answer for
                // the address.
                let reason = format!("{other:?} is not a mode (VIP or Proxy); {ip} ignored");
                c.warn(at("ipMode"), reason);
                continue;
            }
        };
        ips.push(IngressIp { ip, mode });
    }
    ips
}

/// Return the source ranges; see [`Service::check`] for the effect on `ingress`.
fn source_ranges(
    c: &mut Checker,
    stated: &[String],
    ingress: &mut Vec<IngressIp>,
) -> Vec<ipnet::IpNet> {
    let mut ranges = Vec::with_capacity(stated.len());
    let mut unread = Vec::new();
    for (i, s) in stated.iter().enumerate() {
        // The API allows surrounding white space.
        match parse_cidr(s.trim()) {
            Some(range) => ranges.push(range),
            None => {
                let field = format!("spec.loadBalancerSourceRanges[{i}]");
                c.warn(field, format!("{s:?} is not an address range; ignored"));
                unread.push(s);
            }
        }
    }
    for family in IpFamily::ALL {
        let meant = unread
            .iter()
            .any(|s| match (s.contains(':'), s.contains('.')) {
                (true, _) => family == IpFamily::V6,
                (false, true) => family == IpFamily::V4,
                (false, false) => true,
            });
        let some_left = ranges.iter().any(|r| crate::family_of_net(r) == family);
        let guarded = ingress.iter().any(|i| IpFamily::of(i.ip) == family);
        if meant && !some_left && guarded {
            ingress.retain(|i| IpFamily::of(i.ip) != family);
            let reason = format!(
                "no {family} range is valid, so every client would be allowed; \
                 the {family} load-balancer addresses are not served"
            );
            c.warn("spec.loadBalancerSourceRanges", reason);
        }
    }
    ranges
}
