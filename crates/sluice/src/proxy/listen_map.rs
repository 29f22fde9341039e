//! `--listen-map`: serves selected Services on local ports, without privileges.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use model::{IpFamily, NamespacedName};
use plan::{Plan, PortKey, PortPlan, Traffic};
use relay::{Backends, Error, Frontend};

use super::driver::{Driver, SyncError, Synced};
use super::local_relay::{SharedRelay, backends};
use super::run::Drivers;

/// One Service port on a local port: `[ADDRESS:]PORT=NAMESPACE/SERVICE[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenSpec {
    /// The addresses to listen on; by default both loopback addresses.
    addresses: Vec<SocketAddr>,
    service: NamespacedName,
    port: Which,
}

/// Selects one of the Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    /// The only one.
    Only,
    /// The one of this name or number; a number can be both TCP's and UDP's.
    Called(Box<str>),
}

/// An invalid [`ListenSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?}: {reason}; expected [ADDRESS:]PORT=NAMESPACE/SERVICE[:PORT], as in 127.0.0.1:8080=demo/web:http"
)]
pub(crate) struct BadSpec {
    text: String,
    reason: String,
}

impl FromStr for ListenSpec {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        let bad = |reason: String| BadSpec {
            text: text.to_owned(),
            reason,
        };
        let Some((at, service)) = text.split_once('=') else {
            return Err(bad("\"=\" is missing".to_owned()));
        };
        let addresses = match (at.parse::<SocketAddr>(), at.parse::<u16>()) {
            (Ok(address), _) => vec![address],
            (_, Ok(port)) => [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ]
            .map(|ip| SocketAddr::new(ip, port))
            .into(),
            _ => return Err(bad(format!("{at:?} is neither a port nor ADDRESS:PORT"))),
        };
        if addresses.iter().any(|address| address.port() == 0) {
            return Err(bad("port 0 cannot be connected to".to_owned()));
        }
        let (service, port) = match service.split_once(':') {
            Some((_, "")) => return Err(bad("the Service's port is empty".to_owned())),
            Some((service, port)) => (service, Which::Called(port.into())),
            None => (service, Which::Only),
        };
        let service = match service.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                NamespacedName {
                    namespace: namespace.into(),
                    name: name.into(),
                }
            }
            _ => return Err(bad(format!("{service:?} is not NAMESPACE/SERVICE"))),
        };
        Ok(Self {
            addresses,
            service,
            port,
        })
    }
}

impl fmt::Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            Which::Only => write!(f, "{}", self.service),
            Which::Called(port) => write!(f, "{}:{port}", self.service),
        }
    }
}

