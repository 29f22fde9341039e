//! Requests to the API server.

use std::fmt::Write;

use model::Kind;

/// Objects per page, as in client-go.
const PAGE_LIMIT: u32 = 500;

/// A request for a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A page of a list; the first without a token.
    List {
        /// `continue` of the previous page.
        continue_token: Option<String>,
    },
    /// A watch.
    Watch {
        /// The version to resume from; `None` asks for a streaming list, which starts with all
        /// objects (KEP-3157).
        resource_version: Option<String>,
        /// Seconds after which the server ends the watch. Nodes choose different times to keep
        /// them from reconnecting together.
        timeout_seconds: u32,
    },
}

impl Request {
    /// Return whether the request is a watch.
    pub(super) fn is_watch(&self) -> bool {
        matches!(self, Request::Watch { .. })
    }

    /// Return the path and query for a kind; for Nodes, only the named one.
    ///
    /// The selectors are those of kube-proxy 1.36 (`cmd/kube-proxy/app/server.go`): the server
    /// leaves out headless Services, their slices, and Services of other proxies.
    pub(super) fn path_and_query(&self, kind: Kind, node_name: &str) -> String {
        let mut out = String::from(match kind {
            Kind::Service => {
                "/api/v1/services?fieldSelector=spec.clusterIP%21%3DNone\
                 &labelSelector=%21service.kubernetes.io%2Fservice-proxy-name"
            }
            Kind::EndpointSlice => {
                "/apis/discovery.k8s.io/v1/endpointslices\
                 ?labelSelector=%21service.kubernetes.io%2Fheadless"
            }
            Kind::Node => "/api/v1/nodes?fieldSelector=metadata.name%3D",
            Kind::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs?",
        });
        if kind == Kind::Node {
            percent_encode(&mut out, node_name);
        }
        if !out.ends_with('?') {
            out.push('&');
        }
        match self {
            Request::List { continue_token } => {
                let _ = write!(out, "limit={PAGE_LIMIT}");
                if let Some(token) = continue_token {
                    out.push_str("&continue=");
                    percent_encode(&mut out, token);
                }
            }
            Request::Watch {
                resource_version,
                timeout_seconds,
            } => {
                let _ = write!(
                    out,
                    "watch=true&allowWatchBookmarks=true&timeoutSeconds={timeout_seconds}"
                );
                match resource_version {
                    Some(version) => {
                        out.push_str("&resourceVersion=");
                        percent_encode(&mut out, version);
                    }
                    None => {
                        out.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
                    }
                }
            }
        }
        out
    }
}

/// Percent-encode everything but the unreserved characters of RFC 3986.
fn percent_encode(out: &mut String, s: &str) {
    for byte in s.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_paths_and_queries_of_the_api_server() {
        let list = |token: Option<&str>| Request::List {
            continue_token: token.map(str::to_owned),
        };
        let watch = |version: Option<&str>| Request::Watch {
            resource_version: version.map(str::to_owned),
            timeout_seconds: 400,
        };
        let query = |r: Request, kind| r.path_and_query(kind, "n&1");
        assert_eq!(
            query(list(None), Kind::Service),
            "/api/v1/services?fieldSelector=spec.clusterIP%21%3DNone\
             &labelSelector=%21service.kubernetes.io%2Fservice-proxy-name&limit=500"
        );
        assert_eq!(
            query(list(Some("a/b=")), Kind::ServiceCidr),
            "/apis/networking.k8s.io/v1/servicecidrs?limit=500&continue=a%2Fb%3D"
        );
        assert_eq!(
            query(watch(Some("7")), Kind::EndpointSlice),
            "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2F\
             headless&watch=true&allowWatchBookmarks=true&timeoutSeconds=400&resourceVersion=7"
        );
        assert_eq!(
            query(watch(None), Kind::Node),
            "/api/v1/nodes?fieldSelector=metadata.name%3Dn%261&watch=true&allowWatchBookmarks=true\
             &timeoutSeconds=400&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        );
    }
}
