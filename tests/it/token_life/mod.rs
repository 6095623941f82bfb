//! The real keeper on a paused clock, against a model of WeChat in the same process.

mod claims;
mod leaked;
mod many;
mod model;
mod reactions;
pub(crate) mod replicas;
mod resting;
mod rotating;
mod sharing;
mod surviving;
mod wecom;
mod weeks;
