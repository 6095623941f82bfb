//! What WeChat says and means: pure functions over bytes, no I/O, no async.

mod errcode;
pub mod token_call;

pub use errcode::ErrCode;
