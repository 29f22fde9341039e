//! Kubeconfig files.
//!
//! The format is client-go's `tools/clientcmd/api/v1`; see
//! <https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>. Fields without use for a node
//! agent (impersonation, colours, preferences) are ignored.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, Credential, ExecPlugin, Material, ServerConfig};

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    current_context: String,
    clusters: Option<Vec<Named<Cluster>>>,
    contexts: Option<Vec<Named<Context>>>,
    users: Option<Vec<Named<User>>>,
}

/// `{name: …, cluster: …}`, likewise for contexts and users.
#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "context", alias = "user")]
    body: Option<T>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
    proxy_url: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    exec: Option<Exec>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Exec {
    api_version: String,
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<ExecEnv>>,
    provide_cluster_info: bool,
    install_hint: String,
}

#[derive(Deserialize)]
struct ExecEnv {
    name: String,
    value: String,
}

/// Read a kubeconfig file and resolve its current context. `master` overrides the server's address,
/// as with kube-proxy's `--master`.
pub(super) fn load(path: &Path, master: Option<&str>) -> Result<ServerConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    let directory = path.parent().unwrap_or(Path::new("."));
    resolve(&text, directory, master).map_err(|reason| ConfigError::Kubeconfig {
        path: path.into(),
        reason,
    })
}

/// Resolve the current context of a kubeconfig. Relative paths are relative to `directory`.
///
/// # Errors
/// The field and the reason, without the file's name.
fn resolve(text: &str, directory: &Path, master: Option<&str>) -> Result<ServerConfig, String> {
    let file: Option<File> =
        serde_saphyr::from_str(text).map_err(|e| e.without_snippet().to_string())?;
    let file = file.unwrap_or_default();
    let context = match file.current_context.as_str() {
        "" if master.is_some() => Context::default(),
        "" => return Err("current-context is not set".into()),
        name => find(file.contexts, name, "contexts", "current-context")?,
    };
    let cluster = match context.cluster.as_str() {
        "" => Cluster::default(),
        name => find(file.clusters, name, "clusters", "the current context")?,
    };
    let user = match context.user.as_str() {
        "" => User::default(),
        name => find(file.users, name, "users", "the current context")?,
    };
    let server = master.unwrap_or(&cluster.server);
    if server.is_empty() {
        return Err("clusters[].cluster.server of the current context is not set".into());
    }
    let at = Base(directory);
    let mut config = ServerConfig {
        server: server.to_owned(),
        ca: at.material(
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
        )?,
        insecure: cluster.insecure_skip_tls_verify,
        tls_server_name: some(cluster.tls_server_name),
        proxy_url: some(cluster.proxy_url),
        identity: None,
        credential: Credential::None,
        is_service: false,
        node_server: None,
    };
    if config.insecure && config.ca.is_some() {
        return Err("insecure-skip-tls-verify is set together with certificate-authority".into());
    }
    let certificate = at.material(&user.client_certificate_data, &user.client_certificate)?;
    let key = at.material(&user.client_key_data, &user.client_key)?;
    config.identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err("the user has a client-certificate but no client-key".into());
        }
        (None, Some(_)) => {
            return Err("the user has a client-key but no client-certificate".into());
        }
    };
    config.credential = at.credential(user)?;
    Ok(config)
}

/// The directory that relative paths are relative to.
struct Base<'a>(&'a Path);

impl Base<'_> {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Inline data override a file, as in client-go.
    fn material(&self, data: &str, path: &str) -> Result<Option<Material>, String> {
        Ok(match (data, path) {
            ("", "") => None,
            ("", path) => Some(Material::File(self.path(path))),
            (data, _) => Some(Material::Inline(super::base64(data)?)),
        })
    }

    fn credential(&self, user: User) -> Result<Credential, String> {
        if let Some(exec) = user.exec {
            return self.exec(exec).map(Credential::Exec);
        }
        if user.auth_provider.is_some() {
            return Err(
                "users[].user.auth-provider was removed from Kubernetes in 1.26; use exec".into(),
            );
        }
        Ok(if !user.token_file.is_empty() {
            Credential::TokenFile(self.path(&user.token_file))
        } else if !user.token.is_empty() {
            Credential::Token(user.token)
        } else if !user.username.is_empty() {
            Credential::Basic {
                username: user.username,
                password: user.password,
            }
        } else {
            Credential::None
        })
    }

    fn exec(&self, exec: Exec) -> Result<ExecPlugin, String> {
        if exec.command.is_empty() {
            return Err("users[].user.exec.command is not set".into());
        }
        let version = exec.api_version.as_str();
        if !matches!(
            version,
            "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1"
        ) {
            return Err(format!(
                "users[].user.exec.apiVersion: {version:?} is not supported \
                 (client.authentication.k8s.io/v1 and v1beta1 are)"
            ));
        }
        // A command with a separator is a path; others are looked up in PATH.
        let command = if exec.command.contains('/') {
            self.path(&exec.command)
        } else {
            exec.command.into()
        };
        Ok(ExecPlugin {
            api_version: exec.api_version,
            command,
            args: exec.args.unwrap_or_default(),
            env: exec
                .env
                .unwrap_or_default()
                .into_iter()
                .map(|e| (e.name, e.value))
                .collect(),
            provide_cluster_info: exec.provide_cluster_info,
            install_hint: exec.install_hint,
        })
    }
}

fn some(s: String) -> Option<String> {
    (!s.is_empty()).then_some(s)
}

fn find<T: Default>(
    list: Option<Vec<Named<T>>>,
    name: &str,
    what: &str,
    from: &str,
) -> Result<T, String> {
    list.unwrap_or_default()
        .into_iter()
        .find(|entry| entry.name == name)
        .map(|entry| entry.body.unwrap_or_default())
        .ok_or_else(|| format!("{from} names {name:?}, which is not in {what}"))
}
