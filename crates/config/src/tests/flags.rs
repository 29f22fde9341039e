use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use model::{LocalTraffic, Mode, NodePortAddresses};

use super::*;
use crate::{Action, FLAGS, LogFormat};

type Check = fn(&Resolved) -> bool;

const SECOND: Duration = Duration::from_secs(1);

fn ranges(of: &[&str]) -> Vec<model::Cidr> {
    of.iter().filter_map(|r| model::parse_cidr(r)).collect()
}

/// Arguments, the first of which is tested, and a check of their effect.
const EFFECTS: &[(&[&str], Check)] = &[
    (&["--write-config-to=/x"], |r| {
        r.action == Action::WriteConfig("/x".into())
    }),
    (&["--cleanup"], |r| r.action == Action::Cleanup),
    (&["--init-only=true"], |r| r.action == Action::InitOnly),
    (&["--version"], |r| {
        r.action == Action::Version { raw: false }
    }),
    (&["--version=raw"], |r| {
        r.action == Action::Version { raw: true }
    }),
    (&["--feature-gates=AllowServiceExternalIPs=false"], |r| {
        !r.config.allow_external_ips
    }),
    (&["--kubeconfig=/k"], |r| {
        r.config.client.kubeconfig.as_deref() == Some(Path::new("/k"))
    }),
    (&["--master=https://m"], |r| {
        r.config.client.master.as_deref() == Some("https://m")
    }),
    (&["--kube-api-content-type=application/json"], |r| {
        r.config.client.content_type == "application/json"
    }),
    (&["--kube-api-burst=7"], |r| r.config.client.burst == 7),
    (&["--kube-api-qps=2.5"], |r| {
        r.config.client.qps.total_cmp(&2.5).is_eq()
    }),
    (&["--hostname-override= Node1 "], |r| {
        r.config.node_name.as_deref() == Some("node1")
    }),
    (&["--bind-address=fd00::1"], |r| {
        // The servers stay on IPv4, as upstream's do.
        r.config.bind_address.to_string() == "fd00::1"
            && r.config
                .healthz_bind_address
                .map(|a| a.to_string())
                .as_deref()
                == Some("0.0.0.0:10256")
    }),
    (&["--healthz-bind-address=[::1]:1"], |r| {
        r.config
            .healthz_bind_address
            .map(|a| a.to_string())
            .as_deref()
            == Some("[::1]:1")
    }),
    (&["--metrics-bind-address=0.0.0.0"], |r| {
        r.config
            .metrics_bind_address
            .map(|a| a.to_string())
            .as_deref()
            == Some("0.0.0.0:10249")
    }),
    (&["--bind-address-hard-fail"], |r| {
        r.config.bind_address_hard_fail
    }),
    (&["--profiling"], |r| r.config.enable_profiling),
    (&["--show-hidden-metrics-for-version=1.35"], |r| {
        r.notes.iter().any(|note| note.contains("hide no metrics"))
    }),
    (&["--proxy-mode=nftables"], |r| {
        r.config.mode == Mode::Nftables
    }),
    (&["--proxy-mode=userspace"], |r| {
        r.config.mode == Mode::Userspace
    }),
    (&["--iptables-masquerade-bit=3"], |r| {
        r.config.masquerade_bit == 3
    }),
    (&["--masquerade-all"], |r| r.config.masquerade_all),
    (&["--masquerade-all", "--proxy-mode=nftables"], |r| {
        r.config.masquerade_all && r.config.file.nftables.masquerade_all
    }),
    (&["--iptables-localhost-nodeports=false"], |r| {
        !r.config.localhost_node_ports && r.config.localhost_node_ports_stated
    }),
    (&["--iptables-localhost-nodeports"], |r| {
        r.config.localhost_node_ports && r.config.localhost_node_ports_stated
    }),
    (&["--iptables-sync-period=1m"], |r| {
        r.config.sync_period == 60 * SECOND
    }),
    (
        &["--iptables-sync-period=1m", "--proxy-mode=nftables"],
        |r| r.config.sync_period == 60 * SECOND,
    ),
    (&["--iptables-min-sync-period=5s"], |r| {
        r.config.min_sync_period == 5 * SECOND
    }),
    (&["--ipvs-sync-period=1m", "--proxy-mode=ipvs"], |r| {
        r.config.sync_period == 60 * SECOND
    }),
    (&["--ipvs-min-sync-period=5s", "--proxy-mode=ipvs"], |r| {
        r.config.min_sync_period == 5 * SECOND
    }),
    (&["--ipvs-scheduler=lc"], |r| {
        r.config.ipvs.scheduler == "lc"
    }),
    (
        &[
            "--ipvs-exclude-cidrs=10.0.0.0/8,fd00::/8",
            "--ipvs-exclude-cidrs=11.0.0.0/8",
        ],
        |r| r.config.ipvs.exclude_cidrs == ranges(&["10.0.0.0/8", "fd00::/8", "11.0.0.0/8"]),
    ),
    (&["--ipvs-strict-arp"], |r| r.config.ipvs.strict_arp),
    (&["--ipvs-tcp-timeout=1s"], |r| {
        r.config.ipvs.tcp_timeout == Some(SECOND)
    }),
    (&["--ipvs-tcpfin-timeout=1s"], |r| {
        r.config.ipvs.tcp_fin_timeout == Some(SECOND)
    }),
    (&["--ipvs-udp-timeout=1s"], |r| {
        r.config.ipvs.udp_timeout == Some(SECOND)
    }),
    (&["--detect-local-mode=NodeCIDR"], |r| {
        r.config.local_traffic == LocalTraffic::NodeCidr
    }),
    (
        &[
            "--pod-bridge-interface=cbr0",
            "--detect-local-mode=BridgeInterface",
        ],
        |r| r.config.local_traffic == LocalTraffic::BridgeInterface("cbr0".into()),
    ),
    (
        &[
            "--pod-interface-name-prefix=veth",
            "--detect-local-mode=InterfaceNamePrefix",
        ],
        |r| r.config.local_traffic == LocalTraffic::InterfaceNamePrefix("veth".into()),
    ),
    (&["--cluster-cidr=10.244.0.0/16,fd00::/56"], |r| {
        r.config.local_traffic == LocalTraffic::ClusterCidr(ranges(&["10.244.0.0/16", "fd00::/56"]))
    }),
    (&["--nodeport-addresses=primary"], |r| {
        r.config.node_port_addresses == NodePortAddresses::Primary
    }),
    (&["--nodeport-addresses=10.0.0.0/8,fd00::/8"], |r| {
        r.config.node_port_addresses
            == NodePortAddresses::Ranges(ranges(&["10.0.0.0/8", "fd00::/8"]))
    }),
    (&["--oom-score-adj=-5"], |r| r.config.oom_score_adj == -5),
    (&["--conntrack-max-per-core=0"], |r| {
        r.config.conntrack.max_per_core.is_none()
    }),
    (&["--conntrack-min=9"], |r| r.config.conntrack.min == 9),
    (&["--conntrack-tcp-timeout-established=1s"], |r| {
        r.config.conntrack.tcp_established_timeout == Some(SECOND)
    }),
    (&["--conntrack-tcp-timeout-close-wait=0"], |r| {
        r.config.conntrack.tcp_close_wait_timeout.is_none()
    }),
    (&["--conntrack-tcp-be-liberal"], |r| {
        r.config.conntrack.tcp_be_liberal
    }),
    (&["--conntrack-udp-timeout=1s"], |r| {
        r.config.conntrack.udp_timeout == Some(SECOND)
    }),
    (&["--conntrack-udp-timeout-stream=1s"], |r| {
        r.config.conntrack.udp_stream_timeout == Some(SECOND)
    }),
    (&["--config-sync-period=1s"], |r| {
        r.config.config_sync_period == SECOND
    }),
    (&["--healthz-port=0"], |r| {
        r.config.healthz_bind_address.is_none()
    }),
    (
        &["--metrics-port=5", "--metrics-bind-address=127.0.0.1"],
        |r| r.config.metrics_bind_address.map(|a| a.port()) == Some(5),
    ),
    (&["--logging-format=json"], |r| {
        r.config.logging.format == LogFormat::Json
    }),
    (&["--log-flush-frequency=1s"], |r| {
        r.config.logging.flush_frequency == SECOND
    }),
    (&["-v=4"], |r| r.config.logging.verbosity == 4),
    (&["-v4"], |r| r.config.logging.verbosity == 4),
    (&["--v=4"], |r| r.config.logging.verbosity == 4),
    (&["--vmodule=a*=1,b=2"], |r| {
        r.config.logging.vmodule == [("a*".into(), 1), ("b".into(), 2)]
    }),
    (
        &[
            "--log-text-split-stream",
            "--feature-gates=LoggingAlphaOptions=true",
        ],
        |r| r.config.logging.stream.split,
    ),
    (
        &[
            "--log-text-info-buffer-size=4Ki",
            "--feature-gates=AllAlpha=true",
        ],
        |r| r.config.logging.stream.info_buffer_size == 4096,
    ),
    (
        &[
            "--log-json-split-stream",
            "--logging-format=json",
            "--feature-gates=AllAlpha=true",
        ],
        |r| r.config.logging.stream.split,
    ),
    (
        &[
            "--log-json-info-buffer-size=1M",
            "--logging-format=json",
            "--feature-gates=AllAlpha=true",
        ],
        |r| r.config.logging.stream.info_buffer_size == 1_000_000,
    ),
];

