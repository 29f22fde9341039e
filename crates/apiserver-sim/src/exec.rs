//! Pods and their subresource `exec`, over WebSocket as kubectl 1.31 and later use it (KEP-4006), and the
//! discovery that kubectl needs before.

use std::process::Command;
use std::sync::Arc;

use data_encoding::BASE64;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::pods::Exec;
use crate::query::values;
use crate::response::{Answer, Format, refusal, status, whole};
use crate::shared::Shared;

/// The subprotocol of kubectl.
const PROTOCOL: &str = "v5.channel.k8s.io";
/// The key of RFC 6455, section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The largest message; the real server copies 32 KiB at a time.
const MESSAGE: usize = 32 << 10;
/// The channels of the subprotocol.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;

/// Answer a request about Pods or for discovery; `None` for other paths.
pub(crate) fn answer(shared: &Arc<Shared>, request: &mut Request<Incoming>) -> Option<Answer> {
    let path = request.uri().path().trim_matches('/').to_owned();
    let words: Vec<&str> = path.split('/').collect();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let first = |name: &str| values(&query, name).next().unwrap_or_default();
    let found = match words[..] {
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"]}),
        ["apis"] => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        ["api", "v1"] => json!({
            "kind": "APIResourceList", "groupVersion": "v1", "resources": [
                {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                 "verbs": ["get", "list"], "shortNames": ["po"]},
                {"name": "pods/exec", "singularName": "", "namespaced": true,
                 "kind": "PodExecOptions", "verbs": ["create", "get"]},
            ],
        }),
        ["api", "v1", "pods"] => shared.pods().list(None, &first("labelSelector")),
        ["api", "v1", "namespaces", namespace, "pods"] => {
            let selector = first("labelSelector");
            shared.pods().list(Some(namespace), &selector)
        }
        ["api", "v1", "namespaces", namespace, "pods", name] => {
            let pod = shared.pods().get(namespace, name).cloned();
            match pod {
                Some(pod) => pod,
                None => return Some(missing(name)),
            }
        }
        ["api", "v1", "namespaces", namespace, "pods", pod, "exec"] => {
            let exec = Exec {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                container: first("container"),
                command: values(&query, "command").collect(),
            };
            return Some(run(shared, request, &exec));
        }
        _ => return None,
    };
    let bytes = found.to_string().into_bytes();
    Some(whole(StatusCode::OK, Format::Json, bytes, 0))
}

fn missing(pod: &str) -> Answer {
    let message = format!("pods {pod:?} not found");
    refusal(Format::Json, &status(404, "NotFound", &message, None))
}

/// Switch to WebSocket and run the command.
fn run(shared: &Arc<Shared>, request: &mut Request<Incoming>, exec: &Exec) -> Answer {
    let refused = |code, reason: &str, message: &str| {
        refusal(Format::Json, &status(code, reason, message, None))
    };
    let header = |name| {
        let value = request.headers().get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or("")
    };
    let offered = header(header::SEC_WEBSOCKET_PROTOCOL);
    let key = header(header::SEC_WEBSOCKET_KEY);
    let accept = format!("{key}{GUID}");
    let accept = digest(&SHA1_FOR_LEGACY_USE_ONLY, accept.as_bytes());
    let accept = BASE64.encode(accept.as_ref());
    let (is_there, make) = {
        let pods = shared.pods();
        let is_there = pods.get(&exec.namespace, &exec.pod).is_some();
        (is_there, pods.command.clone())
    };
    if !is_there {
        return missing(&exec.pod);
    }
    let Some(command) = make.and_then(|make| make(exec)) else {
        let message = "error dialing backend: the node does not answer";
        return refused(500, "InternalError", message);
    };
    if key.is_empty() || !offered.split(',').any(|p| p.trim() == PROTOCOL) {
        return refused(400, "BadRequest", "exec is served over WebSocket only");
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        // Errors of a connection show in the client.
        if let Ok(upgraded) = upgrade.await {
            let _ = attach(TokioIo::new(upgraded), command).await;
        }
    });
    let mut answer = whole(StatusCode::SWITCHING_PROTOCOLS, Format::Json, Vec::new(), 0);
    let headers = answer.headers_mut();
    headers.clear();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let protocol = HeaderValue::from_static(PROTOCOL);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer
}

/// Run a command and send its output and exit status.
async fn attach(mut client: TokioIo<Upgraded>, mut command: Command) -> anyhow::Result<()> {
    command.stdin(std::process::Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let result = match &output {
        Ok(output) => {
            for (channel, bytes) in [(STDOUT, &output.stdout), (STDERR, &output.stderr)] {
                for part in bytes.chunks(MESSAGE) {
                    send(&mut client, channel, part).await?;
                }
            }
            result(output.status.code())
        }
        Err(error) => status(500, "InternalError", &error.to_string(), None),
    };
    send(&mut client, ERROR, result.to_string().as_bytes()).await?;
    // Close: normal.
    client.write_all(&[0x88, 2, 0x03, 0xe8]).await?;
    client.flush().await?;
    Ok(())
}

/// Return the result that the kubelet sends.
fn result(code: Option<i32>) -> Value {
    let code = code.unwrap_or(137);
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    let message = format!("command terminated with non-zero exit code: exit status {code}");
    let mut result = status(500, "NonZeroExitCode", &message, None);
    let cause = json!({"reason": "ExitCode", "message": code.to_string()});
    result["details"] = json!({"causes": [cause]});
    result
}

/// Send a binary message (RFC 6455, section 5.2; servers do not mask).
async fn send(client: &mut TokioIo<Upgraded>, channel: u8, part: &[u8]) -> std::io::Result<()> {
    let length = part.len() + 1;
    let mut frame = vec![0x82];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length < 126 => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.push(channel);
    frame.extend(part);
    client.write_all(&frame).await?;
    client.flush().await
}
