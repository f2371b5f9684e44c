//! The socket of a waiting browser: the operations that a connection uses. Implemented by [`TcpStream`], and by the
//! simulated socket of `waiting/simulation`.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Token};

/// Readiness that is reported, each time that it comes anew (edge-triggered).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Bytes to read. The first registration.
    Begin,
    /// Bytes to read.
    Reads,
    /// Bytes to read, and room to write.
    ReadsAndRoom,
}

/// A non-blocking stream socket.
pub trait Socket: Read + Write {
    /// Reports readiness.
    type Poll: Send + Sync;

    /// Number of bytes that have been received and not read.
    fn unread_bytes(&self) -> io::Result<usize>;

    /// Registers the socket under `token`, or changes what is reported. What is ready already is reported once more.
    fn watch(&mut self, poll: &Self::Poll, token: Token, watch: Watch) -> io::Result<()>;

    /// Sends the end of the stream.
    fn end_writing(&mut self);

    /// Has the system discard what it has not sent once the socket is closed.
    fn discard_unsent(&mut self);
}

impl Socket for TcpStream {
    type Poll = mio::Registry;

    #[cfg(unix)]
    fn unread_bytes(&self) -> io::Result<usize> {
        let bytes = rustix::io::ioctl_fionread(self)?;
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Not known there: what is read next counts as received later.
    #[cfg(not(unix))]
    fn unread_bytes(&self) -> io::Result<usize> {
        Ok(0)
    }

    fn watch(&mut self, poll: &mio::Registry, token: Token, watch: Watch) -> io::Result<()> {
        match watch {
            Watch::Begin => poll.register(self, token, Interest::READABLE),
            Watch::Reads => poll.reregister(self, token, Interest::READABLE),
            Watch::ReadsAndRoom => poll.reregister(self, token, Interest::READABLE | Interest::WRITABLE),
        }
    }

    fn end_writing(&mut self) {
        // It has ended already if this fails.
        drop(self.shutdown(Shutdown::Write));
    }

    fn discard_unsent(&mut self) {
        // It is closed in order if this fails.
        drop(socket2::SockRef::from(&*self).set_linger(Some(Duration::ZERO)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_and_was_not_read_is_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut browser = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let mut read = [0; 3];
        let mut socket = TcpStream::from_std(socket);
        assert_eq!(socket.unread_bytes().unwrap(), 0);
        browser.write_all(b"seven..").unwrap();
        assert_eq!(socket.unread_bytes().unwrap(), 7);
        socket.read_exact(&mut read).unwrap();
        assert_eq!(socket.unread_bytes().unwrap(), 4);
    }
}
