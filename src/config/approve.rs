//! The section `[approve]`: who approves a login, and where.

use serde::{Deserialize, Serialize};

use super::check::{MAX_PUBLIC_URL_BYTES, invalid, web_url};
use super::{AppLink, ConfigError, Secret};
use crate::session::{CODE_PLACEHOLDER, CodeUrl};

/// The section `[approve]`: what opens when a camera scans the code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApproveSettings {
    /// URL in the QR code, with `{code}` at the place of the code. If empty, it is `{public_url}/q/{code}`.
    pub url: String,
    /// Issuer of the OpenID provider at which users log in on the approve page.
    pub issuer: String,
    /// Client id with which this server is registered at the provider.
    pub client_id: String,
    /// Client secret with which this server authenticates at the provider. Empty for a public client.
    pub client_secret: Secret,
    /// Scopes that are requested from the provider besides `openid`.
    pub scopes: Vec<String>,
    /// Name of the app that approves a login, for the page at `{public_url}/q/{code}`.
    pub app_name: String,
    /// URLs at which the app can be installed.
    pub app_stores: Vec<String>,
    /// Apps that open `{public_url}/q/{code}` themselves, see [`AppLink`].
    pub app_links: Vec<String>,
}

impl Default for ApproveSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            issuer: String::new(),
            client_id: String::new(),
            client_secret: Secret::default(),
            scopes: vec!["profile".to_owned()],
            app_name: String::new(),
            app_stores: Vec::new(),
            app_links: Vec::new(),
        }
    }
}

impl ApproveSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.url.is_empty() {
            approve_url(&self.url).map_err(|reason| invalid("approve.url", reason))?;
            if !self.app_links.is_empty() {
                let reason = "cannot be set together with approve.url, whose host has to serve the association files";
                return Err(invalid("approve.app_links", reason.to_owned()));
            }
        }
        self.check_provider()?;
        for (item, link) in (1..).zip(&self.app_links) {
            AppLink::parse(link).map_err(|reason| invalid("approve.app_links", format!("item {item} {reason}")))?;
        }
        for (item, store) in (1..).zip(&self.app_stores) {
            web_url(store).map_err(|reason| invalid("approve.app_stores", format!("item {item} {reason}")))?;
        }
        Ok(())
    }
}

impl ApproveSettings {
    /// Checks the settings of the OpenID provider, which are set together or not at all.
    fn check_provider(&self) -> Result<(), ConfigError> {
        if self.issuer.is_empty() {
            let set = [
                ("approve.client_id", self.client_id.is_empty()),
                ("approve.client_secret", self.client_secret.is_empty()),
            ];
            return match set.into_iter().find(|(_, is_empty)| !is_empty) {
                Some((key, _)) => Err(invalid(key, "goes together with approve.issuer; set both or none".to_owned())),
                None => Ok(()),
            };
        }
        if !self.url.is_empty() {
            let reason = "cannot be set together with approve.url; choose the approve page of qrlogin or your own";
            return Err(invalid("approve.issuer", reason.to_owned()));
        }
        let url = web_url(&self.issuer).map_err(|reason| invalid("approve.issuer", reason))?;
        if url.query().is_some() || url.fragment().is_some() {
            let reason = "must not have a query or a fragment (OpenID Connect Discovery 1.0 §3)";
            return Err(invalid("approve.issuer", reason.to_owned()));
        }
        if self.client_id.is_empty() {
            return Err(invalid("approve.issuer", "goes together with approve.client_id; set both or none".to_owned()));
        }
        for (item, scope) in (1..).zip(&self.scopes) {
            // RFC 6749 §3.3.
            let is_letter = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            if scope.is_empty() || !scope.bytes().all(is_letter) {
                return Err(invalid("approve.scopes", format!("item {item} is not a scope")));
            }
        }
        Ok(())
    }
}

/// Checks the template of the URL in a QR code.
fn approve_url(template: &str) -> Result<(), String> {
    if template.len() > MAX_PUBLIC_URL_BYTES {
        return Err(format!("is longer than {MAX_PUBLIC_URL_BYTES} bytes, too long for a QR code that can be scanned"));
    }
    let form = CodeUrl::parse(template).ok_or_else(|| {
        format!("needs {CODE_PLACEHOLDER} once, at the place of the code: https://www.example.com/approve#{CODE_PLACEHOLDER}")
    })?;
    let behind = template.split_once(CODE_PLACEHOLDER).map_or("", |(_, behind)| behind);
    if behind.starts_with(|letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_')) {
        return Err(format!("has a letter, digit, - or _ behind {CODE_PLACEHOLDER}, where the code would not end"));
    }
    // A letter stands for the code, which consists of letters that need no encoding.
    let (url, other) = (web_url(&form.with("c"))?, web_url(&form.with("d"))?);
    if url.authority() != other.authority() || url.scheme() != other.scheme() {
        return Err(format!("has {CODE_PLACEHOLDER} in the host; put it in the path, the query or the fragment"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approve_url_has_the_code_once_and_whole_behind_the_host() {
        for template in [
            "https://www.example.com/approve#{code}",
            "https://www.example.com/approve?code={code}&from=qr",
            "https://www.example.com/approve/{code}/now",
            "http://localhost:3000/{code}",
        ] {
            assert_eq!(approve_url(template), Ok(()), "{template}");
        }
        for (template, reason) in [
            ("https://www.example.com/approve", "needs {code} once"),
            ("https://www.example.com/{code}#{code}", "needs {code} once"),
            ("https://{code}.example.com/", "in the host"),
            ("https://www.example.com{code}", "in the host"),
            ("https://www.example.com/{code}now", "behind {code}"),
            ("https://www.example.com/#{code}-", "behind {code}"),
            ("http://www.example.com/{code}", "plain http"),
        ] {
            let refusal = approve_url(template).unwrap_err();
            assert!(refusal.contains(reason), "{template}: {refusal}");
        }
    }
}
