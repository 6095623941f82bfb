//! Our own load, for what wrk cannot do: idle connections, a burst, a different client for each request.
//!
//! A process of its own (`bench load ...`), so that its file descriptors and its CPU are its own. It tells what it has
//! done in lines of JSON, and after each step waits for a line.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};
use weigate_bench::{BODY_BYTES, request};

use crate::Anyhow;
use crate::stats::percentile;
use crate::subject::Cpus;

/// Connections that are being made, or requests on their way, at one time where it is not to be a burst.
const AT_ONCE: usize = 64;

struct Connection {
    stream: TcpStream,
    sent_at: Option<Instant>,
    answer: Vec<u8>,
}

struct Load {
    poll: Poll,
    events: Events,
    address: SocketAddr,
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    latencies_us: Vec<u32>,
    bad: u64,
}

/// Whose the next request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pick {
    Random,
    Sticky,
    Each,
}

impl Pick {
    fn parse(text: &str) -> Anyhow<Self> {
        match text {
            "random" => Ok(Self::Random),
            "sticky" => Ok(Self::Sticky),
            "each" => Ok(Self::Each),
            _ => Err("random, sticky or each".into()),
        }
    }
}

/// `load idle PORT CONNECTIONS` · `load burst PORT CONNECTIONS` · `load closed PORT CONNECTIONS SECONDS CLIENTS PICK`,
/// where PICK is `random` (for each request), `sticky` (for each connection) or `each` (one after another, until each has
/// sent one, whatever the SECONDS).
pub fn main(arguments: &[String]) -> Anyhow<()> {
    let number =
        |at: usize| -> Anyhow<usize> { Ok(arguments.get(at).ok_or("an argument is missing")?.parse()?) };
    let mut load = Load::new(u16::try_from(number(1)?)?)?;
    match arguments.first().map(String::as_str) {
        Some("idle") => load.idle(number(2)?),
        Some("burst") => load.burst(number(2)?),
        Some("closed") => {
            let pick = Pick::parse(arguments.get(5).map_or("", String::as_str))?;
            load.closed(number(2)?, Duration::from_secs(u64::try_from(number(3)?)?), number(4)?, pick)
        }
        _ => Err("load idle|burst|closed".into()),
    }
}

