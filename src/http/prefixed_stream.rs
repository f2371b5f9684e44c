//! The transport on which hyper serves a TCP connection. It yields the bytes that the acceptor has read before those of
//! the socket, bounds the time for which a write is blocked, and lets the socket be taken from hyper.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// A TCP connection whose first bytes have been read, and are read again by hyper.
#[derive(Debug)]
pub(super) struct PrefixedStream {
    stream: Stream,
    beginning: Vec<u8>,
    read_again: usize,
    max_blocked: Duration,
    /// Timer of a blocked write. `None` while writes are taken.
    blocked: Option<Pin<Box<Sleep>>>,
}

/// The socket, shared by its [`PrefixedStream`] and by the handlers that may take it. Once it is taken, writes to the
/// [`PrefixedStream`] are discarded, and reads return the end of the stream.
#[derive(Debug, Clone)]
pub(super) struct Stream(Arc<Mutex<Option<TcpStream>>>);

impl Stream {
    pub(super) fn take(&self) -> Option<TcpStream> {
        self.0.lock().take()
    }

    /// Resets the connection, and discards the bytes that the system has not sent.
    fn reset(&self) {
        if let Some(stream) = self.take() {
            // If the option cannot be set, dropping the socket closes the connection normally.
            drop(stream.set_zero_linger());
        }
    }

    fn poll<T>(
        &self,
        without: T,
        poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.0.lock() {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Ok(without)),
        }
    }
}

impl PrefixedStream {
    /// Creates the transport. `beginning` is what has been read of `stream`. The connection is reset once the system
    /// has taken no byte of a write for `max_blocked`.
    pub(super) fn new(stream: TcpStream, beginning: Vec<u8>, max_blocked: Duration) -> Self {
        let stream = Stream(Arc::new(Mutex::new(Some(stream))));
        Self { stream, beginning, read_again: 0, max_blocked, blocked: None }
    }

    pub(super) fn stream(&self) -> Stream {
        self.stream.clone()
    }

    /// Returns the socket, unless it has been taken, and the bytes of the beginning that have not been read again.
    pub(super) fn into_parts(mut self) -> (Option<TcpStream>, Vec<u8>) {
        (self.stream.take(), self.beginning.split_off(self.read_again))
    }

    /// Returns the result of a write, or resets the connection and fails if writes have been blocked for `max_blocked`.
    #[expect(clippy::disallowed_methods, reason = "time limits on the network use the machine's own timers")]
    fn bound(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let max_blocked = self.max_blocked;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(max_blocked)));
        ready!(blocked.as_mut().poll(cx));
        self.stream.reset();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for PrefixedStream {
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

impl AsyncWrite for PrefixedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream.poll(bytes.len(), |stream| stream.poll_write(cx, bytes));
        self.bound(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        let written = self.stream.poll(all, |stream| stream.poll_write_vectored(cx, slices));
        self.bound(cx, written)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(max_blocked: Duration) -> (PrefixedStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (PrefixedStream::new(listener.accept().await.unwrap().0, Vec::new(), max_blocked), client)
    }

    const MORE_THAN_THE_SYSTEM_TAKES: usize = 16 * 1024 * 1024;

    #[tokio::test]
    async fn write_blocked_for_too_long_resets_the_connection() {
        let (mut server, mut client) = pair(Duration::from_millis(100)).await;
        let error = server.write_all(&vec![b'x'; MORE_THAN_THE_SYSTEM_TAKES]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(client.read_to_end(&mut Vec::new()).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "time limits on the network use the machine's own timers")]
    async fn write_that_is_taken_slowly_succeeds() {
        let (mut server, mut client) = pair(Duration::from_secs(1)).await;
        let reading = async {
            let (mut buffer, mut read) = (vec![0; 1024 * 1024], 0);
            while read < MORE_THAN_THE_SYSTEM_TAKES {
                tokio::time::sleep(Duration::from_millis(150)).await;
                read += client.read(&mut buffer).await.unwrap();
            }
        };
        let bytes = vec![b'x'; MORE_THAN_THE_SYSTEM_TAKES];
        let (written, ()) = tokio::join!(server.write_all(&bytes), reading);
        written.unwrap();
    }
}
