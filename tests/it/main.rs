//! One test binary.
mod sandbox;

#[test]
fn it_links() {}
