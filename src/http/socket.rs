//! `GET /v1/ws/qr/{session_id}`: the browser waits.
//!
//! One task a socket drives it from the first frame to the last. However it ends, the task ends, and with it goes its
//! [`Registration`].

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

use super::problem::ApiError;
use super::upgrade::Handshake;
use super::{App, view};
use crate::hub::{Event, Inbox, Registration};
use crate::login::{LoginError, Logins, Told};
use crate::metrics::{CloseReason, Stopwatch};
use crate::protocol::{ACK_MESSAGE, Frame, close_code};
use crate::session::{Session, SessionId, SessionKey, Timestamp};
use crate::websocket::{Failure, Heard, Opcode, Socket, Violation, close_payload, frame};

/// What a browser may say at once.
const MAX_MESSAGE_BYTES: u32 = 1024;
/// A browser that does not take a frame in this time is disconnected.
const WRITE_SECONDS: u32 = 5;
/// How long a receipt is waited for.
const RECEIPT_SECONDS: u32 = 5;
/// How long the browser's side of a closing handshake is waited for where nothing hangs on it.
const CLOSE_SECONDS: u32 = 1;
/// What is read and thrown away of a browser that broke the protocol, so that it reads the Close.
const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// Heartbeats in a row that may go unanswered.
const MAX_UNANSWERED: u8 = 2;

/// Answers the handshake, and lets the browser wait.
pub(super) async fn open(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let handshake = Handshake::of(&mut request.into_parts().0)?;
    let id = path.ok().and_then(|Path(id)| SessionId::parse(&id)).ok_or(ApiError::Login(LoginError::NotFound))?;
    app.hub.receipt_settled(id.key()).await;
    // Register first, read second: a change in between is in the inbox.
    let (registration, inbox) = app.hub.register(id.key()).map_err(|_| ApiError::Stopping)?;
    let (session, read_at) = app.logins.current(id.key()).await?;
    let response = handshake.response()?;

    let (session, logins) = (Box::new(session), app.logins.clone());
    app.sockets.spawn(async move {
        // A browser that hung up before the answer reached it never waited.
        let Ok(upgraded) = handshake.upgrade.await else { return };
        // Our own accept loop serves nothing else than TCP.
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        let socket = Socket::new(parts.io.into_inner(), parts.read_buf.into(), MAX_MESSAGE_BYTES, ACK_MESSAGE);
        let acknowledges = handshake.acknowledges;
        let waiter = Waiter {
            socket,
            registration,
            logins,
            key: id.key(),
            acknowledges,
            told_version: 0,
            unanswered: 0,
            pushing: None,
        };
        waiter.run(inbox, session, read_at).await;
    });
    Ok(response)
}

/// A browser that waits.
struct Waiter {
    // Before the registration, so that the socket is closed before the entry is gone.
    socket: Socket,
    registration: Registration,
    logins: Arc<Logins>,
    key: SessionKey,
    acknowledges: bool,
    told_version: u32,
    unanswered: u8,
    /// Runs while a change is on its way to the browser.
    pushing: Option<Stopwatch>,
}

/// Goes on, or has ended for this reason.
type Flow = ControlFlow<CloseReason>;

impl Waiter {
    async fn run(mut self, mut inbox: Inbox, session: Box<Session>, read_at: Timestamp) {
        self.registration.activate(session.expires_at);
        // What acts is boxed: it is large, short, and not to be held while waiting.
        let mut flow = Box::pin(self.tell(&session, read_at)).await;
        drop(session);
        while flow.is_continue() {
            flow = tokio::select! {
                biased;
                event = inbox.recv() => match event {
                    Some(event) => Box::pin(self.hear(event)).await,
                    None => Break(CloseReason::Shutdown),
                },
                heard = self.socket.receive() => Box::pin(self.listen(heard)).await,
            };
        }
        if let Break(reason) = flow {
            self.registration.set_reason(reason);
        }
    }

