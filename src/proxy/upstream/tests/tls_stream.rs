//! Our end of a TLS connection beside rustls's own at the other, with the socket between them as mean as it may be.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream as ServerStream;

use super::tls::Authority;
use super::*;
use crate::proxy::tcp::Tcp;
use crate::proxy::upstream::tls_stream::TlsStream;

/// The other side's socket: takes so many bytes at a time, and lets others run before the next.
struct Slow {
    tcp: TcpStream,
    bytes_max: usize,
    has_rested: bool,
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, to)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.has_rested = !self.has_rested;
        if self.has_rested {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(self.bytes_max)];
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Both ends, hands shaken; the other side writes so many bytes at a time.
async fn connected(bytes_max: usize) -> (TlsStream, ServerStream<Slow>) {
    let authority = Authority::new();
    let acceptor = authority.agreeing_on(&["http/1.1"]);
    let config = Arc::new(tls_config(Some(authority.pem().as_bytes())).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (peer, _) = listener.accept().await.unwrap();
    peer.set_nodelay(true).unwrap();
    let name = ServerName::try_from("upstream.test").unwrap();
    let (ours, theirs) = tokio::join!(
        TlsStream::connect(config, name, Tcp::new(tcp, None), Rc::default()),
        acceptor.accept(Slow { tcp: peer, bytes_max, has_rested: false }),
    );
    (ours.unwrap(), theirs.unwrap())
}

async fn read(stream: &mut TlsStream, room: usize) -> io::Result<Vec<u8>> {
    let mut to = Vec::new();
    poll_fn(|cx| stream.poll_read_into(cx, &mut to, room)).await?;
    Ok(to)
}

async fn read_exactly(stream: &mut TlsStream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let some = read(stream, count - all.len()).await.unwrap();
        assert!(!some.is_empty(), "it ended after {} bytes", all.len());
        all.extend(some);
    }
    all
}

async fn write(stream: &mut TlsStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[poll_fn(|cx| stream.poll_write(cx, bytes)).await?..];
    }
    poll_fn(|cx| stream.poll_flush(cx)).await
}

/// No two pieces of it are alike.
fn long(count: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_le_bytes).take(count).collect()
}

#[tokio::test]
async fn records_may_come_byte_by_byte_those_of_the_handshake_too() {
    let (mut ours, mut theirs) = connected(1).await;
    assert_eq!(ours.alpn_protocol(), Some(b"http/1.1".as_slice()));
    let said = long(500);
    let (got, ()) = tokio::join!(read_exactly(&mut ours, 500), async {
        theirs.write_all(&said).await.unwrap();
        theirs.flush().await.unwrap();
    });
    assert_eq!(got, said);
}

#[tokio::test]
async fn no_byte_is_lost_or_doubled_either_way_while_the_other_side_is_slow() {
    let (mut ours, theirs) = connected(30_000).await;
    let (mut from, mut to) = tokio::io::split(theirs);
    let all = long(3_000_000);
    let (echoed, ()) = tokio::join!(
        async {
            let mut echoed = vec![0; all.len()];
            from.read_exact(&mut echoed).await.unwrap();
            to.write_all(&echoed).await.unwrap();
            to.flush().await.unwrap();
            echoed
        },
        async {
            write(&mut ours, &all).await.unwrap();
            assert!(read_exactly(&mut ours, all.len()).await == all);
        }
    );
    assert!(echoed == all);
}

#[tokio::test]
async fn what_was_not_asked_for_yet_waits_its_turn() {
    let (mut ours, mut theirs) = connected(usize::MAX).await;
    theirs.write_all(b"once, twice").await.unwrap();
    theirs.flush().await.unwrap();
    assert_eq!(read(&mut ours, 4).await.unwrap(), b"once");
    assert_eq!(read(&mut ours, 2).await.unwrap(), b", ");
    poll_fn(|cx| ours.poll_readable(cx)).await.unwrap();
    assert_eq!(read(&mut ours, 100).await.unwrap(), b"twice");
}

#[tokio::test]
async fn the_other_side_may_renew_its_keys_and_ask_for_ours() {
    let (mut ours, mut theirs) = connected(usize::MAX).await;
    for round in [b"first", b"again"] {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(round).await.unwrap();
        theirs.flush().await.unwrap();
        assert_eq!(read_exactly(&mut ours, 5).await, round);
        write(&mut ours, round).await.unwrap();
        let mut heard = [0; 5];
        theirs.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, round);
    }
}

#[tokio::test]
async fn a_record_that_does_not_decrypt_ends_it_for_good_and_the_other_side_is_told() {
    let (mut ours, mut theirs) = connected(usize::MAX).await;
    theirs.write_all(b"good").await.unwrap();
    theirs.flush().await.unwrap();
    // An application-data record of 32 zeros (RFC 8446 §5.2).
    let forged = [[0x17, 3, 3, 0, 32].as_slice(), &[0; 32]].concat();
    theirs.get_mut().0.tcp.write_all(&forged).await.unwrap();
    assert_eq!(read_exactly(&mut ours, 4).await, b"good");
    for _time in 0..2 {
        assert_eq!(read(&mut ours, 100).await.unwrap_err().kind(), ErrorKind::InvalidData);
    }
    assert_eq!(write(&mut ours, b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let told = theirs.read(&mut [0; 8]).await.unwrap_err();
    let told = told.get_ref().and_then(|told| told.downcast_ref::<rustls::Error>());
    assert_eq!(told, Some(&rustls::Error::AlertReceived(AlertDescription::BadRecordMac)));
}

#[tokio::test]
async fn the_end_is_said_once_and_heard() {
    let (mut ours, mut theirs) = connected(usize::MAX).await;
    for _time in 0..2 {
        poll_fn(|cx| ours.poll_shutdown(cx)).await.unwrap();
    }
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
    theirs.write_all(b"bye").await.unwrap();
    theirs.shutdown().await.unwrap();
    assert_eq!(read_exactly(&mut ours, 3).await, b"bye");
    assert_eq!(read(&mut ours, 100).await.unwrap(), b"");
    assert_eq!(read(&mut ours, 100).await.unwrap(), b"");
}

#[tokio::test]
async fn an_end_that_nobody_said_is_an_error() {
    let (mut ours, theirs) = connected(usize::MAX).await;
    drop(theirs);
    assert_eq!(read(&mut ours, 100).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn nothing_is_kept_once_it_was_read_and_sent() {
    let (mut ours, mut theirs) = connected(700).await;
    let said = long(40_000);
    let (got, ()) = tokio::join!(read_exactly(&mut ours, said.len()), async {
        theirs.write_all(&said).await.unwrap();
        theirs.flush().await.unwrap();
    });
    assert_eq!(got, said);
    assert_eq!(ours.kept_bytes(), 0);
    write(&mut ours, &said).await.unwrap();
    assert_eq!(ours.kept_bytes(), 0);
}
