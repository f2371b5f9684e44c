//! The parameters of OAuth requests: no two readings of a parameter, and no redirect URI but the registered ones.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use qrlogin::internals::config::{OAuthSettings, Settings};
use qrlogin::internals::oauth::{Clients, OAuthClient, Parameters, UserCode};

/// Registered URIs whose port is free (RFC 8252 §7.3): what comes before the port, and behind it.
const LOOPBACK: [(&str, &str); 3] =
    [("http://127.0.0.1", "/cb"), ("http://[::1]", "/cb?app=1"), ("http://localhost", "/a/b/")];
/// Registered URIs that are compared exactly.
const EXACT: [&str; 4] =
    ["https://a.example/cb", "https://a.example/cb?x=1", "com.example.app:/cb", "https://127.0.0.1/cb"];
const SCOPES: [&str; 3] = ["openid", "profile", "offline_access"];

static CLIENTS: LazyLock<Clients> = LazyLock::new(|| {
    let uris: Vec<_> =
        LOOPBACK.map(|(origin, path)| format!("{origin}{path}")).into_iter().chain(EXACT.map(str::to_owned)).collect();
    let client = serde_json::json!({
        "id": "app", "name": "App", "auth_method": "none", "redirect_uris": uris, "scopes": SCOPES,
    });
    let client = serde_json::from_value(client).expect("the settings of a client");
    let settings = OAuthSettings { clients: vec![client], ..Settings::default().oauth };
    Clients::open(&settings).expect("a client without secrets")
});

/// Checks the properties for an input, which is a query, a user code, a redirect URI and a list of scopes.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let client = CLIENTS.find("app").expect("the client");
    check_parameters(&text, client);
    check_user_code(&text);
    check_redirect_uri(&text, client);
    check_scopes(&text, client);
}

fn check_parameters(text: &str, client: &OAuthClient) {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()).filter(|(_, value)| !value.is_empty()) {
        if name != "resource" && name != "audience" {
            values.entry(name.into_owned()).or_default().push(value.into_owned());
        }
    }
    let read = Parameters::read(text);
    for (name, values) in &values {
        let value = if values.len() == 1 { values.first().map(String::as_str) } else { None };
        assert_eq!(read.get(name), value, "a repeated parameter has no value");
    }
    let Ok(parameters) = Parameters::parse(text) else {
        assert!(
            text.len() > 8192 || values.values().any(|values| values.len() > 1),
            "only these are refused: {text:?}"
        );
        return;
    };
    assert!(values.values().all(|values| values.len() == 1), "a parameter has one value");
    if let Some(uri) = parameters.get("redirect_uri") {
        check_redirect_uri(uri, client);
    }
}

fn check_user_code(text: &str) {
    if let Some(code) = UserCode::parse(text) {
        assert_eq!(code.letters().len(), 8);
        assert!(UserCode::parse(&code.to_string()) == Some(code.clone()), "the shown code is accepted");
        let typed: String = text.chars().filter(char::is_ascii_alphabetic).collect();
        assert_eq!(typed.to_ascii_uppercase(), code.letters(), "the letters are those that were typed");
    }
}

fn check_redirect_uri(uri: &str, client: &OAuthClient) {
    let has_free_port = |(origin, path): (&str, &str)| {
        let port = uri.strip_prefix(origin).and_then(|rest| rest.strip_suffix(path));
        port.is_some_and(|port| {
            port.is_empty() || port.strip_prefix(':').is_some_and(|number| number.parse::<u16>().is_ok())
        })
    };
    let is_registered = EXACT.contains(&uri) || LOOPBACK.into_iter().any(has_free_port);
    assert!(is_registered || !client.has_redirect_uri(uri), "not registered: {uri:?}");
}

fn check_scopes(text: &str, client: &OAuthClient) {
    let scopes = client.scopes_of(text);
    for (index, scope) in scopes.iter().enumerate() {
        assert!(SCOPES.contains(&scope.as_str()) && !scopes[..index].contains(scope), "{scopes:?}");
        assert!(text.split(' ').any(|requested| requested == scope), "the client has asked for it");
    }
}
