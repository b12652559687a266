//! Where this program meets the library: plans go in, tensors and figures come out.

use std::collections::BTreeMap;

use seqpar::dtype::Dtype;
use seqpar::plan::Plan;

use crate::fault::{Fault, Result};
use crate::run::Launch;

pub(crate) struct HostTensor {
    pub(crate) dtype: Dtype,
    pub(crate) dims: [usize; 4],
    pub(crate) bytes: Vec<u8>,
}

/// Global tensors by name.
pub(crate) type Tensors = BTreeMap<String, HostTensor>;

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) wall_ms: f64,
    /// By rank.
    pub(crate) bytes_sent: Vec<u64>,
    /// By rank.
    pub(crate) peak_bytes: Vec<u64>,
    /// Part of the communication time that lay under kernels; none without communication.
    pub(crate) overlap: Option<f64>,
    /// A Chrome trace.
    pub(crate) trace: String,
}

/// Checks the plans of all ranks, prepares them and runs them once.
pub(crate) fn run(plans: Vec<Plan>, inputs: &Tensors, launch: &Launch) -> Result<(Tensors, Facts)> {
    let _ = (plans, inputs, launch);
    Err(Fault::Data("the executor has not landed".into()))
}
