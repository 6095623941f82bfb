//! Sockets that were bound before this process began: systemd's socket activation.
//!
//! Such a socket never closes while weigate restarts: who connects meanwhile waits. It is used for the configured address
//! that it has, so that what is judged about addresses (who may reach them, where clients are needed) holds for it too;
//! its name (`FileDescriptorName=`) does not matter.

use std::io;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

use crate::config::ListenAddress;
use crate::proxy::worker::Bound;

/// Sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Passed(Vec<(ListenAddress, Bound)>);

// === impl Passed ===

impl Passed {
    /// Takes what `LISTEN_FDS` and `LISTEN_PID` say, and these variables out of the environment: to be called once, and
    /// before there are other threads.
    pub fn from_environment() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let sockets = (0..passed.len()).map(|index| {
            // A socket of another kind stays where it was.
            if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
                listener.set_nonblocking(true)?;
                return Ok((ListenAddress::Tcp(listener.local_addr()?), Bound::Tcp(listener)));
            }
            let listener = passed.take_unix_listener(index)?;
            let listener = listener.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            listener.set_nonblocking(true)?;
            Ok((address_of(&listener)?, Bound::Unix(listener)))
        });
        sockets.collect::<io::Result<_>>().map(Self)
    }

    /// The socket with this address, if one was passed.
    pub(super) fn take(&mut self, address: &ListenAddress) -> Option<Bound> {
        let index = self.0.iter().position(|(passed, _)| passed == address)?;
        Some(self.0.swap_remove(index).1)
    }

    /// The address of a socket that nobody took.
    pub(super) fn left(&self) -> Option<&ListenAddress> {
        self.0.first().map(|(address, _)| address)
    }
}

fn address_of(listener: &UnixListener) -> io::Result<ListenAddress> {
    let address = listener.local_addr()?;
    let path = address.as_pathname().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    Ok(ListenAddress::Unix(path.to_owned()))
}
