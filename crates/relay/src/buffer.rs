//! Where data is while it passes: one buffer a thread, for it never stays across a wait. An idle
//! connection has none, and ten thousand busy ones have as many as there are threads.

use std::cell::RefCell;

use tokio::io::ReadBuf;

/// What is read at a time; holds the largest datagram.
pub(crate) const SIZE: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SIZE]);
}

/// Lends the thread's buffer, empty. Not to be called from within itself.
pub(crate) fn with_buffer<T>(f: impl FnOnce(ReadBuf<'_>) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| f(ReadBuf::new(buffer)))
}
