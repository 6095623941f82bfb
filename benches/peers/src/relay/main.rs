//! The least that a proxy can cost here: what comes on one socket goes out on another, and nobody looks at it. No HTTP, no
//! TLS, no token, and a connection to the origin for each of the client's. Whatever does more costs more than this.
//!
//! `relay LISTEN ORIGIN WORKERS`

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::ops::Range;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX - 1);
/// One message; whatever is longer comes in parts.
const READ_BYTES: usize = 16 * 1024;
const EVENTS_MAX: usize = 1024;

/// A client's socket, and the origin's.
type Pair = [TcpStream; 2];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, origin, workers] = arguments.as_slice() else {
        return Err("relay LISTEN ORIGIN WORKERS".into());
    };
    let (listen, origin): (SocketAddr, SocketAddr) = (listen.parse()?, origin.parse()?);
    for _ in 1..workers.parse::<usize>()? {
        std::thread::spawn(move || relay(listen, origin).expect("a worker goes on"));
    }
    Ok(relay(listen, origin)?)
}

fn relay(listen: SocketAddr, origin: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = listener(listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut pairs = Slab::<Pair>::new();
    let mut events = Events::with_capacity(EVENTS_MAX);
    let mut buffer = vec![0; EVENTS_MAX * READ_BYTES];
    // What was read in a turn: for whom, and where it is. It leaves when all has been read, as weigate's outbox does it:
    // that is cheaper than one by one.
    let mut read: Vec<(usize, usize, Range<usize>)> = Vec::new();
    loop {
        poll.poll(&mut events, None)?;
        let mut end = 0;
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, origin, &poll, &mut pairs)?;
                continue;
            }
            if !event.is_readable() {
                continue;
            }
            let (pair, side) = (event.token().0 / 2, event.token().0 % 2);
            let Some(sockets) = pairs.get_mut(pair) else { continue };
            match sockets[side].read(&mut buffer[end..end + READ_BYTES]) {
                Ok(count) if count > 0 => {
                    read.push((pair, 1 - side, end..end + count));
                    end += count;
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => drop(pairs.remove(pair)),
            }
        }
        for (pair, side, range) in read.drain(..) {
            let Some(sockets) = pairs.get_mut(pair) else { continue };
            // The load never fills a socket; a proxy would wait here.
            if sockets[side].write_all(&buffer[range]).is_err() {
                pairs.remove(pair);
            }
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn accept(listener: &TcpListener, origin: SocketAddr, poll: &Poll, pairs: &mut Slab<Pair>) -> io::Result<()> {
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(fault) => return Err(fault),
        };
        // Blocking, so that it is there when the first bytes come.
        let upstream = std::net::TcpStream::connect(origin)?;
        upstream.set_nonblocking(true)?;
        let mut pair = [client, TcpStream::from_std(upstream)];
        let place = pairs.vacant_key();
        for (side, socket) in pair.iter_mut().enumerate() {
            socket.set_nodelay(true)?;
            poll.registry().register(socket, Token(place * 2 + side), Interest::READABLE)?;
        }
        pairs.insert(pair);
    }
}
