//! The code that the QR code carries: public, rotating, and authenticated.
//!
//! A code is the session's public id, the number of the period in which it is shown, and a MAC (HMAC-SHA-256,
//! truncated) over both. The public id finds the session's row, so a rotation writes nothing to the store. The MAC
//! rejects codes that the server did not make. All nodes share the [`CodeSecret`].

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::code_url::CODE_PATH;
use super::secrets::{CodeKey, SessionKey, decode, sha256};
use super::{Session, Timestamp};

/// Length of the public id, in bytes. 64 bits make a collision among the sessions that live at the same time
/// improbable.
const ID_BYTES: usize = 8;
/// Length of the period number, in bytes.
const PERIOD_BYTES: usize = 2;
/// Length of the truncated MAC, in bytes. A MAC of 88 bits cannot be guessed in online attempts.
const MAC_BYTES: usize = 11;
/// Length of a code, in bytes.
const CODE_BYTES: usize = ID_BYTES + PERIOD_BYTES + MAC_BYTES;
/// Length of a code in base64url, in characters.
const CODE_CHARS: usize = CODE_BYTES / 3 * 4;
/// Smallest number for number matching. All numbers have two digits and no leading zero.
const LEAST_NUMBER: u64 = 10;
/// Largest number for number matching.
const MOST_NUMBER: u64 = 99;

/// The code that the QR code carries. A phone scans and decides with it. It gives no access to the token.
///
/// ```
/// use qrlogin::session::{Code, CodeSecret, SessionId};
///
/// let secret = CodeSecret::new([1; 32]);
/// let key = SessionId::from_random([7; 32]).key();
/// let shown = secret.code(&key, 3);
///
/// // A phone sends the code, or the URL from the QR code.
/// let scanned = Code::from_scan(&format!("https://login.example/q/{shown}\n")).expect("a code");
/// assert!(scanned == shown);
/// assert_eq!(scanned.key(), key.code_key());
/// assert_eq!(secret.period_of(&scanned), Some(3));
///
/// // A code that was made with another secret has a wrong MAC.
/// assert_eq!(CodeSecret::new([2; 32]).period_of(&scanned), None);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Code([u8; CODE_BYTES]);

impl Code {
    /// Parses a code as the server formats it. Returns `None` if `text` does not have the form of a code.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }

    /// Parses a code as a phone sends it. `text` is the code or the URL from the QR code, as a scanner returned it, and
    /// may be surrounded by blanks, line ends or other invisible characters.
    ///
    /// The origin of the URL is not compared, because a server can have several names. The MAC is what authenticates a
    /// code.
    #[must_use]
    pub fn from_scan(text: &str) -> Option<Self> {
        let text = text.trim_matches(is_invisible);
        let path = text.split(['?', '#']).next().unwrap_or_default();
        Self::parse(path.rsplit_once(CODE_PATH).map_or(text, |(_, code)| code.trim_end_matches('/')))
    }

    /// Parses the code with which `text` begins. Returns `None` if it does not begin with one, or if the code is not
    /// complete there.
    pub(super) fn beginning_of(text: &str) -> Option<Self> {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        let end = text.find(|letter| !is_letter(letter)).unwrap_or(text.len());
        if end == CODE_CHARS { Self::parse(&text[..end]) } else { None }
    }

    /// Returns the key of the session that this code names. Neither the session nor the code is verified: see
    /// [`CodeSecret::period_of`].
    #[must_use]
    pub fn key(&self) -> CodeKey {
        CodeKey(sha256(&self.0[..ID_BYTES]))
    }
}

fn is_invisible(letter: char) -> bool {
    // The byte order mark and the zero-width characters are not white space in Unicode.
    letter.is_whitespace() || letter.is_control() || matches!(letter, '\u{feff}' | '\u{200b}'..='\u{200f}')
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(…)")
    }
}

impl SessionKey {
    /// Returns the key under which codes of this session find it.
    #[must_use]
    pub fn code_key(&self) -> CodeKey {
        CodeKey(sha256(self.public_id()))
    }

    /// Returns the public id, the first bytes of the key, which is the hash of the session id.
    fn public_id(&self) -> &[u8] {
        &self.0[..ID_BYTES]
    }
}

