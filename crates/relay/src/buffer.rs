//! One buffer per thread for data in transit. Data never stays in it across an await point, so that
//! connections need no buffers of their own.

use std::cell::RefCell;

use tokio::io::ReadBuf;

/// Size in bytes of one read; holds the largest datagram.
pub(crate) const SIZE: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SIZE]);
}

/// Call `f` with the thread's buffer, empty. Panics if `f` calls this function again.
pub(crate) fn with_buffer<T>(f: impl FnOnce(ReadBuf<'_>) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| f(ReadBuf::new(buffer)))
}
