//! `seqpar bench attention`, `adaln` and `gemm`: the kernels of a layer on one rank.

use seqpar::bench;
use seqpar::kernel::spec::{
    Attention, Epilogue, GateResidual, GateResidualNormModulate, Gemm, Kernel, KeySegment, Modulation, Norm,
    NormModulate,
};
use seqpar::strategy::LayerProblem;
use serde_json::json;

use super::Session;
use super::args::KernelArgs;
use super::lines::{self, Columns};
use super::shape::Shape;
use crate::fault::Result;
use crate::{engine, record};

/// Which kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Attention,
    Adaln,
    Gemm,
}

impl Family {
    const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Adaln => "adaln",
            Self::Gemm => "gemm",
        }
    }
}

const COLUMNS: Columns = Columns(&[
    ("kernel", "", 40),
    ("shape", "", 22),
    ("size", "(B)", 11),
    ("count", "(elems)", 11),
    ("type", "", 5),
    ("time", "(us)", 10),
    ("p95", "(us)", 10),
    ("GFLOP/s", "", 9),
    ("GB/s", "", 7),
    ("roof", "(us)", 10),
    ("of roof", "", 8),
    ("spread", "", 7),
]);

pub(super) fn run(args: &KernelArgs, family: Family) -> Result<()> {
    let shape = Shape::new(&args.shape)?;
    let layers = shape.layers(1)?;
    let mut session = Session::new(&args.measure)?;
    let notes = [
        shape.describe(),
        "size: bytes read and written, each operand once; roof: the longer of its flops at the roof and of its bytes at the rate at which this machine copies so many"
            .into(),
    ];
    COLUMNS.begin(&session, family.name(), &notes)?;
    let mut noisy = 0;
    for (tokens, problem) in layers {
        for (shape_text, kernel) in kernels(&problem, family) {
            let bytes: u64 = kernel.operands().iter().map(seqpar::kernel::spec::Operand::bytes).sum();
            engine::refuse_beyond_memory(2 * bytes)?;
            session.announce(&kernel.name(), kernel.cost().flops, session.iterations);
            let measured = bench::kernel(&kernel, session.threads, session.iterations)?;
            let (cost, time) = (measured.cost, measured.time);
            // A copy reads and writes what it copies once.
            let copied = bench::copy_bytes_per_s(session.roof.threads, (cost.bytes / 2.0) as usize);
            let roof_s = (cost.flops / session.roof.flops_per_s).max(cost.bytes / copied);
            let dtype = kernel.dtype();
            COLUMNS.row(vec![
                kernel.name(),
                shape_text.clone(),
                format!("{:.0}", cost.bytes),
                format!("{:.0}", cost.bytes / dtype.bytes() as f64),
                dtype.to_string(),
                lines::us(time.p50_s),
                lines::us(time.p95_s),
                format!("{:.1}", cost.flops / time.p50_s / 1e9),
                format!("{:.2}", cost.bytes / time.p50_s / 1e9),
                lines::us(roof_s),
                format!("{:.2}", roof_s / time.p50_s),
                lines::spread(&time),
            ])?;
            noisy += usize::from(lines::is_noisy(&time));
            session.rows.push(json!({
                "bench": family.name(),
                "kind": "measured",
                "executor": "host",
                "model": shape.name,
                "kernel": kernel.name(),
                "shape": shape_text,
                "tokens": tokens,
                "dtype": dtype.to_string(),
                "threads": session.threads,
                "flops": cost.flops,
                "bytes": cost.bytes,
                "time_us": record::samples(&time),
                "roof_us": roof_s * 1e6,
                "roof_fraction": roof_s / time.p50_s,
            }));
        }
    }
    lines::end(noisy)?;
    session.finish()
}

fn kernels(problem: &LayerProblem, family: Family) -> Vec<(String, Kernel)> {
    let attention = &problem.attention;
    let (dtype, batch, heads, head_dim) = (attention.dtype, attention.batch, attention.heads, attention.head_dim);
    let rows = attention.shard.image.len();
    let hidden = problem.hidden;
    let tokens = format!("[{batch},{rows},1,{hidden}]");
    let (norm, eps, modulation) = (Norm::Layer, 1e-6, Modulation::PerSample);
    match family {
        Family::Attention => {
            let text = attention.shard.text.len();
            let segments = [text, rows].into_iter().filter(|len| *len > 0);
            let spec = Attention {
                dtype,
                batch,
                heads,
                kv_heads: attention.kv_heads,
                head_dim,
                first_head: 0,
                first_kv_head: 0,
                group: heads / attention.kv_heads,
                scale: 1.0 / (head_dim as f32).sqrt(),
                queries: segments.clone().collect(),
                keys: segments.enumerate().map(|(stream, len)| KeySegment { len, base: 0, stream }).collect(),
                key_mask: false,
                key_len: false,
                carry_in: false,
                carry_out: false,
            };
            vec![(format!("[{batch},{},{heads},{head_dim}]", rows + text), Kernel::Attention(spec))]
        }
        Family::Adaln => vec![
            (tokens.clone(), Kernel::NormModulate(NormModulate { dtype, batch, rows, hidden, norm, eps, modulation })),
            (tokens.clone(), Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation })),
            (
                tokens,
                Kernel::GateResidualNormModulate(GateResidualNormModulate {
                    dtype,
                    batch,
                    rows,
                    hidden,
                    norm,
                    eps,
                    modulation,
                }),
            ),
        ],
        Family::Gemm => {
            let qkv = (heads + 2 * attention.kv_heads) * head_dim;
            let mut linears = vec![(hidden, qkv, Epilogue::None), (heads * head_dim, hidden, Epilogue::None)];
            if let Some(width) = problem.mlp {
                linears.extend([(hidden, width, Epilogue::Gelu), (width, hidden, Epilogue::None)]);
            }
            let linear = |(inner, cols, epilogue)| {
                let shape = format!("[{batch},{rows},{inner}] x {cols}");
                (shape, Kernel::Gemm(Gemm::linear(dtype, batch, rows, inner, cols, true, epilogue)))
            };
            linears.into_iter().map(linear).collect()
        }
    }
}
