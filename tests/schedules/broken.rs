//! The board with a wait that looks, lets go of the lock, and sleeps.

/// Its shim.
pub(crate) mod sync {
    include!("sync.rs");
    pub(crate) const LOSES_WAKE_UPS: bool = true;
}

#[path = "../../src/comm/local/board.rs"]
pub(crate) mod board;