/// The key of the MACs. Its holder can make valid codes for any session whose public id it knows. Wiped from memory
/// when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct CodeSecret([u8; 32]);

impl fmt::Debug for CodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeSecret(…)")
    }
}

impl CodeSecret {
    /// Makes a secret from random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the code of this session for a period.
    #[must_use]
    pub fn code(&self, session: &SessionKey, period: u16) -> Code {
        let mut bytes = [0; CODE_BYTES];
        bytes[..ID_BYTES].copy_from_slice(session.public_id());
        bytes[ID_BYTES..][..PERIOD_BYTES].copy_from_slice(&period.to_be_bytes());
        let mac = self.mac(b"code", &bytes[..ID_BYTES + PERIOD_BYTES]);
        bytes[ID_BYTES + PERIOD_BYTES..].copy_from_slice(&mac[..MAC_BYTES]);
        Code(bytes)
    }

    /// Returns the period in which this code is shown, or `None` if its MAC is wrong. The MAC is compared in constant
    /// time.
    #[must_use]
    pub fn period_of(&self, code: &Code) -> Option<u16> {
        let (shown, mac) = code.0.split_at(ID_BYTES + PERIOD_BYTES);
        let ours = self.mac(b"code", shown);
        constant_time::verify_slices_are_equal(&ours[..MAC_BYTES], mac).ok()?;
        Some(u16::from_be_bytes([shown[ID_BYTES], shown[ID_BYTES + 1]]))
    }

    /// Returns the number that the browser shows and the choice that the phone is given. They depend on the session
    /// only, so each call returns the same.
    #[must_use]
    pub fn numbers(&self, session: &SessionKey) -> Numbers {
        let mac = self.mac(b"numbers", &session.0);
        let mut draws = mac.chunks_exact(8).map(|chunk| u64::from_be_bytes(chunk.try_into().unwrap_or_default()));
        let mut draw = |bound: u64| draws.next().unwrap_or_default() % bound;
        let mut left: Vec<_> = (LEAST_NUMBER..=MOST_NUMBER).collect();
        let mut choice = [(); 3].map(|()| {
            let index = draw(left.len() as u64);
            left.swap_remove(usize::try_from(index).unwrap_or_default()).to_string()
        });
        // The number is the first that was drawn. Its position among the others is drawn as well.
        let number = choice[0].clone();
        choice.swap(0, usize::try_from(draw(3)).unwrap_or_default());
        Numbers { number, choice }
    }

    /// Returns the hash under which the user code of a device is stored (RFC 8628 §6.1). A user code is short, so without
    /// the secret, a plain hash could be inverted.
    #[must_use]
    pub fn user_code_hash(&self, user_code: &str) -> [u8; 32] {
        self.mac(b"user code", user_code.as_bytes())
    }

    fn mac(&self, purpose: &[u8], message: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        // Domain separation: the purposes are constants, and none is a prefix of another.
        context.update(purpose);
        context.update(message);
        let mut mac = [0; 32];
        mac.copy_from_slice(context.sign().as_ref());
        mac
    }
}

/// The numbers of one session for number matching.
#[derive(Clone, PartialEq, Eq)]
pub struct Numbers {
    /// The number that the browser shows.
    pub number: String,
    /// The numbers among which the phone user picks, in random order. One of them is `number`.
    pub choice: [String; 3],
}

/// The rotation of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Time for which a code is shown, in seconds. 0 means that the code does not change.
    pub period_seconds: u32,
}

impl Rotation {
    /// No rotation: a session has one code.
    pub const NONE: Self = Self { period_seconds: 0 };

    /// Returns the period of the code that is shown at `now`. From the scan on, it is the period of the scan.
    #[must_use]
    pub fn period_at(self, session: &Session, now: Timestamp) -> u16 {
        if self.period_seconds == 0 || session.is_of_device() {
            return 0;
        }
        let until = session.scanned_at.map_or(now, |scanned_at| scanned_at.min(now));
        let periods = until.millis_since(session.created_at) / (u64::from(self.period_seconds) * 1000);
        u16::try_from(periods).unwrap_or(u16::MAX)
    }

