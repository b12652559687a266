//! seqpar

pub mod auto;
pub mod dit;
pub mod dtype;
pub mod error;
pub mod kernel;
pub mod machine;
pub mod mesh;
pub mod plan;
pub mod shard;
pub mod strategy;

pub use error::{Error, Result};