    async fn hear(&mut self, event: Event) -> Flow {
        match event {
            Event::Changed(session, since) => {
                if session.version <= self.told_version {
                    return Continue(());
                }
                // That an undecided session expired is for the store to say, at its deadline: a decision may be on its
                // way. A scan is told as what it was when it was written.
                let now = self.logins.clock.now();
                let as_of = if session.is_undecided() { now.min(session.expires_at.plus_millis(-1)) } else { now };
                self.pushing = Some(since);
                self.tell(&session, as_of).await
            }
            Event::Expired => {
                info!(event = "expired", session = %self.key, active = self.logins.metrics.active_connections());
                self.finish(Told::Expired, CloseReason::Expired).await
            }
            Event::Heartbeat if self.unanswered >= MAX_UNANSWERED => {
                let active = self.logins.metrics.active_connections();
                info!(event = "heartbeat failed", session = %self.key, active);
                self.close(close_code::HEARTBEAT, "no answer to two heartbeats", CloseReason::Heartbeat).await
            }
            Event::Heartbeat => {
                self.unanswered += 1;
                self.send(Opcode::Ping, &[]).await
            }
            Event::Replaced => {
                self.close(close_code::REPLACED, "a newer connection took over", CloseReason::Replaced).await
            }
            Event::Restarting { retry_after_millis } => {
                let reason = format!("retry_after_ms={retry_after_millis}");
                self.close(close_code::RESTARTING, &reason, CloseReason::Shutdown).await
            }
            Event::Unavailable => self.unavailable().await,
        }
    }

    async fn listen(&mut self, heard: Result<Heard, Failure>) -> Flow {
        self.unanswered = 0;
        match heard {
            Ok(Heard { close: Some(code), .. }) => {
                info!(event = "client closed", session = %self.key, active = self.logins.metrics.active_connections());
                let agreed = close_payload(code.unwrap_or(close_code::DONE), "");
                self.send(Opcode::Close, if code.is_some() { &agreed } else { &[] }).await?;
                Break(CloseReason::Client)
            }
            Ok(heard) => self.answer(heard).await,
            Err(Failure::Network) => Break(CloseReason::Network),
            Err(Failure::Violation(violation)) => self.fail(violation).await,
        }
    }

    async fn answer(&mut self, heard: Heard) -> Flow {
        match heard.ping {
            Some(payload) => self.send(Opcode::Pong, &payload).await,
            None => Continue(()),
        }
    }

    /// Tells the browser how its session stood at `as_of`; the end, if that is decided.
    async fn tell(&mut self, session: &Session, as_of: Timestamp) -> Flow {
        self.told_version = session.version;
        let told = match self.logins.tell(session, as_of) {
            Ok(told) => told,
            Err(error) => {
                warn!(event = "token not minted", session = %self.key, %error);
                return self.unavailable().await;
            }
        };
        match told {
            Told::Pending { .. } | Told::Scanned { .. } => self.push(told).await,
            Told::Confirmed { .. } => self.deliver(told).await,
            Told::Claimed | Told::Rejected => self.finish(told, CloseReason::Decided).await,
            Told::Cancelled => self.finish(told, CloseReason::Cancelled).await,
            Told::Expired => {
                info!(event = "expired", session = %self.key, active = self.logins.metrics.active_connections());
                self.finish(told, CloseReason::Expired).await
            }
        }
    }

    /// Hands over the token, and waits for the receipt: the browser's Close 1000 after ours, or its `ack`.
    async fn deliver(&mut self, told: Told) -> Flow {
        if self.acknowledges {
            self.push(told).await?;
            if self.read_ack().await {
                self.claim().await;
            }
            return self.close(close_code::DONE, "", CloseReason::Decided).await;
        }
        // A Close that is here already was sent before the token, and is no receipt for it.
        match self.socket.receive_now() {
            Ok(Some(heard)) if heard.close.is_some() => return self.listen(Ok(heard)).await,
            Err(failure) => return self.listen(Err(failure)).await,
            Ok(_) => {}
        }
        // Before the write: the receipt may be here before we go on.
        self.registration.await_receipt();
        self.push_and_close(told).await?;
        if self.read_close(RECEIPT_SECONDS).await == Some(close_code::DONE) {
            self.claim().await;
        }
        Break(CloseReason::Decided)
    }

