use model::NodePortAddresses;

use super::*;

#[test]
fn unreadable_files_are_errors() {
    let table = [
        ("", "line 1: ", "is not a KubeProxyConfiguration"),
        ("- a", "", "is not a KubeProxyConfiguration"),
    ];
    for (text, _, says) in table {
        let error = KubeProxyConfiguration::from_yaml(text)
            .expect_err(text)
            .to_string();
        assert_eq!(error, says, "{text}");
    }
    for (text, says) in [
        (
            "kind: KubeProxyConfiguration",
            "apiVersion: is required (kubeproxy.config.k8s.io/v1alpha1)",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha2",
            "apiVersion: \"kubeproxy.config.k8s.io/v1alpha2\" is not kubeproxy.config.k8s.io/v1alpha1",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: Proxy",
            "kind: \"Proxy\" is not KubeProxyConfiguration",
        ),
    ] {
        let error = KubeProxyConfiguration::from_yaml(text)
            .expect_err(text)
            .to_string();
        assert_eq!(error, says);
    }
    let missing = resolve(&["--config=/nonexistent/x"]).expect_err("no file");
    assert_eq!(
        missing,
        "/nonexistent/x: No such file or directory (os error 2)"
    );
}

/// ConfigMaps of older releases contain fields that no longer exist.
const LEFTOVERS: &str = "mode: ipvs\nmode: nftables\nmetadata: {name: x}\n\
    conntrack: {max: 0, min: 4096, min: 8192}\nresourceContainer: /kube-proxy\n\
    logging: {vmodule: [{filePattern: a, level: 2}]}\n\
    featureGates: {AllAlpha: true, AllAlpha: false}";

#[test]
fn unknown_and_duplicate_fields_are_ignored_with_one_warning() {
    let (_dir, path) = config_file(LEFTOVERS);
    let resolved = resolve(&[&format!("--config={path}")]).expect("a lenient reading");
    assert_eq!(resolved.config.mode, model::Mode::Nftables);
    assert_eq!(resolved.config.conntrack.min, 8192);
    assert_eq!(resolved.ignored.len(), 7, "{:?}", resolved.ignored);
    let ignored = "mode: duplicate field, conntrack.min: duplicate field, featureGates.AllAlpha: \
        duplicate field, conntrack.max: unknown field, logging.vmodule[0].level: unknown field, \
        metadata: unknown field, resourceContainer: unknown field";
    let warning = format!("{path}: ignored {ignored}; --strict-config refuses such a file");
    assert_eq!(resolved.notes, [warning]);
}

#[test]
fn strict_config_refuses_unknown_and_duplicate_fields_and_names_all() {
    let (_dir, path) = config_file(LEFTOVERS);
    let error = resolve_with(&[&format!("--config={path}")], true).expect_err("a strict reading");
    assert!(
        error.starts_with(&format!("{path}: mode: duplicate field; ")),
        "{error}"
    );
    assert!(
        error.ends_with("; resourceContainer: unknown field"),
        "{error}"
    );
    let (_dir, path) = config_file("mode: nftables");
    assert!(resolve_with(&[&format!("--config={path}")], true).is_ok());
}

#[test]
fn lenient_parsing_refuses_invalid_values() {
    for (stated, says) in [
        (
            "x: 1\noomScoreAdj: 2000",
            "oomScoreAdj: 2000 is out of range",
        ),
        (
            "x: 1\noomScoreAdj: high",
            "oomScoreAdj: string \"high\" is not a whole number",
        ),
        (
            "mode: nftables\nmode: [1]",
            "mode: sequence is not a string",
        ),
        ("mode: [1]\nmode: x", "mode: \"x\" is not one of"),
    ] {
        let (_dir, path) = config_file(stated);
        let error = resolve(&[&format!("--config={path}")]).expect_err(stated);
        assert!(error.contains(says), "{stated}: {error}");
    }
}

