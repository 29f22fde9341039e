//! The Pods, and the command that `exec` runs in them.

use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

/// A request to run a command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub pod: String,
    /// The container; empty for the only one.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
}

pub(crate) type MakeCommand = Arc<dyn Fn(&Exec) -> Option<Command> + Send + Sync>;

/// The Pods.
#[derive(Default)]
pub(crate) struct Pods {
    objects: Vec<Value>,
    pub(crate) command: Option<MakeCommand>,
}

impl Pods {
    pub(crate) fn set(&mut self, objects: Vec<Value>) {
        self.objects = objects;
        for object in &mut self.objects {
            object["apiVersion"] = "v1".into();
            object["kind"] = "Pod".into();
        }
    }

    pub(crate) fn on_exec(
        &mut self,
        command: impl Fn(&Exec) -> Option<Command> + Send + Sync + 'static,
    ) {
        self.command = Some(Arc::new(command));
    }

    pub(crate) fn list(&self, namespace: Option<&str>, selector: &str) -> Value {
        let labels: Vec<_> = selector
            .split(',')
            .filter_map(|l| l.split_once('='))
            .collect();
        let is_listed = |pod: &&Value| {
            let metadata = &pod["metadata"];
            let has = |(name, value): &(&str, &str)| metadata["labels"][*name] == *value;
            namespace.is_none_or(|n| metadata["namespace"] == n) && labels.iter().all(has)
        };
        let items: Vec<&Value> = self.objects.iter().filter(is_listed).collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Value> {
        let is_it = |pod: &&Value| {
            pod["metadata"]["namespace"] == namespace && pod["metadata"]["name"] == name
        };
        self.objects.iter().find(is_it)
    }
}
