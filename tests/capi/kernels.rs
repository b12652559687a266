//! Kernels through the ABI: the bits of the host's kernels, and values of the float64 oracle.

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use seqpar::capi::abi::{
    AdalnArgs, AttentionArgs, KernelsOptions, KeySegment, QkNormRopeArgs, QkvArgs, QkvChunk, QuerySegment, Tensor,
    WaitStatus,
};
use seqpar::capi::adaln::{seqpar_gate_residual, seqpar_gate_residual_norm_modulate, seqpar_norm_modulate};
use seqpar::capi::attention::seqpar_attention;
use seqpar::capi::kernels::{Kernels, seqpar_kernels_create, seqpar_kernels_destroy};
use seqpar::capi::projection::seqpar_qkv_projection;
use seqpar::capi::qk_norm_rope::seqpar_qk_norm_rope;
use seqpar::dtype::Dtype;
use seqpar::kernel::host::Isa;
use seqpar::kernel::spec::{
    Attention, Epilogue, GateResidual, GateResidualNormModulate, Gemm, Kernel, KeySegment as Segment, Modulation, Norm,
    NormModulate, QkNormRope, RopePairs,
};

use crate::memory::{ABSENT, Memory, code};
use crate::support::Rng;
use crate::support::tensors::{How, Values, assert_same, launch, random_operands, truth};
use crate::{ok, refused};

/// A struct of the header with its size and zeros.
pub(crate) fn sized<T: Copy>() -> T {
    // SAFETY: structs of the ABI are plain numbers and raw pointers, their size first.
    unsafe {
        let mut value: T = std::mem::zeroed();
        (&raw mut value).cast::<usize>().write(size_of::<T>());
        value
    }
}

/// Kernels of the host.
pub(crate) struct OnHost(pub(crate) *mut Kernels);

impl OnHost {
    pub(crate) fn new(threads: i32) -> Self {
        let options = KernelsOptions { threads, ..sized() };
        let mut kernels = null_mut();
        // SAFETY: both places are alive.
        ok(unsafe { seqpar_kernels_create(&options, &mut kernels) });
        Self(kernels)
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { seqpar_kernels_destroy(self.0) };
    }
}

/// Calls the function of `kernel` on its operands, in the order of the spec.
pub(crate) fn call(kernels: *const Kernels, kernel: &Kernel, operands: &[Tensor], stream: *mut c_void) -> i32 {
    let mut rest = operands.iter().copied();
    let mut next = || rest.next().unwrap();
    // SAFETY: the operands are those of the spec, alive, and everything else is on this stack.
    unsafe {
        match kernel {
            Kernel::Attention(spec) => {
                let (queries, keys, key_len) = segments(spec, &mut next);
                let args = attention_args(spec, &queries, &keys, key_len);
                seqpar_attention(kernels, &args, stream)
            }
            Kernel::NormModulate(spec) => {
                let mut args = adaln_args(spec.dtype, [spec.batch, spec.rows, spec.hidden], spec.modulation);
                (args.norm, args.eps) = (i32::from(spec.norm == Norm::Rms), spec.eps);
                (args.x, args.y) = (next(), next());
                (args.shift, args.scale) = (next(), next());
                if spec.modulation == Modulation::PerFrame {
                    (args.shift_0, args.scale_0, args.frame) = (next(), next(), next());
                }
                seqpar_norm_modulate(kernels, &args, stream)
            }
            Kernel::GateResidual(spec) => {
                let mut args = adaln_args(spec.dtype, [spec.batch, spec.rows, spec.hidden], spec.modulation);
                (args.x, args.branch, args.residual, args.gate) = (next(), next(), next(), next());
                if spec.modulation == Modulation::PerFrame {
                    (args.gate_0, args.frame) = (next(), next());
                }
                seqpar_gate_residual(kernels, &args, stream)
            }
            Kernel::GateResidualNormModulate(spec) => {
                let mut args = adaln_args(spec.dtype, [spec.batch, spec.rows, spec.hidden], spec.modulation);
                (args.norm, args.eps) = (i32::from(spec.norm == Norm::Rms), spec.eps);
                (args.x, args.branch, args.residual, args.y) = (next(), next(), next(), next());
                (args.gate, args.shift, args.scale) = (next(), next(), next());
                if spec.modulation == Modulation::PerFrame {
                    (args.gate_0, args.shift_0, args.scale_0, args.frame) = (next(), next(), next(), next());
                }
                seqpar_gate_residual_norm_modulate(kernels, &args, stream)
            }
            Kernel::QkNormRope(spec) => {
                let mut args: QkNormRopeArgs = sized();
                args.dtype = code(spec.dtype);
                [args.batch, args.rows] = [spec.batch, spec.rows].map(|n| n as i64);
                [args.heads, args.kv_heads, args.head_dim] =
                    [spec.heads, spec.kv_heads, spec.head_dim].map(|n| n as i64);
                (args.q, args.k) = (next(), next());
                if let Some(eps) = spec.norm_eps {
                    (args.norm_eps, args.q_norm, args.k_norm) = (eps, next(), next());
                }
                if let Some(pairs) = spec.rope {
                    (args.rope, args.cos, args.sin) = (rope_code(pairs), next(), next());
                }
                seqpar_qk_norm_rope(kernels, &args, stream)
            }
            other => panic!("no function for {}", other.name()),
        }
    }
}

