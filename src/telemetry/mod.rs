//! What operators see: logs and metrics.
//!
//! No label and no field has an open set of values: labels come from the configuration (account, client) or from a
//! closed list in this room.

pub mod log;
pub mod metrics;