impl Load {
    fn new(port: u16) -> Anyhow<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            connections: Vec::new(),
            scratch: vec![0; 64 * 1024],
            latencies_us: Vec::new(),
            bad: 0,
        })
    }

    fn idle(&mut self, connections: usize) -> Anyhow<()> {
        self.connect(connections)?;
        step(&json!({ "open": connections }))?;
        let request = request(0);
        let mut next = 0;
        while next < connections.min(AT_ONCE) {
            self.send(next, &request)?;
            next += 1;
        }
        let mut done = 0;
        while done < connections {
            for _ in self.answered(None)? {
                done += 1;
                if next < connections {
                    self.send(next, &request)?;
                    next += 1;
                }
            }
        }
        step(&json!({ "used": done, "bad": self.bad }))?;
        self.connections.clear();
        step(&json!({ "closed": connections }))
    }

    fn burst(&mut self, connections: usize) -> Anyhow<()> {
        self.connect(connections)?;
        step(&json!({ "open": connections }))?;
        let request = request(0);
        let started = Instant::now();
        for at in 0..connections {
            self.send(at, &request)?;
        }
        let mut done = 0;
        while done < connections {
            done += self.answered(None)?.len();
        }
        let wall_ms = started.elapsed().as_secs_f64() * 1e3;
        self.latencies_us.sort_unstable();
        step(&json!({
            "wall_ms": wall_ms,
            "good": done as u64 - self.bad,
            "bad": self.bad,
            "p50_ms": f64::from(percentile(&self.latencies_us, 0.5)) / 1e3,
        }))
    }

    fn closed(&mut self, connections: usize, span: Duration, clients: usize, pick: Pick) -> Anyhow<()> {
        let requests: Vec<Vec<u8>> = (0..clients).map(request).collect();
        // Sticky clients lie far apart, as random ones do.
        let own = |at: usize| at * (clients / connections).max(1) % clients;
        let mut sent = 0;
        let mut next = |at: usize| {
            let client = match pick {
                Pick::Random => fastrand::usize(..clients),
                Pick::Sticky => own(at),
                Pick::Each => sent % clients,
            };
            sent += 1;
            (client, pick == Pick::Each && sent >= clients)
        };
        self.connect(connections)?;
        let started = Instant::now();
        let mut waiting: Vec<usize> = (0..connections).collect();
        loop {
            let mut each_has_sent = false;
            for at in waiting {
                let (client, is_last) = next(at);
                self.send(at, &requests[client])?;
                each_has_sent |= is_last;
            }
            if each_has_sent || pick != Pick::Each && started.elapsed() >= span {
                break;
            }
            waiting = self.answered(Some(Duration::from_secs(5)))?;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.latencies_us.sort_unstable();
        println!(
            "{}",
            json!({
                "requests": self.latencies_us.len(),
                "seconds": seconds,
                "bad": self.bad,
                "p50_us": percentile(&self.latencies_us, 0.5),
                "p99_us": percentile(&self.latencies_us, 0.99),
            })
        );
        Ok(())
    }

    fn connect(&mut self, connections: usize) -> Anyhow<()> {
        let mut ready = 0;
        while ready < connections {
            while self.connections.len() < connections.min(ready + AT_ONCE) {
                let mut stream = TcpStream::connect(self.address)?;
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(self.connections.len()), interest)?;
                self.connections.push(Connection { stream, sent_at: None, answer: Vec::new() });
            }
            self.poll.poll(&mut self.events, Some(Duration::from_secs(10)))?;
            if self.events.is_empty() {
                return Err(format!("{ready} of {connections} connections, then no more").into());
            }
            for event in &self.events {
                let connection = &mut self.connections[event.token().0];
                if event.is_writable() && connection.stream.peer_addr().is_ok() {
                    connection.stream.set_nodelay(true)?;
                    ready += 1;
                    // From here on only answers matter.
                    let registry = self.poll.registry();
                    registry.reregister(&mut connection.stream, event.token(), Interest::READABLE)?;
                } else if let Some(error) = connection.stream.take_error()? {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, at: usize, request: &[u8]) -> Anyhow<()> {
        let connection = &mut self.connections[at];
        connection.sent_at = Some(Instant::now());
        // A few hundred bytes always fit an empty socket.
        if connection.stream.write(request)? == request.len() {
            Ok(())
        } else {
            Err("a request did not fit".into())
        }
    }

    /// Waits for answers; the connections that have one.
    fn answered(&mut self, limit: Option<Duration>) -> Anyhow<Vec<usize>> {
        match self.poll.poll(&mut self.events, Some(limit.unwrap_or(Duration::from_secs(30)))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            polled => polled?,
        }
        if self.events.is_empty() {
            return Err("no more answers".into());
        }
        let mut done = Vec::new();
        for event in &self.events {
            let at = event.token().0;
            let connection = &mut self.connections[at];
            loop {
                match connection.stream.read(&mut self.scratch) {
                    Ok(0) => return Err("a connection was closed".into()),
                    Ok(count) => connection.answer.extend_from_slice(&self.scratch[..count]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            let Some(is_good) = judge(&connection.answer) else { continue };
            let Some(sent_at) = connection.sent_at.take() else {
                return Err("an answer nobody asked for".into());
            };
            connection.answer = Vec::new();
            self.bad += u64::from(!is_good);
            self.latencies_us.push(u32::try_from(sent_at.elapsed().as_micros()).unwrap_or(u32::MAX));
            done.push(at);
        }
        Ok(done)
    }
}

/// Whether a whole answer is the right one; `None` while it is not whole.
fn judge(answer: &[u8]) -> Option<bool> {
    let head = memchr::memmem::find(answer, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).ok()?;
    let length: usize = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())?;
    let body = answer.get(head..head + length)?;
    Some(text.starts_with("HTTP/1.1 200") && body.len() == BODY_BYTES && body.starts_with(b"{\"subscribe\""))
}

/// Says what was done and waits for a line.
fn step(what: &Value) -> Anyhow<()> {
    println!("{what}");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(())
}

/// The loader, from the harness's side.
pub struct Loader {
    child: Child,
    stdin: ChildStdin,
    lines: io::Lines<io::BufReader<std::process::ChildStdout>>,
}

impl Loader {
    pub fn start(cpus: Cpus, arguments: &[String]) -> Anyhow<Self> {
        let mut command = cpus.command(&std::env::current_exe()?);
        command.arg("load").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdin, stdout) =
            (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        Ok(Self { child, stdin, lines: io::BufReader::new(stdout).lines() })
    }

    /// Its next line.
    pub fn said(&mut self) -> Anyhow<Value> {
        let line = self.lines.next().ok_or("the loader ended early")??;
        Ok(serde_json::from_str(&line)?)
    }

    /// Lets it go on.
    pub fn go_on(&mut self) -> Anyhow<()> {
        Ok(self.stdin.write_all(b"\n")?)
    }

    pub fn end(mut self) -> Anyhow<()> {
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // It has ended where all went well.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
