//! keyledger projections
