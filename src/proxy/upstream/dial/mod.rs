//! From a host's name to an open connection: names, addresses, TCP, TLS.
//!
//! # Why
//!
//! * The last good answer of the resolver is kept when a newer one cannot be had: WeChat's addresses change rarely,
//!   and a resolver that is down need not take the proxy down with it.
//! * Only one dialler per host asks the resolver at a time; the others use the last answer, or wait for the first.
//! * Addresses are tried as in RFC 8305, simplified: families in turn, the next address when one fails or after
//!   250 ms, the first that answers wins, and is tried first the next time. TLS is spoken with the winner only.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::ConnectError;
use super::buffers::Scratch;
use super::socket::Socket;
use super::tls_stream::TlsStream;
use crate::config::UpstreamHost;
use crate::proxy::outbox::Outbox;
use crate::proxy::tcp::Tcp;

/// Connects to one host.
pub(super) struct Dialler {
    host: UpstreamHost,
    tls: Arc<rustls::ClientConfig>,
    scratch: Rc<Scratch>,
    /// For one address, TCP and TLS together.
    connect: Duration,
    resolve: Resolve,
    outbox: Option<Rc<Outbox>>,
    answer: RefCell<Rc<[SocketAddr]>>,
    answer_stale_at: Cell<Option<Instant>>,
    /// One dialler at a time asks the resolver.
    asking: Semaphore,
    /// The address that answered last.
    best: Cell<Option<SocketAddr>>,
}