fn rope_code(pairs: RopePairs) -> i32 {
    if pairs == RopePairs::Interleaved { 1 } else { 2 }
}

fn segments(spec: &Attention, next: &mut impl FnMut() -> Tensor) -> (Vec<QuerySegment>, Vec<KeySegment>, Tensor) {
    let queries = spec.queries.iter().map(|&rows| QuerySegment {
        rows: rows as i64,
        q: next(),
        out: next(),
        lse: next(),
        ..sized()
    });
    let queries = queries.collect();
    let keys = spec.keys.iter().map(|key| KeySegment {
        rows: key.len as i64,
        first: key.base as i64,
        stream: key.stream as i32,
        k: next(),
        v: next(),
        mask: if spec.key_mask { next() } else { ABSENT },
        ..sized()
    });
    let keys = keys.collect();
    (queries, keys, if spec.key_len { next() } else { ABSENT })
}

pub(crate) fn attention_args(
    spec: &Attention,
    queries: &[QuerySegment],
    keys: &[KeySegment],
    key_len: Tensor,
) -> AttentionArgs {
    AttentionArgs {
        dtype: code(spec.dtype),
        scale: spec.scale,
        batch: spec.batch as i64,
        heads: spec.heads as i64,
        kv_heads: spec.kv_heads as i64,
        head_dim: spec.head_dim as i64,
        queries: queries.as_ptr(),
        query_count: queries.len(),
        keys: keys.as_ptr(),
        key_count: keys.len(),
        key_len,
        ..sized()
    }
}

fn adaln_args(dtype: Dtype, [batch, rows, hidden]: [usize; 3], modulation: Modulation) -> AdalnArgs {
    let modulation = [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken]
        .iter()
        .position(|of| *of == modulation)
        .unwrap() as i32;
    let [batch, rows, hidden] = [batch, rows, hidden].map(|n| n as i64);
    AdalnArgs { dtype: code(dtype), modulation, batch, rows, hidden, ..sized() }
}

/// Every function but the projection, at one dtype.
pub(crate) fn every_kernel(dtype: Dtype, hidden: usize, head_dim: usize) -> Vec<Kernel> {
    let mut list = Vec::new();
    for (masked, lengths, kv_heads) in [(false, false, 4), (true, true, 2)] {
        list.push(Kernel::Attention(Attention {
            dtype,
            batch: 2,
            heads: 4,
            kv_heads,
            head_dim,
            first_head: 0,
            first_kv_head: 0,
            group: 4 / kv_heads,
            scale: 0.17,
            queries: vec![7, 19],
            keys: [(7, 0, 0), (15, 0, 1), (9, 15, 1)].map(|(len, base, stream)| Segment { len, base, stream }).to_vec(),
            key_mask: masked,
            key_len: lengths,
            carry_in: false,
            carry_out: false,
        }));
    }
    let (batch, rows, eps) = (2, 5, 1e-6);
    for (modulation, norm) in
        [(Modulation::PerSample, Norm::Layer), (Modulation::PerFrame, Norm::Rms), (Modulation::PerToken, Norm::Layer)]
    {
        list.push(Kernel::NormModulate(NormModulate { dtype, batch, rows, hidden, norm, eps, modulation }));
        list.push(Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation }));
        let spec = GateResidualNormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
        list.push(Kernel::GateResidualNormModulate(spec));
    }
    for (norm_eps, rope) in
        [(Some(1e-6), Some(RopePairs::Interleaved)), (None, Some(RopePairs::Halves)), (Some(1e-5), None)]
    {
        list.push(Kernel::QkNormRope(QkNormRope {
            dtype,
            batch,
            rows,
            heads: 4,
            kv_heads: 2,
            head_dim,
            norm_eps,
            rope,
        }));
    }
    list
}

