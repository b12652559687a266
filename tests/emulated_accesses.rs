//! What each kernel touches is what its spec declares: one spec of every family with all that it can
//! be given, operands inside larger buffers. Each operand is then declared an element smaller in
//! every direction, and each mode weaker: the comparison must find it, so a spec that declares too
//! little cannot pass here or behind the other emulated tests.

mod emulation;
mod support;

use emulation::accesses::{Bytes, Declared, assert_declared};
use emulation::kernels::Stored;
use emulation::{Device, Emulator, Options, Outcome};
use seqpar::dtype::Dtype;
use seqpar::kernel::TensorView;
use seqpar::kernel::cuda::{self, Arch, Launch, LseMerge};
use seqpar::kernel::spec::{
    Attention, Epilogue, GateResidual, GateResidualNormModulate, Gemm, Kernel, KeySegment, Mode, Modulation, Norm,
    NormModulate, Operand, Pack, QkNormRope, RopePairs,
};
use support::Rng;
use support::tensors::{Values, random_operands};

const MODULATIONS: [Modulation; 3] = [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken];
const ARCHS: [Arch; 2] = [Arch::Sm80, Arch::Sm90];
const DTYPE: Dtype = Dtype::Bf16;

/// Grouped heads, two query segments, keys of text and image of which the text comes in two runs.
fn attention(head_dim: usize, limits: bool, [carry_in, carry_out]: [bool; 2]) -> Kernel {
    let segment = |len, base, stream| KeySegment { len, base, stream };
    Kernel::Attention(Attention {
        dtype: DTYPE,
        batch: 2,
        heads: 4,
        kv_heads: 2,
        head_dim,
        first_head: 0,
        first_kv_head: 0,
        group: 2,
        scale: 0.2,
        queries: vec![9, 70],
        keys: vec![segment(5, 0, 0), segment(3, 5, 0), segment(140, 0, 1)],
        key_mask: limits,
        key_len: limits,
        carry_in,
        carry_out,
    })
}

fn linears() -> Vec<Kernel> {
    let plain = Gemm::linear(DTYPE, 2, 70, 40, 48, true, Epilogue::None);
    let mut list = vec![
        Gemm { parts: vec![48, 8, 72], chunks: vec![9, 70], ..plain.clone() },
        Gemm { out_dtype: Dtype::F32, ..plain.clone() },
    ];
    let epilogues = [Epilogue::Gelu, Epilogue::Silu, Epilogue::Residual];
    let gated = MODULATIONS.map(Epilogue::GatedResidual);
    list.extend(epilogues.into_iter().chain(gated).map(|epilogue| Gemm { epilogue, ..plain.clone() }));
    list.into_iter().map(Kernel::Gemm).collect()
}

fn rows() -> Vec<Kernel> {
    let (dtype, batch, rows, eps) = (DTYPE, 2, 11, 1e-6);
    let mut list = Vec::new();
    for (hidden, norm) in [(376, Norm::Layer), (1152, Norm::Rms)] {
        for modulation in MODULATIONS {
            list.extend([
                Kernel::NormModulate(NormModulate { dtype, batch, rows, hidden, norm, eps, modulation }),
                Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation }),
                Kernel::GateResidualNormModulate(GateResidualNormModulate {
                    dtype,
                    batch,
                    rows,
                    hidden,
                    norm,
                    eps,
                    modulation,
                }),
            ]);
        }
    }
    list
}

fn small() -> Vec<Kernel> {
    let (dtype, batch, rows, heads, kv_heads, head_dim) = (DTYPE, 2, 11, 4, 2, 72);
    let of = |norm_eps, rope| {
        Kernel::QkNormRope(QkNormRope { dtype, batch, rows, heads, kv_heads, head_dim, norm_eps, rope })
    };
    let pack = |src_dtype, dst_dtype, dim| {
        Kernel::Pack(Pack { src_dtype, dst_dtype, copies: vec![[2, 7, 3, dim], [1, 5, 1, dim]] })
    };
    vec![
        of(Some(1e-6), Some(RopePairs::Interleaved)),
        of(None, Some(RopePairs::Halves)),
        of(Some(1e-6), None),
        pack(DTYPE, DTYPE, 24),
        pack(DTYPE, DTYPE, 5),
        pack(Dtype::U8, Dtype::U8, 3),
        pack(Dtype::I32, Dtype::I32, 3),
        pack(Dtype::F32, DTYPE, 24),
        pack(DTYPE, Dtype::F32, 9),
    ]
}