/// Asks for a name's addresses; a field so that a test can answer.
pub(super) type Resolve = Rc<dyn Fn(&str, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>>>>>;

/// The system's resolver.
pub(super) fn system_resolver() -> Resolve {
    Rc::new(|name, port| {
        let name = name.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
    })
}

// === impl Dialler ===

impl Dialler {
    pub(super) fn new(
        host: UpstreamHost,
        tls: Arc<rustls::ClientConfig>,
        connect: Duration,
        resolve: Resolve,
        outbox: Option<Rc<Outbox>>,
    ) -> Self {
        Self {
            host,
            tls,
            scratch: Rc::default(),
            connect,
            resolve,
            outbox,
            answer: RefCell::new(Rc::new([])),
            answer_stale_at: Cell::new(None),
            asking: Semaphore::new(1),
            best: Cell::new(None),
        }
    }

    /// A new connection, TLS done, nothing sent on it.
    pub(super) async fn dial(&self) -> Result<Socket, ConnectError> {
        let mut addresses = in_turn(&self.addresses().await?, self.best.get());
        loop {
            let (tcp, address, until) = connect_first(&mut addresses, self.connect).await?;
            match self.secure(Tcp::new(tcp, self.outbox.clone()), until).await {
                Ok(socket) => {
                    self.best.set(Some(address));
                    return Ok(socket);
                }
                Err(cause) if addresses.is_empty() => return Err(cause),
                Err(_) => {}
            }
        }
    }

    async fn secure(&self, tcp: Tcp, until: Instant) -> Result<Socket, ConnectError> {
        if !self.host.tls {
            return Ok(Socket::Plain(tcp));
        }
        let name = ServerName::try_from(self.host.host.clone()).map_err(|_| ConnectError::Dns)?;
        let (tls, scratch) = (Arc::clone(&self.tls), Rc::clone(&self.scratch));
        match timeout_at(until, TlsStream::connect(tls, name, tcp, scratch)).await {
            Ok(Ok(tls)) => Ok(Socket::Tls(Box::new(tls))),
            Ok(Err(fault)) => Err(tls_fault(&fault)),
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    async fn addresses(&self) -> Result<Rc<[SocketAddr]>, ConnectError> {
        if let Ok(literal) = self.host.host.parse::<IpAddr>() {
            return Ok(Rc::new([SocketAddr::new(literal, self.host.port)]));
        }
        let known = self.known();
        if !known.is_empty() && self.is_fresh() {
            return Ok(known);
        }
        let Ok(turn) = self.asking.try_acquire() else {
            if !known.is_empty() {
                return Ok(known);
            }
            // Nobody closes this semaphore. Whoever held it has found an answer, failed, or was dropped.
            let _turn = self.asking.acquire().await.map_err(|_| ConnectError::Dns)?;
            if !self.is_fresh() {
                self.ask().await;
            }
            return some(self.known());
        };
        self.ask().await;
        drop(turn);
        some(self.known())
    }

    async fn ask(&self) {
        let reply = timeout(self.connect, (self.resolve)(&self.host.host, self.host.port)).await;
        let addresses = reply.map_or_else(|_| Vec::new(), Result::unwrap_or_default);
        let usable: Vec<_> = addresses
            .into_iter()
            .filter(|address| is_destination(address.ip()))
            .take(ADDRESSES_MAX)
            .collect();
        let good_for = if usable.is_empty() { ASK_AGAIN } else { ANSWER_LIFE };
        if !usable.is_empty() {
            *self.answer.borrow_mut() = usable.into();
        }
        self.answer_stale_at.set(Some(Instant::now() + good_for));
    }

    fn known(&self) -> Rc<[SocketAddr]> {
        Rc::clone(&self.answer.borrow())
    }

    fn is_fresh(&self) -> bool {
        self.answer_stale_at.get().is_some_and(|stale_at| Instant::now() < stale_at)
    }
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialler").field("host", &self.host).finish_non_exhaustive()
    }
}

fn some(addresses: Rc<[SocketAddr]>) -> Result<Rc<[SocketAddr]>, ConnectError> {
    if addresses.is_empty() { Err(ConnectError::Dns) } else { Ok(addresses) }
}

/// Whether a name may lead there. Link-local addresses hold cloud metadata services, and nobody runs an upstream
/// on the others; private and loopback addresses are some operators' mirrors.
fn is_destination(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => !(ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast()),
    }
}

/// The last winner first, then the families in turn, each in the resolver's order (RFC 8305 §4).
fn in_turn(addresses: &[SocketAddr], best: Option<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let mut ones = addresses.iter().filter(|address| address.is_ipv6() == first_is_v6);
    let mut others = addresses.iter().filter(|address| address.is_ipv6() != first_is_v6);
    let mut order = Vec::with_capacity(addresses.len());
    loop {
        let (one, other) = (ones.next(), others.next());
        if one.is_none() && other.is_none() {
            break;
        }
        order.extend(one.into_iter().chain(other));
    }
    if let Some(at) = order.iter().position(|address| Some(*address) == best) {
        let best = order.remove(at);
        order.insert(0, best);
    }
    order
}

/// The first address that answers, and until when TLS may take. Takes out of `addresses` that one and those that
/// failed.
async fn connect_first(
    addresses: &mut Vec<SocketAddr>,
    connect: Duration,
) -> Result<(TcpStream, SocketAddr, Instant), ConnectError> {
    let mut waiting = addresses.clone().into_iter();
    let mut tries = FuturesUnordered::new();
    let mut last = ConnectError::Dns;
    loop {
        if let Some(address) = waiting.next() {
            tries.push(connect_one(address, Instant::now() + connect));
        }
        let ended = if waiting.len() == 0 {
            tries.next().await
        } else {
            let Ok(ended) = timeout(NEXT_ADDRESS, tries.next()).await else { continue };
            ended
        };
        let Some((address, until, outcome)) = ended else { return Err(last) };
        addresses.retain(|one| *one != address);
        match outcome {
            Ok(tcp) => return Ok((tcp, address, until)),
            Err(cause) => last = cause,
        }
    }
}

async fn connect_one(
    address: SocketAddr,
    until: Instant,
) -> (SocketAddr, Instant, Result<TcpStream, ConnectError>) {
    let outcome = match timeout_at(until, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => prepare(tcp).map_err(|_| ConnectError::Other),
        Ok(Err(fault)) => Err(tcp_fault(&fault)),
        Err(_) => Err(ConnectError::Timeout),
    };
    (address, until, outcome)
}

/// No Nagle, since every message is one write; and two ways to notice a peer that is gone without a word:
/// keep-alive probes while idle, a bound on unacknowledged bytes while sending.
fn prepare(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_EVERY))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(tcp)
}

fn tcp_fault(fault: &io::Error) -> ConnectError {
    if fault.kind() == io::ErrorKind::ConnectionRefused {
        ConnectError::Refused
    } else if fault.kind() == io::ErrorKind::TimedOut {
        ConnectError::Timeout
    } else {
        ConnectError::Other
    }
}

fn tls_fault(fault: &io::Error) -> ConnectError {
    let inner = fault.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if matches!(inner, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) {
        ConnectError::Certificate
    } else {
        ConnectError::Tls
    }
}

/// RFC 8305 §5: the next address after this long, even if the one before has not failed.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// WeChat's records live for a minute or less; the resolver library does not say how long.
const ANSWER_LIFE: Duration = Duration::from_secs(30);

/// After the resolver failed.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Of one answer.
const ADDRESSES_MAX: usize = 16;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);

/// `TCP_USER_TIMEOUT`: a peer that acknowledges nothing for this long is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
