//! Settings of glibc's allocator, so that memory which many connections have used returns to the system.

/// Limits the number of the allocator's arenas to half the number of processors, and at least 2. Call this before the
/// process starts threads.
///
/// By default, glibc creates up to eight arenas per processor. Memory that one thread allocates and another frees would
/// then be scattered over all of them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "mallopt(3) takes two integers and no pointer")]
pub fn keep_together() {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let heaps = std::ffi::c_int::try_from(processors / 2).unwrap_or(2).max(2);
    // SAFETY: mallopt takes two integers, and no other thread uses the allocator, because none has been started.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) };
}

/// Returns free memory to the system. By itself, glibc returns only the free memory at the end of a heap, and keeps
/// free blocks between used ones.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "malloc_trim(3) takes no pointer, and any thread may call it at any time")]
pub fn give_back() {
    // SAFETY: malloc_trim takes no pointer, is safe to call from any thread, and touches only free memory.
    unsafe { libc::malloc_trim(0) };
}

/// Does nothing, because this target does not use glibc's allocator.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub const fn keep_together() {}

/// Does nothing, because this target does not use glibc's allocator.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub const fn give_back() {}
