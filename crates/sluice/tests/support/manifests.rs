//! The rendered manifests: by the real kubectl and helm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::text;

pub(crate) fn deploy(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    root.join(path)
}

/// The objects of files.
pub(crate) fn objects(files: &[&str]) -> Vec<Value> {
    let of_file = |file: &&str| -> Vec<Value> {
        let text = fs::read_to_string(deploy(file)).unwrap();
        serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{file}: {e}"))
    };
    files.iter().flat_map(of_file).collect()
}

/// Run a pinned tool in the folder `deploy`.
pub(crate) fn tool(name: &str, args: &[&str]) -> Output {
    static FETCH: Mutex<()> = Mutex::new(());
    let path = {
        let _one_at_a_time = FETCH.lock().unwrap_or_else(PoisonError::into_inner);
        let output = Command::new(deploy("../scripts/tool")).arg(name).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    let folder = deploy("");
    let output = Command::new(path).args(args).current_dir(folder).output();
    output.unwrap()
}

pub(crate) fn parsed(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_saphyr::from_multiple(&text(&output.stdout)).unwrap()
}

pub(crate) fn kustomization() -> Vec<Value> {
    parsed(&tool("kubectl", &["kustomize", "kustomize"]))
}

pub(crate) fn helm(command: &[&str], values: &[&str]) -> Output {
    let mut args = command.to_vec();
    args.push("helm/sluice");
    for value in values {
        args.extend(["--set-string", value]);
    }
    tool("helm", &args)
}

pub(crate) fn chart_with(values: &[&str]) -> Vec<Value> {
    parsed(&helm(
        &["template", "sluice", "--namespace=kube-system"],
        values,
    ))
}

pub(crate) fn chart() -> Vec<Value> {
    chart_with(&[])
}

pub(crate) fn of_kind(objects: &[Value], kind: &str) -> Value {
    let mut found = objects.iter().filter(|o| o["kind"] == kind);
    let (Some(one), None) = (found.next(), found.next()) else {
        panic!("not one {kind}");
    };
    one.clone()
}

pub(crate) fn pod_of(objects: &[Value]) -> Value {
    of_kind(objects, "DaemonSet")["spec"]["template"]["spec"].clone()
}
