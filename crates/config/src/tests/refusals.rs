use super::*;

#[test]
fn files_that_cannot_be_read() {
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
    let (_dir, path) = config_file("iptables: {bit: 1}");
    let named = resolve(&[&format!("--config={path}")]).expect_err("a wrong file");
    assert_eq!(
        named,
        format!("{path}: iptables.bit: there is no such field")
    );
}

#[test]
fn several_errors_are_said_at_once() {
    let error = from_file("oomScoreAdj: 2000\nbindAddress: x").expect_err("two errors");
    assert_eq!(
        error.to_string(),
        "oomScoreAdj: 2000 is out of range (-1000 to 1000); bindAddress: \"x\" is not an IP address"
    );
}

#[test]
fn flags_with_impossible_values() {
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
