//! Creates the drivers of each mode, with the host interfaces that they use.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use config::Config;
use kernel::ipset::IpSets;
use kernel::iptables::{Backend, Choice, Error, Rules};
use kernel::ipvs::Ipvs;
use kernel::service_device::ServiceDevice;
use model::{IpFamily, Mode};
use netfilter::iptables::Family;
use netfilter::ipvs::netlink::Timeouts;

use super::setup;
use crate::cli::{IptablesBackend, ProxyArgs};
use crate::proxy::input::Inputs;
use crate::proxy::iptables;
use crate::proxy::ipvs;
use crate::proxy::local_relay::SharedRelay;
use crate::proxy::loopback::LoopbackNodePorts;
use crate::proxy::nftables::{NftablesDriver, SharedGeneration};
use crate::proxy::run::Drivers;
use crate::proxy::userspace::UserspaceDriver;
use crate::settings::node_ports;
use crate::system::kernel_family;

/// Create the drivers of the mode.
pub(crate) fn drivers(
    config: &Config,
    args: &ProxyArgs,
    inputs: &Inputs,
) -> anyhow::Result<Drivers> {
    match config.mode {
        Mode::Iptables => iptables_drivers(config, args.iptables_backend, inputs),
        Mode::Nftables => nftables_drivers(config, inputs),
        Mode::Userspace => userspace_drivers(config),
        Mode::Ipvs => ipvs_drivers(config, args.iptables_backend),
    }
}

fn nftables_drivers(config: &Config, inputs: &Inputs) -> anyhow::Result<Drivers> {
    let options = dataplane::nftables::Options {
        masquerade_bit: config.masquerade_bit,
    };
    let generation = SharedGeneration::default();
    let relay = SharedRelay::new(0);
    let mut drivers = Drivers::new();
    for family in IpFamily::ALL {
        if !kernel::family::in_kernel(kernel_family(family)) {
            tracing::info!(%family, "Address family disabled in the kernel; not serving it");
            continue;
        }
        let mut driver =
            NftablesDriver::new(family, options, inputs.sender(), Rc::clone(&generation))
                .context("cannot use nf_tables; is NET_ADMIN missing?")?;
        if let Some(ip) = node_ports::localhost(config, family) {
            driver.serve_loopback(LoopbackNodePorts::new(ip, Rc::clone(&relay)));
        }
        drivers.push((family, Box::new(driver)));
    }
    Ok(drivers)
}

fn userspace_drivers(config: &Config) -> anyhow::Result<Drivers> {
    let settings = dataplane::userspace::Settings {
        mark: 1 << config.masquerade_bit,
        localhost_node_ports: node_ports::localhost_node_ports(config),
    };
    let relay = SharedRelay::new(settings.mark);
    let mut drivers = Drivers::new();
    for family in IpFamily::ALL {
        if !kernel::family::in_kernel(kernel_family(family)) {
            tracing::info!(%family, "Address family disabled in the kernel; not serving it");
            continue;
        }
        let driver = UserspaceDriver::new(family, settings, Rc::clone(&relay)).context(
            "cannot use nf_tables; is NET_ADMIN missing? (--listen-map needs no privilege)",
        )?;
        drivers.push((family, Box::new(driver)));
    }
    Ok(drivers)
}

/// Return access to the iptables rules of each family that has them.
fn iptables_rules(backend: Option<IptablesBackend>) -> Vec<(IpFamily, Rules)> {
    let mut all = Vec::new();
    for family in IpFamily::ALL {
        match probe(family, backend) {
            Ok(rules) => all.push((family, rules)),
            Err(error) => tracing::warn!(%family, %error, "Not serving this address family"),
        }
    }
    all
}

fn probe(family: IpFamily, backend: Option<IptablesBackend>) -> Result<Rules, Error> {
    let (rules, choice) = find_iptables(kernel_family(family), backend)?;
    if let Some(choice) = choice {
        tracing::info!(%family, backend = %choice, "Using iptables");
    }
    Ok(rules)
}

/// Return access to the given back end, or to the chosen one with the reason.
pub(super) fn find_iptables(
    family: Family,
    backend: Option<IptablesBackend>,
) -> Result<(Rules, Option<Choice>), Error> {
    let backend = match backend {
        Some(IptablesBackend::Nft) => Backend::Nft,
        Some(IptablesBackend::Legacy) => Backend::Legacy,
        None => return Rules::find(family).map(|(rules, choice)| (rules, Some(choice))),
    };
    Rules::with_backend(family, backend).map(|rules| (rules, None))
}

fn ipvs_drivers(config: &Config, backend: Option<IptablesBackend>) -> anyhow::Result<Drivers> {
    let seconds = |timeout: Option<Duration>| {
        let seconds = timeout.unwrap_or_default().as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    };
    let timeouts = Timeouts {
        tcp: seconds(config.ipvs.tcp_timeout),
        tcp_fin: seconds(config.ipvs.tcp_fin_timeout),
        udp: seconds(config.ipvs.udp_timeout),
    };
    // One error that names the missing feature if the kernel lacks IPVS.
    let mut ipvs = Ipvs::open()?;
    ipvs.load_scheduler(&config.ipvs.scheduler)?;
    tracing::warn!(mode = %config.mode, reason = setup::IPVS_DEPRECATED, "Deprecated mode");
    if timeouts != Timeouts::default()
        && let Err(error) = ipvs.set_timeouts(timeouts)
    {
        tracing::warn!(%error, "Timeouts not set; continuing without them");
    }
    let mut drivers = Drivers::new();
    for (family, rules) in iptables_rules(backend) {
        let options = setup::ipvs_options(config);
        let mut tools = ipvs::Tools {
            rules,
            ipvs: Ipvs::open()?,
            sets: IpSets::open()?,
            device: ServiceDevice::open(dataplane::ipvs::DEVICE)?,
        };
        // Before anything is written: otherwise a connection could reach a half-written Service.
        tools.device.ensure()?;
        let driver = ipvs::IpvsDriver::new(family, tools, options);
        drivers.push((family, Box::new(driver)));
    }
    if drivers.is_empty() {
        bail!("iptables, which ipvs mode needs too, cannot be used on this host for either family");
    }
    Ok(drivers)
}

fn iptables_drivers(
    config: &Config,
    backend: Option<IptablesBackend>,
    inputs: &Inputs,
) -> anyhow::Result<Drivers> {
    let mut drivers = Drivers::new();
    for (family, rules) in iptables_rules(backend) {
        let options = setup::host_iptables_options(config);
        let driver = iptables::driver(family, rules, options, inputs.sender());
        drivers.push((family, driver));
    }
    if drivers.is_empty() {
        bail!("iptables cannot be used on this host for either family");
    }
    Ok(drivers)
}
