//! The accept loop.

/// The longest body of a route that sets no other limit, in bytes.
pub const BODY_BYTES_DEFAULT: usize = 64 * 1024;
