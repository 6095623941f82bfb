//! An origin that follows a script, in this process, on a port of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// What an origin saw.
#[derive(Clone, Default)]
pub(super) struct Seen {
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    connections: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

pub(super) struct Origin {
    pub(super) address: SocketAddr,
    pub(super) seen: Seen,
    stop: Arc<Notify>,
    stopped: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One connection, from the origin's side.
pub(super) struct Peer {
    stream: BufReader<Box<dyn Stream>>,
    seen: Seen,
    /// Which connection this is, from 1.
    pub(super) nth: usize,
}

impl Origin {
    /// Serves each connection as `script` says; it is closed when the script ends.
    pub(super) async fn start<S, F>(script: S) -> Self
    where
        S: Fn(Peer) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_tls(None, script).await
    }

    pub(super) async fn start_tls<S, F>(tls: Option<TlsAcceptor>, script: S) -> Self
    where
        S: Fn(Peer) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let shared = seen.clone();
        let (stop, stopped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (stop_now, has_stopped) = (Arc::clone(&stop), Arc::clone(&stopped));
        let task = tokio::spawn(async move {
            let mut scripts = tokio::task::JoinSet::new();
            let script = Arc::new(Mutex::new(script));
            loop {
                let tcp = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = stop_now.notified() => break,
                };
                tcp.set_nodelay(true).unwrap();
                let nth = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
                let (tls, seen, script) = (tls.clone(), shared.clone(), Arc::clone(&script));
                scripts.spawn(async move {
                    let stream: Box<dyn Stream> = match tls {
                        None => Box::new(tcp),
                        Some(tls) => match tls.accept(tcp).await {
                            Ok(tls) => Box::new(tls),
                            Err(_) => return,
                        },
                    };
                    let run = (script.lock().unwrap())(Peer { stream: BufReader::new(stream), seen, nth });
                    run.await;
                });
            }
            drop(listener);
            has_stopped.notify_one();
            while scripts.join_next().await.is_some() {}
        });
        Self { address, seen, stop, stopped, task }
    }

    /// No more connections; those that are open stay.
    pub(super) async fn stop_listening(&self) {
        self.stop.notify_one();
        self.stopped.notified().await;
    }

    /// Answers every request with `reply`, on as few connections as the client wants.
    pub(super) async fn replying(reply: &'static str) -> Self {
        Self::start(move |mut peer| async move {
            while peer.request().await.is_some() {
                peer.say(reply).await;
            }
        })
        .await
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    pub(super) fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Peer {
    /// The next request, with as much of a body as `Content-Length` says; `None`: the client closed.
    pub(super) async fn request(&mut self) -> Option<Vec<u8>> {
        let mut request = self.request_head().await?;
        let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        for _byte in 0..length.map_or(0, |length| length.parse().unwrap()) {
            request.push(self.byte().await?);
        }
        self.seen.requests.lock().unwrap().push(request.clone());
        Some(request)
    }

    /// A request that was read elsewhere.
    pub(super) fn note(&self, request: Vec<u8>) {
        self.seen.requests.lock().unwrap().push(request);
    }

    pub(super) async fn request_head(&mut self) -> Option<Vec<u8>> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(self.byte().await?);
        }
        Some(request)
    }

    /// This many bytes, or fewer if the client closes first.
    pub(super) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count
            && let Some(byte) = self.byte().await
        {
            bytes.push(byte);
        }
        bytes
    }

    async fn byte(&mut self) -> Option<u8> {
        let byte = self.stream.read_u8().await.ok()?;
        self.seen.bytes.fetch_add(1, Ordering::Relaxed);
        Some(byte)
    }

    pub(super) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // The client may be gone, as some tests want it to be.
        drop(self.stream.write_all(bytes.as_ref()).await);
        drop(self.stream.flush().await);
    }

    /// Waits until the client closes; how many bytes it sent before that.
    pub(super) async fn closed(&mut self) -> usize {
        let mut count = 0;
        while self.byte().await.is_some() {
            count += 1;
        }
        count
    }
}
