//! A client of the API server: where it is, how to prove who we are, and how to speak to it.

mod credentials;
mod http;
mod kubeconfig;
mod limit;
mod tls;

use std::path::{Path, PathBuf};

use credentials::Credentials;
pub use http::Sent;
pub(super) use http::{Answer, Body, Client, Observer};

/// Where the API server is, and who we are to it: a kubeconfig's current context, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerConfig {
    /// A URL, with or without scheme and path.
    pub(super) server: String,
    /// Certificates that the server's must be signed by; the system's where there are none.
    pub(super) ca: Option<Material>,
    /// Take any certificate.
    pub(super) insecure: bool,
    /// The name in the server's certificate, where it is not the host of `server`.
    pub(super) tls_server_name: Option<String>,
    /// An HTTP proxy.
    pub(super) proxy_url: Option<String>,
    /// Our own certificate and its key.
    pub(super) identity: Option<(Material, Material)>,
    /// What goes into the `Authorization` header.
    pub(super) credential: Credential,
}

/// PEM text, or where it is. Files are read anew, since they rotate.
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

/// What goes into the `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    None,
    Token(String),
    TokenFile(PathBuf),
    Basic { username: String, password: String },
    Exec(ExecPlugin),
}

/// Secrets stay out of logs.
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

/// A program that hands out credentials
/// (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecPlugin {
    pub(super) api_version: String,
    pub(super) command: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) provide_cluster_info: bool,
    /// What to tell the user when the program is not there.
    pub(super) install_hint: String,
}

/// A client configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum ConfigError {
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("kubeconfig {}: {reason}", .path.display())]
    Kubeconfig { path: PathBuf, reason: String },
    #[error(
        "neither --kubeconfig nor --master is given, and this is not a pod: \
         KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"
    )]
    NotInCluster,
    #[error("server {url:?}: {reason}")]
    Server { url: String, reason: String },
    #[error("{what}: {reason}")]
    Tls { what: String, reason: String },
    #[error(
        "content type {0:?} is not one that sluice speaks (application/vnd.kubernetes.protobuf, application/json)"
    )]
    ContentType(String),
}

/// What a pod finds out about its cluster from its surroundings.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub(super) service: Option<(String, String)>,
    /// `/var/run/secrets/kubernetes.io/serviceaccount`.
    pub(super) account: PathBuf,
}

impl Surroundings {
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
        })
    }
}

/// Finds the server as kube-proxy does: from the kubeconfig, with `master` going before its server
/// address; with only `master`, from that and the pod's account, if this is a pod; else from the
/// pod's surroundings alone.
pub(super) fn find_server(
    kubeconfig: Option<&Path>,
    master: Option<&str>,
    surroundings: &Surroundings,
) -> Result<ServerConfig, ConfigError> {
    let master = master.filter(|m| !m.is_empty());
    if let Some(path) = kubeconfig.filter(|p| !p.as_os_str().is_empty()) {
        return kubeconfig::load(path, master);
    }
    let in_cluster = surroundings.server();
    match (master, in_cluster) {
        (None, None) => Err(ConfigError::NotInCluster),
        (None, Some(config)) => Ok(config),
        (Some(master), Some(config)) => Ok(ServerConfig {
            server: master.to_owned(),
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
        }),
    }
}

/// Decodes base64 as kubeconfigs have it, white space and all.
fn base64(data: &str) -> Result<Vec<u8>, String> {
    let compact: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    data_encoding::BASE64
        .decode(compact.as_bytes())
        .map_err(|e| format!("…-data is not base64: {e}"))
}
