//! One test binary.
#[test]
fn it_links() {}
