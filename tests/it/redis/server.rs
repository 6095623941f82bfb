//! A redis-server of the test's own: on a free port and a socket, without a file, gone with the value.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, FromRedisValue};
use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

use crate::harness::PATIENCE;

pub(crate) struct Redis {
    child: Option<Child>,
    pub(crate) port: u16,
    pub(crate) dir: tempfile::TempDir,
    args: Vec<String>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With more arguments, such as `--requirepass x`.
    pub(crate) async fn with(more: &[&str]) -> Self {
        Self::begin(free_port(), more).await
    }

    /// On this port.
    pub(crate) async fn begin(port: u16, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut redis =
            Self { child: None, port, dir, args: more.iter().map(|&arg| arg.to_owned()).collect() };
        redis.run().await;
        redis
    }

    /// Starts it (again), at the same place.
    pub(crate) async fn run(&mut self) {
        let dir = self.dir.path().to_str().unwrap().to_owned();
        let mut command = Command::new("redis-server");
        let port = self.port.to_string();
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", &dir]);
        command.args(["--unixsocket", self.socket().to_str().unwrap(), "--logfile", &format!("{dir}/log")]);
        if self.args.iter().any(|arg| arg == "--tls-port") {
            command.args(["--port", "0"]);
        } else {
            command.args(["--port", &port]);
        }
        // A value of several words is several arguments.
        command.args(self.args.iter().flat_map(|arg| arg.split_whitespace()));
        self.child =
            Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        while !self.is_up().await {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "{}", log());
            assert!(self.child.as_mut().unwrap().try_wait().unwrap().is_none(), "{}", log());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether it answers at its socket, be it with a no.
    async fn is_up(&self) -> bool {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = tokio::net::UnixStream::connect(self.socket()).await else { return false };
        let mut answer = [0; 1];
        stream.write_all(b"PING\r\n").await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A client beside weigate, at the socket.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(format!("unix://{}", self.socket().display())).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    /// One command, words between spaces.
    pub(crate) async fn say<V: FromRedisValue>(&self, words: &str) -> V {
        let mut words = words.split(' ');
        let mut command = ::redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    pub(crate) async fn set(&self, key: &str, value: &[u8]) {
        let mut set = ::redis::cmd("SET");
        set.arg(key).arg(value);
        set.query_async::<()>(&mut self.connection().await).await.unwrap();
    }

    pub(crate) async fn get(&self, key: &str) -> Option<Vec<u8>> {
        ::redis::cmd("GET").arg(key).query_async(&mut self.connection().await).await.ok().flatten()
    }

    /// Waits until a value is so.
    pub(crate) async fn until(&self, key: &str, is_so: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let begun = Instant::now();
        loop {
            if let Some(value) = self.get(key).await.filter(|value| is_so(value)) {
                return value;
            }
            assert!(begun.elapsed() < PATIENCE, "{key} is not so in time");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens at, and below those that the system gives out by itself: two tests at one time don't
/// get the same one, and no connection's own end takes it meanwhile.
pub(crate) fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 11_000 + u16::try_from(std::process::id() % 1000).unwrap() * 10;
    for _ in 0..10_000 {
        let port = base + NEXT.fetch_add(1, Ordering::SeqCst) % 10_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
