use std::sync::Arc;

use super::{LoginError, Logins, ScannedCode};
use crate::session::{Client, Decision, Grant, Presented, Refusal, Rotation, Session, SessionKey, State};
use crate::store::SessionSelector;
use crate::token::AppUser;

/// The decision of the phone user, as the phone sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Confirms, with the number that the user picked, for number matching.
    Confirm(Option<String>),
    /// Rejects the login of the browser.
    Reject,
}

impl Logins {
    /// Stores the decision of a phone user and delivers it to the browser: the token if the user confirms.
    ///
    /// `is_safe` is the risk policy. If it returns false for the browser, a confirmation is refused with
    /// [`Refusal::Risk`].
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn decide(
        self: &Arc<Self>,
        scanned: ScannedCode,
        by: AppUser,
        verdict: Verdict,
        is_safe: impl Fn(&Client) -> bool + Send + Sync + 'static,
    ) -> Result<(), LoginError> {
        let presented = self.verify_code(&scanned.code).await?;
        let selector = SessionSelector::Code(scanned.code.key());
        let is_confirmed = matches!(verdict, Verdict::Confirm(_));
        let logins = self.clone();
        let decided = self.change(selector, move |session, now| {
            let number = logins.codes.number(session);
            if number.is_some() && verdict == Verdict::Confirm(None) {
                return Err(Refusal::NoNumber);
            }
            let decision = match &verdict {
                Verdict::Confirm(picked) => Decision::Confirm {
                    grant: logins.grant(session, &by),
                    claimable_until: now.plus_seconds(logins.policy.claim_seconds),
                    number_matches: number.map(|number| picked.as_ref() == Some(&number)),
                },
                Verdict::Reject => Decision::Reject,
            };
            let step = session.decide(&by.user, scanned.presented_to(session, presented), decision, now)?;
            // A repeated decision is not checked again: the phone may have moved since.
            let is_risky = is_confirmed && session.is_undecided() && !is_safe(&session.client);
            if is_risky { Err(Refusal::Risk) } else { Ok(step) }
        });
        match decided.await?.state {
            State::Rejected(_) if is_confirmed => Err(Refusal::WrongNumber.into()),
            _ => Ok(()),
        }
    }

    /// Confirms a session for a user who has logged in with this browser before (single sign-on). `auth_time` is the time
    /// of that login, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn confirm_known(
        self: &Arc<Self>,
        key: SessionKey,
        by: AppUser,
        auth_time: i64,
    ) -> Result<Arc<Session>, LoginError> {
        let logins = self.clone();
        let confirmed = self.change(SessionSelector::Key(key), move |session, now| {
            let decision = Decision::Confirm {
                grant: Grant { iat: auth_time, ..logins.grant(session, &by) },
                claimable_until: now.plus_seconds(logins.policy.claim_seconds),
                number_matches: None,
            };
            session.decide(&by.user, Presented { period: 0, rotation: Rotation::NONE }, decision, now)
        });
        confirmed.await
    }

    fn grant(&self, session: &Session, by: &AppUser) -> Grant {
        let date = self.clock.wall();
        match &session.request {
            Some(request) => self.minter.client_grant(by, date, &request.client_id),
            None => self.minter.grant(by, date),
        }
    }
}
