//! Log lines in kube-proxy's formats, for the same log processing.
//!
//! Text is klog's: `I1126 04:22:09.123456   12345 run.rs:77] message`, with `E` and `W` for
//! errors and warnings, and always one line per message. JSON has kube-proxy's keys (`ts` in
//! milliseconds, `caller`, `msg`, and `v` except for errors), and `level` in addition. Times are UTC.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes one line for each event.
pub(super) struct Lines(fn(&Metadata<'_>, &Parts, SystemTime) -> String);

/// `logging.format: text`.
pub(super) const TEXT: Lines = Lines(text);

/// `logging.format: json`.
pub(super) const JSON: Lines = Lines(json);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Self(line) = self;
        to.write_str(&line(
            event.metadata(),
            &Parts::of(event),
            SystemTime::now(),
        ))
    }
}

/// Message and fields of an event.
#[derive(Default)]
pub(super) struct Parts {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Parts {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut parts = Self::default();
        event.record(&mut parts);
        parts
    }

    /// Return message and fields in one line.
    pub(super) fn line(&self) -> String {
        let mut line = self.message.clone();
        for (name, value) in &self.fields {
            // Strings have quotes.
            line += &format!(" {name}={value}");
        }
        line
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(message)) => self.message = message,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

/// Return the last `parts` of the source path and the line number.
fn caller(metadata: &Metadata<'_>, parts: usize) -> String {
    let path = Path::new(metadata.file().unwrap_or("unknown"));
    let names: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let last = names.len().saturating_sub(parts);
    let name = names.get(last..).unwrap_or_default().join("/");
    format!("{name}:{}", metadata.line().unwrap_or_default())
}

fn text(metadata: &Metadata<'_>, parts: &Parts, now: SystemTime) -> String {
    let severity = match *metadata.level() {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    // 2026-11-26T04:22:09.123456Z
    let time = humantime::format_rfc3339_micros(now).to_string();
    let piece = |range| time.get(range).unwrap_or_default();
    let mut line = format!(
        "{severity}{}{} {} {:>7} {}] ",
        piece(5..7),
        piece(8..10),
        piece(11..26),
        std::process::id(),
        caller(metadata, 1)
    );
    // One line per message: escape control characters.
    for c in parts.message.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    for (name, value) in &parts.fields {
        // Writing to a String cannot fail. Strings have quotes.
        let _ = write!(line, " {name}={value}");
    }
    line.push('\n');
    line
}

fn json(metadata: &Metadata<'_>, parts: &Parts, now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    let (level, v) = match *metadata.level() {
        Level::ERROR => ("error", None),
        Level::WARN => ("warn", Some(0)),
        Level::INFO => ("info", Some(0)),
        Level::DEBUG => ("debug", Some(super::DEBUG_FROM)),
        Level::TRACE => ("trace", Some(super::TRACE_FROM)),
    };
    let mut line = format!(
        "{{\"ts\":{}.{:03},\"caller\":{},\"level\":\"{level}\",\"msg\":{}",
        micros / 1000,
        micros % 1000,
        Value::from(caller(metadata, 2)),
        Value::from(parts.message.as_str())
    );
    let v = v.map(|v| ("v", Value::from(v)));
    for (name, value) in v.iter().chain(&parts.fields) {
        let _ = write!(line, ",{}:{value}", Value::from(*name));
    }
    line.push_str("}\n");
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt as _};

    use super::*;

    /// Format an event in both formats at a fixed time.
    #[derive(Clone, Default)]
    struct Both(Arc<Mutex<Vec<(String, String)>>>);

    impl<S: Subscriber> Layer<S> for Both {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_666_929_001_234);
            let (metadata, parts) = (event.metadata(), Parts::of(event));
            let lines = (text(metadata, &parts, time), json(metadata, &parts, time));
            self.0.lock().unwrap().push(lines);
        }
    }

    fn both(say: impl FnOnce()) -> (String, String) {
        let seen = Both::default();
        let subscriber = tracing_subscriber::registry().with(seen.clone());
        tracing::subscriber::with_default(subscriber, say);
        let mut lines = seen.0.lock().unwrap();
        lines.pop().unwrap()
    }

    #[test]
    fn text_has_the_format_of_klog() {
        let (line, _) = both(|| tracing::warn!(service = "demo/web", port = 80, "two\nlines"));
        let place = format!("{:>7} format.rs:", std::process::id());
        let (head, said) = line.split_once("] ").unwrap();
        let head = head.strip_prefix("W1126 04:22:09.001234 ").unwrap();
        let number = head.strip_prefix(&place).unwrap();
        assert!(number.parse::<u32>().is_ok(), "{line}");
        assert_eq!(said, "two\\nlines service=\"demo/web\" port=80\n");
        assert!(both(|| tracing::error!("x")).0.starts_with("E1126 "));
        assert!(both(|| tracing::debug!("x")).0.starts_with("I1126 "));
    }

    #[test]
    fn json_has_the_keys_of_kube_proxy() {
        let read = |line: String| serde_json::from_str::<Value>(&line).unwrap();
        let info = read(both(|| tracing::info!(port = 80, "a \"b\"")).1);
        assert_eq!(info["ts"], serde_json::json!(1_795_666_929_001.234));
        assert_eq!((&info["msg"], &info["v"]), (&"a \"b\"".into(), &0.into()));
        assert_eq!(
            (&info["port"], &info["level"]),
            (&80.into(), &"info".into())
        );
        let caller = info["caller"].as_str().unwrap();
        assert!(caller.starts_with("logging/format.rs:"), "{caller}");
        let error = read(both(|| tracing::error!("x")).1);
        assert_eq!(
            (&error["level"], &error["v"]),
            (&"error".into(), &Value::Null)
        );
        assert_eq!(read(both(|| tracing::trace!("x")).1)["v"], 6);
    }
}
