//! Walks a packet through rules and says what becomes of it.
