//! The polls of the token endpoint (RFC 8628 §3.4 and §3.5). The crate `oauth2` sends them and reads the responses. Its
//! pause between two polls is ours.

use std::time::Duration;

use chrono::DateTime;
use futures_util::future::BoxFuture;
use openidconnect::{
    AsyncHttpClient, DeviceAccessTokenRequest, DeviceCodeErrorResponse, ExtraDeviceAuthorizationFields,
    OAuth2TokenResponse, RequestTokenError,
};
use tokio::sync::Mutex;

use super::status_socket::Ending;
use crate::system::clock::Clock;

/// Minimum time between two polls. Some servers state an interval of 0.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Time by which `slow_down` lengthens the interval (RFC 8628 §3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);
/// Interval up to which failed requests lengthen the pause, each by a factor of two.
const MAX_BACKOFF_INTERVAL: Duration = Duration::from_secs(30);
/// Such a maximum for `oauth2`, longer than any login. With a lower one, it shortens an interval that the server has made
/// longer than that.
const NO_MAX_BACKOFF_INTERVAL: Duration = Duration::from_secs(365 * 24 * 3600);
/// Minimum time between two polls while a WebSocket is open. These polls find a decision if the connection has failed
/// without an error.
const NOTIFIED_INTERVAL: Duration = Duration::from_secs(30);

/// Makes the pauses between polls. A decision that the server announces ends a pause early.
pub(super) struct Pacer {
    clock: Clock,
    /// Time at which the code expires, by [`Clock::steady`].
    expires_at: Duration,
    state: Mutex<PacerState>,
}

struct PacerState {
    /// Interval that `oauth2` asked for last.
    asked: Duration,
    /// Time between two polls.
    interval: Duration,
    /// Ends when the login has ended, or when the WebSocket is closed.
    ending: Option<BoxFuture<'static, Ending>>,
}

impl Pacer {
    /// Returns a pacer for polls at the server's interval until the code expires, which is at `expires_at` by
    /// [`Clock::steady`].
    pub(super) fn new(clock: Clock, interval: Duration, expires_at: Duration) -> Self {
        let state = PacerState { asked: interval, interval: interval.max(MIN_INTERVAL), ending: None };
        Self { clock, expires_at, state: Mutex::new(state) }
    }

    /// Returns a pacer whose pause ends when `ending` says that the login has ended.
    pub(super) fn notified_by(mut self, ending: impl Future<Output = Ending> + Send + 'static) -> Self {
        self.state.get_mut().ending = Some(Box::pin(ending));
        self
    }

    /// Waits until the next poll is due: when the interval has passed, when the login has ended, or when the code has
    /// expired. `asked` is the interval that `oauth2` asks for.
    async fn pause(&self, asked: Duration) {
        let mut state = self.state.lock().await;
        state.follow(asked);
        let begun = self.clock.steady();
        // `oauth2` ends the polls at the first millisecond after the expiry.
        let end = self.expires_at + Duration::from_millis(1);
        let until = |interval: Duration| (begun + interval).min(end);
        let (next, next_if_notified) = (until(state.interval), until(state.interval.max(NOTIFIED_INTERVAL)));
        if let Some(ending) = &mut state.ending {
            let ended = tokio::select! {
                biased;
                ended = ending => ended,
                () = self.clock.sleep_until_steady(next_if_notified) => return,
            };
            state.ending = None;
            if ended == Ending::Decided {
                return;
            }
        }
        self.clock.sleep_until_steady(next).await;
    }
}

impl PacerState {
    /// Changes the interval as `oauth2` changes its own: by 5 seconds after `slow_down`, by a factor of two after a failed
    /// request.
    fn follow(&mut self, asked: Duration) {
        let added = asked.saturating_sub(self.asked);
        self.asked = asked;
        if added == SLOW_DOWN {
            self.interval += SLOW_DOWN;
        } else if !added.is_zero() {
            self.interval = self.interval.max((self.interval * 2).min(MAX_BACKOFF_INTERVAL));
        }
    }
}

