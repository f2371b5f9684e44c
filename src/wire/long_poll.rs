//! The bytes of the response to a long poll.

use http::StatusCode;
use zeroize::Zeroizing;

use super::http1::Http1Response;
use super::types::{PROBLEM_MEDIA_TYPE, Problem, ProblemCode, close_code, retry_after_millis};
use crate::session::Timestamp;

/// Returns the response with this view of the session. `fields` are the header fields that do not depend on the body.
#[must_use]
pub fn response(fields: &[u8], view: &[u8], now: Timestamp) -> Zeroizing<Vec<u8>> {
    Http1Response::new(StatusCode::OK, Some(now))
        .field("content-type", b"application/json")
        .fields(fields)
        .with_body(view)
}

/// Returns the response that corresponds to a WebSocket's Close.
#[must_use]
pub fn refusal(fields: &[u8], code: u16, reason: &str, now: Timestamp) -> Zeroizing<Vec<u8>> {
    let problem = match code {
        close_code::REPLACED => ProblemCode::Replaced,
        close_code::INTERNAL => ProblemCode::Internal,
        _ => ProblemCode::Unavailable,
    };
    let detail = if code == close_code::RESTARTING { "the server is stopping; retry later" } else { reason }.to_owned();
    let body = serde_json::to_vec(&Problem::new(problem, detail)).unwrap_or_default();
    let mut response = Http1Response::new(problem.status(), Some(now))
        .field("content-type", PROBLEM_MEDIA_TYPE.as_bytes())
        .fields(fields);
    if problem == ProblemCode::Unavailable {
        let seconds = retry_after_millis(reason).unwrap_or(1000).div_ceil(1000).max(1);
        response = response.field("retry-after", seconds.to_string().as_bytes());
    }
    response.with_body(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_become_responses_with_their_delay() {
        let response = |code, why: &str| {
            let refused = refusal(b"x-field: kept\r\n", code, why, Timestamp::from_millis(0));
            String::from_utf8(refused.to_vec()).unwrap()
        };
        let says = |response: String, all: &[&str]| {
            for part in all.iter().chain(&["x-field: kept\r\n"]) {
                assert!(response.contains(part), "{part} in {response}");
            }
        };
        let stopping = response(close_code::RESTARTING, "retry_after_ms=1001");
        says(stopping, &["503", "retry-after: 2\r\n", "the server is stopping; retry later", "unavailable"]);
        let down = response(close_code::UNAVAILABLE, "the store does not answer");
        says(down, &["503", "retry-after: 1\r\n", "the store does not answer"]);
        let replaced = response(close_code::REPLACED, "a newer connection took over");
        says(replaced.clone(), &["409", "replaced", "a newer connection took over"]);
        assert!(!replaced.contains("retry-after"));
        let failed = response(close_code::INTERNAL, "the token cannot be made");
        says(failed, &["500", "\"code\":\"internal\"", "the token cannot be made"]);
    }
}
