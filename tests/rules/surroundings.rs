//! Rule 7: threads, streams, link model, transport and tracing change no bit.

use seqpar::dtype::Dtype;
use seqpar::exec::host::{Clock, HostOptions, Link};
use seqpar::exec::trace;
use seqpar::kernel::spec::{
    Attention, Epilogue, GateResidual, GateResidualNormModulate, Gemm, Kernel, Modulation, Norm, NormModulate, Pack,
    QkNormRope, RopePairs,
};
use seqpar::machine::Machine;
use seqpar::strategy::{self, Options, Strategy};

use crate::support::cases::{Case, layer_inputs};
use crate::support::tensors::{How, assert_all_same, isas, launch, random_operands};
use crate::support::{assert_same_bits, options, run};
use crate::{DTYPES, attention, fresh};

#[test]
fn rule7_threads_change_no_bit_of_a_kernel() {
    let mut rng = fresh("rule 7, kernels");
    // Work is divided before an instruction set is chosen: one a dtype is enough.
    for (dtype, isa) in DTYPES.into_iter().zip(isas().into_iter().cycle()) {
        for kernel in large_kernels(dtype) {
            let inputs = random_operands(&kernel, &mut rng);
            let want = launch(&kernel, &inputs, &How::plain(isa));
            for threads in [2, 3] {
                let got = launch(&kernel, &inputs, &How::plain(isa).threads(threads));
                assert_all_same(&format!("{threads} threads on {}", isa.name()), &kernel, &got, &want);
            }
        }
    }
}

#[test]
fn rule7_threads_link_clock_streams_and_tracing_change_no_bit_of_a_world() {
    let mut rng = fresh("rule 7, worlds");
    let ranks = 3;
    for dtype in DTYPES {
        let case = Case { text: 7, mask: true, ..Case::plain(dtype, 61, 6, 20) };
        let mut layer = case.layer(&mut rng, case.even(ranks));
        let inputs = layer_inputs(&case, &layer, &mut rng);
        layer.attention.shard = case.cut(&mut rng, ranks, false);
        for strategy in [Strategy::Fastseq, Strategy::Ulysses, Strategy::KvGather, Strategy::Ring, Strategy::Megatron] {
            let mesh = strategy.mesh(ranks, None, None, 6, 6).unwrap();
            let plans = |head_groups| {
                let chosen = Options { head_groups, ..Options::default() };
                strategy::layer(&layer, strategy, &mesh, &chosen).unwrap()
            };
            let (want, _) = run(plans(1), &inputs, options(1));
            let link = Some(Link { bytes_per_s: 1e9, latency_s: 2e-4 });
            let variants = [
                ("3 threads a rank", options(9)),
                ("more threads than rows", options(300)),
                ("a slow link", HostOptions { link, ..options(1) }),
                ("a paced clock", HostOptions { clock: Clock::Paced(Machine::cpu()), ..options(1) }),
                ("neither lease checks nor poison", HostOptions { check_leases: false, poison: false, ..options(1) }),
            ];
            for (what, how) in variants {
                let (got, report) = run(plans(1), &inputs, how);
                assert!(trace::to_json(&report).contains("\"ph\":\"X\""), "{what}");
                assert_same_bits(&format!("{} with {what}", strategy.name()), &got, &want);
            }
            // More ops in flight at a time: the head groups of a pipeline.
            let (got, _) = run(plans(3), &inputs, options(1));
            assert_same_bits(&format!("{} in head groups", strategy.name()), &got, &want);
        }
    }
}

/// Large enough that every kernel does use its threads.
fn large_kernels(dtype: Dtype) -> Vec<Kernel> {
    let (batch, hidden, norm, eps) = (2, 1000, Norm::Layer, 1e-6);
    let modulation = Modulation::PerFrame;
    let (norm_eps, rope) = (Some(1e-6), Some(RopePairs::Halves));
    let fused = GateResidualNormModulate { dtype, batch, rows: 250, hidden, norm, eps, modulation };
    let heads = QkNormRope { dtype, batch, rows: 300, heads: 8, kv_heads: 2, head_dim: 128, norm_eps, rope };
    vec![
        Kernel::Gemm(Gemm { parts: vec![70, 300], ..Gemm::linear(dtype, 2, 280, 100, 1, true, Epilogue::Gelu) }),
        Kernel::Attention(Attention { head_dim: 64, ..attention(dtype, 2, 2, 150, 70, 200) }),
        Kernel::NormModulate(NormModulate { dtype, batch, rows: 300, hidden, norm, eps, modulation }),
        Kernel::GateResidual(GateResidual { dtype, batch, rows: 1100, hidden, modulation }),
        Kernel::GateResidualNormModulate(fused),
        Kernel::QkNormRope(heads),
        Kernel::Pack(Pack { src_dtype: Dtype::F32, dst_dtype: dtype, copies: vec![[2, 1100, 4, 250], [1, 3, 1, 5]] }),
    ]
}
