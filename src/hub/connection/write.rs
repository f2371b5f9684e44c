//! Writing: the bytes that the system accepts at once, and those that it accepts later.

use std::io;

use super::Connection;
use super::state::Phase;
use crate::hub::socket::{Socket, Watch};
use crate::hub::transport::TransportKind;
use crate::hub::turn::Turn;
use crate::metrics::CloseReason;
use crate::wire::websocket::{Opcode, frame};

/// Maximum time for which bytes may be unsent, in seconds. Then the connection is closed.
pub(super) const WRITE_SECONDS: u32 = 5;

impl<S: Socket> Connection<S> {
    pub(super) fn send(&mut self, opcode: Opcode, payload: &[u8], turn: &mut Turn<'_, S>) {
        let mut frames = Vec::new();
        frame(&mut frames, opcode, payload);
        self.write(&frames, turn);
    }

    /// Writes what the system accepts at once and keeps the rest.
    pub(super) fn write(&mut self, bytes: &[u8], turn: &mut Turn<'_, S>) {
        if let Some(rare) = self.rare.as_mut().filter(|rare| !rare.unsent.is_empty()) {
            rare.unsent.extend_from_slice(bytes);
            return;
        }
        match self.write_some(bytes) {
            Ok(written) if written == bytes.len() => self.end_response(),
            Ok(written) => {
                let rare = self.rare.get_or_insert_default();
                rare.unsent.extend_from_slice(&bytes[written..]);
                rare.write_deadline = Some(turn.now.plus_seconds(WRITE_SECONDS));
                if self.watch(Watch::ReadsAndRoom, turn).is_err() {
                    self.end(CloseReason::Network, turn);
                }
            }
            Err(_) => self.end(CloseReason::Network, turn),
        }
    }

    /// Like [`Connection::write`], for bytes that end with a token. Counts the unread bytes first: they contain no
    /// acknowledgement of it.
    pub(super) fn write_token(&mut self, bytes: &[u8], turn: &mut Turn<'_, S>) {
        let early_bytes = self.unread_bytes();
        self.write(bytes, turn);
        if let Some(rare) = self.rare.as_mut().filter(|rare| !rare.unsent.is_empty()) {
            rare.unsent_token_bytes = rare.unsent.len();
        } else {
            self.discount_early(early_bytes);
        }
    }

    /// Marks what was received before the token as no acknowledgement: `early_bytes` unread bytes, or the message that
    /// has been read in part.
    fn discount_early(&mut self, early_bytes: usize) {
        if early_bytes > 0 {
            self.rare.get_or_insert_default().early_bytes = early_bytes;
        } else if let Some(decoder) = self.rare.as_mut().and_then(|rare| rare.decoder.as_mut()) {
            decoder.ignore_message_begun();
        }
    }

    /// Writes the bytes that the system did not accept before.
    pub(super) fn flush(&mut self, turn: &mut Turn<'_, S>) {
        let is_token_unsent = self.rare.as_ref().is_some_and(|rare| rare.unsent_token_bytes > 0);
        let early_bytes = if is_token_unsent { self.unread_bytes() } else { 0 };
        let Some(unsent) = self.rare.as_mut().map(|rare| std::mem::take(&mut rare.unsent)) else { return };
        let written = self.write_some(&unsent);
        let (Some(rare), Ok(written)) = (&mut self.rare, written) else {
            return self.end(CloseReason::Network, turn);
        };
        rare.unsent.extend_from_slice(&unsent[written..]);
        rare.unsent_token_bytes = rare.unsent_token_bytes.saturating_sub(written);
        let (is_token_sent, is_all_sent) = (rare.unsent_token_bytes == 0, rare.unsent.is_empty());
        if is_token_unsent && is_token_sent {
            self.discount_early(early_bytes);
        }
        if is_all_sent {
            self.sent_all();
            self.end_response();
            self.free_rare_state();
            if self.watch(Watch::Reads, turn).is_err() {
                self.end(CloseReason::Network, turn);
            }
        }
    }

    fn sent_all(&mut self) {
        let Some(rare) = &mut self.rare else { return };
        rare.write_deadline = None;
        if let Some(since) = rare.pushing.take() {
            self.record_push(since);
        }
    }

    /// Writes until the system accepts no more. Returns the number of bytes written.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(socket) = &mut self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut written = 0;
        while written < bytes.len() {
            match socket.write(&bytes[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn unread_bytes(&self) -> usize {
        // An error means that the socket has failed, which the next call reports.
        self.socket.as_ref().and_then(|socket| socket.unread_bytes().ok()).unwrap_or(0)
    }

    /// Shuts down the writing side after the last byte of a response, so that the browser sees its end.
    fn end_response(&mut self) {
        if let (Phase::Closing, TransportKind::EventStream | TransportKind::Poll, Some(socket)) =
            (self.phase, self.transport, &mut self.socket)
        {
            socket.end_writing();
        }
    }
}
