//! Connections and requests of the server.

use std::net::TcpListener;
use std::sync::{Arc, PoisonError};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::encode;
use crate::exec;
use crate::query::parse_query;
use crate::resource::Resource;
use crate::response::{Answer, Encoded, Format, refusal, status, whole};
use crate::selector::Selector;
use crate::shared::Shared;
use crate::store::{State, Version};
use crate::watch::{self, Watch};

/// Accept connections forever.
pub(crate) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            let serving = async {
                let _ = tcp.set_nodelay(true);
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let service = service_fn(|request| answer(shared.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service)
                    .with_upgrades();
                // Errors of a connection show in the client.
                let _ = connection.await;
            };
            tokio::select! {
                () = serving => {}
                _ = cut.changed() => {}
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, mut request: Request<Incoming>) -> anyhow::Result<Answer> {
    let text = |name| {
        let value = request.headers().get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or("").to_owned()
    };
    let (accept, authorization) = (text(header::ACCEPT), text(header::AUTHORIZATION));
    let (method, uri) = (request.method().clone(), request.uri().clone());
    shared
        .state()
        .requests
        .push(format!("{method} {uri} {accept}"));
    let Some(format) = negotiate(&accept, shared.state().faults.no_protobuf) else {
        let message = "only the following media types are accepted: application/json";
        return Ok(refusal(
            Format::Json,
            &status(406, "NotAcceptable", message, None),
        ));
    };
    if !is_authenticated(&shared, &authorization) {
        let status = status(401, "Unauthorized", "Unauthorized", None);
        return Ok(refusal(format, &status));
    }
    let path = uri.path();
    let resource = Resource::ALL.into_iter().find(|r| r.path() == path);
    if let Some(refused) = refused(&mut shared.state(), resource) {
        return Ok(refusal(format, &refused));
    }
    if let Some(forbidden) = forbidden(&shared.state(), &method, &uri) {
        return Ok(refusal(format, &forbidden));
    }
    if method != Method::GET && path.starts_with("/apis/events.k8s.io/v1/namespaces/") {
        return post_event(&shared, &method, request).await;
    }
    if resource.is_none()
        && let Some(answer) = exec::answer(&shared, &mut request)
    {
        return Ok(answer);
    }
    let Some(resource) = resource.filter(|_| method == Method::GET) else {
        let message = "the server could not find the requested resource";
        return Ok(refusal(format, &status(404, "NotFound", message, None)));
    };
    while shared.state().faults.stalled {
        let mut changed = shared.changed.subscribe();
        let _ = changed.changed().await;
    }
    let query = parse_query(uri.query().unwrap_or_default());
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let selector = match Selector::parse(get("labelSelector"), get("fieldSelector")) {
        Ok(selector) => selector,
        Err(e) => return Ok(refusal(format, &status(400, "BadRequest", &e, None))),
    };
    if get("watch") == "true" {
        let params = watch::Params {
            resource,
            format,
            selector,
            resource_version: get("resourceVersion").parse().ok(),
            streaming_list: get("sendInitialEvents") == "true",
            bookmarks: get("allowWatchBookmarks") == "true",
            timeout: get("timeoutSeconds").parse().unwrap_or(1800),
        };
        return Ok(Watch::open(&shared, params));
    }
    let limit = get("limit").parse().unwrap_or(0);
    Ok(list(
        &shared,
        resource,
        format,
        &selector,
        limit,
        get("continue"),
    ))
}

/// Store an Event, and return it.
async fn post_event(
    shared: &Shared,
    method: &Method,
    request: Request<Incoming>,
) -> anyhow::Result<Answer> {
    let body = request.into_body().collect().await?.to_bytes();
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    shared.state().posted.push(event.clone());
    let code = if method == Method::POST {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(whole(code, Format::Json, event.to_string().into_bytes(), 0))
}

/// Choose the client's preferred format among the available ones.
fn negotiate(accept: &str, no_protobuf: bool) -> Option<Format> {
    accept.split(',').find_map(|media_type| {
        match media_type.split(';').next().unwrap_or("").trim() {
            "application/vnd.kubernetes.protobuf" if !no_protobuf => Some(Format::Protobuf),
            "application/json" | "*/*" | "application/*" | "" => Some(Format::Json),
            _ => None,
        }
    })
}

fn is_authenticated(shared: &Shared, authorization: &str) -> bool {
    let tokens = shared.tokens.lock().unwrap_or_else(PoisonError::into_inner);
    let bearer = authorization.strip_prefix("Bearer ");
    tokens.is_empty() || bearer.is_some_and(|token| tokens.iter().any(|t| t == token))
}

/// Return the refusal of a request that the client's role does not allow.
fn forbidden(state: &State, method: &Method, uri: &Uri) -> Option<Value> {
    let watch = uri.query().is_some_and(|q| q.contains("watch=true"));
    let verb = match *method {
        Method::GET if watch => "watch",
        Method::GET => "list",
        Method::POST => "create",
        Method::PATCH => "patch",
        _ => return None,
    };
    let mut words = uri.path().split('/');
    let denied = |word: &str| {
        let found = state.faults.forbidden.iter();
        found.copied().any(|denied| denied == (verb, word))
    };
    let resource = words.find(|word| denied(word))?;
    let message = format!(
        "{resource} is forbidden: User \"sluice\" cannot {verb} resource \"{resource}\" at the \
         cluster scope"
    );
    Some(status(403, "Forbidden", &message, None))
}

/// Take the next refusal for a request.
fn refused(state: &mut State, resource: Option<Resource>) -> Option<Value> {
    if state.faults.no_service_cidrs && resource == Some(Resource::ServiceCidrs) {
        let message = "the server could not find the requested resource";
        return Some(status(404, "NotFound", message, None));
    }
    let refusals = &mut state.faults.refusals;
    refusals.retain(|r| r.times > 0);
    let applies = |of: Option<Resource>| of.is_none() || of == resource;
    let refusal = refusals.iter_mut().find(|r| applies(r.resource))?;
    refusal.times -= 1;
    let message = "refused by the simulator";
    Some(status(
        refusal.code,
        &refusal.reason,
        message,
        refusal.retry_after,
    ))
}

fn list(
    shared: &Shared,
    resource: Resource,
    format: Format,
    selector: &Selector,
    limit: usize,
    token: &str,
) -> Answer {
    let mut state = shared.state();
    let chunk = state.faults.chunk;
    let (number, from, resource_version) = if token.is_empty() {
        let objects = state.collection(resource).objects.values();
        let matching = objects.filter(|v| selector.matches(v)).cloned().collect();
        state.next_snapshot += 1;
        let number = state.next_snapshot;
        state.snapshots.insert(number, Arc::new(matching));
        (number, 0, state.resource_version)
    } else {
        let mut parts = token
            .split('.')
            .map(|n| n.parse::<u64>().unwrap_or(u64::MAX));
        let mut next = || parts.next().unwrap_or(u64::MAX);
        (
            next(),
            usize::try_from(next()).unwrap_or(usize::MAX),
            next(),
        )
    };
    let Some(snapshot) = state.snapshots.get(&number).cloned() else {
        let message = "The provided continue parameter is too old to display a consistent list";
        return refusal(format, &status(410, "Expired", message, None));
    };
    let to = match limit {
        0 => snapshot.len(),
        limit => snapshot.len().min(from.saturating_add(limit)),
    };
    let token = if to < snapshot.len() {
        format!("{number}.{to}.{resource_version}")
    } else {
        state.snapshots.remove(&number);
        String::new()
    };
    drop(state);
    let page = snapshot.get(from..to).unwrap_or_default();
    let meta = json!({
        "resourceVersion": resource_version.to_string(),
        "continue": token,
        "remainingItemCount": snapshot.len() - to,
    });
    let bytes = encode_list(resource, format, &meta, page);
    whole(StatusCode::OK, format, bytes, chunk)
}

fn encode_list(resource: Resource, format: Format, meta: &Value, page: &[Arc<Version>]) -> Vec<u8> {
    let kind = format!("{}List", resource.kind());
    match format {
        Format::Json => {
            let api_version = resource.api_version();
            let mut out = format!(
                r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{meta},"items":["#
            )
            .into_bytes();
            for (i, version) in page.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(Encoded::of(resource, version).json);
            }
            out.extend_from_slice(b"]}\n");
            out
        }
        Format::Protobuf => {
            let mut raw = encode::list_head(meta);
            for version in page {
                encode::bytes(&mut raw, 2, &version.protobuf);
            }
            encode::envelope(resource.api_version(), &kind, &raw)
        }
    }
}
