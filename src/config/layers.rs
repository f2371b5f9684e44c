//! Where settings come from: flags, then the environment, then the file, then the defaults.
//!
//! The defaults, as a table, say which keys there are and of what kind each is; every other layer is laid over them
//! key by key, so that whatever is wrong can be named with its key and its source.

use std::path::Path;

use toml::{Table, Value};

use super::{ConfigError, Settings};

/// The file that is read where none is named; it need not exist.
pub const DEFAULT_FILE: &str = "qrlogin.toml";
/// The beginning of every environment variable that is a setting.
pub const ENV_PREFIX: &str = "QRLOGIN_";

/// Settings in the making.
pub struct Layers {
    known: Table,
    table: Table,
}

impl Layers {
    /// These defaults, and nothing over them.
    ///
    /// # Panics
    /// Never: settings are written as TOML by their own definition.
    #[must_use]
    pub fn over(defaults: &Settings) -> Self {
        let table = Table::try_from(defaults).expect("the defaults are TOML");
        Self { known: table.clone(), table }
    }

    /// Lays a TOML file over.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, an unknown key, a value of the wrong kind.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let file = path.display().to_string();
        let failed = |reason: String| ConfigError::File { file: file.clone(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| failed(error.to_string()))?;
        self.lay_table("", table, &file)
    }

    /// Lays those of these environment variables over that begin with [`ENV_PREFIX`].
    ///
    /// # Errors
    /// An unknown key, a value of the wrong kind.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (name, value) in variables {
            if let Some(key) = name.strip_prefix(ENV_PREFIX) {
                self.text(&key.to_lowercase().replace("__", "."), &value, &format!("environment variable {name}"))?;
            }
        }
        Ok(())
    }

    /// Lays one value over, given as text; lists are comma-separated.
    ///
    /// # Errors
    /// An unknown key, a value of the wrong kind.
    pub fn text(&mut self, key: &str, text: &str, origin: &str) -> Result<(), ConfigError> {
        let wrong = |kind: &str| value_error(origin, key, format!("must be {kind}"));
        let value = match self.known(key, origin)? {
            Value::String(_) => Value::String(text.to_owned()),
            Value::Integer(_) => Value::Integer(text.trim().parse().map_err(|_| wrong("a whole number"))?),
            Value::Boolean(_) => Value::Boolean(text.trim().parse().map_err(|_| wrong("true or false"))?),
            Value::Array(_) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(Value::from).collect())
            }
            kind => return Err(wrong(&format!("set key by key, being a {}", kind.type_str()))),
        };
        self.put(key, value, origin)
    }

    /// The settings as they are now.
    ///
    /// # Errors
    /// The first that cannot be used; see [`Settings::check`].
    pub fn finish(self) -> Result<Settings, ConfigError> {
        let settings: Settings = self.table.try_into().map_err(|error: toml::de::Error| ConfigError::File {
            file: "settings".to_owned(),
            reason: error.to_string(),
        })?;
        settings.check()?;
        Ok(settings)
    }

    fn lay_table(&mut self, prefix: &str, table: Table, origin: &str) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            match (self.known(&key, origin)?, value) {
                (Value::Table(_), Value::Table(inner)) => self.lay_table(&format!("{key}."), inner, origin)?,
                (known, value) if known.same_type(&value) => self.put(&key, value, origin)?,
                (known, _) => return Err(value_error(origin, &key, format!("must be of type {}", known.type_str()))),
            }
        }
        Ok(())
    }

    fn known(&self, key: &str, origin: &str) -> Result<&Value, ConfigError> {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let table = match section {
            "" => Some(&self.known),
            section => self.known.get(section).and_then(Value::as_table),
        };
        table.and_then(|table| table.get(name)).ok_or_else(|| ConfigError::UnknownKey {
            origin: origin.to_owned(),
            key: key.to_owned(),
            known: table.unwrap_or(&self.known).keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })
    }

    /// Puts a value of the right kind in, if its setting takes it.
    fn put(&mut self, key: &str, value: Value, origin: &str) -> Result<(), ConfigError> {
        let mut attempt = self.table.clone();
        match key.split_once('.') {
            Some((section, name)) => {
                if let Some(Value::Table(table)) = attempt.get_mut(section) {
                    table.insert(name.to_owned(), value);
                }
            }
            None => drop(attempt.insert(key.to_owned(), value)),
        }
        // One at a time, so that what cannot be taken is named with its key and source.
        let taken: Result<Settings, _> = attempt.clone().try_into();
        taken.map_err(|error| value_error(origin, key, format!("cannot be used: {}", error.message())))?;
        self.table = attempt;
        Ok(())
    }
}

