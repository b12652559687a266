//! The CUDA source of QK norm with rotary embedding, of strided copies and of the merge of two
//! attention results, executed by the emulation.

use crate::emulation::accesses::{Declared, assert_declared};
use crate::emulation::kernels::Stored;
use crate::emulation::{Emulator, How, Options, emulate};
use crate::support::Rng;
use crate::support::tensors::{Values, assert_all_same, assert_close, assert_same, random_operands, truth};
use crate::{HALVES, fresh};
use seqpar::dtype::Dtype;
use seqpar::kernel::cuda::{self, Arch, LseMerge};
use seqpar::kernel::spec::{Attention, Kernel, KeySegment, Mode, Operand, Pack, QkNormRope, RopePairs};

fn random_heads(rng: &mut Rng, head_dim: usize) -> QkNormRope {
    QkNormRope {
        dtype: HALVES[rng.below(2)],
        batch: rng.within(1, 2),
        rows: rng.within(1, 20),
        heads: rng.within(0, 5),
        kv_heads: rng.within(1, 3),
        head_dim,
        // Large ones too: an eps in the wrong place shows.
        norm_eps: rng.chance(70).then(|| [1e-6, 0.25][rng.below(2)]),
        rope: [None, Some(RopePairs::Interleaved), Some(RopePairs::Halves)][rng.below(3)],
    }
}

#[test]
fn heads_equal_float64_in_every_schedule() {
    let mut rng = fresh("qk_norm_rope");
    for head_dim in [8, 24, 64, 72, 80, 96, 128, 248, 256] {
        for _ in 0..3 {
            let spec = random_heads(&mut rng, head_dim);
            let kernel = Kernel::QkNormRope(spec.clone());
            let inputs = random_operands(&kernel, &mut rng);
            let want = truth(&kernel, &inputs);
            let first = emulate(&kernel, &inputs, &How::random(Arch::Sm80, &mut rng));
            // The norm is rounded before the rotation: half a unit of values up to 4.
            let unit = if spec.dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
            for i in 0..2 {
                assert_close(&format!("{spec:?}"), &first[i], &want[i], |j| unit * want[i][j].abs().max(4.0) * 2.0);
            }
            for seed in 0..7 {
                let again = emulate(&kernel, &inputs, &How::seeded(Arch::Sm90, seed));
                assert_all_same("schedules", &kernel, &again, &first);
            }
        }
    }
}

/// More heads than a grid has room for at once: blocks take more than one turn.
#[test]
fn blocks_go_round() {
    let mut rng = fresh("qk_norm_rope turns");
    let spec = QkNormRope { batch: 2, rows: 90, heads: 5, kv_heads: 3, ..random_heads(&mut rng, 64) };
    let kernel = Kernel::QkNormRope(spec.clone());
    let inputs = random_operands(&kernel, &mut rng);
    let on = |sms: u32| {
        let how = How::seeded(Arch::Sm80, u64::from(sms));
        emulate(&kernel, &inputs, &How { device: cuda::Device { arch: Arch::Sm80, sms }, ..how })
    };
    assert_all_same("one multiprocessor and many", &kernel, &on(1), &on(100));
}

/// A head's bits depend on nothing beside it.
#[test]
fn a_row_and_a_head_are_alone() {
    let mut rng = fresh("qk_norm_rope alone");
    let rope = Some(RopePairs::Halves);
    let spec = QkNormRope {
        dtype: Dtype::Bf16,
        batch: 1,
        rows: 9,
        heads: 3,
        kv_heads: 3,
        head_dim: 72,
        norm_eps: Some(1e-6),
        rope,
    };
    let kernel = Kernel::QkNormRope(spec.clone());
    let inputs = random_operands(&kernel, &mut rng);
    let all = emulate(&kernel, &inputs, &How::seeded(Arch::Sm80, 1));
    let one = Kernel::QkNormRope(QkNormRope { rows: 1, heads: 1, kv_heads: 1, ..spec });
    let mut alone = inputs.clone();
    for i in 0..2 {
        alone[i] = inputs[i].slice(1, 5, 1).slice(2, 2, 1);
    }
    for i in 4..6 {
        alone[i] = inputs[i].slice(1, 5, 1);
    }
    let got = emulate(&one, &alone, &How::seeded(Arch::Sm80, 2));
    for i in 0..2 {
        assert_same("alone", &got[i], &all[i].slice(1, 5, 1).slice(2, 2, 1));
    }
}

