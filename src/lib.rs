//! seqpar

pub mod comm;
pub mod dtype;
pub mod error;
pub mod exec;
pub mod json;
pub mod kernel;
pub mod machine;
pub mod mesh;
pub mod plan;
pub mod shard;
pub mod strategy;

pub use error::{Error, Result};