    async fn claim(&mut self) {
        match self.logins.claim(self.key).await {
            Ok(()) => {}
            // Without the receipt the token is good for another delivery, to this same browser only.
            Err(error) => warn!(event = "receipt lost", session = %self.key, %error),
        }
    }

    async fn finish(&mut self, told: Told, reason: CloseReason) -> Flow {
        self.push_and_close(told).await?;
        self.read_close(CLOSE_SECONDS).await;
        Break(reason)
    }

    async fn unavailable(&mut self) -> Flow {
        self.close(close_code::UNAVAILABLE, "the store does not answer", CloseReason::Unavailable).await
    }

    /// Closes from our side and waits for the browser to agree.
    async fn close(&mut self, code: u16, reason: &str, closed: CloseReason) -> Flow {
        self.send(Opcode::Close, &close_payload(code, reason)).await?;
        self.read_close(CLOSE_SECONDS).await;
        Break(closed)
    }

    async fn push(&mut self, told: Told) -> Flow {
        let text = self.frame_text(told);
        self.send(Opcode::Text, &text).await
    }

    /// The frame and the Close leave in one write.
    async fn push_and_close(&mut self, told: Told) -> Flow {
        let mut frames = Vec::new();
        frame(&mut frames, Opcode::Text, &self.frame_text(told));
        frame(&mut frames, Opcode::Close, &close_payload(close_code::DONE, ""));
        self.write(&frames).await
    }

    async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> Flow {
        let mut frames = Vec::new();
        frame(&mut frames, opcode, payload);
        self.write(&frames).await
    }

    async fn write(&mut self, frames: &[u8]) -> Flow {
        match self.logins.clock.timeout(WRITE_SECONDS, self.socket.send(frames)).await {
            Some(Ok(())) => {
                if let Some(since) = self.pushing.take() {
                    self.logins.metrics.pushed(since);
                }
                Continue(())
            }
            Some(Err(_)) => Break(CloseReason::Network),
            None => Break(CloseReason::Slow),
        }
    }

    fn frame_text(&self, told: Told) -> Vec<u8> {
        let frame = view::frame(told);
        let status = match frame {
            Frame::Pending { .. } => "pending",
            Frame::Scanned { .. } => "scanned",
            Frame::Confirmed(_) => "confirmed",
            Frame::Rejected { .. } => "rejected",
            Frame::Expired { .. } => "expired",
            Frame::Cancelled {} => "cancelled",
        };
        let active = self.logins.metrics.active_connections();
        info!(event = "status pushed", session = %self.key, status, active);
        serde_json::to_vec(&frame).unwrap_or_default()
    }

    /// Reads until the browser's Close; its code, if it came in time and had one.
    async fn read_close(&mut self, seconds: u32) -> Option<u16> {
        let reading = async {
            loop {
                match self.socket.receive().await {
                    Ok(Heard { close: Some(code), .. }) => return code,
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        self.logins.clock.timeout(seconds, reading).await.flatten()
    }

    async fn read_ack(&mut self) -> bool {
        let clock = self.logins.clock.clone();
        let reading = async {
            loop {
                match self.socket.receive().await {
                    Ok(Heard { word: true, .. }) => return true,
                    Ok(Heard { close: None, ping, .. }) => {
                        let pong = Heard { ping, ..Heard::default() };
                        if self.answer(pong).await.is_break() {
                            return false;
                        }
                    }
                    Ok(_) | Err(_) => return false,
                }
            }
        };
        clock.timeout(RECEIPT_SECONDS, reading).await.unwrap_or(false)
    }

    /// A broken protocol is answered with its close code.
    async fn fail(&mut self, violation: Violation) -> Flow {
        let code = match violation {
            Violation::Protocol => close_code::PROTOCOL_ERROR,
            Violation::InvalidText => close_code::INVALID_TEXT,
            Violation::TooBig => close_code::TOO_BIG,
        };
        debug!(event = "protocol broken", session = %self.key, code);
        self.send(Opcode::Close, &close_payload(code, "")).await?;
        self.logins.clock.timeout(CLOSE_SECONDS, self.socket.drain(LINGER_BYTES)).await;
        Break(CloseReason::Protocol)
    }
}
