//! Which process a rank is, and whether it is still there.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

use crate::comm::process::{start_of_living, stat};

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Drawn once a process: two with equal numbers (of two containers) are still told apart.
    pub(super) nonce: u64,
    pub(super) id: u32,
    /// When it started, in the kernel's ticks; 0: not known.
    pub(super) started: u64,
}

impl Process {
    pub(super) fn this() -> Self {
        static NONCE: OnceLock<u64> = OnceLock::new();
        let nonce = *NONCE.get_or_init(|| RandomState::new().build_hasher().finish());
        let id = std::process::id();
        Self { nonce, id, started: stat(id).map_or(0, |(_, started)| started) }
    }

    pub(super) fn is_this(&self) -> bool {
        *self == Self::this()
    }

    /// False if it, once seen here, has ended. One in another namespace is never seen.
    pub(super) fn is_alive(&self, was_seen: bool) -> bool {
        !was_seen || start_of_living(self.id) == Some(self.started)
    }

    /// Whether this process can see it.
    pub(super) fn is_seen(&self) -> bool {
        stat(self.id).is_some_and(|(_, started)| started == self.started)
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_known_to() {
        let own = Process::this();
        assert!(own.is_this() && own.is_seen() && own.is_alive(true));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (_, started) = stat(child.id()).unwrap();
        let other = Process { nonce: 1, id: child.id(), started };
        assert!(other.is_seen() && other.is_alive(true) && !other.is_this());
        child.kill().unwrap();
        // A zombie first, then nothing.
        while other.is_alive(true) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!other.is_alive(true) && other.is_alive(false));
    }
}
