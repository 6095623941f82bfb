//! What WeChat says and means: pure functions over bytes, no I/O, no async.

pub mod envelope;
mod errcode;
pub mod paths;
pub mod query;
pub mod token_call;

pub use errcode::ErrCode;
