//! One request, the plain way.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use weigate_bench::{client_key, good_body};

use crate::Anyhow;

/// The whole answer to a GET, head and body; an error unless its status is 200.
pub fn get(port: u16, target: &str) -> Anyhow<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let key = client_key(0);
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: api.weixin.qq.com\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    let mut piece = [0; 4096];
    // Behind a relay the origin does not know that it should close.
    while !is_whole(&answer) {
        match stream.read(&mut piece)? {
            0 => break,
            count => answer.push_str(&String::from_utf8_lossy(&piece[..count])),
        }
    }
    if answer.starts_with("HTTP/1.1 200") {
        Ok(answer)
    } else {
        Err(format!("{target}: {}", answer.lines().next().unwrap_or("no answer")).into())
    }
}

/// Whether the head and all of the body are here, as far as a Content-Length says so.
fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    };
    head.lines().find_map(field).is_some_and(|length| body.len() >= length)
}

/// Waits until a request for `target` through `port` brings the right body.
pub fn wait_until_good(port: u16, target: &str, limit: Duration) -> Anyhow<Duration> {
    let started = Instant::now();
    let good = good_body();
    loop {
        let last = match get(port, target) {
            Ok(answer) if answer.ends_with(&good) => return Ok(started.elapsed()),
            Ok(answer) => format!("another body: {}", answer.lines().last().unwrap_or_default()),
            Err(error) => error.to_string(),
        };
        if started.elapsed() > limit {
            return Err(format!("not ready within {limit:?}: {last}").into());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}
