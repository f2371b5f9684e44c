//! Values of settings, cleaned and of the type that the setting's default has.
//!
//! All errors are predicates of a sentence about the key. They do not quote the value.

use toml::Value;

use super::clean::{Clean, boolean, clean, trim};

/// The setting that is a list of tables.
const LIST_OF_TABLES: &str = "oauth.clients";

/// A value, with a warning about it for the operator: the predicate of a sentence about the key.
pub(super) type Cleaned = (Value, Option<&'static str>);

/// Converts the text of a variable or a flag. The items of a list are separated by commas.
pub(super) fn from_text(key: &str, text: &str, default: &Value) -> Result<Cleaned, String> {
    if let Value::Table(_) = default {
        return Err("must be set key by key, being a table".to_owned());
    }
    if key == LIST_OF_TABLES {
        return Err("is a list of tables, which only a file can hold".to_owned());
    }
    if let Value::Array(_) = default {
        let (trimmed, warning) = trim(text);
        // Blanks around commas are usual, and are not warned of. Line ends are.
        let items = trimmed.split(',').map(|item| clean(key, item.trim_matches([' ', '\t'])));
        let items = items.collect::<Result<Vec<_>, _>>()?;
        let warning = warning.or_else(|| items.iter().find_map(|item| item.warning));
        let texts = items.into_iter().map(|item| item.text).filter(|text| !text.is_empty());
        return Ok((Value::Array(texts.map(Value::from).collect()), warning));
    }
    let Clean { text, warning } = clean(key, text)?;
    let value = match default {
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| "must be a whole number")?),
        Value::Boolean(_) => boolean(&text).ok_or("must be true or false (or 1, 0, yes, no, on, off)")?.into(),
        _ => text.into(),
    };
    not_emptied(value, default).map(|value| (value, warning))
}

/// Converts a value of a TOML file.
pub(super) fn from_toml(key: &str, mut value: Value, default: &Value) -> Result<Cleaned, String> {
    if !default.same_type(&value) {
        return Err(format!("must be of type {}, and is of type {}", default.type_str(), value.type_str()));
    }
    let mut warning = None;
    let items = match &mut value {
        Value::Array(items) => items.as_mut_slice(),
        value => std::slice::from_mut(value),
    };
    for item in items {
        if let Value::String(text) = item {
            let clean = clean(key, text)?;
            *text = clean.text;
            warning = warning.or(clean.warning);
        }
    }
    not_emptied(value, default).map(|value| (value, warning))
}

/// Refuses an empty text for a setting that has a default.
fn not_emptied(value: Value, default: &Value) -> Result<Value, String> {
    let has_default = default.as_str().is_some_and(|text| !text.is_empty());
    if has_default && value.as_str() == Some("") {
        return Err("must not be empty; leave it out for its default".to_owned());
    }
    Ok(value)
}
