//! A low-level communication and kernel runtime for sequence-parallel diffusion transformers.
//!
//! A video DiT attends over tens of thousands of tokens, so its sequence is split over ranks.
//! seqpar promises two things about that: **the same bits on any number of ranks** (R1), and
//! **communication that is measurably hidden**.
//!
//! A [`strategy`] turns a problem into a [`plan`], an executor ([`exec`]) runs the plan, and
//! everything else is a [`kernel`] or a wrapper. Read it in the order plan, strategy, exec,
//! kernel, and stop anywhere.
//!
//! ```
//! use std::collections::BTreeMap;
//! use seqpar::dtype::Dtype;
//! use seqpar::exec::host::{HostOptions, HostTensor, prepare, run_tensors};
//! use seqpar::plan::check_world;
//! use seqpar::shard::Shard;
//! use seqpar::strategy::{AttentionProblem, Options, Strategy, attention};
//!
//! # fn main() -> seqpar::Result<()> {
//! let ranks = 3;
//! let problem = AttentionProblem {
//!     dtype: Dtype::F32,
//!     batch: 1,
//!     heads: 4,
//!     kv_heads: 4,
//!     head_dim: 8,
//!     shard: Shard::even(ranks, 10, 10, 0, false)?,
//!     key_mask: false,
//!     key_len: false,
//! };
//! let mesh = Strategy::Ulysses.mesh(ranks, None, None, 4, 4)?;
//! let plans = check_world(attention(&problem, Strategy::Ulysses, &mesh, &Options::default())?)?;
//! let mut prepared = prepare(plans, HostOptions::default())?;
//! let ones = HostTensor::from_f32(Dtype::F32, [1, 10, 4, 8], &[1.0; 320])?;
//! let inputs = ["q", "k", "v"].map(|name| (name.to_string(), ones.clone()));
//! let (outputs, report) = run_tensors(&mut prepared, &BTreeMap::from(inputs))?;
//! assert_eq!(outputs["out"].to_f32(), vec![1.0; 320]);
//! assert!(report.bytes_sent.iter().all(|&bytes| bytes > 0));
//! # Ok(())
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod auto;
pub mod bench;
pub mod capi;
pub mod comm;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dit;
pub mod dtype;
pub mod error;
pub mod exec;
#[cfg(feature = "nccl")]
mod ffi;
pub mod json;
pub mod kernel;
pub mod machine;
pub mod mesh;
pub mod plan;
pub mod rendezvous;
pub mod shard;
pub mod strategy;

pub use error::{Error, Result};
