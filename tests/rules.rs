//! The seven rules that R1 rests on (the same bits on any number of ranks), each by name: on the
//! kernels of every instruction set of this machine, and on whole worlds where the rule speaks of
//! ranks.
//!
//! Inputs are drawn afresh in every run; the seed is printed, and `SEQPAR_TEST_SEED` repeats it.

#[path = "rules/alone.rs"]
mod alone;
#[path = "rules/contraction.rs"]
mod contraction;
#[path = "rules/definition.rs"]
mod definition;
#[path = "rules/keys.rs"]
mod keys;
mod support;
#[path = "rules/surroundings.rs"]
mod surroundings;

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{Attention, Epilogue, KeySegment, Modulation};
use support::Rng;
use support::tensors::isas;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];
const MODULATIONS: [Modulation; 3] = [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken];
const EPILOGUES: [Epilogue; 7] = [
    Epilogue::None,
    Epilogue::Gelu,
    Epilogue::Silu,
    Epilogue::Residual,
    Epilogue::GatedResidual(Modulation::PerSample),
    Epilogue::GatedResidual(Modulation::PerFrame),
    Epilogue::GatedResidual(Modulation::PerToken),
];

fn fresh(test: &str) -> Rng {
    let seed = support::seed();
    eprintln!("{test}: seed {seed}, {:?}", isas());
    Rng(seed)
}

/// Two samples, text and image keys, masked.
fn attention(dtype: Dtype, kv_heads: usize, group: usize, queries: usize, text: usize, image: usize) -> Attention {
    Attention {
        dtype,
        batch: 2,
        heads: kv_heads * group,
        kv_heads,
        head_dim: 72,
        first_head: 0,
        first_kv_head: 0,
        group,
        scale: 1.0 / 72f32.sqrt(),
        queries: vec![queries],
        keys: vec![KeySegment { len: text, base: 0, stream: 0 }, KeySegment { len: image, base: 0, stream: 1 }],
        key_mask: true,
        key_len: false,
        carry_in: false,
        carry_out: false,
    }
}
