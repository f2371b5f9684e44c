//! The simulated socket: both ends of a connection, and a system that delivers, accepts and fails as a run demands.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use mio::Token;

use crate::hub::socket::{Socket, Watch};

/// Both ends of a connection, and the buffers of the system.
#[derive(Default)]
pub(super) struct SocketState {
    /// Bytes that the browser has sent and that have not arrived.
    pub(super) in_transit: Vec<u8>,
    /// Bytes that have arrived and have not been read.
    pub(super) unread: Vec<u8>,
    pub(super) arrived_bytes: usize,
    pub(super) has_hung_up: bool,
    /// Error with which all calls fail.
    pub(super) failure: Option<io::ErrorKind>,
    /// Bytes that the system has accepted from the server.
    pub(super) written: Vec<u8>,
    /// Number of bytes that the system still accepts.
    pub(super) room_bytes: usize,
    /// Whether a write has been accepted whole since this was last cleared.
    pub(super) has_accepted_write: bool,
    pub(super) has_ended_writing: bool,
    /// The token, on a plain WebSocket with the Close after it.
    pub(super) token: Vec<u8>,
    /// Number of bytes that had arrived when the token had been written whole.
    pub(super) arrived_before_token: Option<usize>,
    pub(super) watch: Option<Watch>,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    /// Disturbances of the next system calls. Without one, a call succeeds.
    pub(super) disturbances: Vec<Disturbance>,
}

/// A disturbance of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    Interrupted,
    /// The call handles one byte.
    Short,
}

#[derive(Clone, Default)]
pub(super) struct SimulatedSocket(pub(super) Rc<RefCell<SocketState>>);

impl SocketState {
    pub(super) fn arrive(&mut self, bytes: usize) {
        let count = bytes.min(self.in_transit.len());
        self.unread.extend(self.in_transit.drain(..count));
        self.arrived_bytes += count;
        self.is_readable |= count > 0;
    }

    pub(super) fn grow_room(&mut self, bytes: usize) {
        self.room_bytes += bytes;
        self.is_writable |= bytes > 0 && self.watch == Some(Watch::ReadsAndRoom);
    }
}

impl Read for SimulatedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self.0.borrow_mut();
        if let Some(failure) = socket.failure {
            return Err(failure.into());
        }
        let mut count = buffer.len().min(socket.unread.len());
        match socket.disturbances.pop() {
            Some(Disturbance::Interrupted) => return Err(io::ErrorKind::Interrupted.into()),
            Some(Disturbance::Short) if count > 1 => {
                count = 1;
                // The rest counts as arriving after this read.
                socket.is_readable = true;
            }
            _ => {}
        }
        if count == 0 {
            return if socket.has_hung_up { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        buffer[..count].copy_from_slice(&socket.unread[..count]);
        socket.unread.drain(..count);
        Ok(count)
    }
}

impl Write for SimulatedSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut socket = self.0.borrow_mut();
        if let Some(failure) = socket.failure {
            return Err(failure.into());
        }
        let mut count = bytes.len().min(socket.room_bytes);
        match socket.disturbances.pop() {
            Some(Disturbance::Interrupted) => return Err(io::ErrorKind::Interrupted.into()),
            Some(Disturbance::Short) if count > 1 => count = 1,
            _ => {}
        }
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        socket.room_bytes -= count;
        socket.has_accepted_write |= count == bytes.len();
        socket.written.extend_from_slice(&bytes[..count]);
        let has_token =
            |socket: &SocketState| socket.written.windows(socket.token.len()).any(|window| window == socket.token);
        if !socket.token.is_empty() && socket.arrived_before_token.is_none() && has_token(&socket) {
            socket.arrived_before_token = Some(socket.arrived_bytes);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for SimulatedSocket {
    type Poll = ();

    fn unread_bytes(&self) -> io::Result<usize> {
        Ok(self.0.borrow().unread.len())
    }

    fn watch(&mut self, (): &(), _: Token, watch: Watch) -> io::Result<()> {
        let mut socket = self.0.borrow_mut();
        socket.watch = Some(watch);
        socket.is_readable |= !socket.unread.is_empty() || socket.has_hung_up;
        socket.is_writable |= watch == Watch::ReadsAndRoom && socket.room_bytes > 0;
        Ok(())
    }

    fn end_writing(&mut self) {
        self.0.borrow_mut().has_ended_writing = true;
    }

    fn discard_unsent(&mut self) {}
}
