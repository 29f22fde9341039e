//! Authentication of the client and of the server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use apiserver_sim::Config;
use source::apiserver::{ApiServer, ConfigError};

use crate::{Follower, NODE, cut, observed, options, range, sim, sim_with};

#[test]
fn a_refused_token_is_read_again_from_its_file() {
    let sim = sim_with(Config {
        tokens: vec!["first".into()],
        ..Config::default()
    });
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("token"), "first\n").expect("written");
    let kubeconfig = sim
        .write_kubeconfig(folder.path(), "{tokenFile: token}")
        .expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until_equal(&sim);
    sim.set_tokens(vec!["second".into()]);
    cut(&sim);
    sim.apply([range("later", "10.97.0.0/16")]);
    follower.nothing_for(Duration::from_millis(300));
    fs::write(folder.path().join("token"), "second\n").expect("written");
    follower.until_equal(&sim);
}

#[test]
fn a_missing_token_file_is_retried() {
    let sim = sim_with(Config {
        tokens: vec!["token".into()],
        ..Config::default()
    });
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim
        .write_kubeconfig(folder.path(), "{tokenFile: token}")
        .expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.nothing_for(Duration::from_millis(200));
    fs::write(folder.path().join("token"), "token").expect("written");
    follower.until_equal(&sim);
}

#[test]
fn a_token_in_the_kubeconfig_is_sent() {
    let sim = sim_with(Config {
        tokens: vec!["right".into()],
        ..Config::default()
    });
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = sim.write_kubeconfig(folder.path(), "{token: wrong}");
    Follower::new(options(&wrong.expect("written"))).nothing_for(Duration::from_millis(300));
    let right = sim.write_kubeconfig(folder.path(), "{token: right}");
    Follower::new(options(&right.expect("written"))).until_equal(&sim);
}

#[test]
fn a_client_certificate_is_sent() {
    let sim = sim_with(Config {
        require_client_certificate: true,
        ..Config::default()
    });
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let without = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    Follower::new(options(&without)).nothing_for(Duration::from_millis(300));

    let (certificate, key) = sim.client_pem("sluice").expect("a certificate");
    fs::write(folder.path().join("client.crt"), certificate).expect("written");
    fs::write(folder.path().join("client.key"), key).expect("written");
    let with = sim
        .write_kubeconfig(
            folder.path(),
            "{client-certificate: client.crt, client-key: client.key}",
        )
        .expect("written");
    Follower::new(options(&with)).until_equal(&sim);
}

/// Write a plugin that returns the file `answer` and counts its runs.
fn plugin(folder: &std::path::Path) -> String {
    let path = folder.join("plugin");
    let script = "#!/bin/sh\n\
        cd \"$(dirname \"$0\")\" || exit 1\n\
        case \"$KUBERNETES_EXEC_INFO\" in *'\"server\":\"https://'*) ;; *) exit 2 ;; esac\n\
        test \"$FLAVOUR\" = sweet || exit 3\n\
        echo run >> count\n\
        cat answer\n";
    fs::write(&path, script).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    "{exec: {apiVersion: client.authentication.k8s.io/v1, command: ./plugin, \
     env: [{name: FLAVOUR, value: sweet}], provideClusterInfo: true, \
     interactiveMode: Never}}"
        .into()
}

fn answer(folder: &std::path::Path, status: &serde_json::Value) {
    let answer = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": status,
    });
    fs::write(folder.join("answer"), answer.to_string()).expect("written");
}

#[test]
fn a_plugin_runs_again_when_its_token_is_refused() {
    let sim = sim_with(Config {
        tokens: vec!["first".into()],
        ..Config::default()
    });
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let user = plugin(folder.path());
    let kubeconfig = sim.write_kubeconfig(folder.path(), &user).expect("written");
    answer(folder.path(), &serde_json::json!({"token": "first"}));
    let mut follower = Follower::new(options(&kubeconfig));
    follower.until_equal(&sim);
    let runs = || {
        let count = fs::read_to_string(folder.path().join("count"));
        count.expect("a run").lines().count()
    };
    assert_eq!(runs(), 1);
    answer(folder.path(), &serde_json::json!({"token": "second"}));
    sim.set_tokens(vec!["second".into()]);
    sim.cut_connections();
    sim.apply([range("later", "10.97.0.0/16")]);
    follower.until_equal(&sim);
    assert!(runs() >= 2);
}

#[test]
fn a_plugin_may_return_a_certificate() {
    let sim = sim_with(Config {
        require_client_certificate: true,
        ..Config::default()
    });
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let user = plugin(folder.path());
    let kubeconfig = sim.write_kubeconfig(folder.path(), &user).expect("written");
    let (certificate, key) = sim.client_pem("plugin").expect("a certificate");
    answer(
        folder.path(),
        &serde_json::json!({
            "clientCertificateData": certificate,
            "clientKeyData": key,
            "expirationTimestamp": "2099-01-01T00:00:00Z",
        }),
    );
    Follower::new(options(&kubeconfig)).until_equal(&sim);
}

#[test]
fn a_server_with_a_certificate_of_another_ca_is_rejected() {
    let (sim, other) = (sim(), sim());
    sim.apply(observed());
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    fs::write(folder.path().join("ca.crt"), other.ca_pem()).expect("written");
    let mut follower = Follower::new(options(&kubeconfig));
    follower.nothing_for(Duration::from_millis(500));
    assert_eq!(sim.requests(), [""; 0]);
    // Unless verification is switched off.
    let text = fs::read_to_string(&kubeconfig).expect("read");
    let text = text.replace(
        "certificate-authority: ca.crt",
        "insecure-skip-tls-verify: true",
    );
    fs::write(&kubeconfig, text).expect("written");
    Follower::new(options(&kubeconfig)).until_equal(&sim);
}

#[test]
fn an_unusable_configuration_is_an_error() {
    let sim = sim();
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = sim.write_kubeconfig(folder.path(), "{}").expect("written");
    let mut unknown = options(&kubeconfig);
    unknown.content_type = "text/plain".into();
    let refused = ApiServer::new(unknown, NODE).map(|_| ());
    assert!(matches!(refused, Err(ConfigError::ContentType(_))));
    fs::write(folder.path().join("ca.crt"), "nonsense").expect("written");
    let refused = ApiServer::new(options(&kubeconfig), NODE).map(|_| ());
    let message = refused.expect_err("no certificate").to_string();
    assert_eq!(message, "certificate-authority: contains no certificate");
    let absent = folder.path().join("absent");
    let refused = ApiServer::new(options(&absent), NODE).map(|_| ());
    let message = refused.expect_err("no file").to_string();
    assert!(message.starts_with(&format!("cannot read {}", absent.display())));
}