fn all() -> Vec<(Kernel, Arch)> {
    let mut list = Vec::new();
    let attentions = [
        attention(64, false, [false, false]),
        attention(72, true, [false, false]),
        attention(64, false, [false, true]),
        attention(64, true, [true, true]),
        attention(72, false, [true, false]),
        attention(128, true, [false, false]),
    ];
    for kernel in attentions.into_iter().chain(linears()) {
        list.extend(ARCHS.map(|arch| (kernel.clone(), arch)));
    }
    list.extend(rows().into_iter().chain(small()).map(|kernel| (kernel, Arch::Sm80)));
    list
}

/// Runs `kernel`; its views, and what its launches said.
fn launch(kernel: &Kernel, arch: Arch, device: &Device<'_>, rng: &mut Rng) -> (Vec<TensorView>, Vec<Outcome>) {
    let specs = kernel.operands();
    let mut inputs = random_operands(kernel, rng);
    for (spec, values) in specs.iter().zip(&mut inputs) {
        full(spec, values);
    }
    let store = |(spec, values): (&Operand, &Values)| {
        // What a launch wants in rows without a gap.
        let strided = !["mask", "key_len", "m", "l", "lse", "bias"].contains(&spec.name);
        Stored::new(device, values, spec, strided, spec.mode == Mode::Write)
    };
    let stored: Vec<Stored> = specs.iter().zip(&inputs).map(store).collect();
    let views: Vec<TensorView> = stored.iter().map(|stored| stored.view).collect();
    let mut outcomes = Vec::new();
    for piece in 0..kernel.pieces() {
        let own = |spec: &Operand| spec.piece.is_none_or(|of| of as usize == piece);
        let of_piece = |(spec, view): (&Operand, &TensorView)| if own(spec) { vec![*view] } else { Vec::new() };
        let views: Vec<Vec<TensorView>> = specs.iter().zip(&views).map(of_piece).collect();
        let launches = cuda::launches(kernel, piece, &views, &cuda::Device { arch, sms: 3 });
        let run = |launch: &Launch| device.run(launch, &Options::seeded(rng.next() % 100), None);
        outcomes.extend(launches.unwrap_or_else(|e| panic!("{e}")).iter().map(run));
    }
    for outcome in &outcomes {
        assert!(outcome.messages.is_empty(), "{}\n{}", kernel.name(), outcome.messages.join("\n"));
    }
    (views, outcomes)
}

/// Limits that leave no key out, so that every operand is read: half the frames take each vector.
fn full(spec: &Operand, values: &mut Values) {
    match spec.name {
        "mask" => values.data.fill(1.0),
        "key_len" => values.data.fill(1000.0),
        "frame" => values.data.iter_mut().enumerate().for_each(|(i, frame)| *frame = (i % 2) as f32),
        _ => {}
    }
}

/// An element less at either end of each dimension, or a mode that allows less.
fn weakened(mode: Mode, view: &TensorView) -> Vec<(Mode, TensorView)> {
    let mut list = Vec::new();
    for dim in 0..4 {
        let mut last = *view;
        last.shape[dim] -= 1;
        let bytes = (view.strides[dim] * view.dtype.bytes()) as u64;
        list.extend([(mode, last), (mode, TensorView { address: last.address + bytes, ..last })]);
    }
    match mode {
        Mode::Update => list.extend([(Mode::Read, *view), (Mode::Write, *view)]),
        Mode::Write => list.push((Mode::Read, *view)),
        Mode::Read => {}
    }
    list
}