#[test]
fn kernels_have_the_bits_of_the_host_and_the_values_of_the_oracle() {
    for (threads, dtype) in [(0, Dtype::F32), (3, Dtype::Bf16), (1, Dtype::F16)] {
        let kernels = OnHost::new(threads);
        for kernel in every_kernel(dtype, 48, 24) {
            let inputs = random_operands(&kernel, &mut Rng(11));
            let mut memory: Vec<Memory> = inputs.iter().map(Memory::of).collect();
            let tensors: Vec<Tensor> = memory.iter_mut().map(Memory::tensor).collect();
            ok(call(kernels.0, &kernel, &tensors, null_mut()));
            let (want, exact) = (launch(&kernel, &inputs, &How::plain(Isa::detect())), truth(&kernel, &inputs));
            for (i, operand) in kernel.operands().iter().enumerate() {
                let got = memory[i].values();
                assert_same(&format!("{} {}", kernel.name(), operand.name), &got, &want[i]);
                for (at, (got, want)) in got.data.iter().zip(&exact[i]).enumerate().filter(|_| operand.mode.writes()) {
                    let tolerance = if dtype == Dtype::F32 { 1e-4 } else { 0.03 } * want.abs().max(1.0);
                    let near = (f64::from(*got) - want).abs() <= tolerance || f64::from(*got) == *want;
                    assert!(near, "{} {}[{at}]: {got}, not {want}", kernel.name(), operand.name);
                }
            }
        }
    }
}

#[test]
fn strides_and_the_usual_scale_are_understood() {
    // q, k and v side by side in one packed tensor [B, rows, 3, H, D], as frameworks have them.
    let (batch, rows, heads, dim) = (2usize, 13usize, 3usize, 16usize);
    let mut rng = Rng(5);
    let data = (0..batch * rows * 3 * heads * dim).map(|_| rng.normal()).collect();
    let packed = Values { dtype: Dtype::F32, shape: [batch, rows, 3 * heads, dim], data };
    let mut memory = Memory::of(&packed);
    let strides = [rows * 3 * heads * dim, 3 * heads * dim, dim, 1].map(|n| n as i64);
    let part = |i: usize, memory: &mut Memory| Tensor {
        data: memory.data().cast::<f32>().wrapping_add(i * heads * dim).cast(),
        strides,
    };
    let [q, k, v] = [0, 1, 2].map(|i| part(i, &mut memory));
    // Heads first, as scaled_dot_product_attention returns them: [B, H, rows, D].
    let mut out = Memory::poisoned(Dtype::F32, [batch, heads, rows, dim]);
    let mut lse = Memory::poisoned(Dtype::F32, [batch, heads, 1, rows]);
    let out_strides = [heads * rows * dim, dim, rows * dim, 1].map(|n| n as i64);
    let query = QuerySegment {
        rows: rows as i64,
        q,
        out: Tensor { data: out.data(), strides: out_strides },
        lse: lse.tensor(),
        ..sized()
    };
    let key = KeySegment { rows: rows as i64, stream: 1, k, v, ..sized() };
    let spec = Attention {
        dtype: Dtype::F32,
        batch,
        heads,
        kv_heads: heads,
        head_dim: dim,
        first_head: 0,
        first_kv_head: 0,
        group: 1,
        scale: 0.0,
        queries: vec![rows],
        keys: vec![Segment { len: rows, base: 0, stream: 1 }],
        key_mask: false,
        key_len: false,
        carry_in: false,
        carry_out: false,
    };
    let (queries, keys) = ([query], [key]);
    let args = AttentionArgs { kv_heads: 0, ..attention_args(&spec, &queries, &keys, ABSENT) };
    let kernels = OnHost::new(1);
    // SAFETY: all of it is alive.
    ok(unsafe { seqpar_attention(kernels.0, &args, null_mut()) });
    let spec = Attention { scale: 0.25, ..spec };
    let inputs = [0, 1, 2].map(|i| packed.slice(2, i * heads, heads));
    let nothing = |shape| Values::filled(Dtype::F32, shape, f32::NAN);
    let [q, k, v] = inputs;
    let operands = [q, nothing([batch, rows, heads, dim]), nothing([batch, heads, 1, rows]), k, v];
    let want = launch(&Kernel::Attention(spec), &operands, &How::plain(Isa::detect()));
    let got = out.values();
    let flipped = want[1].map(|[b, n, h, d], _| got.data[((b * heads + h) * rows + n) * dim + d]);
    assert_same("out", &flipped, &want[1]);
    assert_same("lse", &lse.values(), &want[2]);
    assert_same("packed", &memory.values(), &packed);
}

