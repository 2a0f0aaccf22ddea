//! keyledger replay
