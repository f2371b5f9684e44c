use zeroize::Zeroizing;

use super::Logins;
use crate::session::{Session, State, Status, Timestamp};
use crate::token::MintError;
use crate::wire::types::{Confirmed, Frame, SessionView, UserView};

impl Logins {
    /// Returns the state of a session at `now` as the browser receives it. The frame may hold a token.
    ///
    /// # Errors
    /// The token cannot be minted.
    pub fn frame(&self, session: &Session, now: Timestamp) -> Result<Frame, MintError> {
        let version = session.version;
        Ok(match (session.status(now), &session.state) {
            (Status::Scanned, State::Scanned(user)) => {
                Frame::Scanned { version, user: UserView::of(user.clone()), number: self.codes.number(session) }
            }
            (Status::Confirmed | Status::Claimed, State::Confirmed(confirmation)) if session.request.is_some() => {
                Frame::Confirmed(Confirmed::Collect { collect: true, user: UserView::of(confirmation.by.clone()) })
            }
            (Status::Confirmed, State::Confirmed(confirmation)) => {
                let grant = &confirmation.grant;
                let lifetime_seconds = u64::try_from(grant.exp - grant.iat).unwrap_or(0);
                Frame::Confirmed(Confirmed::Token {
                    web_token: Zeroizing::new(self.minter.mint(grant)?),
                    token_type: "Bearer",
                    expires_in: lifetime_seconds.saturating_sub(now.seconds_since(confirmation.decided_at)),
                    user: UserView::of(confirmation.by.clone()),
                })
            }
            (Status::Claimed, _) => Frame::claimed(),
            (Status::Rejected, _) => Frame::rejected(),
            (Status::Cancelled, State::Cancelled(by)) => Frame::cancelled(*by),
            (Status::Pending, _) => Frame::Pending { version, expires_in: session.expires_at.seconds_since(now) },
            (Status::Expired | Status::Scanned | Status::Confirmed | Status::Cancelled, _) => Frame::expired(),
        })
    }

    /// Returns the whole view of a session: its frame at `now`, and the members that status and long polls add to it.
    #[must_use]
    pub fn view(&self, frame: Frame, session: &Session, now: Timestamp) -> SessionView {
        let has_version = matches!(frame, Frame::Pending { .. } | Frame::Scanned { .. });
        let has_expiry = matches!(frame, Frame::Pending { .. } | Frame::Confirmed(Confirmed::Token { .. }));
        // `current` fails if `public_url` is too long for a QR code. No session can be created then.
        let code = if has_version { self.codes.current(session, now).ok() } else { None };
        let left_seconds = if has_version { session.expires_at.seconds_since(now) } else { 0 };
        SessionView {
            frame,
            version: (!has_version).then_some(session.version),
            expires_in: (!has_expiry).then_some(left_seconds),
            code: code.as_ref().map(|code| code.code.clone()),
            qr_url: code.as_ref().map(|code| code.qr_url.clone()),
            qr_image: code.map(|code| code.qr_image),
            heartbeat_seconds: has_version.then_some(self.policy.heartbeat_seconds),
        }
    }
}