#[test]
fn kernels_touch_their_operands_and_write_all_of_them() {
    let (mut rng, emulator) = (Rng(support::seed()), Emulator::shared());
    let (mut kernels, mut tried) = (0, 0);
    for (kernel, arch) in all() {
        let device = emulator.device();
        let (views, outcomes) = launch(&kernel, arch, &device, &mut rng);
        let specs = kernel.operands();
        let declared = |weak: Option<(usize, Mode, TensorView)>| {
            let mut declared = Declared::default();
            for (i, (spec, view)) in specs.iter().zip(&views).enumerate() {
                match weak {
                    Some((of, mode, smaller)) if of == i => declared.add(mode, &smaller),
                    _ => declared.add(spec.mode, view),
                }
            }
            declared
        };
        let what = || format!("{} {arch:?}", kernel.name());
        assert_declared(what, &declared(None), &outcomes);
        kernels += 1;
        let mut touched = emulation::accesses::Touched::default();
        for outcome in &outcomes {
            let Some(of) = &outcome.touched else { return eprintln!("skipped: nobody looks at what is touched") };
            touched.add_all(of);
        }
        for (i, (spec, view)) in specs.iter().zip(&views).enumerate() {
            for (mode, smaller) in weakened(spec.mode, view) {
                tried += 1;
                let found = !declared(Some((i, mode, smaller))).breaches(&touched).is_empty();
                assert!(found, "{}: {} {:?} as {mode:?} {:?}", what(), spec.name, view.shape, smaller.shape);
            }
        }
    }
    println!("{kernels} kernels touch what they declare; {tried} declarations of too little found");
    assert!(tried > 1000, "{tried}");
}

#[test]
fn a_sum_and_a_merge_touch_their_operands() {
    let (mut rng, emulator) = (Rng(support::seed()), Emulator::shared());
    let device = emulator.device();
    let seeded = |rng: &mut Rng| Options::seeded(rng.next() % 100);
    let on = cuda::Device { arch: Arch::Sm80, sms: 2 };
    for (dtype, elems) in [(DTYPE, 1000), (Dtype::F16, 7), (Dtype::F32, 1023)] {
        let bytes = elems * dtype.bytes();
        let parts = [(); 5].map(|()| device.upload(&vec![0; bytes], "part"));
        let out = device.alloc(bytes, "out");
        let outcome = device.run(&cuda::sum(dtype, &parts, out, elems, &on).unwrap(), &seeded(&mut rng), None);
        assert!(outcome.messages.is_empty(), "{}", outcome.messages.join("\n"));
        let mut declared = Declared::default();
        let mut run = |address, mode| {
            let mut of = Bytes::default();
            of.add(address, bytes as u64);
            declared.add_bytes(mode, &of);
        };
        parts.iter().for_each(|part| run(*part, Mode::Read));
        run(out, Mode::Write);
        assert_declared(|| format!("sum of {elems} {dtype}"), &declared, &[outcome]);
    }
    let (shape, lse) = ([2, 21, 3, 72], [2, 3, 1, 21]);
    let mut declared = Declared::default();
    let mut tensor = |dtype: Dtype, shape: [usize; 4], mode: Mode| {
        let spec = Operand { name: "x", mode, dtype, shape, piece: None, broadcast: false };
        let values = Values::filled(dtype, shape, 0.5);
        let view = Stored::new(&device, &values, &spec, true, mode == Mode::Write).view;
        declared.add(mode, &view);
        view
    };
    let operands = LseMerge {
        out_a: tensor(DTYPE, shape, Mode::Read),
        lse_a: tensor(Dtype::F32, lse, Mode::Read),
        out_b: tensor(DTYPE, shape, Mode::Read),
        lse_b: tensor(Dtype::F32, lse, Mode::Read),
        out: tensor(DTYPE, shape, Mode::Write),
        lse: tensor(Dtype::F32, lse, Mode::Write),
    };
    let outcome = device.run(&cuda::lse_merge(&operands, &on).unwrap(), &seeded(&mut rng), None);
    assert!(outcome.messages.is_empty(), "{}", outcome.messages.join("\n"));
    assert_declared(|| "lse_merge".into(), &declared, &[outcome]);
}
