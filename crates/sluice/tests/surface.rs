//! The tests that show the effects of flags, and of fields without a flag. A flag or field without
//! an entry fails this test, and so does an entry without its test.

#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// File in `crates/`, test, and the flags and fields that it covers.
const SHOWN: &[(&str, &str, &str)] = &[
    (
        "config/src/tests/flags.rs",
        "the_file_overrides_all_but_a_few_flags",
        "config",
    ),
    (
        "sluice/tests/flags.rs",
        "config_reads_the_file_of_write_config_to",
        "write-config-to",
    ),
    (
        "sluice/tests/flags.rs",
        "cleanup_removes_the_state_of_every_mode",
        "cleanup",
    ),
    (
        "sluice/tests/flags.rs",
        "init_only_applies_the_root_settings_and_exits",
        "init-only",
    ),
    (
        "sluice/tests/effects.rs",
        "version_has_the_form_of_kube_proxy",
        "version",
    ),
    (
        "sluice/tests/flags.rs",
        "external_ips_are_served_unless_the_feature_gate_is_off",
        "feature-gates",
    ),
    (
        "sluice/tests/apiserver.rs",
        "observed_objects_and_their_changes_are_programmed",
        "kubeconfig",
    ),
    (
        "sluice/tests/effects.rs",
        "the_master_flag_overrides_the_server_of_the_kubeconfig",
        "master",
    ),
    (
        "sluice/tests/flags.rs",
        "the_content_type_flag_sets_the_accept_header",
        "kube-api-content-type",
    ),
    (
        "sluice/tests/effects.rs",
        "requests_are_paced_by_qps_and_burst",
        "kube-api-burst kube-api-qps",
    ),
    (
        "sluice/tests/effects.rs",
        "the_requested_node_is_that_of_hostname_override",
        "hostname-override",
    ),
    (
        "sluice/tests/flags.rs",
        "without_a_node_object_the_bind_address_is_the_node_address",
        "bind-address",
    ),
    (
        "sluice/tests/effects.rs",
        "flags_set_the_addresses_of_health_and_metrics",
        "healthz-bind-address metrics-bind-address healthz-port metrics-port",
    ),
    (
        "sluice/tests/effects.rs",
        "an_occupied_address_ends_the_process_only_if_configured",
        "bind-address-hard-fail",
    ),
    (
        "sluice/tests/flags.rs",
        "verbosity_can_change_at_runtime_if_profiling_is_enabled",
        "profiling",
    ),
    (
        "sluice/tests/effects.rs",
        "show_hidden_metrics_is_noted_as_ineffective",
        "show-hidden-metrics-for-version",
    ),
    (
        "sluice/tests/switch.rs",
        "no_connection_fails_from_iptables_to_nftables_and_back",
        "proxy-mode",
    ),
    (
        "sluice/tests/effects.rs",
        "the_masquerade_bit_sets_the_mark",
        "iptables-masquerade-bit",
    ),
    (
        "sluice/tests/observed.rs",
        "one_sync_programs_the_observed_rules_nft",
        "masquerade-all iptables-localhost-nodeports detect-local-mode pod-bridge-interface \
         pod-interface-name-prefix cluster-cidr nodeport-addresses",
    ),
    (
        "sluice/tests/proxy.rs",
        "flushed_rules_are_restored",
        "iptables-sync-period",
    ),
    (
        "sluice/src/wiring/setup.rs",
        "the_minimum_sync_period_is_the_longest_delay_of_a_change",
        "iptables-min-sync-period ipvs-min-sync-period iptables.minSyncPeriod \
         nftables.minSyncPeriod",
    ),
    (
        "config/src/tests/flags.rs",
        "every_flag_changes_its_setting",
        "ipvs-sync-period",
    ),
    (
        "sluice/tests/effects_ipvs.rs",
        "ipvs_flags_reach_the_kernel",
        "ipvs-scheduler ipvs-exclude-cidrs ipvs-strict-arp ipvs-tcp-timeout ipvs-tcpfin-timeout \
         ipvs-udp-timeout",
    ),
    (
        "sluice/tests/effects.rs",
        "the_oom_score_is_set",
        "oom-score-adj",
    ),
    (
        "sluice/src/proxy/sysctls.rs",
        "the_conntrack_table_gets_entries_and_buckets",
        "conntrack-max-per-core conntrack-min",
    ),
    (
        "sluice/tests/effects.rs",
        "every_conntrack_setting_that_a_namespace_has_is_set",
        "conntrack-tcp-timeout-established conntrack-tcp-timeout-close-wait \
         conntrack-tcp-be-liberal conntrack-udp-timeout conntrack-udp-timeout-stream",
    ),
    (
        "sluice/tests/effects.rs",
        "objects_are_synced_again_every_config_sync_period",
        "config-sync-period",
    ),
    (
        "sluice/tests/effects.rs",
        "logs_have_the_format_of_klog_or_json",
        "logging-format",
    ),
    (
        "sluice/tests/effects.rs",
        "verbosity_applies_to_all_or_to_named_files",
        "v vmodule",
    ),
    (
        "sluice/tests/effects.rs",
        "info_lines_are_buffered_as_long_as_flags_set",
        "log-flush-frequency log-text-split-stream log-text-info-buffer-size \
         log-json-split-stream log-json-info-buffer-size",
    ),
    // Fields without a flag.
    (
        "sluice/tests/effects.rs",
        "each_ignored_windows_field_is_logged",
        "portRange windowsRunAsService winkernel.enableDSR winkernel.forwardHealthCheckVip \
         winkernel.networkName winkernel.rootHnsEndpointName winkernel.sourceVip",
    ),
    (
        "sluice/tests/effects.rs",
        "fields_without_a_flag_take_effect",
        "clientConnection.acceptContentTypes iptables.masqueradeAll iptables.syncPeriod \
         nftables.masqueradeAll nftables.masqueradeBit nftables.syncPeriod",
    ),
];

