//! Checks that the documents agree with the code.

mod architecture;
mod map;