/// Read the values of `--listen-map`: specs, and files with one spec per line.
pub(crate) fn read(given: &[String]) -> anyhow::Result<Vec<ListenSpec>> {
    let mut specs = Vec::new();
    for word in given {
        if word.contains('=') {
            specs.push(word.parse().context("--listen-map")?);
            continue;
        }
        let text = std::fs::read_to_string(Path::new(word))
            .with_context(|| format!("--listen-map: cannot read {word}"))?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line
                .split_once('#')
                .map_or(line, |(before, _)| before)
                .trim();
            if !line.is_empty() {
                let spec = line.parse();
                specs.push(spec.with_context(|| format!("--listen-map: {word}, line {number}"))?);
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (spec, address) in specs
        .iter()
        .flat_map(|s: &ListenSpec| s.addresses.iter().map(move |a| (s, a)))
    {
        anyhow::ensure!(
            seen.insert(*address),
            "--listen-map: {address} is given twice, the second time for {spec}"
        );
    }
    Ok(specs)
}

type Ports = BTreeMap<PortKey, Arc<PortPlan>>;

/// The Services of both families, and one relay for them.
struct ListenMap {
    specs: Vec<ListenSpec>,
    relay: Rc<SharedRelay>,
    v4: Ports,
    v6: Ports,
    /// The warning logged for each spec without a Service.
    missing: BTreeMap<String, String>,
}

impl ListenMap {
    fn take(&mut self, plan: &Plan) {
        let ports = self.specs.iter().flat_map(|s| plan.ports_of(&s.service));
        let ports = ports.map(|(k, p)| (k.clone(), p.clone())).collect();
        match plan.family {
            IpFamily::V4 => self.v4 = ports,
            IpFamily::V6 => self.v6 = ports,
        }
    }

    /// Return the desired frontends.
    fn frontends(&mut self) -> BTreeMap<Frontend, Backends> {
        let mut frontends = BTreeMap::new();
        for spec in &self.specs {
            let keys: BTreeSet<&PortKey> = [&self.v4, &self.v6]
                .into_iter()
                .flat_map(|ports| spec.matching(ports))
                .collect();
            let name = spec.to_string();
            if !keys.is_empty() {
                self.missing.remove(&name);
            } else {
                let why = self.why_missing(spec);
                if self.missing.get(&name) != Some(&why) {
                    tracing::warn!(reason = why, "An entry of --listen-map serves nothing");
                    self.missing.insert(name, why);
                }
            }
            for key in keys {
                for address in &spec.addresses {
                    let frontend = Frontend {
                        address: *address,
                        protocol: key.1,
                    };
                    frontends.insert(frontend, self.backends(key, *address));
                }
            }
        }
        frontends
    }

    fn why_missing(&self, spec: &ListenSpec) -> String {
        let keys = [&self.v4, &self.v6]
            .into_iter()
            .flat_map(|ports| ports.keys());
        let of_service = keys.filter(|(name, _)| name.service == spec.service);
        let ports: BTreeSet<&str> = of_service.map(|(name, _)| &*name.port).collect();
        if ports.is_empty() {
            return format!("Service {} does not exist yet", spec.service);
        }
        let ports = Vec::from_iter(ports).join(", ");
        match &spec.port {
            Which::Only => format!(
                "Service {} has several ports; name one of {ports}",
                spec.service
            ),
            Which::Called(_) => format!("port {spec} does not exist yet; existing ports: {ports}"),
        }
    }

    /// Return the endpoints of the address's own family, or of the other family if there are none:
    /// a relay can cross families.
    fn backends(&self, key: &PortKey, address: SocketAddr) -> Backends {
        let (first, second) = match IpFamily::of(address.ip()) {
            IpFamily::V4 => (&self.v4, &self.v6),
            IpFamily::V6 => (&self.v6, &self.v4),
        };
        let found = [first, second].into_iter().filter_map(|ports| {
            let port = ports.get(key)?;
            // The endpoints that a pod of this node reaches at the cluster IP.
            Some(backends(
                port,
                match port.internal_traffic() {
                    Traffic::Cluster => &port.cluster,
                    Traffic::Local => &port.local,
                    Traffic::Reject | Traffic::Drop => &[],
                },
            ))
        });
        let mut found: Vec<Backends> = found.collect();
        let at = found.iter().position(|b| !b.endpoints.is_empty());
        match at {
            Some(at) => found.swap_remove(at),
            None => Backends::default(),
        }
    }
}

impl ListenSpec {
    fn matching<'a>(&self, ports: &'a Ports) -> Vec<&'a PortKey> {
        let of_service = ports
            .iter()
            .filter(|((name, _), _)| name.service == self.service);
        let all: Vec<_> = of_service.collect();
        let chosen = all.iter().filter(|((name, _), port)| match &self.port {
            Which::Only => all.len() == 1,
            Which::Called(called) => *name.port == **called || port.port.to_string() == **called,
        });
        chosen.map(|(key, _)| *key).collect()
    }
}

/// One family's share of the map.
struct ListenMapDriver {
    family: IpFamily,
    map: Rc<RefCell<ListenMap>>,
}

