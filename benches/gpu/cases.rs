//! What is measured; names are those of `peers.py`.

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{
    Attention, Epilogue, GateResidualNormModulate, Gemm, Kernel, KeySegment, Modulation, Norm, NormModulate,
};

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) kernel: Kernel,
}

pub(crate) fn all() -> Vec<Case> {
    let mut list = Vec::new();
    for dim in [64, 72, 96, 128] {
        // Batch and heads so that a case lasts milliseconds, not seconds.
        for (batch, heads, tokens) in [(2, 16, 1024), (2, 16, 8192), (1, 16, 16384)] {
            list.push(Case {
                name: format!("attention_d{dim}_b{batch}_h{heads}_n{tokens}"),
                kernel: Kernel::Attention(attention(batch, heads, dim, tokens)),
            });
        }
    }
    for (rows, hidden) in [(65536, 1152), (16384, 3072), (16384, 5120)] {
        list.push(Case {
            name: format!("gate_residual_norm_modulate_r{rows}_c{hidden}"),
            kernel: Kernel::GateResidualNormModulate(GateResidualNormModulate {
                dtype: Dtype::Bf16,
                batch: 1,
                rows,
                hidden,
                norm: Norm::Layer,
                eps: 1e-6,
                modulation: Modulation::PerSample,
            }),
        });
    }
    for (rows, hidden) in [(4096, 1152), (16384, 3072)] {
        list.push(Case {
            name: format!("norm_modulate_r{rows}_c{hidden}"),
            kernel: Kernel::NormModulate(NormModulate {
                dtype: Dtype::Bf16,
                batch: 1,
                rows,
                hidden,
                norm: Norm::Layer,
                eps: 1e-6,
                modulation: Modulation::PerSample,
            }),
        });
    }
    for (hidden, cols) in [(1152, 3456), (1152, 1728), (3072, 9216), (3072, 2304)] {
        for rows in [8192, 16384] {
            list.push(Case {
                name: format!("gemm_m{rows}_k{hidden}_n{cols}"),
                kernel: Kernel::Gemm(Gemm::linear(Dtype::Bf16, 1, rows, hidden, cols, true, Epilogue::None)),
            });
        }
    }
    list
}

fn attention(batch: usize, heads: usize, head_dim: usize, tokens: usize) -> Attention {
    Attention {
        dtype: Dtype::Bf16,
        batch,
        heads,
        kv_heads: heads,
        head_dim,
        first_head: 0,
        first_kv_head: 0,
        group: 1,
        scale: 1.0 / (head_dim as f32).sqrt(),
        queries: vec![tokens],
        keys: vec![KeySegment { len: tokens, base: 0, stream: 1 }],
        key_mask: false,
        key_len: false,
        carry_in: false,
        carry_out: false,
    }
}
