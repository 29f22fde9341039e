//! The running proxy in iptables mode: it follows files, repairs its rules after changes by other
//! programs, and isolates faulty objects.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use model::Mode;
use support::{Host, Proxy, eventually, text, web};

#[test]
fn changes_to_files_reach_the_kernel() {
    let proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &[],
    );
    proxy.wait_for("demo/a:http -> 10.244.1.1:8080", true);
    proxy.write("b.yaml", &web("b", 2, "10.244.1.2"));
    proxy.wait_for("demo/b:http -> 10.244.1.2:8080", true);
    proxy.write("a.yaml", &web("a", 1, "10.244.1.9"));
    proxy.wait_for("demo/a:http -> 10.244.1.9:8080", true);
    proxy.wait_for("10.244.1.1:8080", false);
    fs::remove_file(proxy.folder.path().join("b.yaml")).unwrap();
    proxy.wait_for("demo/b:http", false);
    assert!(proxy.rules().contains("demo/a:http"));
}

#[test]
fn invalid_document_is_reported_and_other_services_are_served() {
    let proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &[],
    );
    proxy.wait_for("demo/a:http", true);
    let bad = web("a", 1, "10.244.1.1").replace("port: 80}", "port: 99999}");
    proxy.write(
        "a.yaml",
        &format!("{bad}---\n{}", web("b", 2, "10.244.1.2")),
    );
    proxy.wait_for("demo/b:http", true);
    assert!(
        proxy.rules().contains("demo/a:http"),
        "its last good version stays"
    );
    let log = proxy.log();
    for word in [
        "a.yaml",
        "document 1",
        "Service demo/a",
        "spec.ports[0].port",
        "99999",
    ] {
        assert!(log.contains(word), "{word} is not in:\n{log}");
    }
}

#[test]
fn flushed_rules_are_restored() {
    let proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &["--iptables-sync-period=500ms"],
    );
    proxy.wait_for("demo/a:http", true);
    // A whole table, and a single chain.
    proxy
        .host
        .sh("iptables-nft -t nat -F; iptables-nft -t nat -X; iptables-nft -t filter -F");
    proxy.wait_for("demo/a:http", true);
    proxy.host.sh("iptables-nft -t nat -F KUBE-SERVICES");
    proxy.wait_for("KUBE-SVC-", true);
    proxy.wait_for("-A KUBE-SERVICES -d 10.96.10.1/32", true);
    assert!(proxy.log().contains("Another program changed the rules"));
}

#[test]
fn other_programs_rules_stay_and_cleanup_removes_only_ours() {
    let mut proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &[],
    );
    proxy.wait_for("demo/a:http", true);
    proxy.host.sh(
        "iptables-nft -t nat -N MINE; iptables-nft -t nat -A MINE -j RETURN; \
         iptables-nft -t nat -I PREROUTING -j MINE",
    );
    proxy.write("b.yaml", &web("b", 2, "10.244.1.2"));
    proxy.wait_for("demo/b:http", true);
    assert!(proxy.rules().contains("-A MINE -j RETURN"));
    proxy.kill();
    proxy
        .host
        .sh("sysctl -qw net.ipv4.conf.all.route_localnet=0");
    let output = proxy.host.sluice(&["cleanup"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let left = proxy.host.sh("iptables-nft-save; ip6tables-nft-save");
    assert!(!left.contains("KUBE"), "{left}");
    assert!(left.contains("-A PREROUTING -j MINE") && left.contains("-A MINE -j RETURN"));
}

#[test]
fn service_that_the_kernel_refuses_is_reported_and_others_are_served() {
    // Its comment exceeds the 255 bytes that the kernel accepts.
    let long = "n".repeat(63);
    let object = web("a", 1, "10.244.1.1")
        .replace("namespace: demo", &format!("namespace: {long}"))
        .replace("name: a,", &format!("name: {},", "s".repeat(63)))
        .replace("name: a-a", &format!("name: {}", "t".repeat(63)))
        .replace(
            "service-name: a",
            &format!("service-name: {}", "s".repeat(63)),
        )
        .replace("name: http", &format!("name: {}", "p".repeat(120)));
    let both = format!("{object}---\n{}", web("b", 2, "10.244.1.2"));
    let proxy = Proxy::start(Mode::Iptables, &[("both.yaml", &both)], &[]);
    proxy.wait_for("demo/b:http", true);
    eventually("it is named", || proxy.log().contains(&"s".repeat(63)));
}

#[test]
fn rules_outlive_the_process_and_a_restart_changes_nothing() {
    let objects = fs::read_to_string(observed::path("objects.yaml")).unwrap();
    let mut proxy = Proxy::start(Mode::Iptables, &[("objects.yaml", &objects)], &[]);
    proxy.wait_for("demo/web:http", true);
    proxy.wait_for("demo/dual:http", true);
    let before = without_counters(&proxy.rules());
    let pid = proxy.process.0.id();
    proxy.host.sh(&format!("kill -TERM {pid}"));
    let status = proxy.process.0.wait().unwrap();
    assert!(status.success(), "{status}: {}", proxy.log());
    assert_eq!(without_counters(&proxy.rules()), before);
    proxy.respawn();
    proxy.write("new.yaml", &web("new", 99, "10.244.1.99"));
    proxy.wait_for("demo/new:http", true);
    let after = without_counters(&proxy.rules());
    for line in before.lines() {
        assert!(after.contains(line), "{line} is gone");
    }
}

/// In the nft back end, whose changes the kernel reports.
#[test]
fn rules_are_read_back_only_after_another_program_has_changed_them() {
    let proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &["--v=4", "--iptables-sync-period=100ms"],
    );
    proxy.wait_for("demo/a:http", true);
    let resyncs = || proxy.log().matches("work=\"resync\"").count();
    // One of each family.
    eventually("both families are synced", || resyncs() == 2);
    for number in 2..9 {
        let endpoint = format!("10.244.1.{number}");
        proxy.write("a.yaml", &web("a", 1, &endpoint));
        proxy.wait_for(&format!("demo/a:http -> {endpoint}:8080"), true);
    }
    proxy
        .host
        .sh("iptables-nft -t nat -N THEIRS; iptables-nft -t nat -A OUTPUT -j THEIRS");
    assert_eq!(resyncs(), 2, "{}", proxy.log());
    proxy.host.sh("iptables-nft -t nat -F KUBE-SERVICES");
    proxy.wait_for("-A KUBE-SERVICES -d 10.96.10.1/32", true);
    eventually("one more resync, of one family", || resyncs() == 3);
}

