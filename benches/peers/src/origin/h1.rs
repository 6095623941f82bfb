//! HTTP/1.1, plain and TLS, on one thread: epoll, one read and one write for each request, nothing allocated on the way.
//!
//! It serves proxies that behave: no pipelining beyond what fits a read, no chunked requests.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::{ServerConfig, ServerConnection};
use slab::Slab;

use crate::Anyhow;
use crate::world::{Answer, World};

struct Connection {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
    /// Told apart from an earlier connection in the same place.
    serial: u64,
    /// A request that is not whole yet.
    input: Vec<u8>,
    /// What the socket would not take.
    output: Vec<u8>,
}

/// An answer that is kept back.
struct Late {
    due: Instant,
    key: usize,
    serial: u64,
    request: Vec<u8>,
}

struct Server<'a> {
    world: &'a World,
    good: Vec<u8>,
    connections: Slab<Connection>,
    late: VecDeque<Late>,
    scratch: Vec<u8>,
    plain_text: Vec<u8>,
    cipher_text: Vec<u8>,
    serial: u64,
}

const PLAIN: Token = Token(usize::MAX - 1);
const TLS: Token = Token(usize::MAX - 2);
const READ_BYTES: usize = 64 * 1024;

/// Serves for ever.
pub fn serve(plain: StdListener, tls: StdListener, config: &Arc<ServerConfig>, world: &World) -> Anyhow<()> {
    let mut poll = Poll::new()?;
    let mut listeners = [listener(plain)?, listener(tls)?];
    poll.registry().register(&mut listeners[0], PLAIN, Interest::READABLE)?;
    poll.registry().register(&mut listeners[1], TLS, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut server = Server {
        world,
        good: response(&world.good_body),
        connections: Slab::new(),
        late: VecDeque::new(),
        scratch: vec![0; READ_BYTES],
        plain_text: Vec::with_capacity(READ_BYTES),
        cipher_text: Vec::with_capacity(READ_BYTES),
        serial: 0,
    };
    loop {
        let wait = server
            .late
            .front()
            .map(|late| late.due.saturating_duration_since(Instant::now()) + Duration::from_micros(200));
        match poll.poll(&mut events, wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                PLAIN => server.accept(&poll, &listeners[0], None)?,
                TLS => server.accept(&poll, &listeners[1], Some(config))?,
                Token(key) => server.turn(key, event.is_readable(), event.is_writable()),
            }
        }
        server.send_late();
    }
}

fn listener(listener: StdListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener))
}

fn response(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Type: application/json; encoding=utf-8\r\n\
         Date: Sun, 22 Nov 2026 08:00:00 GMT\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Server<'_> {
    fn accept(
        &mut self,
        poll: &Poll,
        listener: &TcpListener,
        config: Option<&Arc<ServerConfig>>,
    ) -> Anyhow<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Out of file descriptors, or the peer has gone: what waits is taken with the next event.
                Err(error) => {
                    eprintln!("origin: accept: {error}");
                    return Ok(());
                }
            };
            stream.set_nodelay(true)?;
            let tls =
                config.map(|config| ServerConnection::new(Arc::clone(config)).map(Box::new)).transpose()?;
            let entry = self.connections.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(entry.key()), interest)?;
            self.serial += 1;
            entry.insert(Connection {
                stream,
                tls,
                serial: self.serial,
                input: Vec::new(),
                output: Vec::new(),
            });
        }
    }

    fn turn(&mut self, key: usize, readable: bool, writable: bool) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let written = if writable && !connection.output.is_empty() { connection.flush() } else { Ok(()) };
        let result = written.and_then(|()| if readable { self.read(key) } else { Ok(()) });
        if result.is_err() {
            self.connections.try_remove(key);
        }
    }

    fn read(&mut self, key: usize) -> io::Result<()> {
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
            let count = match connection.stream.read(&mut self.scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut fresh = std::mem::take(&mut self.plain_text);
            fresh.clear();
            let decrypted = connection.decrypt(&self.scratch[..count], &mut fresh);
            let result = decrypted.and_then(|()| self.requests(key, &fresh));
            self.plain_text = fresh;
            result?;
            // Linux: a short read has emptied a stream socket, and what comes later is a new edge (epoll(7)).
            if count < self.scratch.len() {
                return Ok(());
            }
        }
    }

    /// Answers every whole request in what was kept and `fresh`, in order.
    fn requests(&mut self, key: usize, fresh: &[u8]) -> io::Result<()> {
        if fresh.is_empty() {
            return Ok(());
        }
        let kept = std::mem::take(&mut self.connections[key].input);
        let joined;
        let mut rest = if kept.is_empty() {
            fresh
        } else {
            joined = [&kept[..], fresh].concat();
            &joined[..]
        };
        while let Some(end) = length(rest) {
            let (request, after) = rest.split_at(end);
            rest = after;
            let delay_ms = self.world.delay_ms(target(request));
            if delay_ms == 0 {
                self.answer(key, request)?;
            } else {
                let due = Instant::now() + Duration::from_millis(delay_ms);
                let serial = self.connections[key].serial;
                self.late.push_back(Late { due, key, serial, request: request.to_vec() });
            }
        }
        self.connections[key].input.extend_from_slice(rest);
        Ok(())
    }

    fn answer(&mut self, key: usize, request: &[u8]) -> io::Result<()> {
        let body = memmem::find(request, b"\r\n\r\n").map_or(&[][..], |at| &request[at + 4..]);
        let other;
        let answer = match self.world.answer(target(request), body) {
            Answer::Good => &self.good,
            Answer::Json(json) => {
                other = response(&json);
                &other
            }
        };
        self.connections[key].send(answer, &mut self.cipher_text)
    }

    fn send_late(&mut self) {
        let now = Instant::now();
        while self.late.front().is_some_and(|late| late.due <= now) {
            let Some(late) = self.late.pop_front() else { return };
            let is_there =
                self.connections.get(late.key).is_some_and(|connection| connection.serial == late.serial);
            if is_there && self.answer(late.key, &late.request).is_err() {
                self.connections.try_remove(late.key);
            }
        }
    }
}

impl Connection {
    /// Appends to `plain` what `bytes` hold, and answers the handshake.
    fn decrypt(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(bytes);
            return Ok(());
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            tls.read_tls(&mut rest)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let at = plain.len();
            plain.resize(at + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut plain[at..])?;
            if state.peer_has_closed() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if tls.wants_write() {
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out)?;
            }
            self.write(&out)?;
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8], cipher_text: &mut Vec<u8>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.write(bytes) };
        tls.writer().write_all(bytes)?;
        cipher_text.clear();
        while tls.wants_write() {
            tls.write_tls(cipher_text)?;
        }
        self.write(cipher_text)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while self.output.is_empty() && !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.extend_from_slice(rest);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.output);
        self.write(&waiting)
    }
}

/// The length of the request that `bytes` begin with, if it is whole.
fn length(bytes: &[u8]) -> Option<usize> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let body = if bytes.starts_with(b"GET ") { 0 } else { content_length(&bytes[..head]) };
    (bytes.len() >= head + body).then_some(head + body)
}

fn content_length(head: &[u8]) -> usize {
    head.split(|byte| *byte == b'\n')
        .find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:").then_some(value)
        })
        .and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok())
        .unwrap_or(0)
}

/// The path and query of a request.
fn target(request: &[u8]) -> &[u8] {
    let Some(start) = memchr::memchr(b' ', request) else { return &[] };
    let rest = &request[start + 1..];
    &rest[..memchr::memchr(b' ', rest).unwrap_or(0)]
}
