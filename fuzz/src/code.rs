//! The codes of sessions: each has one spelling, and a scanner's output has at most one code.

use qrlogin::session::{Code, CodeSecret, CodeUrl, SessionId};

/// Forms of the URL in a QR code: the code in the fragment, in the query and in the path.
const FORMS: [&str; 3] = [
    "https://www.example.com/approve#{code}",
    "https://www.example.com/approve?code={code}&from=qr",
    "https://www.example.com/approve/{code}/now",
];

/// Checks the properties for an input: the text that a phone sends, which also makes a session and its period.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(code) = Code::parse(&text) {
        assert_eq!(code.to_string(), text, "a code has one spelling");
    }
    if let Some(id) = SessionId::parse(&text) {
        assert_eq!(*id.expose(), text, "a session id has one spelling");
    }
    if let Some(code) = Code::from_scan(&text) {
        assert!(text.contains(&code.to_string()), "a code is a part of what was scanned");
        assert!(Code::from_scan(&code.to_string()) == Some(code), "a code is its own scan");
    }
    check_code_of(data, &text);
}

/// Checks a code that is made from the input, alone and within the URL of a QR code.
fn check_code_of(data: &[u8], text: &str) {
    let mut bytes = [0; 34];
    for (byte, from) in bytes.iter_mut().zip(data) {
        *byte = *from;
    }
    let period = u16::from_be_bytes([bytes[32], bytes[33]]);
    let key = SessionId::from_random(std::array::from_fn(|index| bytes[index])).key();
    let secret = CodeSecret::new([7; 32]);
    let code = secret.code(&key, period);
    assert!(code.key() == key.code_key(), "a code names its session");
    assert_eq!(secret.period_of(&code), Some(period), "a code has its period");
    assert_eq!(CodeSecret::new([8; 32]).period_of(&code), None, "another secret makes other codes");
    for scanned in [
        format!("{code}"),
        format!("\u{feff} {code}\r\n"),
        format!("https://{}/q/{code}", text.replace(['?', '#'], "")),
    ] {
        assert!(Code::from_scan(&scanned).as_ref() == Some(&code), "{scanned:?}");
    }
    FORMS.into_iter().filter_map(CodeUrl::parse).for_each(|form| check_form(&form, &code, text));
    // Anything may follow the path of a URL.
    assert!(Code::from_scan(&format!("https://login.example/q/{code}?{text}")).as_ref() == Some(&code));
    assert!(Code::from_scan(&format!("https://login.example/q/{code}#{text}")).as_ref() == Some(&code));
}

/// Checks that the code is found in the URL of a QR code of this form, at any host and with any parameters behind it.
fn check_form(form: &CodeUrl, code: &Code, text: &str) {
    if let Some(found) = form.code_in(text) {
        assert!(text.contains(&found.to_string()), "a code is a part of what was scanned");
    }
    let url = form.with(&code.to_string());
    let separator = if url.contains(['?', '#']) { '&' } else { '?' };
    for scanned in [
        format!("\u{feff} {url}\r\n"),
        url.replacen("www.example.com", &text.replace(['/', '?', '#'], ""), 1),
        format!("{url}{separator}{text}"),
        url,
    ] {
        assert!(form.code_in(&scanned).as_ref() == Some(code), "{scanned:?}");
    }
}
