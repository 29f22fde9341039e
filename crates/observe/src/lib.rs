//! Health, metrics and status pages, on a thread of their own.