/// The same for sluice's own flags.
const OWN_SHOWN: &[(&str, &str, &str)] = &[
    (
        "sluice/tests/proxy.rs",
        "flushed_rules_are_restored",
        "manifests",
    ),
    (
        "sluice/tests/effects.rs",
        "strict_config_refuses_unknown_fields_that_are_otherwise_ignored",
        "strict-config",
    ),
    (
        "sluice/tests/observed.rs",
        "one_sync_programs_the_observed_rules_legacy",
        "once iptables-backend",
    ),
    (
        "sluice/tests/verify_period.rs",
        "problems_that_other_programs_cause_are_reported_and_withdrawn",
        "verify-period",
    ),
    (
        "sluice/tests/userspace.rs",
        "listen_map_needs_no_privilege",
        "listen-map",
    ),
    (
        "sluice/tests/conntrack.rs",
        "half_open_connections_are_kept_on_request",
        "conntrack-half-open",
    ),
    (
        "sluice/tests/effects.rs",
        "sandbox_off_keeps_all_privileges",
        "sandbox",
    ),
    (
        "sluice/tests/socket.rs",
        "socket_is_served_at_the_path_of_its_flag",
        "socket",
    ),
    (
        "sluice/tests/apiserver.rs",
        "a_rebooted_node_reaches_the_api_server_at_its_stored_address",
        "api-server-addresses",
    ),
    (
        "sluice/tests/apiserver.rs",
        "a_node_that_never_ran_a_proxy_asks_the_server_of_its_kubeconfig",
        "node-kubeconfig",
    ),
];

/// Return the paths of all fields, from a file that a test of the configuration keeps complete.
fn fields() -> BTreeSet<String> {
    fn walk(path: &str, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) if path != "featureGates" => {
                for (name, value) in fields {
                    let dot = if path.is_empty() { "" } else { "." };
                    walk(&format!("{path}{dot}{name}"), value, found);
                }
            }
            _ => drop(found.insert(path.to_owned())),
        }
    }
    let everything = include_str!("../../config/testdata/everything.yaml");
    let file = config::KubeProxyConfiguration::from_yaml(everything).unwrap();
    let mut found = BTreeSet::new();
    walk("", &serde_json::to_value(file).unwrap(), &mut found);
    // These identify the file.
    found.retain(|field| !matches!(field.as_str(), "apiVersion" | "kind"));
    found
}

/// Return the names in a list, and check that its tests exist.
fn shown(list: &[(&str, &str, &str)]) -> BTreeSet<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut shown = BTreeSet::new();
    for (file, test, names) in list {
        let text = std::fs::read_to_string(crates.join(file)).unwrap();
        let there = text.contains(&format!("#[test]\nfn {test}()"))
            || text.contains(&format!("#[test]\n    fn {test}()"))
            || text.contains(&format!("fn {test}(mode: Mode)"));
        assert!(there, "{file} has no test {test}");
        for name in names.split_whitespace() {
            assert!(shown.insert(name.to_owned()), "{name} is named twice");
        }
    }
    shown
}

#[test]
fn every_own_flag_is_shown_by_a_test() {
    let page = include_str!("../../../docs/reference.md");
    let (_, section) = page.split_once("## Flags of").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `--"));
    let documented: BTreeSet<_> = rows
        .filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(shown(OWN_SHOWN), documented);
}

#[test]
fn every_flag_and_field_is_shown_by_a_test() {
    let mut all: BTreeSet<String> = config::FLAGS.iter().map(|f| f.name.to_owned()).collect();
    let of_flags: BTreeSet<_> = config::FLAGS.iter().map(|f| f.field).collect();
    // Flags that set several fields, or none.
    let with_flag = |field: &String| of_flags.contains(field.as_str());
    all.extend(fields().into_iter().filter(|field| !with_flag(field)));
    assert_eq!(shown(SHOWN), all);
}
