//! Diffusion transformers made of strategies and kernels: the adaLN-zero DiT.

mod config;
pub mod ddim;
pub mod models;
pub mod patch;
mod plan;
mod weights;

pub use config::Config;
pub use plan::{DitProblem, plan, plan_rank};
pub use weights::{FileTensor, Weights};
