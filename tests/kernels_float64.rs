//! The host kernels against the naive float64 oracle: every family, variant, dtype and
//! instruction set of this machine, ragged sizes, outputs poisoned before, results tight.
//!
//! Inputs are drawn afresh in every run; the seed is printed, and `SEQPAR_TEST_SEED` repeats it.

#[path = "kernels_float64/adaln.rs"]
mod adaln;
#[path = "kernels_float64/attention.rs"]
mod attention;
#[path = "kernels_float64/attention_state.rs"]
mod attention_state;
#[path = "kernels_float64/dtypes.rs"]
mod dtypes;
#[path = "kernels_float64/embed.rs"]
mod embed;
#[path = "kernels_float64/gemm.rs"]
mod gemm;
#[path = "kernels_float64/pack.rs"]
mod pack;
#[path = "kernels_float64/qk_norm_rope.rs"]
mod qk_norm_rope;
#[path = "kernels_float64/refusals.rs"]
mod refusals;
mod support;

use seqpar::dtype::Dtype;
use support::Rng;
use support::tensors::isas;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// One row, and the neighbours of every multiple a tile could have.
const RAGGED: [usize; 13] = [1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 300];

fn fresh(test: &str) -> Rng {
    let seed = support::seed();
    eprintln!("{test}: seed {seed}, {:?}", isas());
    Rng(seed)
}