/// Projection of ragged chunks, with everything that belongs to it.
pub(crate) struct Projected {
    pub(crate) gemm: Gemm,
    pub(crate) transform: Vec<QkNormRope>,
    /// Weight and bias of each part; x of each chunk.
    pub(crate) linear: Vec<Values>,
    /// q_norm, k_norm; cos and sin of each chunk.
    pub(crate) tables: Vec<Values>,
}

impl Projected {
    pub(crate) fn new(dtype: Dtype, hidden: usize, head_dim: usize, norm: bool, rope: Option<RopePairs>) -> Self {
        let (batch, heads, kv_heads) = (2, 4, 2);
        let chunks = vec![9, 4, 11];
        let parts = [heads, kv_heads, kv_heads].map(|n| n * head_dim).to_vec();
        let gemm = Gemm {
            dtype,
            out_dtype: dtype,
            batch,
            chunks: chunks.clone(),
            k: hidden,
            parts,
            bias: true,
            epilogue: Epilogue::None,
        };
        let mut rng = Rng(3);
        let linear = random_operands(&Kernel::Gemm(gemm.clone()), &mut rng);
        let norm_eps = norm.then_some(1e-6);
        let spec = |&rows: &usize| QkNormRope { dtype, batch, rows, heads, kv_heads, head_dim, norm_eps, rope };
        let transform: Vec<QkNormRope> = chunks.iter().map(spec).collect();
        let mut tables = Vec::new();
        for (i, spec) in transform.iter().enumerate() {
            let operands = random_operands(&Kernel::QkNormRope(spec.clone()), &mut rng);
            let skip = if norm && i > 0 { 4 } else { 2 };
            tables.extend(operands.into_iter().skip(skip));
        }
        Self { gemm, transform, linear, tables }
    }

    /// q, k and v of each chunk, by the linear layer and the transform one after the other.
    pub(crate) fn want(&self) -> Vec<Values> {
        let linear = launch(&Kernel::Gemm(self.gemm.clone()), &self.linear, &How::plain(Isa::detect()));
        let mut want = Vec::new();
        for (i, spec) in self.transform.iter().enumerate() {
            let own = &linear[6 + 4 * i + 1..6 + 4 * i + 4];
            let heads = |v: &Values, heads: usize| Values {
                shape: [v.shape[0], v.shape[1], heads, spec.head_dim],
                ..v.clone()
            };
            let [q, k, v] = [heads(&own[0], spec.heads), heads(&own[1], spec.kv_heads), heads(&own[2], spec.kv_heads)];
            if spec.norm_eps.is_none() && spec.rope.is_none() {
                want.extend([q, k, v]);
                continue;
            }
            let norms = if spec.norm_eps.is_some() { 2 } else { 0 };
            let mut operands = vec![q, k];
            operands.extend(self.tables[..norms].iter().cloned());
            if spec.rope.is_some() {
                operands.extend(self.tables[norms + 2 * i..norms + 2 * i + 2].iter().cloned());
            }
            let turned = launch(&Kernel::QkNormRope(spec.clone()), &operands, &How::plain(Isa::detect()));
            want.extend([turned[0].clone(), turned[1].clone(), v]);
        }
        want
    }

    /// The arguments of a call; `linear`, `tables` and `outs` (q, k, v of each chunk) are the operands.
    pub(crate) fn args(
        &self,
        linear: &[Tensor],
        tables: &[Tensor],
        outs: &[Tensor],
        flags: &[*const u32],
    ) -> (QkvArgs, Vec<QkvChunk>) {
        let spec = &self.transform[0];
        let norms = if spec.norm_eps.is_some() { 2 } else { 0 };
        let table = |i: usize| if spec.rope.is_some() { tables[norms + i] } else { ABSENT };
        let chunks = self.gemm.chunks.iter().enumerate().map(|(i, &rows)| QkvChunk {
            rows: rows as i64,
            x: linear[6 + 4 * i],
            q: outs[3 * i],
            k: outs[3 * i + 1],
            v: outs[3 * i + 2],
            cos: table(2 * i),
            sin: table(2 * i + 1),
            flag: flags.get(i).copied().unwrap_or(null()),
            epoch: 7,
            ..sized()
        });
        let norm = |i: usize| if norms > 0 { tables[i] } else { ABSENT };
        let args = QkvArgs {
            dtype: code(self.gemm.dtype),
            rope: spec.rope.map_or(0, rope_code),
            norm_eps: spec.norm_eps.unwrap_or(0.0),
            batch: spec.batch as i64,
            hidden: self.gemm.k as i64,
            heads: spec.heads as i64,
            kv_heads: spec.kv_heads as i64,
            head_dim: spec.head_dim as i64,
            q_weight: linear[0],
            q_bias: linear[1],
            k_weight: linear[2],
            k_bias: linear[3],
            v_weight: linear[4],
            v_bias: linear[5],
            q_norm: norm(0),
            k_norm: norm(1),
            first_chunk: 1,
            ..sized()
        };
        (args, chunks.collect())
    }

