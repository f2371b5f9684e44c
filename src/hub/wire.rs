//! The bytes of connections without a WebSocket: server-sent events (HTML Standard §9.2), and answers to long polls. No
//! input or output.

use http::StatusCode;
use zeroize::Zeroizing;

use super::message::Message;
use crate::session::Timestamp;
use crate::wire::http1::Answer;
use crate::wire::types::{
    CLOSE_EVENT, CloseView, EXPIRED_EVENT_ID, PROBLEM_MEDIA_TYPE, Problem, ProblemCode, close_code,
};

/// A comment (HTML Standard §9.2.6): the heartbeat of an event stream. It also makes a proxy that waits for the first
/// bytes pass the answer on.
pub(super) const COMMENT: &[u8] = b":\n\n";
/// A ping without payload (RFC 6455 §5.5.2).
pub(super) const PING: &[u8] = &[0x89, 0];
/// The heartbeat that a page's script sees: an empty binary message.
pub(super) const BEAT: &[u8] = &[0x82, 0];
/// A ping and a heartbeat, for a single write.
pub(super) const PING_AND_BEAT: &[u8] = &[0x89, 0, 0x82, 0];
/// Prefix of a Close reason that names the delay before a reconnect, in milliseconds.
pub(super) const RETRY_AFTER: &str = "retry_after_ms=";

/// How a browser waits.
#[derive(Debug, Clone)]
pub enum Channel {
    /// A WebSocket.
    WebSocket {
        /// Whether the browser acknowledges the token with the message `ack` (subprotocol `qrlogin.ack`).
        acknowledges: bool,
    },
    /// A stream of events.
    EventStream {
        /// Version that was delivered on an earlier connection (`Last-Event-ID`), or 0.
        told_version: u32,
    },
    /// A long poll, which ends with one answer.
    Poll {
        /// Version of the session that the browser knows.
        version: u32,
        /// Time after which the poll is answered without a change, in seconds.
        wait_seconds: u32,
        /// Header fields of the answer that do not depend on its body.
        fields: Vec<u8>,
    },
}

/// The kind of a connection, without its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    WebSocket,
    EventStream,
    Poll,
}

/// Returns the event of a session's state. A browser returns its `id` in `Last-Event-ID`.
pub(super) fn event(message: &Message) -> Zeroizing<Vec<u8>> {
    let id = if message.status == "expired" { EXPIRED_EVENT_ID.to_owned() } else { message.version.to_string() };
    let mut event = text_event(message.text.json(), 64);
    event.extend_from_slice(format!("id: {id}\n\n").as_bytes());
    event
}

/// Returns the event of a text that is no state of the session. It has no `id`, so the browser's `Last-Event-ID` keeps
/// naming the last state.
pub(super) fn passing_event(json: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut event = text_event(json, 1);
    event.push(b'\n');
    event
}

/// Returns the `data` line of an event, with a capacity for `more_bytes` more.
fn text_event(json: &[u8], more_bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut event = Zeroizing::new(Vec::with_capacity(json.len() + 8 + more_bytes));
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(json);
    event.push(b'\n');
    event
}

/// Returns the event that corresponds to a WebSocket's Close.
pub(super) fn close_event(code: u16, why: &str) -> Vec<u8> {
    let data = serde_json::to_string(&CloseView { code, reason: why }).unwrap_or_default();
    let retry = retry_after_millis(why).map(|millis| format!("retry: {millis}\n")).unwrap_or_default();
    format!("{retry}event: {CLOSE_EVENT}\ndata: {data}\n\n").into_bytes()
}

/// Returns the answer to a poll with this view. `fields` are the header fields that do not depend on the body.
pub(super) fn answer(fields: &[u8], view: &[u8], now: Timestamp) -> Zeroizing<Vec<u8>> {
    Answer::new(StatusCode::OK, Some(now)).field("content-type", b"application/json").fields(fields).with_body(view)
}

/// Returns the answer to a poll that corresponds to a WebSocket's Close.
pub(super) fn refusal(fields: &[u8], code: u16, why: &str, now: Timestamp) -> Zeroizing<Vec<u8>> {
    let problem = match code {
        close_code::REPLACED => ProblemCode::Replaced,
        close_code::INTERNAL => ProblemCode::Internal,
        _ => ProblemCode::Unavailable,
    };
    let detail = if code == close_code::RESTARTING { "the server is stopping; come back" } else { why }.to_owned();
    let body = serde_json::to_vec(&Problem::new(problem, detail)).unwrap_or_default();
    let mut answer =
        Answer::new(problem.status(), Some(now)).field("content-type", PROBLEM_MEDIA_TYPE.as_bytes()).fields(fields);
    if problem == ProblemCode::Unavailable {
        let seconds = retry_after_millis(why).unwrap_or(1000).div_ceil(1000).max(1);
        answer = answer.field("retry-after", seconds.to_string().as_bytes());
    }
    answer.with_body(&body)
}

/// Returns the delay that a Close reason names, in milliseconds.
fn retry_after_millis(why: &str) -> Option<u32> {
    why.strip_prefix(RETRY_AFTER)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_become_answers_and_events_with_their_delay() {
        let answer = |code, why: &str| {
            let answer = refusal(b"x-field: kept\r\n", code, why, Timestamp::from_millis(0));
            String::from_utf8(answer.to_vec()).unwrap()
        };
        let says = |answer: String, all: &[&str]| {
            for part in all.iter().chain(&["x-field: kept\r\n"]) {
                assert!(answer.contains(part), "{part} in {answer}");
            }
        };
        let stopping = answer(close_code::RESTARTING, "retry_after_ms=1001");
        says(stopping, &["503", "retry-after: 2\r\n", "the server is stopping; come back", "unavailable"]);
        let down = answer(close_code::UNAVAILABLE, "the store does not answer");
        says(down, &["503", "retry-after: 1\r\n", "the store does not answer"]);
        let replaced = answer(close_code::REPLACED, "a newer connection took over");
        says(replaced.clone(), &["409", "replaced", "a newer connection took over"]);
        assert!(!replaced.contains("retry-after"));
        let failed = answer(close_code::INTERNAL, "the token cannot be made");
        says(failed, &["500", "\"code\":\"internal\"", "the token cannot be made"]);
        assert_eq!(
            String::from_utf8(close_event(close_code::RESTARTING, "retry_after_ms=7")).unwrap(),
            "retry: 7\nevent: close\ndata: {\"code\":1012,\"reason\":\"retry_after_ms=7\"}\n\n"
        );
    }
}
