//! Logins of an OAuth client by authorization code (RFC 6749 §4.1): the requests of its browsers and its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use hyper::{Request, StatusCode};
use serde_json::Value;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use crate::api::{Answer, Api, ApiFailure, Generated, Target};

/// Code verifier and challenge of all logins (RFC 7636, appendix B). A load test has nothing to protect.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A client that is registered at the server.
#[derive(Debug, Clone)]
pub struct OAuthClient {
    /// Client id.
    pub id: String,
    /// One of the client's redirect URIs. No request is sent to it.
    pub redirect_uri: String,
    /// Client secret, or `None` if the client is public.
    pub secret: Option<String>,
}

/// The page of an authorization request.
pub(super) struct AuthorizePage {
    /// Path to which the page goes on when the login is decided.
    next: String,
    /// Value of the header field `Cookie`.
    cookie: String,
}

/// The connections of an OAuth login, besides those of every login.
pub(super) struct OAuthConnections {
    /// Connection on which the browser loads the page and goes on from it.
    pub(super) browser: Api,
    /// Connection of the client to the token endpoint.
    pub(super) client: Api,
}

impl OAuthConnections {
    pub(super) async fn open(target: &Target) -> Result<Self, ApiFailure> {
        Ok(Self { browser: Api::connect(target).await?, client: Api::connect(target).await? })
    }
}

impl Api {
    /// Opens the page of an authorization request, as a browser. Returns the session that the page waits for.
    pub(super) async fn authorize(&mut self, client: &OAuthClient) -> Result<Generated, ApiFailure> {
        let query = form(&[
            ("client_id", &client.id),
            ("redirect_uri", &client.redirect_uri),
            ("response_type", "code"),
            ("scope", "openid"),
            ("state", "load"),
            ("nonce", "load"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ]);
        let request = Request::get(format!("/oauth/authorize?{query}"));
        let answer = self.send("authorize", request, String::new()).await?.expect(StatusCode::OK)?;
        let page = String::from_utf8_lossy(&answer.body);
        let session = attribute(&page, "session").and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let (Some(session), Some(next)) = (session, attribute(&page, "data-next")) else {
            return Err(answer.refused());
        };
        let text = |field: &str| session[field].as_str().unwrap_or_default().to_owned();
        let page = AuthorizePage { next, cookie: cookie(&answer.headers) };
        Ok(Generated { id: text("session_id"), code: text("code"), page: Some(page) })
    }

    /// Goes on from the page of an authorization request, as a browser. Returns the authorization code from the redirect
    /// to the client.
    pub(super) async fn go_on(&mut self, page: &AuthorizePage) -> Result<String, ApiFailure> {
        let request = Request::get(&page.next).header(COOKIE, &page.cookie);
        let answer = self.send("redirect", request, String::new()).await?.expect(StatusCode::SEE_OTHER)?;
        code_of(&answer).ok_or_else(|| answer.refused())
    }

    /// Exchanges an authorization code for tokens, as the client.
    pub(super) async fn redeem(&mut self, client: &OAuthClient, code: &str) -> Result<(), ApiFailure> {
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &client.redirect_uri),
            ("code_verifier", VERIFIER),
        ];
        let mut request = Request::post("/oauth/token").header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        match &client.secret {
            Some(secret) => {
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let credentials = STANDARD.encode(format!("{}:{}", encoded(&client.id), encoded(secret)));
                request = request.header(AUTHORIZATION, format!("Basic {credentials}"));
            }
            None => fields.push(("client_id", &client.id)),
        }
        self.send("token", request, form(&fields)).await?.expect(StatusCode::OK).map(drop)
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// Returns the value of the first attribute of this name in a page.
fn attribute(page: &str, name: &str) -> Option<String> {
    let (_, rest) = page.split_once(&format!(" {name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    // `&amp;` comes last, so that an escaped `&quot;` of the value stays as it is.
    Some(value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}

/// Returns the cookies of an answer, as the browser sends them.
fn cookie(headers: &HeaderMap) -> String {
    let fields = headers.get_all(SET_COOKIE).iter().filter_map(|field| field.to_str().ok());
    fields.filter_map(|field| field.split(';').next()).collect::<Vec<_>>().join("; ")
}

fn code_of(answer: &Answer) -> Option<String> {
    let to = Url::parse(answer.headers.get(LOCATION)?.to_str().ok()?).ok()?;
    let code = to.query_pairs().find(|(name, _)| name == "code");
    code.map(|(_, code)| code.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_a_page_are_unescaped() {
        let page =
            r#"<a data-session="0"><qr-login session="{&quot;a&quot;:&quot;&amp;quot;&lt;&quot;}" data-next="/b">"#;
        assert_eq!(attribute(page, "session").unwrap(), r#"{"a":"&quot;<"}"#);
        assert_eq!(attribute(page, "data-next").unwrap(), "/b");
        assert_eq!(attribute(page, "next"), None);
    }

    #[test]
    fn cookies_are_sent_back_without_their_attributes() {
        let mut headers = HeaderMap::new();
        for field in ["a=1; Path=/; HttpOnly", "b=2"] {
            headers.append(SET_COOKIE, field.parse().unwrap());
        }
        assert_eq!(cookie(&headers), "a=1; b=2");
    }
}