fn without_counters(save: &str) -> String {
    let lines = save
        .lines()
        .filter(|l| !l.starts_with('#') && !l.starts_with(':'));
    lines.map(|l| format!("{l}\n")).collect()
}

#[test]
fn health_reports_the_first_sync() {
    let proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &[],
    );
    proxy.wait_for("demo/a:http", true);
    let ask = "printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' | nc -w 2 127.0.0.1 10256";
    eventually("both families are in sync", || {
        let answer = proxy.host.sh(ask);
        answer.contains("200 OK") && answer.contains("IPv4") && answer.contains("IPv6")
    });
    let metrics = "printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' | nc -w 2 127.0.0.1 10249";
    let text = proxy.host.sh(metrics);
    assert!(
        text.contains("kubeproxy_sync_proxy_rules_service_changes_total 1\n"),
        "{text}"
    );
    assert!(
        text.contains(
            "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"}"
        )
    );
}

#[test]
fn invalid_configuration_is_refused_with_its_field() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    let header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    for (wrong, field) in [
        ("iptables: {masqueradeBit: 99}\n", "masqueradeBit"),
        ("iptables: {masqueradBit: 14}\n", "masqueradBit"),
        ("mode: magic\n", "magic"),
    ] {
        fs::write(&config, format!("{header}{wrong}")).unwrap();
        let output = host.sluice(&["proxy", "--config", config.to_str().unwrap(), "--once"]);
        let said = text(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains(field), "{field} is not in: {said}");
    }
}

#[test]
fn a_changed_configuration_file_ends_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    let yaml = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                mode: iptables\n";
    fs::write(&config, yaml).unwrap();
    let flag = format!("--config={}", config.display());
    let mut proxy = Proxy::start(
        Mode::Iptables,
        &[("a.yaml", &web("a", 1, "10.244.1.1"))],
        &[&flag],
    );
    proxy.wait_for("demo/a:http", true);
    fs::write(&config, format!("{yaml}clusterCIDR: 10.0.0.0/8\n")).unwrap();
    eventually("it ends", || proxy.process.0.try_wait().unwrap().is_some());
    assert!(proxy.log().contains("has changed"), "{}", proxy.log());
}

/// As kubelet does it: the files of a ConfigMap are links through a link to a folder, which is
/// replaced.
#[test]
fn a_changed_config_map_ends_the_process() {
    let volume = tempfile::tempdir().unwrap();
    let path = |name: &str| volume.path().join(name);
    let write = |version: &str, fields: &str| {
        fs::create_dir(path(version)).unwrap();
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let file = path(version).join("config.conf");
        fs::write(file, format!("{head}mode: iptables\n{fields}")).unwrap();
        symlink(version, path("..data_tmp")).unwrap();
        fs::rename(path("..data_tmp"), path("..data")).unwrap();
    };
    write("..1", "");
    symlink("..data/config.conf", path("config.conf")).unwrap();
    let files = [("a.yaml", web("a", 1, "10.244.1.1"))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let flag = format!("--config={}", path("config.conf").display());
    let mut proxy = Proxy::start(Mode::Iptables, &files, &[&flag]);
    proxy.wait_for("demo/a:http", true);
    // Another file with the same content.
    write("..2", "");
    fs::remove_dir_all(path("..1")).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let running = proxy.process.0.try_wait().unwrap().is_none();
    assert!(running, "{}", proxy.log());
    write("..3", "clusterCIDR: 10.0.0.0/8\n");
    fs::remove_dir_all(path("..2")).unwrap();
    eventually("it ends", || proxy.process.0.try_wait().unwrap().is_some());
    assert!(proxy.log().contains("has changed"), "{}", proxy.log());
}
