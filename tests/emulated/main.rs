//! The CUDA sources of the kernels, executed by the emulation, against float64: a module a family.
//! One program, so that it is small enough to travel: with `SEQPAR_TEST_DEVICE=cuda` it runs the
//! same tests on a GPU (`docs/gpu-bundle.md`).

mod adaln;
mod attention;
mod attention_sm90;
#[path = "../emulation/mod.rs"]
mod emulation;
mod gemm;
mod small;
#[path = "../support/mod.rs"]
mod support;

use seqpar::dtype::Dtype;
use support::Rng;

const HALVES: [Dtype; 2] = [Dtype::Bf16, Dtype::F16];

/// Values of a test; the seed that is printed repeats it.
fn fresh(test: &str) -> Rng {
    let seed = support::seed();
    eprintln!("{test}: seed {seed}");
    Rng(seed)
}
