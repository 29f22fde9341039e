//! A container as the kubelet and its container runtime would start it: the Pod's container as the
//! configuration of an OCI runtime (OCI runtime specification 1.0).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use caps::{CapSet, Capability};
use serde_json::{Value, json};

use crate::image::Image;

/// Debian's copy of the seccomp profile that the container runtimes Podman and CRI-O apply for
/// `RuntimeDefault`.
const PROFILE: &str = "/usr/share/containers/seccomp.json";

/// The capabilities that a container runtime gives to a container which neither adds nor drops any
/// (containerd, `oci.defaultUnixCaps`).
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What the Pod finds on its node and in its cluster.
pub(crate) struct Node<'a> {
    /// Where the node's folders are. Hosts of tests share one file system.
    pub(crate) folder: &'a Path,
    /// The network namespace.
    pub(crate) network: &'a Path,
    /// Values of `fieldRef`s.
    pub(crate) fields: BTreeMap<&'a str, &'a str>,
    /// Variables that the kubelet adds.
    pub(crate) environment: Vec<String>,
    /// Content of ConfigMaps.
    pub(crate) config_maps: BTreeMap<&'a str, &'a Value>,
    /// The folder with the token of the service account.
    pub(crate) service_account: &'a Path,
}

/// Return the runtime configuration of one of the Pod's containers.
pub(crate) fn config(pod: &Value, container: &Value, image: &Image, node: &Node<'_>) -> Value {
    let context = Context::of(pod, container);
    let (args, env) = process(container, image, node);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": image.root, "readonly": context.read_only_root},
        "process": {
            "cwd": "/",
            "args": args,
            "env": env,
            "user": {"uid": context.user, "gid": 0},
            "capabilities": {
                "bounding": context.capabilities,
                "effective": context.capabilities,
                "permitted": context.capabilities,
                "inheritable": [],
                "ambient": [],
            },
            "noNewPrivileges": context.no_new_privileges,
        },
        "mounts": mounts(pod, container, &context, node),
        "linux": {
            // hostNetwork: the Pod's UTS namespace is the host's, too.
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "mount"},
                {"type": "network", "path": node.network},
            ],
        },
    });
    if !context.privileged {
        config["linux"]["maskedPaths"] = json!([
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
        ]);
        config["linux"]["readonlyPaths"] = json!([
            "/proc/asound",
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]);
    }
    if context.default_seccomp {
        config["linux"]["seccomp"] = default_seccomp(&context.capabilities);
    }
    config
}

/// A container's `securityContext`.
struct Context {
    privileged: bool,
    read_only_root: bool,
    no_new_privileges: bool,
    default_seccomp: bool,
    user: u64,
    capabilities: Vec<String>,
}

impl Context {
    fn of(pod: &Value, container: &Value) -> Self {
        let own = container["securityContext"].as_object().unwrap();
        assert_eq!(pod["securityContext"], Value::Null, "read only here");
        assert_eq!(pod["hostNetwork"], true);
        let known = [
            "privileged",
            "readOnlyRootFilesystem",
            "allowPrivilegeEscalation",
            "seccompProfile",
            "capabilities",
            "runAsUser",
        ];
        let unknown = own.keys().find(|key| !known.contains(&key.as_str()));
        assert_eq!(unknown, None, "has no effect in this test");
        let is = |field: &str, value: bool| own.get(field) == Some(&Value::Bool(value));
        let privileged = is("privileged", true);
        let seccomp = own.get("seccompProfile").map(|profile| &profile["type"]);
        Self {
            privileged,
            read_only_root: is("readOnlyRootFilesystem", true),
            no_new_privileges: is("allowPrivilegeEscalation", false),
            default_seccomp: seccomp == Some(&json!("RuntimeDefault")) && !privileged,
            user: own
                .get("runAsUser")
                .map_or(0, |user| user.as_u64().unwrap()),
            capabilities: capabilities(own.get("capabilities"), privileged),
        }
    }
}

