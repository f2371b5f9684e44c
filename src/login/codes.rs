use crate::protocol::CodeView;
use crate::qr::{Picture, TooLong};
use crate::session::{CODE_PATH, Code, CodeSecret, Presented, Rotation, Session, SessionKey, Timestamp};

/// The codes that browsers show, and the numbers beside them.
pub struct Codes {
    /// What makes them.
    pub secret: CodeSecret,
    /// How they rotate.
    pub rotation: Rotation,
    /// Whether the phone's owner must pick the number that the browser shows.
    pub compares_numbers: bool,
    /// What their URLs begin with.
    pub public_base: String,
}

impl Codes {
    /// The code that this session's browser is to show at `now`.
    ///
    /// # Errors
    /// The base of the URL is too long for a QR code.
    pub fn shown(&self, session: &Session, now: Timestamp) -> Result<CodeView, TooLong> {
        self.shown_in(&session.key, self.rotation.period_at(session, now))
    }

    /// The code that this session's browser is to show in this period.
    ///
    /// # Errors
    /// The base of the URL is too long for a QR code.
    pub fn shown_in(&self, session: &SessionKey, period: u16) -> Result<CodeView, TooLong> {
        let code = self.secret.code(session, period).to_string();
        let qr_url = format!("{}{CODE_PATH}{code}", self.public_base);
        Ok(CodeView { qr_image: Picture::of(&qr_url)?.data_url(), code, qr_url })
    }

    /// The number that this session's browser shows once it has been scanned.
    pub(super) fn number(&self, session: &SessionKey) -> Option<String> {
        self.compares_numbers.then(|| self.secret.numbers(session).number)
    }

    /// The numbers among which the phone's owner picks.
    pub(super) fn choice(&self, session: &SessionKey) -> Option<[String; 3]> {
        self.compares_numbers.then(|| self.secret.numbers(session).choice)
    }

    /// What a phone has; `None` if it is no code of ours.
    pub(super) fn presented(&self, code: &Code) -> Option<Presented> {
        Some(Presented { period: self.secret.period_of(code)?, rotation: self.rotation })
    }
}
