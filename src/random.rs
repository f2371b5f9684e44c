//! Randomness, as the rest of the program gets it. Nothing else asks for it (`clippy.toml` sees to it).

/// `N` bytes nobody can guess, from the operating system.
///
/// # Panics
/// If the system has no randomness to give: going on would hand out guessable secrets.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's randomness is available");
    bytes
}

/// A number below `bound`, evenly enough for spreading load (not for secrets).
#[must_use]
pub fn below(bound: u32) -> u32 {
    u32::from_le_bytes(bytes()) % bound.max(1)
}
