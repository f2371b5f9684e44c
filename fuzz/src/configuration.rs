//! The settings: no file and no environment makes the parser panic, and no error quotes a secret.

use std::ffi::OsString;

use qrlogin::internals::config::{ConfigError, Layers, Settings};

/// The secret that takes the place of each [`MARKER`] of an input.
const SECRET: &str = "9Xk7-Qw3Zr5.Tb8Lm2";
/// Byte of an input that stands for the secret.
const MARKER: char = '$';

/// Checks the properties for an input: the content of a settings file. An input that begins with `=` is an environment
/// of lines `NAME=VALUE` instead, whose names have no prefix.
pub fn run(data: &[u8]) {
    let result = match data.strip_prefix(b"=") {
        Some(lines) => of_environment(&String::from_utf8_lossy(lines).replace(MARKER, SECRET)),
        None => of_file(&planted(data)),
    };
    if let Err(error) = result {
        let text = format!("{error}\n{error:?}");
        for part in SECRET.split(['-', '.']) {
            assert!(!text.contains(part), "an error quotes the secret: {text}");
        }
    }
}

/// Returns the bytes with the secret in place of each marker. They need not be UTF-8.
fn planted(data: &[u8]) -> Vec<u8> {
    data.split(|byte| *byte == MARKER as u8).collect::<Vec<_>>().join(SECRET.as_bytes())
}

fn of_file(bytes: &[u8]) -> Result<(), ConfigError> {
    let mut layers = Layers::over(&Settings::default());
    layers.file_content("qrlogin.toml", bytes)?;
    layers.finish().map(drop)
}

fn of_environment(text: &str) -> Result<(), ConfigError> {
    let variables = text.lines().map(|line| line.split_once('=').unwrap_or((line, "")));
    let variables = variables.map(|(name, value)| (format!("QRLOGIN_{name}").into(), OsString::from(value)));
    let mut layers = Layers::over(&Settings::default());
    layers.environment(variables)?;
    layers.finish().map(drop)
}
