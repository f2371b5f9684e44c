//! The pages that the server shows to people, as HTML without scripts.

mod language;
mod layout;

pub(crate) use language::Language;
pub(crate) use layout::{Page, STYLE_PATH, stylesheet};
