//! A body in an unlinked temporary file: nothing is left when the process ends, however it ends.
//!
//! Writes go through the runtime's blocking threads, one piece at a time, so that a slow disk holds up this request
//! and no other. Reading starts over for each try.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::fs::File;
use tokio::io::{AsyncRead as _, AsyncSeekExt as _, AsyncWriteExt as _, ReadBuf};

/// One piece, read or written.
const PIECE_BYTES: usize = 64 * 1024;

/// A body in a file.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    length: u64,
}

/// Reads a [`Spool`] from its beginning to its end.
#[derive(Debug)]
pub(crate) struct SpoolReader<'a> {
    file: &'a mut File,
    left: u64,
    piece: BytesMut,
}

// === impl Spool ===

impl Spool {
    /// Makes an empty one in `dir`.
    pub(crate) async fn create(dir: &Path) -> io::Result<Self> {
        let dir = dir.to_owned();
        let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(dir))
            .await
            .map_err(io::Error::other)??;
        let mut file = File::from_std(file);
        // The default of 2 MiB, times a hundred uploads at once, is a good deal of memory.
        file.set_max_buf_size(PIECE_BYTES);
        Ok(Self { file, length: 0 })
    }

    /// Adds data at the end.
    pub(crate) async fn append(&mut self, data: Bytes) -> io::Result<()> {
        self.file.write_all(&data).await?;
        self.length += u64::try_from(data.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Waits until all is written. (Not until it is on the disk: the file is for this process alone.)
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.file.flush().await
    }

    /// Its length, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Starts reading at the beginning.
    pub(crate) async fn read(&mut self) -> io::Result<SpoolReader<'_>> {
        self.file.rewind().await?;
        Ok(SpoolReader { file: &mut self.file, left: self.length, piece: BytesMut::new() })
    }
}

// === impl SpoolReader ===

impl Body for SpoolReader<'_> {
    type Data = Bytes;
    type Error = crate::proxy::upstream::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let want = usize::try_from(this.left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        this.piece.resize(want, 0);
        let mut into = ReadBuf::new(&mut this.piece);
        ready!(Pin::new(&mut *this.file).poll_read(cx, &mut into))?;
        let read = into.filled().len();
        if read == 0 {
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())));
        }
        this.left = this.left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        Poll::Ready(Some(Ok(Frame::data(this.piece.split_to(read).freeze()))))
    }
}
