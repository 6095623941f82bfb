//! Binds every listening socket before anything starts, so that a port that is taken ends the process while nothing
//! has happened yet.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Config, ListenAddress};
use crate::proxy::worker::Bound;

/// Connections that wait to be accepted; the kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// All sockets of one process.
#[derive(Debug)]
pub struct Listeners {
    /// One list for each worker.
    pub workers: Vec<Vec<Bound>>,
    /// The operators' own.
    pub admin: Option<Bound>,
    /// Where clients connect, ports filled in.
    pub server_addresses: Vec<ListenAddress>,
    /// Where operators connect, port filled in.
    pub admin_address: Option<ListenAddress>,
}

/// A socket that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}: {source}")]
pub struct ListenError {
    /// As configured.
    pub address: ListenAddress,
    /// Why.
    pub source: io::Error,
}

/// Binds all that `config` names.
///
/// Each worker has a TCP socket of its own on the same port (`SO_REUSEPORT`), and the kernel spreads connections over
/// them. A unix socket is one socket that all workers accept from.
pub fn bind(config: &Config) -> Result<Listeners, ListenError> {
    let mut workers: Vec<Vec<Bound>> = (0..config.server.workers).map(|_| Vec::new()).collect();
    let mut server_addresses = Vec::new();
    for address in &config.server.listen {
        let fault = |source| ListenError { address: address.clone(), source };
        server_addresses.push(bind_for_all(address, &mut workers).map_err(fault)?);
    }
    let mut admin = None;
    let mut admin_address = None;
    if let Some(settings) = &config.admin {
        let fault = |source| ListenError { address: settings.listen.clone(), source };
        let (bound, address) = match &settings.listen {
            ListenAddress::Tcp(address) => {
                let listener = tcp(*address, false).map_err(fault)?;
                let address = listener.local_addr().map_err(fault)?;
                (Bound::Tcp(listener), ListenAddress::Tcp(address))
            }
            ListenAddress::Unix(path) => (Bound::Unix(unix(path).map_err(fault)?), settings.listen.clone()),
        };
        admin = Some(bound);
        admin_address = Some(address);
    }
    Ok(Listeners { workers, admin, server_addresses, admin_address })
}

/// Gives each worker a socket at `address`; says which port it became.
fn bind_for_all(address: &ListenAddress, workers: &mut [Vec<Bound>]) -> io::Result<ListenAddress> {
    match address {
        ListenAddress::Tcp(address) => {
            let mut address = *address;
            for listeners in workers {
                let listener = tcp(address, true)?;
                // Port 0 becomes a port with the first worker; the others share it.
                address = listener.local_addr()?;
                listeners.push(Bound::Tcp(listener));
            }
            Ok(ListenAddress::Tcp(address))
        }
        ListenAddress::Unix(path) => {
            let listener = unix(path)?;
            for listeners in workers {
                listeners.push(Bound::Unix(listener.try_clone()?));
            }
            Ok(address.clone())
        }
    }
}

fn tcp(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Binds a unix socket. One that a dead process left behind is removed; one that answers is somebody's.
fn unix(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
