//! The unbroken kernels in many schedules: not one report.

use std::time::Instant;

use seqpar::dtype::Dtype;
use seqpar::kernel::cuda::{self, Arch, LseMerge};
use seqpar::kernel::spec::*;

use crate::emulation::kernels::Stored;
use crate::emulation::{Emulator, How, Options, emulate};
use crate::support::Rng;
use crate::support::tensors::{Values, random_operands};

const HALVES: [Dtype; 2] = [Dtype::Bf16, Dtype::F16];

fn rows(rng: &mut Rng, _: Arch) -> Kernel {
    let (dtype, batch, rows, hidden) = (HALVES[rng.below(2)], 2, rng.within(1, 5), [384, 1152, 4096][rng.below(3)]);
    let modulation = [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken][rng.below(3)];
    let (norm, eps) = ([Norm::Layer, Norm::Rms][rng.below(2)], 1e-6);
    Kernel::GateResidualNormModulate(GateResidualNormModulate { dtype, batch, rows, hidden, norm, eps, modulation })
}

fn heads(rng: &mut Rng, _: Arch) -> Kernel {
    Kernel::QkNormRope(QkNormRope {
        dtype: HALVES[rng.below(2)],
        batch: 2,
        rows: rng.within(1, 9),
        heads: 3,
        kv_heads: 2,
        head_dim: [64, 72, 128][rng.below(3)],
        norm_eps: rng.chance(70).then_some(1e-6),
        rope: [None, Some(RopePairs::Interleaved), Some(RopePairs::Halves)][rng.below(3)],
    })
}

fn copies(rng: &mut Rng, _: Arch) -> Kernel {
    let copies = (0..3).map(|_| [2, rng.within(1, 5), 2, [3, 8, 64][rng.below(3)]]).collect();
    Kernel::Pack(Pack { src_dtype: Dtype::F32, dst_dtype: HALVES[rng.below(2)], copies })
}

fn attention(rng: &mut Rng, _: Arch) -> Kernel {
    let group = rng.within(1, 2);
    let segment = |rng: &mut Rng, stream| KeySegment { len: rng.within(0, 150), base: 0, stream };
    Kernel::Attention(Attention {
        dtype: HALVES[rng.below(2)],
        batch: 1,
        heads: group,
        kv_heads: 1,
        head_dim: [64, 72, 80, 128][rng.below(4)],
        first_head: 0,
        first_kv_head: 0,
        group,
        scale: 0.1,
        queries: vec![rng.within(1, 40)],
        keys: vec![segment(rng, 0), segment(rng, 1)],
        key_mask: rng.chance(50),
        key_len: rng.chance(30),
        carry_in: rng.chance(20),
        carry_out: rng.chance(20),
    })
}

fn linear(rng: &mut Rng, _: Arch) -> Kernel {
    let dtype = HALVES[rng.below(2)];
    let epilogues = [Epilogue::None, Epilogue::Gelu, Epilogue::GatedResidual(Modulation::PerToken)];
    Kernel::Gemm(Gemm {
        dtype,
        out_dtype: if rng.chance(30) { Dtype::F32 } else { dtype },
        batch: rng.within(1, 2),
        chunks: vec![rng.within(1, 70), rng.within(1, 20)],
        k: 8 * rng.within(1, 20),
        parts: vec![rng.within(1, 150)],
        bias: rng.chance(70),
        epilogue: epilogues[rng.below(3)],
    })
}

fn merge(rng: &mut Rng, seed: u64) {
    let device = Emulator::shared().device();
    // One name, one stride: the kernel has one for all sums.
    let mut stored = |dtype, shape: [usize; 4], mode| {
        let data = (0..shape.iter().product()).map(|_| rng.normal()).collect();
        let values = Values { dtype, shape, data };
        let operand = Operand { name: "x", mode, dtype, shape, piece: None, broadcast: false };
        Stored::new(&device, &values, &operand, true, mode == Mode::Write).view
    };
    let (out, lse) = ([2, 7, 3, 72], [2, 3, 1, 7]);
    let operands = LseMerge {
        out_a: stored(Dtype::Bf16, out, Mode::Read),
        lse_a: stored(Dtype::F32, lse, Mode::Read),
        out_b: stored(Dtype::Bf16, out, Mode::Read),
        lse_b: stored(Dtype::F32, lse, Mode::Read),
        out: stored(Dtype::Bf16, out, Mode::Write),
        lse: stored(Dtype::F32, lse, Mode::Write),
    };
    let launch = cuda::lse_merge(&operands, &cuda::Device { arch: Arch::Sm80, sms: 2 }).unwrap();
    let outcome = device.run(&launch, &Options::seeded(seed), None);
    assert!(outcome.messages.is_empty(), "{}", outcome.messages.join("\n"));
}

type Family = (&'static str, Arch, fn(&mut Rng, Arch) -> Kernel);
const FAMILIES: [Family; 7] = [
    ("rows", Arch::Sm80, rows),
    ("heads", Arch::Sm80, heads),
    ("copies", Arch::Sm80, copies),
    ("attention sm_80", Arch::Sm80, attention),
    ("attention sm_90a", Arch::Sm90, attention),
    ("linear sm_80", Arch::Sm80, linear),
    ("linear sm_90a", Arch::Sm90, linear),
];

/// Panics at a report; a line with the count and the seconds of each family.
pub fn no_report_in(seeds: u64) -> String {
    let mut line = format!("# {seeds} seeds of the unbroken kernels without a report, seconds:");
    for (name, arch, kernel) in FAMILIES {
        let start = Instant::now();
        for seed in 0..seeds {
            let mut rng = Rng(seed);
            let kernel = kernel(&mut rng, arch);
            let inputs = random_operands(&kernel, &mut rng);
            emulate(&kernel, &inputs, &How { strided: rng.chance(50), ..How::seeded(arch, seed) });
        }
        line += &format!(" {name} {:.0},", start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    (0..seeds).for_each(|seed| merge(&mut Rng(seed), seed));
    format!("{line} merge {:.0}", start.elapsed().as_secs_f64())
}
