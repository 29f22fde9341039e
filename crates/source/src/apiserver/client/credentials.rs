//! Credentials for the API server, renewed when they expire.

use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::header::HeaderValue;
use serde::{Deserialize, Serialize};

use super::{Credential, ExecPlugin, ServerConfig};
use crate::apiserver::with_causes;

/// Period for rereading token files, as in client-go. Projected service account tokens live at
/// least ten minutes and are replaced after 80 % of their lifetime.
const TOKEN_FILE_PERIOD: Duration = Duration::from_secs(60);

/// Upper bound on the run time of a plugin.
const EXEC_TIMEOUT: Duration = Duration::from_secs(60);

/// A credential is not available.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("cannot read the token file {}", .path.display())]
    TokenFile {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("credential plugin {command}: {reason}")]
    Exec { command: String, reason: String },
    #[error("the token contains characters that are not allowed in an HTTP header")]
    Header,
}

/// A client certificate and its key from a plugin, as PEM.
pub(super) type Identity = (Vec<u8>, Vec<u8>);

/// The current credential and its source.
pub(crate) struct Credentials {
    credential: Credential,
    cluster: ClusterInfo,
    cached: Option<Cached>,
}

struct Cached {
    header: Option<HeaderValue>,
    identity: Option<Identity>,
    /// `None`: valid until the server refuses it.
    until: Option<Instant>,
}

impl Credentials {
    pub(super) fn new(config: &ServerConfig, ca: Option<&[u8]>) -> Self {
        Self {
            credential: config.credential.clone(),
            cluster: ClusterInfo {
                server: config.server.clone(),
                tls_server_name: config.tls_server_name.clone(),
                insecure_skip_tls_verify: config.insecure,
                certificate_authority_data: ca.map(|pem| data_encoding::BASE64.encode(pem)),
            },
            cached: None,
        }
    }

    /// Discard the credential that the server refused.
    pub(crate) fn refused(&mut self) {
        self.cached = None;
    }

    /// Return the header, and the certificate of a plugin.
    ///
    /// # Errors
    /// If a credential is not available and no earlier one is known.
    pub(super) async fn get(
        &mut self,
        now: Instant,
    ) -> Result<(Option<HeaderValue>, Option<Identity>), CredentialError> {
        let fresh = |c: &Cached| c.until.is_none_or(|until| now < until);
        if !self.cached.as_ref().is_some_and(fresh) {
            match (self.fetch(now).await, &mut self.cached) {
                (Ok(cached), _) => self.cached = Some(cached),
                // The previous token is still valid while its file is being replaced.
                (Err(e), Some(cached)) => {
                    let error = with_causes(&e);
                    tracing::warn!(error, "Credential not renewed; using the previous one");
                    cached.until = Some(now + Duration::from_secs(10));
                }
                (Err(e), None) => return Err(e),
            }
        }
        let cached = self.cached.as_ref();
        Ok(cached.map_or((None, None), |c| (c.header.clone(), c.identity.clone())))
    }

    async fn fetch(&self, now: Instant) -> Result<Cached, CredentialError> {
        let mut cached = Cached {
            header: None,
            identity: None,
            until: None,
        };
        match &self.credential {
            Credential::None => {}
            Credential::Token(token) => cached.header = Some(bearer(token)?),
            Credential::TokenFile(path) => {
                let token = std::fs::read_to_string(path).and_then(|token| {
                    let token = token.trim().to_owned();
                    if token.is_empty() {
                        return Err(std::io::Error::other("the file is empty"));
                    }
                    Ok(token)
                });
                let token = token.map_err(|source| CredentialError::TokenFile {
                    path: path.clone(),
                    source,
                })?;
                cached.header = Some(bearer(&token)?);
                cached.until = Some(now + TOKEN_FILE_PERIOD);
            }
            Credential::Basic { username, password } => {
                let pair =
                    data_encoding::BASE64.encode(format!("{username}:{password}").as_bytes());
                cached.header = Some(secret(&format!("Basic {pair}"))?);
            }
            Credential::Exec(plugin) => {
                let status = run(plugin, &self.cluster).await.map_err(|reason| {
                    let command = plugin.command.display().to_string();
                    CredentialError::Exec { command, reason }
                })?;
                cached.header = status.token.as_deref().map(bearer).transpose()?;
                cached.identity = status
                    .client_certificate_data
                    .zip(status.client_key_data)
                    .map(|(certificate, key)| (certificate.into_bytes(), key.into_bytes()));
                cached.until = status.expiration_timestamp.map(|t| expiry(&t, now));
            }
        }
        Ok(cached)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, CredentialError> {
    secret(&format!("Bearer {token}"))
}

fn secret(value: &str) -> Result<HeaderValue, CredentialError> {
    let mut header = HeaderValue::from_str(value).map_err(|_| CredentialError::Header)?;
    header.set_sensitive(true);
    Ok(header)
}

/// Convert a wall-clock time to an instant; an unreadable one to `now`.
fn expiry(timestamp: &str, now: Instant) -> Instant {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    let left = model::parse_rfc3339(timestamp)
        .and_then(|t| u64::try_from(t).ok())
        .zip(wall.ok())
        .map_or(0, |(t, wall)| t.saturating_sub(wall.as_secs()));
    now + Duration::from_secs(left.min(365 * 86_400))
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterInfo {
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_authority_data: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecInfo<'a> {
    api_version: &'a str,
    kind: &'static str,
    spec: ExecSpec<'a>,
}

#[derive(Serialize)]
struct ExecSpec<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a ClusterInfo>,
    interactive: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    kind: String,
    api_version: String,
    status: Option<ExecStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ExecStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

async fn run(plugin: &ExecPlugin, cluster: &ClusterInfo) -> Result<ExecStatus, String> {
    let info = ExecInfo {
        api_version: &plugin.api_version,
        kind: "ExecCredential",
        spec: ExecSpec {
            cluster: plugin.provide_cluster_info.then_some(cluster),
            interactive: false,
        },
    };
    let info = serde_json::to_string(&info).map_err(|e| e.to_string())?;
    let child = tokio::process::Command::new(&plugin.command)
        .args(&plugin.args)
        .env("KUBERNETES_EXEC_INFO", info)
        .envs(plugin.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("cannot start: {e}. {}", plugin.install_hint))?;
    let output = tokio::time::timeout(EXEC_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| format!("timed out after {} s", EXEC_TIMEOUT.as_secs()))?
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stderr: String = stderr.trim().chars().take(300).collect();
        return Err(format!("failed ({}): {stderr}", output.status));
    }
    let answer: ExecCredential =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("invalid answer: {e}"))?;
    if answer.kind != "ExecCredential" || answer.api_version != plugin.api_version {
        return Err(format!(
            "the answer is a {} {} instead of a {} ExecCredential",
            answer.api_version, answer.kind, plugin.api_version
        ));
    }
    let status = answer.status.ok_or("the answer lacks status")?;
    let certificate = status.client_certificate_data.is_some() && status.client_key_data.is_some();
    if status.token.is_none() && !certificate {
        return Err("the answer has neither a token nor a client certificate with its key".into());
    }
    Ok(status)
}
