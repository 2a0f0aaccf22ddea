//! keyledger events
