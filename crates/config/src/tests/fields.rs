use super::*;
use crate::GoDuration;

#[test]
fn durations_have_the_syntax_of_go() {
    for (text, back, nanoseconds) in [
        ("0", "0s", 0),
        ("30s", "30s", 30_000_000_000),
        ("1m30s", "1m30s", 90_000_000_000),
        ("2h", "2h0m0s", 7_200_000_000_000),
        ("1.5h", "1h30m0s", 5_400_000_000_000),
        ("1500ms", "1.5s", 1_500_000_000),
        (".5s", "500ms", 500_000_000),
        ("1.25ms", "1.25ms", 1_250_000),
        ("-10us", "-10µs", -10_000),
        ("+3ns", "3ns", 3),
        ("0.0000000001s", "0s", 0),
    ] {
        let duration: GoDuration = text.parse().expect(text);
        assert_eq!(
            (duration.0, duration.to_string().as_str()),
            (nanoseconds, back),
            "{text}"
        );
    }
    for bad in [
        "",
        "-",
        "30",
        "s",
        ".s",
        "1.2.3s",
        "1d",
        "30 s",
        "9999999999h",
        "1s-",
        "é1s",
    ] {
        assert!(bad.parse::<GoDuration>().is_err(), "{bad}");
    }
}

/// A file with every field, each different from its default.
const EVERYTHING: &str = include_str!("../../testdata/everything.yaml");

#[test]
fn every_field_round_trips() {
    let file = KubeProxyConfiguration::from_yaml(EVERYTHING).expect("a file that is right");
    let back = KubeProxyConfiguration::from_yaml(&file.to_yaml()).expect("the encoded file");
    assert_eq!(file, back);
    // No field has its default, and none is missing.
    let stated = serde_json::to_value(&file).expect("a tree");
    let default = serde_json::to_value(KubeProxyConfiguration::defaulted()).expect("a tree");
    same_nowhere("", &stated, &default);
    let mut defaulted = file.clone();
    defaulted.set_defaults();
    assert_eq!(defaulted, file);
    crate::Config::from_file(file).expect("values that can be used");
}

fn same_nowhere(path: &str, a: &serde_json::Value, b: &serde_json::Value) {
    match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => {
            for (key, value) in a {
                if let Some(other) = b.get(key)
                    && !matches!(key.as_str(), "apiVersion" | "kind")
                {
                    same_nowhere(&format!("{path}.{key}"), value, other);
                }
            }
            for key in b.keys() {
                assert!(a.contains_key(key), "{path}.{key} is not stated");
            }
        }
        _ => assert_ne!(a, b, "{path}"),
    }
}

#[test]
fn written_defaults_equal_those_of_kube_proxy() {
    let written = resolve(&["--write-config-to=x"])
        .expect("defaults")
        .config
        .file;
    let upstreams = include_str!("../../testdata/defaults.yaml");
    let text = written.to_yaml();
    let read = |text: &str| KubeProxyConfiguration::from_yaml(text).expect("a file");
    assert_eq!(read(&text), read(upstreams));
    // The same fields are written, in the same order.
    let fields = |text: &str| -> Vec<String> {
        let field = |line: &str| line.split_once(':').map(|(field, _)| field.to_owned());
        text.lines().filter_map(field).collect()
    };
    assert_eq!(fields(&text), fields(upstreams));
}

#[test]
fn an_ipv6_bind_address_in_a_file_moves_the_servers() {
    let config = from_file("bindAddress: fd00::1").expect("a file");
    let shown = |a: Option<std::net::SocketAddr>| a.map(|a| a.to_string());
    assert_eq!(
        shown(config.healthz_bind_address).as_deref(),
        Some("[::]:10256")
    );
    assert_eq!(
        shown(config.metrics_bind_address).as_deref(),
        Some("[::1]:10249")
    );
}

#[test]
fn nulls_and_lists_written_by_kubeadm_are_accepted() {
    let config = from_file(
        "conntrack: {maxPerCore: null, min: null, tcpEstablishedTimeout: null}\n\
         ipvs: {excludeCIDRs: null}\nnodePortAddresses: null\niptables: null\nmode: \"\"",
    )
    .expect("a file");
    assert_eq!(config.conntrack.min, 131_072);
}

#[test]
fn flags_without_a_field_do_not_change_the_written_file() {
    let written = |flag| {
        resolve(&["--write-config-to=x", flag])
            .expect("flags")
            .config
            .file
    };
    assert_eq!(
        written("--healthz-port=0").healthz_bind_address,
        "0.0.0.0:10256"
    );
    assert_eq!(
        written("--metrics-port=5").metrics_bind_address,
        "127.0.0.1:10249"
    );
    assert_eq!(
        written("--metrics-bind-address=10.0.0.1").metrics_bind_address,
        "10.0.0.1:10249"
    );
}

#[test]
fn feature_gates_switch_single_pages_or_all_beta_ones() {
    let on = |gates: &str| {
        let config = from_file(&format!("featureGates: {{{gates}}}")).expect("gates");
        (config.flagz, config.statusz)
    };
    assert_eq!(on(""), (true, true));
    assert_eq!(on("ComponentFlagz: false"), (false, true));
    assert_eq!(on("AllBeta: false, ComponentStatusz: true"), (false, true));
}