/// Return the drivers that serve these.
pub(crate) fn drivers(specs: Vec<ListenSpec>) -> Drivers {
    let map = Rc::new(RefCell::new(ListenMap {
        specs,
        relay: SharedRelay::new(0),
        v4: Ports::new(),
        v6: Ports::new(),
        missing: BTreeMap::new(),
    }));
    let driver = |family| -> (IpFamily, Box<dyn Driver>) {
        let map = Rc::clone(&map);
        (family, Box::new(ListenMapDriver { family, map }))
    };
    IpFamily::ALL.map(driver).into()
}

const LISTEN: &str = "cannot serve --listen-map";

impl Driver for ListenMapDriver {
    fn sync(&mut self, plan: &Plan, _: &BTreeSet<PortKey>) -> Result<Synced, SyncError> {
        self.resync(plan)
    }

    fn resync(&mut self, plan: &Plan) -> Result<Synced, SyncError> {
        let mut map = self.map.borrow_mut();
        map.take(plan);
        let frontends = map.frontends();
        let served = map.relay.get().and_then(|relay| relay.serve(frontends));
        let (_, errors) = served.map_err(SyncError::failed(LISTEN))?;
        // Each family reports its own addresses; the sync is retried until they are free.
        let mine = errors.into_iter().find(|e| match e {
            Error::Listen { frontend, .. } | Error::Unsupported { frontend } => {
                IpFamily::of(frontend.address.ip()) == self.family
            }
            Error::Start(_) | Error::Stopped => true,
        });
        match mine {
            Some(error) => Err(SyncError::failed(LISTEN)(error)),
            None => Ok(Synced::default()),
        }
    }

    fn disturbed(&mut self, _: &Plan) -> bool {
        // No program can take a port from its listener.
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> String {
        text.parse::<ListenSpec>().unwrap_err().to_string()
    }

    #[test]
    fn a_listen_spec_has_addresses_and_a_service_port() {
        let spec: ListenSpec = "[::1]:5353=kube-system/kube-dns:dns".parse().unwrap();
        assert_eq!(spec.addresses, ["[::1]:5353".parse().unwrap()]);
        assert_eq!(spec.to_string(), "kube-system/kube-dns:dns");
        let spec: ListenSpec = "8080=demo/web".parse().unwrap();
        let both = ["127.0.0.1:8080", "[::1]:8080"].map(|a| a.parse().unwrap());
        assert_eq!(spec.addresses, both);
        assert_eq!(spec.port, Which::Only);
    }

    #[test]
    fn errors_name_the_invalid_part_of_a_listen_spec() {
        for (text, wrong) in [
            ("8080", "\"=\" is missing"),
            ("x:80=demo/web", "\"x:80\" is neither"),
            ("99999=demo/web", "\"99999\" is neither"),
            ("0=demo/web", "port 0"),
            ("80=web", "\"web\" is not NAMESPACE/SERVICE"),
            ("80=demo/", "\"demo/\" is not"),
            ("80=demo/web:", "port is empty"),
        ] {
            let said = reason(text);
            assert!(
                said.contains(wrong) && said.contains(text),
                "{text}: {said}"
            );
        }
    }

    #[test]
    fn listen_files_may_have_comments_and_errors_name_the_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().to_str().unwrap().to_owned();
        std::fs::write(&name, "# mine\n8080=demo/web:http # web\n\n5353=demo/dns\n").unwrap();
        let specs = read(&[name.clone(), "9000=demo/api".to_owned()]).unwrap();
        assert_eq!(specs.len(), 3);
        std::fs::write(&name, "8080=demo/web\nnonsense\n").unwrap();
        let said = format!("{:#}", read(&[name]).unwrap_err());
        assert!(
            said.contains("line 2") && said.contains("nonsense"),
            "{said}"
        );
        let twice = ["8080=demo/web", "127.0.0.1:8080=demo/api"].map(str::to_owned);
        let said = read(&twice).unwrap_err().to_string();
        assert!(said.contains("127.0.0.1:8080 is given twice"), "{said}");
    }
}
