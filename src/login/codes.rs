use crate::qr::{Picture, TooLong};
use crate::session::{Code, CodeSecret, CodeUrl, Presented, Rotation, Session, SessionKey, Timestamp};
use crate::wire::types::CodeView;

/// Makes and checks the codes that browsers show, and the numbers for number matching.
pub struct Codes {
    /// Key of the MACs in codes.
    pub secret: CodeSecret,
    /// Rotation by which the codes change.
    pub rotation: Rotation,
    /// Whether number matching is on: to confirm, the phone user must pick the number that the browser shows.
    pub compares_numbers: bool,
    /// Form of the URL in a QR code.
    pub code_url: CodeUrl,
}

impl Codes {
    /// Returns the code of this session at `now`.
    ///
    /// # Errors
    /// The URL is too long for a QR code.
    pub fn current(&self, session: &Session, now: Timestamp) -> Result<CodeView, TooLong> {
        self.of_period(&session.key, self.rotation.period_at(session, now))
    }

    /// Returns the code of this session for a period.
    ///
    /// # Errors
    /// The URL is too long for a QR code.
    pub fn of_period(&self, session: &SessionKey, period: u16) -> Result<CodeView, TooLong> {
        let code = self.secret.code(session, period).to_string();
        let qr_url = self.code_url.with(&code);
        Ok(CodeView { qr_image: Picture::of(&qr_url)?.data_url(), code, qr_url })
    }

    /// Returns the number that the browser shows after the scan, or `None` without number matching.
    pub(super) fn number(&self, session: &Session) -> Option<String> {
        self.compares(session).then(|| self.secret.numbers(&session.key).number)
    }

    /// Returns the numbers among which the phone user picks, or `None` without number matching.
    pub(super) fn numbers(&self, session: &Session) -> Option<[String; 3]> {
        self.compares(session).then(|| self.secret.numbers(&session.key).choice)
    }

    fn compares(&self, session: &Session) -> bool {
        self.compares_numbers && !session.is_of_device()
    }

    /// Verifies a code that a phone sent. Returns `None` if its MAC is wrong.
    pub(super) fn verify(&self, code: &Code) -> Option<Presented> {
        Some(Presented { period: self.secret.period_of(code)?, rotation: self.rotation })
    }
}

/// A code as a phone sent it.
#[derive(Debug, Clone)]
pub struct ScannedCode {
    /// The code.
    pub code: Code,
    /// Time at which the code was seen to be opened, if that was before the call: on the approve page, the user may have
    /// logged in since. A code that was accepted then is accepted now.
    pub opened_at: Option<Timestamp>,
}

impl From<Code> for ScannedCode {
    fn from(code: Code) -> Self {
        Self { code, opened_at: None }
    }
}

impl ScannedCode {
    /// Returns the code as it is presented to this session: without rotation, if it was opened in time.
    pub(super) fn presented_to(&self, session: &Session, presented: Presented) -> Presented {
        let is_in_time = |at| presented.rotation.admits(session, presented.period, at);
        if self.opened_at.is_some_and(is_in_time) {
            Presented { rotation: Rotation::NONE, ..presented }
        } else {
            presented
        }
    }
}
