//! The bytes of an event stream (server-sent events, HTML Standard §9.2).

use zeroize::Zeroizing;

use super::types::{CLOSE_EVENT, CloseView, retry_after_millis};

/// A comment (HTML Standard §9.2.6): the heartbeat of an event stream. It also makes a proxy that waits for the first
/// bytes pass the response on.
pub const COMMENT: &[u8] = b":\n\n";

/// Returns the event with this JSON. A browser returns `id` in `Last-Event-ID`.
#[must_use]
pub fn event(id: &str, json: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut event = data_line(json, "id: \n\n".len() + id.len());
    for part in ["id: ", id, "\n\n"] {
        event.extend_from_slice(part.as_bytes());
    }
    event
}

/// Returns the event of a text that is no state of the session. It has no `id`, so the browser's `Last-Event-ID` keeps
/// naming the last state.
#[must_use]
pub fn event_without_id(json: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut event = data_line(json, 1);
    event.push(b'\n');
    event
}

/// Returns the `data` line of an event, with a capacity for `more_bytes` more: growing the buffer would leave a copy of
/// a token in freed memory.
fn data_line(json: &[u8], more_bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut event = Zeroizing::new(Vec::with_capacity(json.len() + "data: \n".len() + more_bytes));
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(json);
    event.push(b'\n');
    event
}

/// Returns the event that corresponds to a WebSocket's Close. If `reason` names a delay, the browser reconnects after
/// it.
#[must_use]
pub fn close_event(code: u16, reason: &str) -> Vec<u8> {
    let data = serde_json::to_string(&CloseView { code, reason }).unwrap_or_default();
    let retry = retry_after_millis(reason).map(|millis| format!("retry: {millis}\n")).unwrap_or_default();
    format!("{retry}event: {CLOSE_EVENT}\ndata: {data}\n\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::types::close_code;

    #[test]
    fn events_end_with_an_empty_line_and_only_states_have_an_id() {
        assert_eq!(**event("3", b"{}"), *b"data: {}\nid: 3\n\n");
        assert_eq!(**event_without_id(b"{}"), *b"data: {}\n\n");
    }

    #[test]
    fn close_event_has_the_delay_that_the_reason_names() {
        assert_eq!(
            String::from_utf8(close_event(close_code::RESTARTING, "retry_after_ms=7")).unwrap(),
            "retry: 7\nevent: close\ndata: {\"code\":1012,\"reason\":\"retry_after_ms=7\"}\n\n"
        );
    }
}