fn capabilities(stated: Option<&Value>, privileged: bool) -> Vec<String> {
    let name = |capability: &Capability| capability.to_string();
    if privileged {
        // All that the runtime itself has.
        let all = caps::read(None, CapSet::Permitted).unwrap();
        return all.iter().map(name).collect();
    }
    let words = |field: &str| -> Vec<String> {
        let list = stated.and_then(|stated| stated[field].as_array());
        let words = list.into_iter().flatten();
        words
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    let mut names: Vec<_> = DEFAULT_CAPABILITIES.map(str::to_owned).into();
    let drop = words("drop");
    names.retain(|name| !drop.contains(name) && !drop.contains(&"ALL".to_owned()));
    names.extend(words("add"));
    names.iter().map(|name| format!("CAP_{name}")).collect()
}

/// The command line and the environment.
fn process(container: &Value, image: &Image, node: &Node<'_>) -> (Vec<String>, Vec<String>) {
    let mut variables = BTreeMap::new();
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap();
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        variables.insert(name, node.fields[field.unwrap()]);
    }
    let mut args = image.entrypoint.clone();
    assert_eq!(container["command"], Value::Null, "the image's own program");
    for arg in container["args"].as_array().unwrap() {
        let mut arg = arg.as_str().unwrap().to_owned();
        for (name, value) in &variables {
            arg = arg.replace(&format!("$({name})"), value);
        }
        args.push(arg);
    }
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let own = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let env = std::iter::once(path.to_owned()).chain(own);
    (args, env.chain(node.environment.clone()).collect())
}

fn mounts(pod: &Value, container: &Value, context: &Context, node: &Node<'_>) -> Vec<Value> {
    let access = if context.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/sys", "type": "bind", "source": "/sys",
               "options": ["rbind", "nosuid", "noexec", "nodev", access]}),
    ];
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let mut volume = volumes.iter().filter(|v| v["name"] == mount["name"]);
        let source = source(volume.next().unwrap(), node);
        let access = if mount["readOnly"] == true {
            "ro"
        } else {
            "rw"
        };
        mounts.push(json!({
            "destination": mount["mountPath"], "type": "bind", "source": source,
            "options": ["rbind", "rprivate", access],
        }));
    }
    mounts.push(json!({
        "destination": "/var/run/secrets/kubernetes.io/serviceaccount",
        "type": "bind", "source": node.service_account, "options": ["rbind", "ro"],
    }));
    mounts
}

/// The source of a volume, created if the volume says so.
fn source(volume: &Value, node: &Node<'_>) -> std::path::PathBuf {
    if let Some(name) = volume["configMap"]["name"].as_str() {
        let folder = node.folder.join("config-maps").join(name);
        fs::create_dir_all(&folder).unwrap();
        for (file, content) in node.config_maps[name].as_object().unwrap() {
            fs::write(folder.join(file), content.as_str().unwrap()).unwrap();
        }
        return folder;
    }
    if volume["emptyDir"].is_object() {
        let folder = node
            .folder
            .join("empty")
            .join(volume["name"].as_str().unwrap());
        fs::create_dir_all(&folder).unwrap();
        return folder;
    }
    let host = &volume["hostPath"];
    let path = host["path"].as_str().unwrap();
    let path = node.folder.join(path.trim_start_matches('/'));
    match host["type"].as_str() {
        Some("DirectoryOrCreate") => fs::create_dir_all(&path).unwrap(),
        Some("FileOrCreate") if !path.exists() => {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
        }
        _ => assert!(path.exists(), "{} is missing on the node", path.display()),
    }
    path
}

/// The profile for a container with these capabilities.
fn default_seccomp(capabilities: &[String]) -> Value {
    let profile: Value = serde_json::from_slice(&fs::read(PROFILE).unwrap()).unwrap();
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let applies = |rule: &&Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let arches = names(&includes["arches"]);
        (arches.is_empty() || arches.contains(&"amd64".to_owned()))
            && names(&includes["caps"])
                .iter()
                .all(|c| capabilities.contains(c))
            && !names(&excludes["caps"])
                .iter()
                .any(|c| capabilities.contains(c))
    };
    let rules = profile["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(applies);
    let rules = rules.map(|rule| {
        let mut plain = json!({"names": rule["names"], "action": rule["action"]});
        for field in ["args", "errnoRet"] {
            if !rule[field].is_null() {
                plain[field] = rule[field].clone();
            }
        }
        plain
    });
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules.collect::<Vec<_>>(),
    })
}