/// Polls until the server answers with tokens or with an error that is final. Ends with `expired_token` when the code has
/// expired.
pub(super) async fn poll<'c, C, T, F>(
    request: DeviceAccessTokenRequest<'c, '_, T, F>,
    http: &'c C,
    pacer: &'c Pacer,
) -> Result<T, RequestTokenError<C::Error, DeviceCodeErrorResponse>>
where
    C: AsyncHttpClient<'c>,
    T: OAuth2TokenResponse + 'c,
    F: ExtraDeviceAuthorizationFields,
{
    // The steady clock, so that a step of the wall clock does not end the polls.
    let now = move || {
        let millis = i64::try_from(pacer.clock.steady().as_millis()).unwrap_or(i64::MAX);
        DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::<chrono::Utc>::MAX_UTC)
    };
    let remaining = pacer.expires_at.saturating_sub(pacer.clock.steady());
    request
        .set_time_fn(now)
        .set_max_backoff_interval(NO_MAX_BACKOFF_INTERVAL)
        .request_async(http, |asked| pacer.pause(asked), Some(remaining))
        .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::{pending, ready};
    use std::io;
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use http::header::CONTENT_TYPE;
    use openidconnect::core::CoreJsonWebKeySet;
    use openidconnect::{
        ClientId, DeviceAuthorizationResponse, DeviceAuthorizationUrl, HttpRequest, HttpResponse, IssuerUrl, TokenUrl,
    };
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::device_client::{OauthClient, QrloginFields};
    use crate::session::Timestamp;

    /// A response of the token endpoint.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Answer {
        Error(&'static str),
        Tokens,
        /// The request fails.
        None,
    }

    use Answer::{Error, None, Tokens};

    const PENDING: Answer = Error("authorization_pending");
    const SLOWER: Answer = Error("slow_down");

    fn response(answer: Answer) -> io::Result<HttpResponse> {
        let (status, body) = match answer {
            Error(name) => (400, json!({ "error": name })),
            Tokens => (200, json!({ "access_token": "a token", "token_type": "Bearer" })),
            None => return Err(io::ErrorKind::TimedOut.into()),
        };
        let response = http::Response::builder().status(status).header(CONTENT_TYPE, "application/json");
        Ok(response.body(body.to_string().into_bytes()).unwrap())
    }

    fn client() -> OauthClient {
        let issuer = IssuerUrl::new("https://id.example".to_owned()).unwrap();
        openidconnect::Client::new(ClientId::new("tv".to_owned()), issuer, CoreJsonWebKeySet::default())
            .set_device_authorization_url(DeviceAuthorizationUrl::new("https://id.example/device".to_owned()).unwrap())
            .set_token_uri(TokenUrl::new("https://id.example/token".to_owned()).unwrap())
    }

    /// Polls a server that gives these answers, and the last of them repeatedly. Returns the times of the polls, in
    /// seconds, and the error with which they ended.
    fn polls(
        interval: u64,
        expires_in: u64,
        answers: &[Answer],
        ending: impl FnOnce(Clock) -> Option<BoxFuture<'static, Ending>>,
    ) -> (Vec<u64>, Option<String>) {
        let (clock, hands) = Clock::manual(Timestamp::from_millis(0));
        let times = RefCell::new(Vec::new());
        let http = |_: HttpRequest| {
            let answer = answers[times.borrow().len().min(answers.len() - 1)];
            times.borrow_mut().push(clock.steady().as_secs());
            ready(response(answer))
        };
        let members = json!({
            "device_code": "a device code", "user_code": "WDJB-MJHT", "verification_uri": "https://id.example/device",
            "expires_in": expires_in, "interval": interval,
        });
        let authorization: DeviceAuthorizationResponse<QrloginFields> = serde_json::from_value(members).unwrap();
        let mut pacer = Pacer::new(clock.clone(), authorization.interval(), Duration::from_secs(expires_in));
        if let Some(ending) = ending(clock.clone()) {
            pacer = pacer.notified_by(ending);
        }
        let client = client();
        let mut polling = pin!(poll(client.exchange_device_access_token(&authorization), &http, &pacer));
        for _ in 0..100_000 {
            if let Some(result) = polling.as_mut().now_or_never() {
                let error = result.err().map(|error| match error {
                    RequestTokenError::ServerResponse(response) => response.error().to_string(),
                    error => error.to_string(),
                });
                return (times.take(), error);
            }
            hands.advance_millis(100);
        }
        panic!("the polls do not end: {:?}", times.take());
    }

    fn without_socket(_: Clock) -> Option<BoxFuture<'static, Ending>> {
        Option::None
    }

    fn ends_after(seconds: u32, ending: Ending) -> impl FnOnce(Clock) -> Option<BoxFuture<'static, Ending>> {
        move |clock| {
            Some(
                async move {
                    clock.sleep_seconds(seconds).await;
                    ending
                }
                .boxed(),
            )
        }
    }

    #[test]
    fn polls_keep_to_the_interval_and_slow_down() {
        let answers = [PENDING, PENDING, SLOWER, PENDING, SLOWER, Tokens];
        assert_eq!(polls(5, 300, &answers, without_socket), (vec![0, 5, 10, 20, 30, 45], Option::None));
        // Each of the servers that state no pause gets one.
        assert_eq!(polls(0, 300, &[PENDING, PENDING, Tokens], without_socket).0, [0, 1, 2]);
    }

    #[test]
    fn failed_requests_double_the_interval_up_to_half_a_minute() {
        let answers = [None, None, None, None, PENDING, Tokens];
        assert_eq!(polls(5, 300, &answers, without_socket), (vec![0, 10, 30, 60, 90, 120], Option::None));
        // The interval of the server is longer than that, and stays.
        assert_eq!(polls(45, 300, &[PENDING, None, Tokens], without_socket).0, [0, 45, 90]);
        let answers = [SLOWER, None, SLOWER, PENDING, Tokens];
        assert_eq!(polls(26, 300, &answers, without_socket).0, [0, 31, 62, 98, 134]);
    }

    #[test]
    fn final_errors_and_the_expiry_end_the_polls() {
        for name in ["access_denied", "expired_token", "invalid_grant", "server_error"] {
            assert_eq!(polls(5, 300, &[PENDING, Error(name)], without_socket), (vec![0, 5], Some(name.to_owned())));
        }
        for answer in [PENDING, None] {
            let (times, error) = polls(5, 12, &[answer], without_socket);
            assert_eq!((times.first(), error.as_deref()), (Some(&0), Some("expired_token")));
            assert!(times.last() < Some(&12), "{times:?}");
        }
    }

    #[test]
    fn announced_decision_ends_the_pause_once() {
        let decided = || ends_after(7, Ending::Decided);
        assert_eq!(polls(5, 300, &[PENDING, Tokens], decided()).0, [0, 7]);
        // A server that has announced a decision and answers that there is none is polled like any other.
        assert_eq!(polls(5, 300, &[PENDING, PENDING, PENDING, Tokens], decided()).0, [0, 7, 12, 17]);
    }

    #[test]
    fn polls_are_rare_while_the_socket_is_open_and_normal_after_it() {
        let silent = |_| Some(pending().boxed());
        assert_eq!(polls(5, 300, &[PENDING, PENDING, Tokens], silent).0, [0, 30, 60]);
        let lost = |seconds| ends_after(seconds, Ending::Lost);
        assert_eq!(polls(5, 300, &[PENDING, PENDING, Tokens], lost(2)).0, [0, 5, 10]);
        assert_eq!(polls(5, 300, &[PENDING, PENDING, Tokens], lost(17)).0, [0, 17, 22]);
    }

    proptest! {
        #[test]
        fn no_poll_is_earlier_than_the_server_allows(
            interval in 0u64..40,
            answers in proptest::collection::vec(prop_oneof![Just(PENDING), Just(SLOWER), Just(None)], 1..20),
        ) {
            let (times, error) = polls(interval, 600, &answers, without_socket);
            prop_assert_eq!(error.as_deref(), Some("expired_token"));
            let mut least = interval;
            for (index, pair) in times.windows(2).enumerate() {
                if answers[index.min(answers.len() - 1)] == SLOWER {
                    least += 5;
                }
                prop_assert!(pair[1] - pair[0] >= least, "{:?} {:?}", times, answers);
            }
        }
    }
}