#[test]
fn a_missing_mode_is_noted() {
    let noted = |args: &[&str]| {
        let notes = resolve(args).expect(args[0]).notes;
        notes.iter().any(|note| note.starts_with("mode is not set"))
    };
    assert!(noted(&["--profiling"]));
    assert!(!noted(&["--proxy-mode=iptables"]));
    let (_dir, path) = config_file("");
    assert!(noted(&[&format!("--config={path}"), "--proxy-mode=ipvs"]));
    let (_dir, path) = config_file("mode: iptables");
    assert!(!noted(&[&format!("--config={path}")]));
}

/// kube-proxy 1.37.
#[test]
fn node_port_keywords_mix_with_ranges() {
    let parse = |ranges: &[&str]| -> Vec<model::Cidr> {
        ranges.iter().map(|range| range.parse().unwrap()).collect()
    };
    let loopback = ["127.0.0.0/8", "::1/128"];
    for (stated, expected) in [
        ("[primary]", NodePortAddresses::Primary),
        ("[primary, primary]", NodePortAddresses::Primary),
        ("[all]", NodePortAddresses::All),
        ("[10.0.0.0/8, all, primary]", NodePortAddresses::All),
        ("[localhost]", NodePortAddresses::Ranges(parse(&loopback))),
        (
            "[primary, localhost]",
            NodePortAddresses::PrimaryAnd(parse(&loopback)),
        ),
        (
            "[10.0.0.0/8, primary]",
            NodePortAddresses::PrimaryAnd(parse(&["10.0.0.0/8"])),
        ),
    ] {
        for mode in model::Mode::ALL {
            let config = from_file(&format!("mode: {mode}\nnodePortAddresses: {stated}"));
            let config = config.expect(stated);
            assert_eq!(config.node_port_addresses, expected, "{mode} {stated}");
        }
    }
}

#[test]
fn feature_gates_of_kube_proxy_1_37_are_known() {
    let off = "featureGates: {KubeProxyIPVS: false}";
    for mode in model::Mode::ALL {
        let config = from_file(&format!("mode: {mode}\n{off}"));
        assert_eq!(config.is_err(), mode == model::Mode::Ipvs, "{mode}");
    }
    let asks = "mode: nftables\nnodePortAddresses: [primary, localhost]\n";
    for (gates, served) in [
        ("", true),
        (
            "featureGates: {KubeProxyNFTablesLocalhostNodePorts: true}",
            true,
        ),
        (
            "featureGates: {KubeProxyNFTablesLocalhostNodePorts: false}",
            false,
        ),
    ] {
        let config = from_file(&format!("{asks}{gates}")).expect(gates);
        assert_eq!(config.localhost_node_ports, served, "{gates}");
    }
}

#[test]
fn all_errors_are_reported_at_once() {
    let error = from_file("oomScoreAdj: 2000\nbindAddress: x").expect_err("two errors");
    assert_eq!(
        error.to_string(),
        "oomScoreAdj: 2000 is out of range (-1000 to 1000); bindAddress: \"x\" is not an IP address"
    );
}

#[test]
fn flags_with_invalid_values_are_errors() {
    for (arg, says) in [
        (
            "--iptables-sync-period=30",
            "\"30\" is not a duration such as 30s, 1m30s or 2h",
        ),
        ("--cleanup=maybe", "\"maybe\" is not true or false"),
        ("--kube-api-burst=x", "\"x\" is not a number that fits"),
        ("--bind-address=x", "\"x\" is not an IP address"),
        (
            "--metrics-bind-address=x:1",
            "\"x:1\" is not an IP address, with or without a port",
        ),
        ("--feature-gates=X", "\"X\" lacks a \"=\""),
        ("--vmodule=a=b", "\"b\" is not a number that fits"),
        (
            "--log-text-info-buffer-size=1Z",
            "\"1Z\" is not a number of bytes such as 512 or 4Ki",
        ),
        ("--version=yes", "\"yes\" is not true, false or raw"),
    ] {
        let error = resolve(&[arg]).expect_err(arg);
        let flag = arg.split_once('=').map_or(arg, |(flag, _)| flag);
        assert!(
            error.contains(says) && error.contains(flag),
            "{arg}: {error}"
        );
    }
    let error = resolve(&["--hostname-override= "]).expect_err("an empty name");
    assert_eq!(error, "--hostname-override: is empty");
}
