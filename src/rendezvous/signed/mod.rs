//! What ranks that share a key say to each other: their hellos, the verdict on them, ids; and the
//! store that takes nothing from others than them.

mod hello;
mod host;
mod id;
mod join;
mod key;
mod post;
mod sealed;
mod tcp;
mod verdict;

pub use hello::{Decoded, HELLO_BYTES, Hello, PLANS_MAX, PROTOCOL, WORLD_MAX};
pub use host::Host;
pub use id::{ID_BYTES, exchange_id};
pub use join::{Members, join};
pub use key::{KEY_FILE_BYTES_MIN, Key, Nonce};
pub use sealed::SignedStore;
pub use tcp::{Interface, TcpOptions, TcpStore};
