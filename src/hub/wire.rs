//! How browsers without a WebSocket are spoken to: by server-sent events (HTML Standard §9.2), or with one answer to the
//! request that they have sent. As bytes; no input or output.

use std::time::{Duration, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::message::Message;
use crate::protocol::{CLOSE_EVENT, CloseView, EXPIRED_EVENT_ID, PROBLEM_MEDIA_TYPE, Problem, close_code};
use crate::session::Timestamp;

/// A browser behind proxies that wait for a first byte, or cut what is silent, hears this.
pub(super) const COMMENT: &[u8] = b":\n\n";
/// What begins a reason that says when to come back.
pub(super) const RETRY_AFTER: &str = "retry_after_ms=";

/// How a browser waits.
#[derive(Debug, Clone)]
pub enum Channel {
    /// On a WebSocket.
    WebSocket {
        /// It says itself when it has its token.
        acknowledges: bool,
    },
    /// On a stream of events.
    EventStream {
        /// The version that it has been told already, if it says so.
        told_version: u32,
    },
    /// For the one answer to its request.
    Poll {
        /// The version that it has been told.
        version: u32,
        /// It is answered after so long, though nothing has changed.
        wait_seconds: u32,
        /// The fields of the answer, but for those that depend on what is answered.
        fields: Vec<u8>,
    },
}

/// As the record remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    WebSocket,
    EventStream,
    Poll,
}

/// The event that carries this text. Whoever comes back says its id.
pub(super) fn event(message: &Message) -> Zeroizing<Vec<u8>> {
    let id = if message.status == "expired" { EXPIRED_EVENT_ID.to_owned() } else { message.version.to_string() };
    let mut event = text_event(message.text.json(), 64);
    event.extend_from_slice(format!("id: {id}\n\n").as_bytes());
    event
}

/// The event that carries this text, without an id: whoever comes back is to be told what it has been told anyway.
pub(super) fn passing_event(json: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut event = text_event(json, 1);
    event.push(b'\n');
    event
}

fn text_event(json: &[u8], more_bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut event = Zeroizing::new(Vec::with_capacity(json.len() + 8 + more_bytes));
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(json);
    event.push(b'\n');
    event
}

/// The event that says what a WebSocket's Close would say.
pub(super) fn close_event(code: u16, why: &str) -> Vec<u8> {
    let data = serde_json::to_string(&CloseView { code, reason: why }).unwrap_or_default();
    let retry = retry_after_millis(why).map(|millis| format!("retry: {millis}\n")).unwrap_or_default();
    format!("{retry}event: {CLOSE_EVENT}\ndata: {data}\n\n").into_bytes()
}

/// The answer that carries this view.
pub(super) fn answer(fields: &[u8], view: &[u8], now: Timestamp) -> Zeroizing<Vec<u8>> {
    let mut answer = Zeroizing::new(Vec::with_capacity(fields.len() + view.len() + 160));
    begin_answer(&mut answer, "200 OK", "application/json", view.len(), now);
    answer.extend_from_slice(fields);
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(view);
    answer
}

/// The answer that says what a WebSocket's Close would say.
pub(super) fn refusal(fields: &[u8], code: u16, why: &str, now: Timestamp) -> Vec<u8> {
    let (status, title, problem) = match code {
        close_code::REPLACED => (409, "Conflict", "replaced"),
        _ => (503, "Service Unavailable", "unavailable"),
    };
    let detail = if code == close_code::RESTARTING { "the server is stopping; come back" } else { why }.to_owned();
    let problem = Problem { kind: "about:blank", title, status, code: problem, detail, max_age: None };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut answer = Vec::new();
    begin_answer(&mut answer, &format!("{status} {title}"), PROBLEM_MEDIA_TYPE, body.len(), now);
    if status == 503 {
        let seconds = retry_after_millis(why).unwrap_or(1000).div_ceil(1000).max(1);
        answer.extend_from_slice(format!("retry-after: {seconds}\r\n").as_bytes());
    }
    answer.extend_from_slice(fields);
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(&body);
    answer
}

/// What an answer begins with. (RFC 9110 §6.6.1: with the time, by whoever has a clock.)
fn begin_answer(answer: &mut Vec<u8>, status: &str, media_type: &str, body_bytes: usize, now: Timestamp) {
    let date = http_date(now);
    let head =
        format!("HTTP/1.1 {status}\r\ndate: {date}\r\ncontent-type: {media_type}\r\ncontent-length: {body_bytes}\r\n");
    answer.extend_from_slice(head.as_bytes());
}

/// As in the field `Date` (RFC 9110 §5.6.7).
#[must_use]
pub fn http_date(now: Timestamp) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(now.as_millis().try_into().unwrap_or(0)))
}

fn retry_after_millis(why: &str) -> Option<u32> {
    why.strip_prefix(RETRY_AFTER)?.parse().ok()
}
