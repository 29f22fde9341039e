//! The pages that describe this process: `/configz`, `/flagz`, `/statusz`, `/proxyMode`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Value, json};

/// A restriction of this process, by itself: a privilege that it has given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// Its name: `capabilities`, `no_new_privs`, `landlock` or `seccomp`.
    pub name: &'static str,
    /// Whether it is in force.
    pub enforced: bool,
    /// The remaining privileges, or why the restriction is not in force.
    pub detail: String,
}

impl std::fmt::Display for Restriction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let not = if self.enforced { "" } else { "not enforced: " };
        write!(f, "{} ({not}{})", self.name, self.detail)
    }
}

/// Content of the pages, created at startup.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Name of the mode.
    pub proxy_mode: String,
    /// The complete configuration with defaults, under upstream's key.
    pub configz: Value,
    /// Every flag with its effective value; `None` disables `/flagz`.
    pub flags: Option<BTreeMap<String, String>>,
    /// Whether `/statusz` is served.
    pub statusz: bool,
    /// sluice's version.
    pub version: String,
    /// Start time of the process.
    pub started: SystemTime,
}

/// The emulated release of Kubernetes.
const EMULATED: &str = "1.36";

/// The warning at the top of upstream's z-pages.
const NOT_FOR_MACHINES: &str = "Warning: This endpoint is not meant to be machine parseable, has \
no formatting compatibility guarantees and is for debugging purposes only.";

/// Format of a z-page (KEP-4827, KEP-4828).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Plain text.
    Text,
    /// An object of `config.k8s.io` in this version.
    Object(&'static str),
}

impl Form {
    /// Return the format that an Accept header requests; `None` if it is unavailable. Text without
    /// a header.
    pub(crate) fn asked_for(accept: Option<&str>, kind: &str) -> Option<Self> {
        match accept.map(str::trim) {
            None | Some("") => Some(Form::Text),
            Some(accept) => accept.split(',').find_map(|one| Self::of(one, kind)),
        }
    }

    fn of(media_range: &str, kind: &str) -> Option<Self> {
        let mut words = media_range.split(';').map(str::trim);
        let media_type = words.next()?;
        let parameters: Vec<_> = words.filter_map(|word| word.split_once('=')).collect();
        let has = |name, value| parameters.contains(&(name, value));
        let is_object = has("g", "config.k8s.io") && has("as", kind);
        match media_type {
            "application/json" if is_object => ["v1beta1", "v1alpha1"]
                .into_iter()
                .find(|version| has("v", version))
                .map(Form::Object),
            "text/plain" | "text/*" | "*/*" => Some(Form::Text),
            _ => None,
        }
    }
}

fn object(version: &str, kind: &str, fields: Value) -> Value {
    let mut object = json!({
        "apiVersion": format!("config.k8s.io/{version}"),
        "kind": kind,
        "metadata": {"name": "kube-proxy"},
    });
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

impl Pages {
    pub(crate) fn flagz(&self) -> String {
        let mut page = format!("\nkube-proxy flagz\n{NOT_FOR_MACHINES}\n");
        for (name, value) in self.flags.iter().flatten() {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "{name}={value}");
        }
        page
    }

    pub(crate) fn flagz_object(&self, version: &str) -> Value {
        object(version, "Flagz", json!({"flags": self.flags}))
    }

    fn paths(&self) -> Vec<&'static str> {
        let flagz = self.flags.is_some().then_some("/flagz");
        let mut paths = vec!["/configz"];
        paths.extend(flagz);
        paths.extend(["/healthz", "/metrics", "/proxyMode"]);
        paths
    }

    pub(crate) fn statusz(&self, now: SystemTime, restrictions: &[Restriction]) -> String {
        let restrictions: Vec<_> = restrictions.iter().map(ToString::to_string).collect();
        let up = self.up(now);
        format!(
            "\nkube-proxy statusz\n{NOT_FOR_MACHINES}\n\nStarted: {}\nUp: {} hr {:02} min {:02} sec\n\
             Binary version: sluice {}\nEmulation version: {EMULATED}\nMode: {}\nRestrictions: {}\nPaths: {}\n",
            humantime::format_rfc3339_seconds(self.started),
            up / 3600,
            up / 60 % 60,
            up % 60,
            self.version,
            self.proxy_mode,
            restrictions.join(", "),
            self.paths().join(" "),
        )
    }

    pub(crate) fn statusz_object(
        &self,
        version: &str,
        now: SystemTime,
        restrictions: &[Restriction],
    ) -> Value {
        let restrictions = restrictions
            .iter()
            .map(|r| json!({"name": r.name, "enforced": r.enforced, "detail": r.detail}));
        let restrictions: Vec<_> = restrictions.collect();
        let fields = json!({
            "startTime": humantime::format_rfc3339_seconds(self.started).to_string(),
            "uptimeSeconds": self.up(now),
            // The field is required.
            "goVersion": "",
            "binaryVersion": format!("sluice {}", self.version),
            "emulationVersion": EMULATED,
            "paths": self.paths(),
            "restrictions": restrictions,
        });
        object(version, "Statusz", fields)
    }

    fn up(&self, now: SystemTime) -> u64 {
        let up = now.duration_since(self.started);
        up.unwrap_or_default().as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_negotiated() {
        let flagz =
            |version: &str| format!("application/json;v={version};g=config.k8s.io;as=Flagz");
        let form = |accept: &str| Form::asked_for(Some(accept), "Flagz");
        assert_eq!(Form::asked_for(None, "Flagz"), Some(Form::Text));
        for text in ["", "*/*", "text/plain", "image/png, text/*;q=0.1"] {
            assert_eq!(form(text), Some(Form::Text), "{text}");
        }
        assert_eq!(form(&flagz("v1beta1")), Some(Form::Object("v1beta1")));
        assert_eq!(form(&flagz("v1alpha1")), Some(Form::Object("v1alpha1")));
        assert_eq!(form(&flagz("v2")), None);
        assert_eq!(Form::asked_for(Some(&flagz("v1beta1")), "Statusz"), None);
        assert_eq!(form("application/json"), None);
    }
}
