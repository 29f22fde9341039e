//! Output of log lines: standard error; with `splitStream`, info messages go to standard output,
//! buffered according to `infoBufferSize` and `flushFrequency`.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use config::{LogFormat, Logging};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::writer::MakeWriter;

/// klog's limit of `infoBufferSize`.
const MOST: u64 = 2 << 30;

/// Writers by level.
pub(super) struct Streams {
    /// Levels that go to standard error; `None` without `splitStream`.
    trouble: Option<Level>,
    held: Option<Arc<Held>>,
}

impl Streams {
    /// Return the streams of a configuration.
    pub(super) fn new(logging: &Logging) -> Self {
        let stream = logging.stream;
        // klog's text format writes warnings to standard error, its JSON format does not.
        let trouble = match logging.format {
            LogFormat::Text => Level::WARN,
            LogFormat::Json => Level::ERROR,
        };
        let size = usize::try_from(stream.info_buffer_size.min(MOST)).unwrap_or_default();
        let held = (stream.split && size > 0).then(|| Arc::new(Held::new(size)));
        Self {
            trouble: stream.split.then_some(trouble),
            held,
        }
    }

    /// Return the buffer, flushed periodically and at the end.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.held.clone()
    }
}

impl<'a> MakeWriter<'a> for Streams {
    type Writer = Box<dyn Write + 'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Box::new(io::stderr())
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        match (&self.trouble, &self.held) {
            (Some(trouble), Some(held)) if metadata.level() > trouble => Box::new(&**held),
            (Some(trouble), None) if metadata.level() > trouble => Box::new(io::stdout()),
            _ => self.make_writer(),
        }
    }
}

/// Buffer of lines for standard output (in tests, for another writer).
pub(super) struct Held<W: Write = io::Stdout> {
    size: usize,
    state: Mutex<(Vec<u8>, W)>,
}

impl Held {
    fn new(size: usize) -> Self {
        Self::over(size, io::stdout())
    }
}

impl<W: Write> Held<W> {
    fn over(size: usize, out: W) -> Self {
        Self {
            size,
            state: Mutex::new((Vec::new(), out)),
        }
    }

    /// Write the buffered lines. A failure cannot be reported anywhere.
    pub(super) fn flush(&self) {
        let _ = Write::flush(&mut &*self);
    }
}

impl<W: Write> Write for &Held<W> {
    /// Add a whole line; lines are never split.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, out) = &mut *state;
        if held.len() + line.len() > self.size {
            out.write_all(held)?;
            held.clear();
        }
        if line.len() > self.size {
            out.write_all(line)?;
        } else {
            held.extend_from_slice(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, out) = &mut *state;
        out.write_all(held)?;
        held.clear();
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_held_back_until_they_do_not_fit() {
        let held = Held::over(10, Vec::new());
        let written = || String::from_utf8(held.state.lock().unwrap().1.clone()).unwrap();
        for (line, seen) in [
            ("one\n", ""),
            ("two\n", ""),
            ("three\n", "one\ntwo\n"),
            ("longer than all\n", "one\ntwo\nthree\nlonger than all\n"),
            ("four\n", "one\ntwo\nthree\nlonger than all\n"),
        ] {
            (&held).write_all(line.as_bytes()).unwrap();
            assert_eq!(written(), seen, "{line}");
        }
        held.flush();
        assert!(written().ends_with("four\n"));
    }
}
