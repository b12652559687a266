//! File descriptors that a library opened without close-on-exec.

use std::collections::BTreeSet;

/// Calls `open`, then sets close-on-exec on every socket that was not there before. A socket that
/// another thread opens meanwhile is set as well, as Rust's own are from the start.
pub(crate) fn closed_on_exec<T>(open: impl FnOnce() -> T) -> T {
    let before = sockets();
    let result = open();
    sockets().difference(&before).for_each(|&descriptor| close_on_exec(descriptor));
    result
}

#[cfg(target_os = "linux")]
fn sockets() -> BTreeSet<i32> {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return BTreeSet::new() };
    let socket = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    folder.flatten().filter(socket).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(target_os = "linux")]
fn close_on_exec(descriptor: i32) {
    // SAFETY: reads and writes the flags of one descriptor; a closed one is an error, which is ignored.
    unsafe {
        let flags = libc::fcntl(descriptor, libc::F_GETFD);
        if flags >= 0 {
            libc::fcntl(descriptor, libc::F_SETFD, flags | libc::FD_CLOEXEC);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn sockets() -> BTreeSet<i32> {
    BTreeSet::new()
}

#[cfg(not(target_os = "linux"))]
fn close_on_exec(_descriptor: i32) {}
