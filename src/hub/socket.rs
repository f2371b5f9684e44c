//! The operations of a socket that a waiting connection uses. Implemented by [`TcpStream`], and by the simulated
//! sockets of the tests.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Token};

/// Readiness to be reported, edge-triggered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// The socket is readable. Used for the first registration.
    Begin,
    /// The socket is readable.
    Reads,
    /// The socket is readable or writable.
    ReadsAndRoom,
}

/// A non-blocking stream socket.
pub trait Socket: Read + Write {
    /// Where sockets are registered for reports of readiness.
    type Poll: Send + Sync;

    /// Returns the number of bytes that have been received and not read.
    fn unread_bytes(&self) -> io::Result<usize>;

    /// Registers the socket under `token`, or changes which readiness is reported. Readiness that exists already is
    /// reported once more.
    fn watch(&mut self, poll: &Self::Poll, token: Token, watch: Watch) -> io::Result<()>;

    /// Shuts down the writing side.
    fn end_writing(&mut self);

    /// Makes the system discard unsent bytes when the socket is closed (`SO_LINGER` with a time of zero).
    fn discard_unsent(&mut self);
}

impl Socket for TcpStream {
    type Poll = mio::Registry;

    #[cfg(unix)]
    fn unread_bytes(&self) -> io::Result<usize> {
        let bytes = rustix::io::ioctl_fionread(self)?;
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Not available on these systems. Bytes received before the token was written then count as received after it.
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
        // An error means that the connection has ended already.
        drop(self.shutdown(Shutdown::Write));
    }

    fn discard_unsent(&mut self) {
        // After an error the system goes on sending its queue when the socket is closed.
        drop(socket2::SockRef::from(&*self).set_linger(Some(Duration::ZERO)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_bytes_are_counted_until_they_are_read() {
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
