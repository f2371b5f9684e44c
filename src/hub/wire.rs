//! How browsers without a WebSocket are spoken to: by server-sent events (HTML Standard §9.2), or with one answer to the
//! request that they have sent. As bytes; no input or output.

use http::StatusCode;
use zeroize::Zeroizing;

use super::message::Message;
use crate::http1::Answer;
use crate::protocol::{CLOSE_EVENT, CloseView, EXPIRED_EVENT_ID, PROBLEM_MEDIA_TYPE, Problem, ProblemCode, close_code};
use crate::session::Timestamp;

/// A comment (HTML Standard §9.2.6): the heartbeat of an event stream, and the first bytes for a proxy that waits for
/// some.
pub(super) const COMMENT: &[u8] = b":\n\n";
/// A ping without payload (RFC 6455 §5.5.2).
pub(super) const PING: &[u8] = &[0x89, 0];
/// The heartbeat that a page sees: an empty binary message.
pub(super) const BEAT: &[u8] = &[0x82, 0];
/// A ping and a heartbeat, in one write.
pub(super) const PING_AND_BEAT: &[u8] = &[0x89, 0, 0x82, 0];
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

/// The answer that carries this view; `fields` do not depend on what is answered.
pub(super) fn answer(fields: &[u8], view: &[u8], now: Timestamp) -> Zeroizing<Vec<u8>> {
    Answer::new(StatusCode::OK, Some(now)).field("content-type", b"application/json").fields(fields).with_body(view)
}

/// The answer that says what a WebSocket's Close would say.
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

fn retry_after_millis(why: &str) -> Option<u32> {
    why.strip_prefix(RETRY_AFTER)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_a_close_would_say_and_when_to_come_back() {
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
