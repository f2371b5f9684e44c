//! All randomness comes from here; `clippy.toml` bans `aws_lc_rs::rand::fill` elsewhere.

/// Returns `N` bytes from a cryptographically secure generator.
///
/// # Panics
/// Panics if the operating system provides no randomness, because secrets would then be guessable.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the only place that calls the generator")]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's randomness is available");
    bytes
}

/// Returns a random number below `bound`, or 0 if `bound` is 0. The modulo makes it slightly uneven, so use it to
/// spread load and not for secrets.
#[must_use]
pub fn below(bound: u32) -> u32 {
    u32::from_le_bytes(bytes()) % bound.max(1)
}