fn flag_name(arg: &str) -> &str {
    let name = arg.trim_start_matches('-');
    match name.split_once('=') {
        Some((name, _)) => name,
        None if name == "v4" => "v",
        None => name,
    }
}

#[test]
fn every_flag_changes_its_setting() {
    let mut seen = BTreeSet::from(["config"]); // Which has tests of its own.
    for (args, check) in EFFECTS {
        let with = resolve(args).expect("flags that are right");
        assert!(check(&with), "{args:?}");
        // Without the first, the effect is absent: the check can fail.
        let without = resolve(args.get(1..).unwrap_or_default());
        let named_twice = args
            .iter()
            .skip(1)
            .any(|a| flag_name(a) == flag_name(args[0]));
        let has_effect = without.is_ok_and(|without| check(&without));
        assert!(named_twice || !has_effect, "{args:?} without the first");
        seen.insert(flag_name(args[0]));
    }
    let all: BTreeSet<_> = FLAGS.iter().map(|flag| flag.name).collect();
    assert_eq!(seen, all);
}

#[test]
fn without_flags_the_defaults_of_kube_proxy_apply() {
    let r = resolve(&[]).expect("defaults");
    let c = &r.config;
    assert!(c.localhost_node_ports && !c.localhost_node_ports_stated);
    assert_eq!(
        (r.action, r.notes.len(), c.mode),
        (Action::Run, 1, Mode::Iptables)
    );
    assert_eq!((c.sync_period, c.min_sync_period), (30 * SECOND, SECOND));
    assert_eq!((c.masquerade_bit, c.oom_score_adj), (14, -999));
    assert_eq!(c.node_port_addresses, NodePortAddresses::All);
    assert_eq!(c.local_traffic, LocalTraffic::ClusterCidr(vec![]));
    assert_eq!(c.conntrack.max_per_core, Some(32768));
    // What nftables mode does differently.
    let r = resolve(&["--proxy-mode=nftables"]).expect("defaults");
    assert_eq!(r.config.node_port_addresses, NodePortAddresses::Primary);
    // In ipvs mode from flags alone the other modes' minimum holds; from a file it is zero.
    let r = resolve(&["--proxy-mode=ipvs", "--iptables-sync-period=5s"]).expect("defaults");
    assert_eq!(
        (r.config.sync_period, r.config.min_sync_period),
        (30 * SECOND, SECOND)
    );
    assert_eq!(
        from_file("mode: ipvs").expect("a file").min_sync_period,
        Duration::ZERO
    );
}