    /// Memory for the outputs.
    pub(crate) fn out_shapes(&self) -> Vec<[usize; 4]> {
        let spec = |spec: &QkNormRope| {
            [spec.heads, spec.kv_heads, spec.kv_heads].map(|heads| [spec.batch, spec.rows, heads, spec.head_dim])
        };
        self.transform.iter().flat_map(spec).collect()
    }
}

#[test]
fn a_projection_is_its_parts_one_after_the_other_and_waits_for_its_chunks() {
    let cases = [(true, Some(RopePairs::Interleaved)), (false, Some(RopePairs::Halves)), (true, None), (false, None)];
    for (norm, rope) in cases {
        let problem = Projected::new(Dtype::F32, 40, 12, norm, rope);
        let mut linear: Vec<Memory> = problem.linear.iter().map(Memory::of).collect();
        let mut tables: Vec<Memory> = problem.tables.iter().map(Memory::of).collect();
        let mut outs: Vec<Memory> = problem.out_shapes().into_iter().map(|s| Memory::poisoned(Dtype::F32, s)).collect();
        let tensors = |list: &mut Vec<Memory>| list.iter_mut().map(Memory::tensor).collect::<Vec<_>>();
        let (linear, tables, out_tensors) = (tensors(&mut linear), tensors(&mut tables), tensors(&mut outs));
        let flags = [AtomicU32::new(7), AtomicU32::new(0), AtomicU32::new(6)];
        let (mut args, chunks) =
            problem.args(&linear, &tables, &out_tensors, &[null(), flags[1].as_ptr(), flags[2].as_ptr()]);
        (args.chunks, args.chunk_count, args.timeout_ns) = (chunks.as_ptr(), chunks.len(), 20_000_000_000);
        let kernels = OnHost::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (flag, value) in [(&flags[2], 7), (&flags[1], 8)] {
                    std::thread::sleep(Duration::from_millis(20));
                    flag.store(value, Ordering::Release);
                }
            });
            // SAFETY: all of it is alive.
            ok(unsafe { seqpar_qkv_projection(kernels.0, &args, null_mut()) });
        });
        for (got, want) in outs.iter().zip(problem.want()) {
            assert_same("projected", &got.values(), &want);
        }
    }
}

#[test]
fn a_chunk_that_does_not_arrive_is_a_timeout_that_says_which() {
    let problem = Projected::new(Dtype::F32, 40, 12, true, None);
    let mut linear: Vec<Memory> = problem.linear.iter().map(Memory::of).collect();
    let mut tables: Vec<Memory> = problem.tables.iter().map(Memory::of).collect();
    let mut outs: Vec<Memory> = problem.out_shapes().into_iter().map(|s| Memory::poisoned(Dtype::F32, s)).collect();
    let tensors = |list: &mut Vec<Memory>| list.iter_mut().map(Memory::tensor).collect::<Vec<_>>();
    let (linear, tables, outs) = (tensors(&mut linear), tensors(&mut tables), tensors(&mut outs));
    let flag = AtomicU32::new(6);
    let (mut args, chunks) = problem.args(&linear, &tables, &outs, &[null(), null(), flag.as_ptr()]);
    let mut status = WaitStatus::default();
    (args.chunks, args.chunk_count, args.status) = (chunks.as_ptr(), chunks.len(), &mut status);
    let kernels = OnHost::new(1);
    // SAFETY: all of it is alive.
    let project =
        |timeout_ns: u64| unsafe { seqpar_qkv_projection(kernels.0, &QkvArgs { timeout_ns, ..args }, null_mut()) };
    refused(project(0), "SEQPAR_INVALID_ARGUMENT", "timeout_ns");
    refused(project(3_000_000), "SEQPAR_TIMEOUT", "chunk 2 (flag at 6, 7 wanted)");
    let WaitStatus { code, wait, expected, seen } = status;
    assert_eq!([code, wait, expected, seen], [1, 2, 7, 6]);
}