#[test]
fn a_dependent_launch_waits_for_the_one_before() {
    let mut rng = fresh("small kernels, dependent");
    let copies = Pack { src_dtype: Dtype::F32, dst_dtype: Dtype::Bf16, copies: vec![[2, 5, 2, 8]; 2] };
    for kernel in [Kernel::QkNormRope(random_heads(&mut rng, 72)), Kernel::Pack(copies)] {
        let inputs = random_operands(&kernel, &mut rng);
        emulate(&kernel, &inputs, &How { twice: true, ..How::random(Arch::Sm90, &mut rng) });
    }
}

#[test]
fn copies_and_casts_equal_the_oracle() {
    let mut rng = fresh("pack");
    let floats = [Dtype::F32, Dtype::Bf16, Dtype::F16];
    for src_dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::U8, Dtype::I32] {
        for dst_dtype in floats.into_iter().chain([src_dtype]) {
            if src_dtype != dst_dtype && !floats.contains(&src_dtype) {
                continue;
            }
            let shape = |rng: &mut Rng| {
                let dim = [1, 2, 3, 8, 64, 72][rng.below(6)];
                [rng.within(1, 3), rng.within(0, 9), rng.within(1, 4), dim]
            };
            let copies = (0..rng.within(1, 19)).map(|_| shape(&mut rng)).collect();
            let kernel = Kernel::Pack(Pack { src_dtype, dst_dtype, copies });
            let inputs: Vec<Values> = random_operands(&kernel, &mut rng)
                .into_iter()
                .map(|v| if src_dtype.is_float() { v } else { v.map(|_, x| (x * 10.0).abs().floor()) })
                .collect();
            let want = truth(&kernel, &inputs);
            let got = emulate(&kernel, &inputs, &How::random(Arch::Sm80, &mut rng));
            for i in (1..got.len()).step_by(2) {
                assert_close(&kernel.name(), &got[i], &want[i], |_| 0.0);
            }
        }
    }
}

/// Two halves of the keys, merged, against all keys at once; sides without keys.
#[test]
fn merged_results_equal_one_result() {
    let mut rng = fresh("lse_merge");
    for (dtype, dim) in [(Dtype::Bf16, 72), (Dtype::F16, 64), (Dtype::Bf16, 128)] {
        let segment = |len| KeySegment { len, base: 0, stream: 1 };
        let spec = Attention {
            dtype,
            batch: 2,
            heads: 3,
            kv_heads: 3,
            head_dim: dim,
            first_head: 0,
            first_kv_head: 0,
            group: 1,
            scale: 0.1,
            queries: vec![21],
            keys: vec![segment(40), segment(33)],
            key_mask: false,
            key_len: false,
            carry_in: false,
            carry_out: false,
        };
        let whole = Kernel::Attention(spec.clone());
        let inputs = random_operands(&whole, &mut rng);
        let want = truth(&whole, &inputs);
        let half = |i: usize, len: usize| {
            let kernel = Kernel::Attention(Attention { keys: vec![segment(len)], ..spec.clone() });
            let mut own = inputs[..3].to_vec();
            own.extend(inputs[3 + 2 * i..5 + 2 * i].iter().map(|v| v.slice(1, 0, len)));
            emulate(&kernel, &own, &How::seeded(Arch::Sm80, 5))
        };
        let (a, b) = (half(0, 40), half(1, 33));
        let (out, lse) = merge(&a, &b, &mut rng);
        let unit = if dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
        assert_close("out", &out, &want[1], |_| 6.0 * unit);
        assert_close("lse", &lse, &want[2], |_| 3e-5);
        // No key on one side: the other side, bit for bit.
        let mut nothing = b.clone();
        nothing[1] = nothing[1].map(|_, _| f32::NAN);
        nothing[2] = nothing[2].map(|_, _| f32::NEG_INFINITY);
        let (out, lse) = merge(&a, &nothing, &mut rng);
        assert_same("out of one side", &out, &a[1]);
        assert_same("lse of one side", &lse, &a[2]);
        let (out, lse) = merge(&nothing, &nothing, &mut rng);
        assert_same("nothing", &out, &out.map(|_, _| 0.0));
        assert_same("nothing", &lse, &nothing[2]);
    }
}