fn value_error(origin: &str, key: &str, reason: String) -> ConfigError {
    ConfigError::Value { origin: origin.to_owned(), key: key.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layered(file: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qrlogin.toml");
        std::fs::write(&path, file).unwrap();
        let mut layers = Layers::over(&Settings::default());
        let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        layers
            .file(&path)
            .and_then(|()| layers.environment(variables))
            .and_then(|()| layers.finish())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_goes_over_the_file_and_the_file_over_the_defaults() {
        let file = "listen = '127.0.0.1:1'\n[session]\nttl_seconds = 10\nclaim_seconds = 20\n";
        let environment = [("QRLOGIN_SESSION__TTL_SECONDS", "30"), ("HOME", "/")];
        let settings = layered(file, &environment).unwrap();
        assert_eq!(settings.listen.port(), 1);
        assert_eq!(settings.session.ttl_seconds, 30);
        assert_eq!(settings.session.claim_seconds, 20);
        assert_eq!(settings.session.heartbeat_seconds, 30);
    }

    #[test]
    fn lists_in_the_environment_are_comma_separated() {
        let environment = [("QRLOGIN_ALLOWED_ORIGINS", "https://a.example, https://b.example:8443")];
        let settings = layered("", &environment).unwrap();
        assert_eq!(settings.allowed_origins, ["https://a.example", "https://b.example:8443"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key_and_its_source() {
        let refused = |file: &str, environment: &[(&str, &str)], parts: &[&str]| {
            let error = layered(file, environment).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "'{part}' is missing in: {error}");
            }
        };
        refused("lisen = 'x'", &[], &["qrlogin.toml", "unknown key 'lisen'", "listen"]);
        refused("[session]\nttl = 3", &[], &["qrlogin.toml", "'session.ttl'", "ttl_seconds"]);
        refused("[sesion]\nttl = 3", &[], &["qrlogin.toml", "'sesion'"]);
        refused("[session]\nttl_seconds = 'x'", &[], &["qrlogin.toml", "session.ttl_seconds", "integer"]);
        refused("listen = 'here'", &[], &["qrlogin.toml", "listen", "socket address"]);
        refused("listen =", &[], &["qrlogin.toml"]);
        refused("", &[("QRLOGIN_SESION__TTL", "3")], &["QRLOGIN_SESION__TTL", "unknown key 'sesion.ttl'"]);
        refused("", &[("QRLOGIN_SESSION__TTL_SECONDS", "soon")], &["QRLOGIN_SESSION__TTL_SECONDS", "whole number"]);
        refused(
            "",
            &[("QRLOGIN_SESSION__TTL_SECONDS", "-1")],
            &["QRLOGIN_SESSION__TTL_SECONDS", "session.ttl_seconds"],
        );
        refused("", &[("QRLOGIN_SESSION__TTL_SECONDS", "0")], &["session.ttl_seconds", "from 1 to 3600"]);
        refused("", &[("QRLOGIN_ALLOW_MISSING_ORIGIN", "yes")], &["QRLOGIN_ALLOW_MISSING_ORIGIN", "true or false"]);
        refused("", &[("QRLOGIN_SESSION", "3")], &["QRLOGIN_SESSION", "key by key"]);
        refused("", &[("QRLOGIN_LOG__FORMAT", "xml")], &["QRLOGIN_LOG__FORMAT", "log.format", "json"]);
        refused("", &[("QRLOGIN_LOG__LEVEL", "a=b=c")], &["log.level"]);
        refused("public_url = 'ftp://x'", &[], &["public_url", "ftp://x"]);
        refused("allowed_origins = ['https://a.example/']", &[], &["allowed_origins", "https://a.example/"]);
        refused("[token]\nclaims = ['email', 'sub']", &[], &["token.claims", "'sub'"]);
        refused(
            "[app_auth]\nhmac_secret = 'x'\npublic_key_file = 'y'",
            &[],
            &["app_auth.hmac_secret", "public_key_file"],
        );
    }

    #[test]
    fn secrets_are_hidden_when_shown() {
        let settings = layered("[app_auth]\nhmac_secret = 'swordfish'", &[]).unwrap();
        assert!(!settings.to_toml().unwrap().contains("swordfish"));
        assert!(!format!("{settings:?}").contains("swordfish"));
    }
}
