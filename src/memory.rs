//! The system's memory: what many browsers have taken and left is to be its own again.

/// To be called before there are threads. The allocator would have a heap for each thread, up to eight times as many as
/// processors; what one thread takes and another frees would lie about in all of them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "mallopt(3) takes two numbers")]
pub fn keep_together() {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let heaps = std::ffi::c_int::try_from(processors / 2).unwrap_or(2).max(2);
    // SAFETY: it takes two numbers, and nobody else is in the allocator while there are no other threads.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) };
}

/// Gives back to the system what is free. The system's allocator keeps it by itself: what was freed lies scattered among
/// what was not, and it only gives back what lies at an end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "malloc_trim(3) takes no pointer, and may be called at any time from any thread")]
pub fn give_back() {
    // SAFETY: it takes no pointer, is safe to call from any thread, and only touches memory that is free.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators see to it themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub const fn keep_together() {}

/// Other allocators see to it themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub const fn give_back() {}
