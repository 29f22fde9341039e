//! Splits the byte stream of a watch into events.
//!
//! In protobuf, each event is preceded by its length, four bytes in network order
//! (`k8s.io/apimachinery/pkg/util/framer`). In JSON, each event is a line: the server's encoder ends
//! every value with a newline and writes none inside.

use super::Format;

/// Upper bound on an event. etcd refuses values over 1.5 MiB by default, and no Service has 64 MiB;
/// a greater length means that the framing is lost.
const MAX_FRAME: usize = 64 << 20;

/// A stream with invalid framing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("watch event of at least {0} bytes: the framing of the stream is lost")]
pub struct FrameError(usize);

/// Received bytes of a watch that have not been returned as events.
#[derive(Debug)]
pub struct Frames {
    format: Format,
    buffer: Vec<u8>,
    /// Offset of the first byte that has not been returned.
    start: usize,
    /// Offset up to which the buffer contains no newline.
    searched: usize,
}

impl Frames {
    /// Return an empty buffer.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
        }
    }

    /// Append received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start.min(self.searched);
            self.start = 0;
        }
        // Free the memory of a burst before a long quiet time.
        if self.buffer.is_empty() && self.buffer.capacity() > 256 << 10 {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Return the next complete event without its framing.
    ///
    /// # Errors
    /// If the next event exceeds the upper bound.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let frame = match self.format {
            Format::Protobuf => self.next_counted()?,
            Format::Json => self.next_line()?,
        };
        Ok(frame.and_then(|(from, to)| self.buffer.get(from..to)))
    }

    /// Return whether the buffer ends between two events.
    pub fn is_between_events(&self) -> bool {
        self.start >= self.buffer.len()
    }

    fn next_counted(&mut self) -> Result<Option<(usize, usize)>, FrameError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some((len, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
        if len > MAX_FRAME {
            return Err(FrameError(len));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let from = self.start + 4;
        self.start = from + len;
        Ok(Some((from, self.start)))
    }

    fn next_line(&mut self) -> Result<Option<(usize, usize)>, FrameError> {
        loop {
            let from = self.searched.max(self.start);
            let unseen = self.buffer.get(from..).unwrap_or_default();
            let Some(end) = unseen.iter().position(|&b| b == b'\n') else {
                self.searched = self.buffer.len();
                let len = self.buffer.len() - self.start;
                return if len > MAX_FRAME {
                    Err(FrameError(len))
                } else {
                    Ok(None)
                };
            };
            let (start, end) = (self.start, from + end);
            self.start = end + 1;
            self.searched = self.start;
            let line = self.buffer.get(start..end).unwrap_or_default();
            if !line.trim_ascii().is_empty() {
                return Ok(Some((start, end)));
            }
        }
    }
}
