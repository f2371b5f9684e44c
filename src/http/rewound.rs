//! A TCP connection of which the beginning has been read already, and is read once more; and which may be taken away
//! from whoever speaks on it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// See the module.
#[derive(Debug)]
pub(super) struct Rewound {
    stream: Stream,
    beginning: Vec<u8>,
    read_again: usize,
}

/// The connection itself. When it has been taken, whoever speaks on the [`Rewound`] speaks to nobody, and reads the end.
#[derive(Debug, Clone)]
pub(super) struct Stream(Arc<Mutex<Option<TcpStream>>>);

impl Stream {
    pub(super) fn take(&self) -> Option<TcpStream> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll<T>(
        &self,
        without: T,
        poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.lock() {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Ok(without)),
        }
    }
}

impl Rewound {
    pub(super) fn new(stream: TcpStream, beginning: Vec<u8>) -> Self {
        Self { stream: Stream(Arc::new(Mutex::new(Some(stream)))), beginning, read_again: 0 }
    }

    pub(super) fn stream(&self) -> Stream {
        self.stream.clone()
    }

    /// The connection, if nobody has taken it, and what of the beginning has not been read again.
    pub(super) fn into_parts(mut self) -> (Option<TcpStream>, Vec<u8>) {
        (self.stream.take(), self.beginning.split_off(self.read_again))
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &self.beginning[self.read_again..];
        if rest.is_empty() {
            return self.stream.poll((), |stream| stream.poll_read(cx, buffer));
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.read_again += count;
        if self.read_again == self.beginning.len() {
            (self.beginning, self.read_again) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll(bytes.len(), |stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        self.stream.poll(all, |stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll((), |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll((), |stream| stream.poll_shutdown(cx))
    }
}
