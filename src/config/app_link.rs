//! Apps that open the URL in a QR code themselves: items of `approve.app_links`.

/// An app that opens the URLs of the server: a universal link of Apple, or an app link of Android.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppLink {
    /// An app of Apple, by its application identifier: the team, a dot, and the bundle.
    Apple(String),
    /// An app of Android.
    Android {
        /// Name of the package.
        package: String,
        /// SHA-256 fingerprint of the certificate that signs the app: 32 bytes in hex, with colons between them.
        fingerprint: String,
    },
}

/// Length of a team's identifier, in characters.
const TEAM_CHARS: usize = 10;
/// Length of a fingerprint, in bytes.
const FINGERPRINT_BYTES: usize = 32;

impl AppLink {
    /// Parses `TEAMID.com.example.app`, or `com.example.app/AB:CD:…`, with the SHA-256 fingerprint of the certificate.
    ///
    /// # Errors
    /// Returns a description of the error, as the predicate of a sentence about the item.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((package, fingerprint)) = text.split_once('/') {
            let fingerprint = fingerprint.to_ascii_uppercase();
            let bytes: Vec<_> = fingerprint.split(':').collect();
            let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            if bytes.len() != FINGERPRINT_BYTES || !bytes.iter().all(is_byte) {
                return Err("needs a SHA-256 fingerprint behind the slash: 32 bytes in hex, with colons between them"
                    .to_owned());
            }
            if !is_reverse_domain(package) {
                return Err("needs the name of a package in front of the slash, as com.example.app".to_owned());
            }
            return Ok(Self::Android { package: package.to_owned(), fingerprint });
        }
        let is_apple = text.split_once('.').is_some_and(|(team, bundle)| {
            let is_team = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
            team.len() == TEAM_CHARS && team.bytes().all(is_team) && is_reverse_domain(bundle)
        });
        if is_apple {
            return Ok(Self::Apple(text.to_owned()));
        }
        Err("is neither an application identifier of Apple (ABCDE12345.com.example.app) nor a package of Android with \
             the fingerprint of its certificate (com.example.app/14:6D:…)"
            .to_owned())
    }
}

/// Returns whether a text is a name such as `com.example.app`.
fn is_reverse_domain(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.contains('.') && text.split('.').all(|part| !part.is_empty() && part.bytes().all(is_letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_of_both_systems_are_parsed() {
        let fingerprint = ["ab"; FINGERPRINT_BYTES].join(":");
        assert_eq!(
            AppLink::parse("ABCDE12345.com.example.app"),
            Ok(AppLink::Apple("ABCDE12345.com.example.app".to_owned()))
        );
        assert_eq!(
            AppLink::parse(&format!("com.example.app/{fingerprint}")),
            Ok(AppLink::Android {
                package: "com.example.app".to_owned(),
                fingerprint: fingerprint.to_ascii_uppercase()
            })
        );
    }

    #[test]
    fn incomplete_identifiers_are_refused_with_what_is_missing() {
        let short = ["ab"; FINGERPRINT_BYTES - 1].join(":");
        for (bad, part) in [
            ("com.example.app", "neither"),
            ("abcde12345.com.example.app", "neither"),
            ("ABCDE12345.app", "neither"),
            ("", "neither"),
            (&format!("com.example.app/{short}"), "32 bytes"),
            (&format!("com.example.app/{short}:zz"), "32 bytes"),
            (&format!("app/{short}:ab"), "package"),
        ] {
            let error = AppLink::parse(bad).unwrap_err();
            assert!(error.contains(part), "{bad}: {error}");
        }
    }
}
