//! What ranks that share a key say to each other: their hellos, the verdict on them, ids; and the
//! store that takes nothing from others than them.

mod hello;
mod host;
mod id;
mod join;
mod key;
mod post;
mod tcp;
mod verdict;

use crate::error::{Error, FailureKind};

pub use hello::{Decoded, HELLO_BYTES, Hello, PLANS_MAX, PROTOCOL, WORLD_MAX};
pub use host::Host;
pub use id::{ID_BYTES, exchange_id};
pub use join::{Members, join};
pub use key::{KEY_FILE_BYTES_MIN, Key, Nonce};
pub use tcp::{Interface, TcpOptions, TcpStore};

/// True if a wait only passed its deadline.
fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::Between(failure) if matches!(failure.kind, FailureKind::Timeout { .. }))
}