#[test]
fn the_file_overrides_all_but_a_few_flags() {
    let (_dir, path) = config_file(
        "mode: nftables\nhostnameOverride: from-file\nclusterCIDR: 10.0.0.0/8\n\
         logging: {verbosity: 1, vmodule: [{filePattern: f, verbosity: 1}]}",
    );
    let config = format!("--config={path}");
    let r = resolve(&[
        &config,
        "--proxy-mode=ipvs",
        "--cluster-cidr=11.0.0.0/8",
        "--healthz-port=0",
        "--kubeconfig=/k",
        "--master=https://m",
        "--hostname-override=Flag",
        "-v=7",
        "--vmodule=g=2",
    ])
    .expect("flags that are right");
    let c = &r.config;
    assert_eq!(c.mode, Mode::Nftables);
    assert_eq!(
        c.local_traffic,
        LocalTraffic::ClusterCidr(ranges(&["10.0.0.0/8"]))
    );
    assert!(c.healthz_bind_address.is_some() && c.client.kubeconfig.is_none());
    assert_eq!(c.client.master.as_deref(), Some("https://m"));
    assert_eq!(c.node_name.as_deref(), Some("flag"));
    assert_eq!(c.logging.verbosity, 7);
    assert_eq!(c.logging.vmodule, [("g".into(), 2), ("f".into(), 1)]);
    assert_eq!(r.config_file.map(|file| file.path), Some(path.into()));
    assert_eq!(
        r.notes,
        [
            "--kubeconfig is ignored because --config is given",
            "--proxy-mode is ignored because --config is given",
            "--cluster-cidr is ignored because --config is given",
            "--healthz-port is ignored because --config is given",
        ]
    );
}

#[test]
fn flags_may_have_underscores_and_the_last_one_counts() {
    let r = resolve(&["--proxy_mode=ipvs", "--proxy-mode=nftables"]).expect("flags");
    assert_eq!(r.config.mode, Mode::Nftables);
    let r = resolve(&["--cleanup", "--cleanup=false"]).expect("flags");
    assert_eq!(r.action, Action::Run);
}

#[test]
fn deprecated_and_ineffective_settings_are_noted() {
    let r = resolve(&[
        "--healthz-port=1",
        "--feature-gates=WinDSR=true",
        "--proxy-mode=iptables",
    ])
    .expect("flags");
    assert_eq!(
        r.notes,
        [
            "--healthz-port is deprecated; use --healthz-bind-address",
            "featureGates.WinDSR: has no effect in sluice",
        ]
    );
}

#[test]
fn help_lists_every_supported_flag() {
    let help = augment(Command::new("kube-proxy"))
        .render_long_help()
        .to_string();
    for flag in FLAGS {
        let named = help.contains(&format!("--{}", flag.name));
        assert_eq!(
            named,
            flag.deprecated.is_none() || help.contains(flag.name),
            "{}",
            flag.name
        );
    }
    augment(Command::new("kube-proxy")).debug_assert();
}

#[test]
fn an_empty_address_flag_means_the_default() {
    let flags = ["--healthz-bind-address=", "--metrics-bind-address="];
    let given = resolve(&[&flags[..], &["--bind-address="]].concat()).expect("flags");
    assert_eq!(given.config, resolve(&[]).expect("nothing").config);
}
