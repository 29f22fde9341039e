//! A client of the API server: address, authentication and HTTP.

mod credentials;
mod http;
mod kubeconfig;
mod limit;
mod routes;
mod target;
mod tls;

use std::path::{Path, PathBuf};

use credentials::Credentials;
pub use http::Sent;
pub(super) use http::{Answer, Body, Client, Observer};

/// Address of the API server and authentication: a kubeconfig's resolved current context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerConfig {
    /// A URL; scheme and path are optional.
    pub(super) server: String,
    /// The CA certificates; `None` for the system's.
    pub(super) ca: Option<Material>,
    /// Accept any certificate.
    pub(super) insecure: bool,
    /// The name in the server's certificate, if it differs from the host of `server`.
    pub(super) tls_server_name: Option<String>,
    /// The URL of an HTTP proxy.
    pub(super) proxy_url: Option<String>,
    /// The client certificate and its key.
    pub(super) identity: Option<(Material, Material)>,
    /// The source of the `Authorization` header.
    pub(super) credential: Credential,
    /// The server is the Service `kubernetes`, as in a Pod without other configuration.
    pub(super) is_service: bool,
    /// Server and TLS name of the node's kubeconfig, tried before the Service.
    pub(super) node_server: Option<(String, Option<String>)>,
}

/// PEM text or its file, which is reread because it may rotate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Material {
    File(PathBuf),
    Inline(Vec<u8>),
}

impl Material {
    pub(super) fn read(&self) -> Result<Vec<u8>, ConfigError> {
        match self {
            Material::Inline(pem) => Ok(pem.clone()),
            Material::File(path) => std::fs::read(path).map_err(|source| ConfigError::Read {
                path: path.clone(),
                source,
            }),
        }
    }
}

/// The source of the `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    None,
    Token(String),
    TokenFile(PathBuf),
    Basic { username: String, password: String },
    Exec(ExecPlugin),
}

/// Without secrets.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credential::None => f.write_str("None"),
            Credential::Token(_) => f.write_str("Token(…)"),
            Credential::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
            Credential::Basic { username, .. } => f.debug_tuple("Basic").field(username).finish(),
            Credential::Exec(exec) => f.debug_tuple("Exec").field(&exec.command).finish(),
        }
    }
}

/// A program that returns credentials
/// (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecPlugin {
    pub(super) api_version: String,
    pub(super) command: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) provide_cluster_info: bool,
    /// Hint for users who lack the program.
    pub(super) install_hint: String,
}

/// A client configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // See the messages.
pub enum ConfigError {
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("kubeconfig {}: {reason}", .path.display())]
    Kubeconfig { path: PathBuf, reason: String },
    #[error(
        "no API server configured: neither --kubeconfig nor --master is set, and this is not a \
         Pod (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set)"
    )]
    NotInCluster,
    #[error("server {url:?}: {reason}")]
    Server { url: String, reason: String },
    #[error("{what}: {reason}")]
    Tls { what: String, reason: String },
    #[error(
        "unsupported content type {0:?}; supported are application/vnd.kubernetes.protobuf and \
         application/json"
    )]
    ContentType(String),
}

/// A Pod's access to its cluster: environment variables and service account.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub(in crate::apiserver) service: Option<(String, String)>,
    /// `/var/run/secrets/kubernetes.io/serviceaccount`.
    pub(in crate::apiserver) account: PathBuf,
}

impl Environment {
    pub(super) fn of_this_process() -> Self {
        let env = |name| std::env::var(name).ok().filter(|s| !s.is_empty());
        Self {
            service: env("KUBERNETES_SERVICE_HOST").zip(env("KUBERNETES_SERVICE_PORT")),
            account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
        }
    }

    fn server(&self) -> Option<ServerConfig> {
        let (host, port) = self.service.as_ref()?;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let ca = self.account.join("ca.crt");
        Some(ServerConfig {
            server: format!("https://{host}:{port}"),
            ca: Some(Material::File(ca)),
            insecure: false,
            tls_server_name: None,
            proxy_url: None,
            identity: None,
            credential: Credential::TokenFile(self.account.join("token")),
            is_service: true,
            node_server: None,
        })
    }
}

/// Find the server like kube-proxy: from the kubeconfig, whose address `master` overrides; else from
/// `master` with the Pod's service account, if this is a Pod; else from the Pod's environment. In
/// the last case the server of `node_kubeconfig`, if that file exists, is tried first.
pub(super) fn find_server(
    kubeconfig: Option<&Path>,
    master: Option<&str>,
    node_kubeconfig: Option<&Path>,
    environment: &Environment,
) -> Result<ServerConfig, ConfigError> {
    let master = master.filter(|m| !m.is_empty());
    if let Some(path) = kubeconfig.filter(|p| !p.as_os_str().is_empty()) {
        return kubeconfig::load(path, master);
    }
    let in_cluster = environment.server();
    match (master, in_cluster) {
        (None, None) => Err(ConfigError::NotInCluster),
        (None, Some(config)) => Ok(ServerConfig {
            node_server: node_kubeconfig.and_then(node_server),
            ..config
        }),
        (Some(master), Some(config)) => Ok(ServerConfig {
            server: master.to_owned(),
            is_service: false,
            ..config
        }),
        (Some(master), None) => Ok(ServerConfig {
            server: master.to_owned(),
            ca: None,
            insecure: false,
            tls_server_name: None,
            proxy_url: None,
            identity: None,
            credential: Credential::None,
            is_service: false,
            node_server: None,
        }),
    }
}

/// Return the program that a kubeconfig's current context names for credentials, if it can be read and
/// names one. A name without a slash is looked up in `PATH`.
pub fn credential_plugin(kubeconfig: &Path, master: Option<&str>) -> Option<PathBuf> {
    let master = master.filter(|m| !m.is_empty());
    match kubeconfig::load(kubeconfig, master).ok()?.credential {
        Credential::Exec(plugin) => Some(plugin.command),
        _ => None,
    }
}

/// Return the server of a node's kubeconfig and its TLS name. Its credentials belong to the kubelet and are
/// not used.
fn node_server(path: &Path) -> Option<(String, Option<String>)> {
    if !path.exists() {
        return None;
    }
    match kubeconfig::load(path, None) {
        Ok(config) => Some((config.server, config.tls_server_name)),
        Err(error) => {
            let path = path.display();
            let error = super::with_causes(&error);
            tracing::warn!(%path, error, "Node kubeconfig ignored");
            None
        }
    }
}

/// Decode base64 with white space, as found in kubeconfigs.
fn base64(data: &str) -> Result<Vec<u8>, String> {
    let compact: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    data_encoding::BASE64
        .decode(compact.as_bytes())
        .map_err(|e| format!("invalid base64 in a -data field: {e}"))
}