    /// Returns whether a code of this period is accepted at `now`. The current code, the one before, and later ones
    /// are.
    #[must_use]
    pub fn admits(self, session: &Session, period: u16, now: Timestamp) -> bool {
        // A later code was shown by a node whose clock is ahead.
        self.period_seconds == 0 || period.saturating_add(1) >= self.period_at(session, now)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SessionId;
    use super::*;

    fn key(byte: u8) -> SessionKey {
        SessionId::from_random([byte; 32]).key()
    }

    #[test]
    fn code_identifies_its_session_and_period_and_cannot_be_forged() {
        let secret = CodeSecret::new([1; 32]);
        let code = secret.code(&key(7), 300);
        assert_eq!(code.to_string().len(), 28);
        let read = Code::parse(&code.to_string()).unwrap();
        assert_eq!(read.key(), key(7).code_key());
        assert_eq!(secret.period_of(&read), Some(300));
        assert_ne!(secret.code(&key(7), 301), code);
        assert_eq!(CodeSecret::new([2; 32]).period_of(&read), None);
        for byte in 0..CODE_BYTES {
            let mut forged = code.clone();
            forged.0[byte] ^= 1;
            assert_eq!(secret.period_of(&forged), None, "byte {byte}");
        }
        assert_eq!(Code::parse(&format!("{code}A")), None);
        assert_eq!(Code::parse(&SessionId::from_random([7; 32]).expose()), None);
        assert_eq!(SessionId::parse(&code.to_string()), None);
        assert_eq!(format!("{code:?} {secret:?}"), "Code(…) CodeSecret(…)");
    }

    #[test]
    fn code_is_extracted_from_scanner_output() {
        // The first two codes contain the characters in which base64url differs from base64: `-` and `_`.
        for code in [Code([0xff; CODE_BYTES]), Code([0xfb; CODE_BYTES]), CodeSecret::new([1; 32]).code(&key(7), 3)] {
            for scanned in scans_of(&code.to_string()) {
                assert!(Code::from_scan(&scanned) == Some(code.clone()), "{scanned:?}");
            }
            for other in [
                format!("{code}A"),
                format!("{code}?x"),
                format!("{code}/"),
                format!("https://login.example/{code}"),
                format!("https://login.example/q/{code}/x"),
                format!("https://login.example/q/{code}A"),
                format!("https://login.example/?q=/q/{code}"),
                format!("https://login.example/#/q/{code}"),
                format!("https://login.example/q/ {code}"),
                format!("{} {}", &code.to_string()[..14], &code.to_string()[14..]),
                "https://login.example/q/".to_owned(),
                "/q/".to_owned(),
                " \n".to_owned(),
                String::new(),
            ] {
                assert!(Code::from_scan(&other).is_none(), "{other:?}");
            }
        }
    }

    fn scans_of(code: &str) -> Vec<String> {
        let forms = [
            code.to_owned(),
            format!("/q/{code}"),
            format!("https://login.example/q/{code}"),
            format!("HTTPS://LOGIN.EXAMPLE/q/{code}"),
            format!("https://host.example:8443/a/q/b/q/{code}/"),
            format!("http://[2001:db8::1]/q/{code}?utm_source=qr&next=/q/other"),
            format!("app://login/q/{code}#/q/"),
        ];
        let padding = ["", " ", "\n", "\r\n", "\t", "\0", "\u{feff}", "\u{a0}", "\u{200b}"];
        forms
            .iter()
            .flat_map(|form| padding.iter().map(move |pad| (form, pad)))
            .flat_map(|(form, pad)| [format!("{form}{pad}"), format!("{pad}{form}"), format!("{pad}{pad}{form}{pad}")])
            .collect()
    }

    #[test]
    fn choice_has_three_distinct_two_digit_numbers_in_random_order() {
        let secret = CodeSecret::new([1; 32]);
        let mut places = [0; 3];
        for byte in 0..=255 {
            let numbers = secret.numbers(&key(byte));
            assert!(numbers == secret.numbers(&key(byte)));
            let [a, b, c] = &numbers.choice;
            assert!(a != b && b != c && a != c);
            assert!(numbers.choice.iter().all(|number| number.len() == 2));
            places[numbers.choice.iter().position(|number| *number == numbers.number).unwrap()] += 1;
        }
        assert!(places.iter().all(|times| *times > 50), "{places:?}");
    }
}
