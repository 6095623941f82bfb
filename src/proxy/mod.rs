//! The request's way.

pub mod upstream;
