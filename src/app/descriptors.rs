//! How many client connections the file descriptors are enough for.
//!
//! A process without descriptors cannot accept, cannot reach WeChat and cannot tell its operators, so clients get only
//! as many connections as leave enough for all that.

use rustix::process::{Resource, getrlimit};

/// The store, the logs, the listeners, operators' connections, keepers' connections.
const RESERVED: usize = 64;
/// A worker's own: its event queue, its listeners.
const RESERVED_PER_WORKER: usize = 8;
/// A client's connection, and one to WeChat for it. (A third, for a body in a file, few have at once.)
const PER_CONNECTION: usize = 2;

/// `connections_max`, or fewer where the process may open too few files; then a warning says so.
pub(super) fn connections_max(wanted: usize, workers: usize) -> usize {
    let Some(files) = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok())
    else {
        return wanted;
    };
    let enough_for = enough_for(files, workers);
    if enough_for < wanted {
        tracing::warn!(
            connections_max = wanted,
            open_files = files,
            connections = enough_for,
            "the limit on open files is too low for connections_max: fewer are accepted"
        );
    }
    wanted.min(enough_for)
}

fn enough_for(files: usize, workers: usize) -> usize {
    (files.saturating_sub(RESERVED + workers * RESERVED_PER_WORKER) / PER_CONNECTION).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_left_for_wechat_and_operators() {
        assert_eq!(enough_for(256, 2), 88);
        assert_eq!(enough_for(1024, 4), 464);
        assert_eq!(enough_for(65_536, 2), 32_728);
        assert_eq!(enough_for(10, 2), 1);
    }
}
