//! Binds every listening socket before anything starts, so that a port that is taken ends the process while nothing
//! has happened yet. Nobody can connect before [`Listeners::listen`].
//!
//! # Why a second process is refused, and how it is not
//!
//! The workers' sockets share a port (`SO_REUSEPORT`), which any process of the same user could join without a word. So
//! the first is bound alone, which fails beside another process, and opened to sharing only then. A process that is to
//! take over joins on purpose: the kernel gives connections to both until the old one stops. Its admin address it gets
//! when the old one has ended. A unix socket is put in the place of the old one's by a rename, which takes no time.

use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::passed::Passed;
use crate::config::{Admin, Config, ListenAddress};
use crate::proxy::worker::Bound;

/// Connections that wait to be accepted; the kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// All sockets of one process.
#[derive(Debug)]
pub struct Listeners {
    /// One list for each worker.
    pub workers: Vec<Vec<Bound>>,
    /// The operators' own.
    pub admin: Option<AdminSocket>,
    /// Another process serves at the same addresses until it is told to stop.
    pub takes_over: bool,
    /// Where clients connect, ports filled in.
    pub server_addresses: Vec<ListenAddress>,
    /// Where operators connect, port filled in.
    pub admin_address: Option<ListenAddress>,
}

/// The admin listener's socket.
#[derive(Debug)]
pub enum AdminSocket {
    /// It is there.
    Bound(Bound),
    /// Somebody has the address, and will let go of it.
    Later(Admin),
}

/// Whether another weigate may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// An address that is taken is a fault.
    Alone,
    /// Beside a weigate that serves the same configuration and is about to be told to stop.
    TakeOver,
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
pub fn bind(config: &Config, start: Start) -> Result<Listeners, ListenError> {
    bind_with(config, start, Passed::default())
}

/// The same; an address that was passed to this process already bound is not bound again, and all workers accept from it.
/// One that the configuration does not name is a fault.
pub fn bind_with(config: &Config, start: Start, mut passed: Passed) -> Result<Listeners, ListenError> {
    let mut workers: Vec<Vec<Bound>> = (0..config.server.workers).map(|_| Vec::new()).collect();
    let mut server_addresses = Vec::new();
    for address in &config.server.listen {
        let fault = |source| ListenError { address: address.clone(), source };
        let bound = match passed.take(address) {
            Some(bound) => share(&bound, &mut workers).map(|()| address.clone()),
            None => bind_for_all(address, config.server.socket_mode, &mut workers, start),
        };
        server_addresses.push(bound.map_err(fault)?);
    }
    let mut admin = None;
    let mut admin_address = None;
    if let Some(settings) = &config.admin {
        let fault = |source| ListenError { address: settings.listen.clone(), source };
        let bound = match passed.take(&settings.listen) {
            Some(bound) => Ok((bound, settings.listen.clone())),
            None => bind_admin(settings),
        };
        let (socket, address) = match bound {
            Ok((bound, address)) => (AdminSocket::Bound(bound), address),
            Err(error) if start == Start::TakeOver && error.kind() == io::ErrorKind::AddrInUse => {
                (AdminSocket::Later(settings.clone()), settings.listen.clone())
            }
            Err(error) => return Err(fault(error)),
        };
        admin = Some(socket);
        admin_address = Some(address);
    }
    if let Some(address) = passed.left() {
        let unnamed = io::Error::other(
            "a socket with this address was passed on, but the configuration does not name it",
        );
        return Err(ListenError { address: address.clone(), source: unnamed });
    }
    Ok(Listeners { workers, admin, takes_over: start == Start::TakeOver, server_addresses, admin_address })
}

/// Binds the operators' socket, which nobody shares; says which port it became.
pub(super) fn bind_admin(settings: &Admin) -> io::Result<(Bound, ListenAddress)> {
    match &settings.listen {
        ListenAddress::Tcp(address) => {
            let socket = tcp(*address, Sharing::Never)?;
            let address = socket.local_addr()?;
            Ok((Bound::Tcp(socket), ListenAddress::Tcp(address)))
        }
        ListenAddress::Unix(path) => {
            let socket = unix(path, settings.socket_mode, Start::Alone)?;
            Ok((Bound::Unix(socket), settings.listen.clone()))
        }
    }
}

// === impl Listeners ===

impl Listeners {
    /// Lets clients and operators connect.
    pub(super) fn listen(&self) -> io::Result<()> {
        let admin = self.admin.iter().filter_map(|socket| match socket {
            AdminSocket::Bound(bound) => Some(bound),
            AdminSocket::Later(_) => None,
        });
        self.workers.iter().flatten().chain(admin).try_for_each(listen)
    }
}

/// Lets others connect to a socket.
pub(super) fn listen(bound: &Bound) -> io::Result<()> {
    match bound {
        Bound::Tcp(socket) => SockRef::from(socket).listen(BACKLOG),
        // It listens since it was bound.
        Bound::Unix(_) => Ok(()),
    }
}

/// Gives each worker the same socket.
fn share(bound: &Bound, workers: &mut [Vec<Bound>]) -> io::Result<()> {
    for listeners in workers {
        listeners.push(match bound {
            Bound::Tcp(listener) => Bound::Tcp(listener.try_clone()?),
            Bound::Unix(listener) => Bound::Unix(listener.try_clone()?),
        });
    }
    Ok(())
}

/// Gives each worker a socket at `address`; says which port it became.
fn bind_for_all(
    address: &ListenAddress,
    socket_mode: Option<u32>,
    workers: &mut [Vec<Bound>],
    start: Start,
) -> io::Result<ListenAddress> {
    match address {
        ListenAddress::Tcp(address) => {
            let mut address = *address;
            for (index, listeners) in workers.iter_mut().enumerate() {
                let is_first = index == 0 && start == Start::Alone;
                let sharing = if is_first { Sharing::OnceBound } else { Sharing::Joins };
                let listener = tcp(address, sharing)?;
                // Port 0 becomes a port with the first worker; the others share it.
                address = listener.local_addr()?;
                listeners.push(Bound::Tcp(listener));
            }
            Ok(ListenAddress::Tcp(address))
        }
        ListenAddress::Unix(path) => {
            share(&Bound::Unix(unix(path, socket_mode, start)?), workers)?;
            Ok(address.clone())
        }
    }
}

/// Who else may have a TCP socket's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Nobody.
    Never,
    /// Nobody has it before; others may join.
    OnceBound,
    /// Others that share it have it perhaps.
    Joins,
}

/// A bound socket that does not listen yet.
fn tcp(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Joins)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    if sharing == Sharing::OnceBound {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Binds a unix socket. One that a dead process left behind is removed; one that answers is somebody's, and is replaced
/// only by who takes over. Until `mode` is set, nobody can connect whom the umask does not let.
fn unix(path: &Path, mode: Option<u32>, start: Start) -> io::Result<UnixListener> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".next");
    let mut bind_at = path;
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        } else if start == Start::TakeOver {
            bind_at = Path::new(&aside);
            // Left by one that did not get this far.
            let _removed = std::fs::remove_file(bind_at);
        } else {
            return Err(io::ErrorKind::AddrInUse.into());
        }
    }
    let listener = UnixListener::bind(bind_at)?;
    listener.set_nonblocking(true)?;
    if let Some(mode) = mode {
        std::fs::set_permissions(bind_at, Permissions::from_mode(mode))?;
    }
    if bind_at != path {
        std::fs::rename(bind_at, path)?;
    }
    Ok(listener)
}
