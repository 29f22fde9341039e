//! A node and the objects of its cluster, prepared for any number of questions.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{Event, IpFamily, Mode, Service};
use plan::Settings;
use trace::{Facts, World};

use super::desired::Desired;
use super::finding::Finding;
use super::flows::{self, Flows};
use super::pods::Pods;
use super::probe::{self, Probe, Setting};
use super::sources::Sources;
use super::subject::{Cluster, Subject};
use super::{Asked, Refused, addresses, clash, mode_of, node, objects, only_known, route};

/// Everything that answers about a node depend on.
#[derive(Debug)]
pub struct Given {
    /// All objects.
    pub events: Vec<Event>,
    /// The settings of the node's plan, with the node's name.
    pub settings: Settings,
    /// The node's interfaces, addresses and sysctls.
    pub facts: Facts,
    /// Its rules and routes.
    pub world: World,
    /// The rules come from files: a family without rules is unknown, not empty.
    pub is_partial: bool,
    /// The settings are the running proxy's, not the defaults.
    pub is_configured: bool,
    /// Service ports that the running proxy reports as refused.
    pub refused: Vec<Refused>,
}

/// A node and the plan of its objects, prepared for questions.
#[derive(Debug)]
pub struct Inspector {
    /// The node's interfaces, addresses and sysctls.
    pub facts: Facts,
    /// The node's rules and routes.
    pub world: World,
    /// The mode of the node's rules.
    pub mode: Mode,
    pub(crate) cluster: Cluster,
    pub(crate) refused: Vec<Refused>,
    pods: Pods,
    sources: Sources,
    /// Known connections, if they were read.
    flows: Flows,
    is_partial: bool,
    is_configured: bool,
}

impl Inspector {
    /// Plan the objects for the node.
    pub fn new(given: Given) -> Self {
        let Given {
            events,
            settings,
            facts,
            world,
            is_partial,
            is_configured,
            refused,
        } = given;
        let cluster = Cluster::new(events, settings, addresses(&facts));
        let sources = Sources::of(&cluster, &facts, &world);
        Self {
            mode: mode_of(&world),
            pods: Pods::of(&cluster, &facts, &world.host, &sources),
            sources,
            flows: Flows::default(),
            facts,
            world,
            cluster,
            refused,
            is_partial,
            is_configured,
        }
    }

    /// Read the known connections to all Services from this host, for [`crate::verify::check`]. If that is
    /// impossible, a warning names the reason.
    pub fn read_flows(&mut self) {
        match Flows::read(&self.cluster) {
            Ok(flows) => self.flows = flows,
            Err(error) => {
                let warning = format!("known connections are not considered: {error}");
                self.world.warnings.push(warning);
            }
        }
    }

    /// Return the node's name.
    pub fn node(&self) -> &str {
        &self.cluster.node_name
    }

    /// Return the number of Services.
    pub fn services(&self) -> usize {
        self.cluster.services().len()
    }

    /// Find a Service by name, address or NodePort, and walk connections to it from each kind of client,
    /// and from `client`, outside the cluster.
    ///
    /// # Errors
    /// No Service is meant, or the rules contain an endless loop.
    pub fn ask(&self, service: &str, client: Option<IpAddr>) -> anyhow::Result<Asked<'_>> {
        let subject = self.cluster.find(service, self.mode)?;
        let mut probes = probe::ask(&subject, self.setting(client, true))?;
        let mut notes = self.world.warnings.clone();
        if self.is_partial {
            for family in IpFamily::ALL {
                notes.extend(only_known(&self.world, family, &mut probes));
            }
        }
        Ok(Asked {
            probes,
            inspector: self,
            subject,
            client,
            notes,
        })
    }

    pub(crate) fn desired(&self) -> Desired<'_> {
        Desired::new(&self.cluster, self.mode, &self.facts)
    }

    /// Return the objects and the plans of all ports of a Service.
    pub(crate) fn subject(&self, service: &Arc<Service>) -> Subject<'_> {
        let ports = service.ports.clone();
        self.cluster.subject(Arc::clone(service), ports, self.mode)
    }

    /// Return the refused ones of a Service's ports.
    pub(crate) fn refused_ports<'s>(
        &'s self,
        subject: &'s Subject<'_>,
    ) -> impl Iterator<Item = &'s Refused> {
        let is_meant = |refused: &&Refused| {
            let mut plans = subject.plans.iter();
            plans.any(|(plan, _)| {
                refused.protocol == plan.protocol.upper() && plan.name.to_string() == refused.port
            })
        };
        self.refused.iter().filter(is_meant)
    }

    fn setting(&self, client: Option<IpAddr>, is_thorough: bool) -> Setting<'_> {
        Setting {
            facts: &self.facts,
            world: &self.world,
            client,
            is_configured: self.is_configured,
            pods: &self.pods,
            sources: &self.sources,
            is_thorough,
        }
    }
}

/// Upper bound on the differences that a check of all Services names.
const MOST_NAMED: usize = 100;

/// A check of all Services.
#[derive(Debug)]
pub(crate) struct Checker<'a> {
    inspector: &'a Inspector,
    desired: Desired<'a>,
    /// How many differences were named.
    named: AtomicUsize,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(inspector: &'a Inspector) -> Self {
        Self {
            inspector,
            desired: inspector.desired(),
            named: AtomicUsize::new(0),
        }
    }

    /// Check the rules for one Service; return the number of connections, and the findings. The clients
    /// of a thorough check are pods of every kind.
    pub(crate) fn check(
        &self,
        service: &Arc<Service>,
        is_thorough: bool,
    ) -> anyhow::Result<(usize, Vec<Finding>)> {
        let inspector = self.inspector;
        let subject = inspector.subject(service);
        if objects::not_served(&subject).is_some() {
            return Ok((0, Vec::new()));
        }
        let mut probes = probe::ask(&subject, inspector.setting(None, is_thorough))?;
        if inspector.is_partial {
            for family in IpFamily::ALL {
                only_known(&inspector.world, family, &mut probes);
            }
        }
        let mut findings = clash::cut_off(&subject);
        let (facts, host) = (&inspector.facts, &inspector.world.host);
        findings.extend(node::settings(&subject, facts, &probes));
        let naming = |probe: &Probe| {
            // Naming searches whole sets; a group of problems shows one example.
            let count = self.named.fetch_add(1, Ordering::Relaxed);
            let is_named = count < MOST_NAMED;
            is_named.then(|| self.desired.difference(probe, &inspector.world))?
        };
        findings.extend(probe::findings(&probes, &naming));
        let known = inspector.flows.to(&subject);
        findings.extend(route::findings(&subject, facts, host, &probes, &known));
        findings.extend(flows::findings(&subject, &known, &probes));
        Ok((probes.len(), findings))
    }
}
