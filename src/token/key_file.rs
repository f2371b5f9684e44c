//! Files with keys: their permission bits and their PEM blocks.

use std::fs::Metadata;

use pem::Pem;

/// Beginning of the line before a PEM block (RFC 7468 §2).
const BEGIN: &[u8] = b"-----BEGIN ";
/// Beginning of the line after a PEM block.
const END: &[u8] = b"-----END ";

/// Returns the permission bits of a file.
#[cfg(unix)]
pub(super) fn mode_of(metadata: &Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
}

/// Returns 0, because this system has no permission bits.
#[cfg(not(unix))]
pub(super) const fn mode_of(_: &Metadata) -> u32 {
    0
}

/// Returns all PEM blocks of a file. Text outside of blocks is skipped.
///
/// # Errors
/// Returns the number of the first block that cannot be read, counted from 1. `pem::parse_many` would skip a block
/// without an end at the end of the file.
pub(super) fn pem_blocks(text: &[u8]) -> Result<Vec<Pem>, usize> {
    let begins = text.windows(BEGIN.len()).enumerate().filter(|(_, bytes)| *bytes == BEGIN).map(|(at, _)| at);
    let begins: Vec<_> = begins.collect();
    let ends = begins.iter().skip(1).copied().chain([text.len()]);
    let parse = |(number, (begin, end)): (usize, (&usize, usize))| pem::parse(&text[*begin..end]).map_err(|_| number);
    let blocks: Vec<_> = (1..).zip(begins.iter().zip(ends)).map(parse).collect::<Result<_, _>>()?;
    // An end without a beginning is that of a block whose beginning is lost.
    let ends = text.windows(END.len()).filter(|bytes| *bytes == END).count();
    if ends == blocks.len() { Ok(blocks) } else { Err(blocks.len() + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_and_the_first_broken_one_is_numbered() {
        let block = pem::encode(&Pem::new("PUBLIC KEY", *b"a key"));
        let other = pem::encode(&Pem::new("PRIVATE KEY", *b"another key"));
        let cut = &block[..block.find("-----END").unwrap()];
        let read = |text: &str| pem_blocks(text.as_bytes()).map(|blocks| blocks.len());
        assert_eq!(read(""), Ok(0));
        assert_eq!(read("no key"), Ok(0));
        assert_eq!(read(&format!("\u{FEFF}A comment.\n{block}between\r\n{other}after")), Ok(2));
        for (text, number) in [
            (cut.to_owned(), 1),
            (format!("{block}{cut}"), 2),
            (format!("{cut}{block}"), 1),
            (format!("{cut}{other}"), 1),
            (format!("{block}{other}-----BEGIN PUBLIC"), 3),
            (format!("{block}{cut}{other}{cut}"), 2),
            (format!("{block}a key\n-----END PUBLIC KEY-----\n"), 2),
            (format!("{block}-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n"), 2),
        ] {
            assert_eq!(read(&text), Err(number), "{text}");
        }
    }
}
