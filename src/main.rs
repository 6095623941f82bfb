//! The `weigate` binary.
fn main() {}
