//! Connection URLs of Postgres: the parameters that they may have, and refusals that quote no password.

use std::str::FromStr as _;

use tokio_postgres::Config;
use tokio_postgres::config::Host;
use zeroize::Zeroizing;

use crate::telemetry::cause::explain;

/// URL parameters that the driver reads.
const PARAMETERS: [&str; 19] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslmode",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];
/// URL parameters that libpq or other drivers read, and this one does not.
const FOREIGN_PARAMETERS: [&str; 21] = [
    "ssl",
    "sslaccept",
    "sslcertmode",
    "sslsni",
    "requiressl",
    "require_auth",
    "pgbouncer",
    "schema",
    "fallback_application_name",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslcompression",
    "ssl_min_protocol_version",
    "gssencmode",
    "krbsrvname",
    "passfile",
    "service",
    "client_encoding",
];

/// Parses a connection URL without using the network or the file system.
///
/// # Errors
/// The URL is wrong. The text does not quote it.
pub fn check_url(url: &str) -> Result<Config, String> {
    let credentials =
        url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(credentials, _)| credentials);
    let (user, password) = credentials.and_then(|text| text.split_once(':')).unwrap_or((credentials.unwrap_or(""), ""));
    // What looks like a port, a database and parameters is not a password, although it ends at an @.
    let is_host = password.split_once('/').is_some_and(|(port, rest)| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && rest.split_once('?').is_some_and(|(_, query)| query.contains('='))
    });
    if user.contains(['/', '?', '#']) || is_host {
        return Err("has an @ behind its host; write it as %40".to_owned());
    }
    let ambiguous = || "has more than one @; in a user or a password, write it as %40".to_owned();
    let is_ambiguous = url.matches('@').count() > 1;
    let config = Config::from_str(&for_driver(url)?)
        .map_err(|error| if is_ambiguous { ambiguous() } else { explain(&error) })?;
    if config.get_hosts().is_empty() {
        return Err("names no host".to_owned());
    }
    // The password ends at the first @, for libpq too. What follows it would be looked up as a host.
    if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
        return Err(ambiguous());
    }
    Ok(config)
}

/// Returns the URL without parameters that libpq knows and the driver does not, or an error for those that cannot be
/// left out.
fn for_driver(url: &str) -> Result<Zeroizing<String>, String> {
    // The driver ends the credentials at the first @, and begins the parameters at the first ? after it.
    let hosts_at = url.find('@').map_or(0, |at| at + 1);
    let Some(query_at) = url[hosts_at..].find('?').map(|at| hosts_at + at) else {
        return Ok(Zeroizing::new(url.to_owned()));
    };
    let mut rewritten = Zeroizing::new(String::with_capacity(url.len()));
    rewritten.push_str(&url[..query_at]);
    let mut separator = '?';
    for parameter in url[query_at + 1..].split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or("has a parameter without a value")?;
        let value = match (name, value) {
            ("sslmode", "verify-full") => "require",
            ("sslmode", "verify-ca" | "allow") => {
                return Err(format!(
                    "sslmode={value} is not supported; sslmode=require and sslmode=verify-full both verify the server's \
                     certificate, against those that the system trusts, and its name"
                ));
            }
            ("sslmode", "disable" | "prefer" | "require") => value,
            ("sslmode", _) => return Err("sslmode is none of disable, prefer, require, verify-full".to_owned()),
            // TLS always uses the certificates that the system trusts.
            ("sslrootcert", "system") => continue,
            ("sslrootcert", _) => {
                return Err(
                    "sslrootcert is not supported; add the certificate to those that the system trusts, or name \
                            its file in the environment variable SSL_CERT_FILE"
                        .to_owned(),
                );
            }
            (name, _) if FOREIGN_PARAMETERS.contains(&name) => {
                return Err(format!("{name} is not supported; leave it out"));
            }
            (name, value) if PARAMETERS.contains(&name) => value,
            // The parameter is not quoted, because it may be the rest of a password.
            _ => {
                return Err("has an unknown parameter; in a password, write & as %26, ? as %3F and # as %23".to_owned());
            }
        };
        rewritten.push(separator);
        rewritten.push_str(name);
        rewritten.push('=');
        rewritten.push_str(value);
        separator = '&';
    }
    Ok(rewritten)
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::*;

    #[test]
    fn sslmode_is_parsed_as_in_libpq_or_refused_by_name() {
        let mode = |parameters: &str| {
            check_url(&format!("postgres://u:p@h/d{parameters}")).map(|config| config.get_ssl_mode())
        };
        for (parameters, expected) in [
            ("", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=prefer", SslMode::Prefer),
            ("?sslmode=require", SslMode::Require),
            ("?sslmode=verify-full", SslMode::Require),
            ("?sslmode=verify-full&sslrootcert=system", SslMode::Require),
            ("?sslrootcert=system&connect_timeout=3&sslmode=verify-full", SslMode::Require),
        ] {
            assert_eq!(mode(parameters), Ok(expected), "{parameters}");
        }
        for (parameters, parts) in [
            ("?sslmode=verify-ca", &["sslmode=verify-ca", "sslmode=require", "name"][..]),
            ("?sslmode=allow", &["sslmode=allow"]),
            ("?sslmode=hunter2", &["sslmode is none of"]),
            ("?sslmode=verify-full&sslrootcert=/hunter2.pem", &["sslrootcert", "SSL_CERT_FILE"]),
            ("?sslkey=hunter2", &["sslkey is not supported"]),
            ("?ssl=hunter2", &["ssl is not supported"]),
            ("?sslmode=require&pgbouncer=hunter2", &["pgbouncer is not supported"]),
            ("?schema=hunter2", &["schema is not supported"]),
            ("?password=a&hunter2=c", &["unknown parameter"]),
            ("?hunter2", &["without a value"]),
            ("?port=hunter2", &["port"]),
        ] {
            let reason = mode(parameters).unwrap_err();
            assert!(parts.iter().all(|part| reason.contains(part)) && !reason.contains("hunter2"), "{reason}");
        }
    }

    #[test]
    fn at_sign_that_is_not_encoded_is_refused_without_the_password() {
        for url in [
            "postgres://u:hun@ter2@db/d",
            "postgres://db/d?password=hun@ter2",
            "postgres://db:5432/d?user=u&password=hun@ter2",
        ] {
            let reason = check_url(url).unwrap_err();
            assert!(reason.contains("%40") && !reason.contains("ter2"), "{reason}");
        }
    }
}