fn merge(a: &[Values], b: &[Values], rng: &mut Rng) -> (Values, Values) {
    let emulator = Emulator::shared();
    let device = emulator.device();
    let operand = |values: &Values, mode| Operand {
        name: "x",
        mode,
        dtype: values.dtype,
        shape: values.shape,
        piece: None,
        broadcast: false,
    };
    let store =
        |values: &Values, mode: Mode| Stored::new(&device, values, &operand(values, mode), true, mode == Mode::Write);
    let [out_a, out_b, out] = [store(&a[1], Mode::Read), store(&b[1], Mode::Read), store(&a[1], Mode::Write)];
    let [lse_a, lse_b, lse] = [store(&a[2], Mode::Read), store(&b[2], Mode::Read), store(&a[2], Mode::Write)];
    let operands = LseMerge {
        out_a: out_a.view,
        lse_a: lse_a.view,
        out_b: out_b.view,
        lse_b: lse_b.view,
        out: out.view,
        lse: lse.view,
    };
    // Blocks go round twice.
    let sms = cuda::Device { arch: Arch::Sm80, sms: 1 };
    let launch = cuda::lse_merge(&operands, &sms).unwrap();
    let outcome = device.run(&launch, &Options::seeded(rng.next() % 100), None);
    assert!(outcome.messages.is_empty(), "{}", outcome.messages.join("\n"));
    let mut declared = Declared::default();
    [&out_a, &out_b, &lse_a, &lse_b].iter().for_each(|read| declared.add(Mode::Read, &read.view));
    [&out, &lse].iter().for_each(|written| declared.add(Mode::Write, &written.view));
    assert_declared(|| "lse_merge".into(), &declared, &[outcome]);
    let results = (out.values(&device), lse.values(&device));
    // The same in the first side's memory.
    let in_place = LseMerge { out: out_a.view, lse: lse_a.view, ..operands };
    let launch = cuda::lse_merge(&in_place, &sms).unwrap();
    let outcome = device.run(&launch, &Options::seeded(rng.next() % 100), None);
    assert!(outcome.messages.is_empty(), "{}", outcome.messages.join("\n"));
    assert_same("out in place", &out_a.values(&device), &results.0);
    assert_same("lse in place", &lse_a.values(&device), &results.1);
    results
}

#[test]
fn what_the_kernels_do_not_hold_is_refused() {
    let mut rng = fresh("refusals");
    let device = cuda::Device { arch: Arch::Sm80, sms: 4 };
    let view = |dtype: Dtype, shape: [usize; 4]| seqpar::kernel::TensorView {
        address: 4096,
        dtype,
        shape,
        strides: [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1],
    };
    let refused = |kernel: &Kernel, change: &dyn Fn(&mut seqpar::kernel::TensorView)| {
        let mut views: Vec<Vec<_>> = kernel.operands().iter().map(|o| vec![view(o.dtype, o.shape)]).collect();
        views.iter_mut().for_each(|v| change(&mut v[0]));
        cuda::launches(kernel, 0, &views, &device).unwrap_err().to_string()
    };
    let heads = |spec: QkNormRope| Kernel::QkNormRope(QkNormRope { rows: 4, heads: 2, ..spec });
    let good = random_heads(&mut rng, 64);
    assert!(refused(&heads(QkNormRope { dtype: Dtype::F32, ..good.clone() }), &|_| {}).contains("use bf16 or f16"));
    assert!(
        refused(&heads(QkNormRope { head_dim: 20, rope: None, ..good.clone() }), &|_| {}).contains("multiple of 8")
    );
    assert!(refused(&heads(good), &|v| v.address += 2 * u64::from(v.dtype != Dtype::F32)).contains("16 bytes"));
}
