//! The board as the executor uses it.

/// Its shim.
pub(crate) mod sync {
    include!("sync.rs");
    pub(crate) const LOSES_WAKE_UPS: bool = false;
}

#[path = "../../src/comm/local/board.rs"]
pub(crate) mod board;
