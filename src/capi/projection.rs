//! Projection to q, k and v, chunk by chunk.
//!
//! On a device with the transform in the epilogue where a variant holds the head dim, else as the
//! linear layer followed by [`QkNormRope`]: the same bits.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::abi::{QkvArgs, QkvChunk, WaitStatus};
use super::compute::{no_stream, on_host};
use super::device::Device;
use super::handle::held;
use super::kernels::Kernels;
use super::overlap;
use super::qk_norm_rope::{norm_eps, tables};
use super::read::{check_pointer, growing, growing_array, store};
use super::status::{Fault, Outcome, Status, guard};
use super::tensor::{count, float, kv_heads, reserved, rope, size};
use crate::error::Error;
use crate::kernel::TensorView;
use crate::kernel::spec::{Epilogue, Gemm, Kernel, QkNormRope};

/// More than this were never meant.
const MOST_CHUNKS: usize = 1 << 12;

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_qkv_projection(
    kernels: *const Kernels,
    args: *const QkvArgs,
    stream: *mut c_void,
) -> Status {
    guard(|| {
        let (kernels, args) = (held(kernels)?, growing(args)?);
        let projection = Projection::new(&args)?;
        match &kernels.device {
            Device::Host { threads } => {
                no_stream(stream)?;
                projection.run_on_host(*threads)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                cuda.enter()?;
                let launches = projection.launches(&cuda.device())?;
                super::compute::enqueue(cuda, &launches, stream)
            }
        }
    })
}

/// The linear layer and what follows it, chunk by chunk.
struct Projection<'a> {
    args: &'a QkvArgs,
    chunks: Vec<QkvChunk>,
    gemm: Gemm,
    operands: Vec<Vec<TensorView>>,
    /// Transform of each chunk, with its operands; none: q and k stay as they are.
    transforms: Vec<(QkNormRope, Vec<Vec<TensorView>>)>,
}

impl<'a> Projection<'a> {
    fn new(args: &'a QkvArgs) -> Outcome<Self> {
        reserved(args.reserved)?;
        let chunks = growing_array(args.chunks, args.chunk_count, MOST_CHUNKS)?;
        for chunk in &chunks {
            reserved(i32::from(chunk.reserved != 0))?;
            if !chunk.flag.is_null() {
                check_pointer(chunk.flag, "flag")?;
            }
        }
        let (dtype, batch) = (float(args.dtype)?, size(args.batch, "batch")?);
        let (hidden, heads, dim) =
            (size(args.hidden, "hidden")?, count(args.heads, "heads")?, count(args.head_dim, "head_dim")?);
        let heads = [heads, kv_heads(args.kv_heads, heads)?, kv_heads(args.kv_heads, heads)?];
        let cols = |heads: usize| size((heads * dim) as i64, "heads times head_dim");
        let biases = [&args.q_bias, &args.k_bias, &args.v_bias];
        let given = biases.iter().filter(|bias| !bias.is_absent()).count();
        if given % 3 != 0 {
            return Err(Fault::argument("some of q_bias, k_bias and v_bias: give all three, or none"));
        }
        if args.first_chunk >= chunks.len().max(1) {
            return Err(Fault::argument(format!("first_chunk is {} of {} chunks", args.first_chunk, chunks.len())));
        }
        let gemm = Gemm {
            dtype,
            out_dtype: dtype,
            batch,
            chunks: chunks.iter().map(|chunk| size(chunk.rows, "rows")).collect::<Outcome<_>>()?,
            k: hidden,
            parts: heads.into_iter().map(cols).collect::<Outcome<_>>()?,
            bias: given == 3,
            epilogue: Epilogue::None,
        };
        let weights = [&args.q_weight, &args.k_weight, &args.v_weight];
        let mut operands = Vec::new();
        for ((weight, bias), (name, &cols)) in weights.iter().zip(biases).zip(["q", "k", "v"].iter().zip(&gemm.parts)) {
            operands.push(vec![weight.read(&format!("{name}_weight"), dtype, [1, cols, 1, hidden])?]);
            if gemm.bias {
                operands.push(vec![bias.read(&format!("{name}_bias"), dtype, [1, 1, 1, cols])?]);
            }
        }
        let eps = norm_eps(&args.q_norm, &args.k_norm, args.norm_eps)?;
        let rope = rope(args.rope)?;
        let mut transforms = Vec::new();
        for (chunk, &rows) in chunks.iter().zip(&gemm.chunks) {
            let shape = |heads: usize| [batch, rows, heads, dim];
            let q = vec![chunk.q.written("q", dtype, shape(heads[0]))?];
            let k = vec![chunk.k.written("k", dtype, shape(heads[1]))?];
            operands.push(vec![chunk.x.read("x", dtype, [batch, rows, 1, hidden])?]);
            operands.extend([q.clone(), k.clone(), vec![chunk.v.written("v", dtype, shape(heads[2]))?]]);
            let spec = QkNormRope {
                dtype,
                batch,
                rows,
                heads: heads[0],
                kv_heads: heads[1],
                head_dim: dim,
                norm_eps: eps,
                rope,
            };
            let mut list = vec![q, k];
            list.extend(tables(&spec, [&args.q_norm, &args.k_norm], [&chunk.cos, &chunk.sin])?);
            if eps.is_some() || rope.is_some() {
                transforms.push((spec, list));
            }
        }
        overlap::refuse(&Kernel::Gemm(gemm.clone()), &operands)?;
        let this = Self { args, chunks, gemm, operands, transforms };
        if this.waits() && args.timeout_ns == 0 {
            return Err(Fault::argument("flags with timeout_ns 0: say how long a wait may last"));
        }
        if !args.status.is_null() {
            check_pointer(args.status, "status")?;
        }
        Ok(this)
    }

    fn waits(&self) -> bool {
        self.chunks.iter().any(|chunk| !chunk.flag.is_null())
    }

    /// Operands of one chunk: those of the others are not touched.
    fn operands_of(&self, piece: usize) -> Vec<Vec<TensorView>> {
        let mine = |of: Option<u16>| of.is_none_or(|of| usize::from(of) == piece);
        let specs = Kernel::Gemm(self.gemm.clone()).operands();
        let own = specs.iter().zip(&self.operands);
        own.map(|(spec, views)| if mine(spec.piece) { views.clone() } else { Vec::new() }).collect()
    }

    fn run_on_host(&self, threads: usize) -> Outcome {
        let pieces = self.chunks.len();
        for piece in (0..pieces).map(|i| (self.args.first_chunk + i) % pieces) {
            self.wait(piece)?;
            on_host(&Kernel::Gemm(self.gemm.clone()), piece, &self.operands_of(piece), threads)?;
            if let Some((spec, operands)) = self.transforms.get(piece) {
                on_host(&Kernel::QkNormRope(spec.clone()), 0, operands, threads)?;
            }
        }
        Ok(())
    }

    /// What a kernel of a device does inside: waits for the flag of a chunk.
    fn wait(&self, piece: usize) -> Outcome {
        let chunk = &self.chunks[piece];
        if chunk.flag.is_null() || chunk.rows == 0 {
            return Ok(());
        }
        // SAFETY: aligned (see `new`), and the caller's while the call runs; whoever raises it does so atomically.
        let flag = unsafe { AtomicU32::from_ptr(chunk.flag.cast_mut()) };
        let (begin, deadline) = (Instant::now(), Duration::from_nanos(self.args.timeout_ns));
        loop {
            let seen = flag.load(Ordering::Acquire);
            if seen.wrapping_sub(chunk.epoch).cast_signed() >= 0 {
                return Ok(());
            }
            if begin.elapsed() > deadline {
                let wait = self.chunks[..piece].iter().filter(|chunk| chunk.rows > 0).count() as u32;
                if !self.args.status.is_null() {
                    store(self.args.status, WaitStatus { code: 1, wait, expected: chunk.epoch, seen }, "status")?;
                }
                return Err(Fault::Crate(Error::Timeout {
                    rank: 0,
                    op: "qkv projection".into(),
                    waited_for: format!("chunk {piece} (flag at {seen}, {} wanted)", chunk.epoch),
                    after_ms: deadline.as_millis() as u64,
                }));
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}

#[cfg(feature = "cuda")]
impl Projection<'_> {
    fn launches(&self, device: &crate::kernel::cuda::Device) -> Outcome<Vec<crate::kernel::cuda::Launch>> {
        use crate::kernel::cuda::{Gate, Gates, gemm, launches};

        if self.chunks.iter().all(|chunk| chunk.rows == 0) || self.gemm.batch == 0 {
            return Ok(Vec::new());
        }
        let arrival =
            |chunk: &QkvChunk| (!chunk.flag.is_null()).then_some(Gate { flag: chunk.flag as u64, epoch: chunk.epoch });
        let arrivals: Vec<Option<Gate>> = self.chunks.iter().map(arrival).collect();
        let gates = Gates {
            arrivals: &arrivals,
            first_piece: self.args.first_chunk,
            status: self.args.status as u64,
            timeout_ns: self.args.timeout_ns,
        };
        let gates = self.waits().then_some(&gates);
        if let Some(launch) = self.fused(gates, device) {
            return Ok(vec![launch]);
        }
        let mut list = Vec::new();
        if let Some(gates) = gates {
            list.push(gemm::gated(&self.gemm, &self.operands, gates, device, None)?.0);
        } else {
            for piece in 0..self.chunks.len() {
                list.extend(launches(&Kernel::Gemm(self.gemm.clone()), piece, &self.operands_of(piece), device)?);
            }
        }
        for (spec, operands) in &self.transforms {
            list.extend(launches(&Kernel::QkNormRope(spec.clone()), 0, operands, device)?);
        }
        Ok(list)
    }

    /// One launch with the transform in its epilogue, where there is such a variant.
    fn fused(
        &self,
        gates: Option<&crate::kernel::cuda::Gates<'_>>,
        device: &crate::kernel::cuda::Device,
    ) -> Option<crate::kernel::cuda::Launch> {
        use crate::kernel::cuda::gemm::{Heads, projection};

        let (transform, first) = self.transforms.first()?;
        let after = if transform.norm_eps.is_some() { 4 } else { 2 };
        let table = |which: usize| -> Vec<Vec<TensorView>> {
            self.transforms.iter().filter_map(|(_, list)| list.get(after + which).cloned()).collect()
        };
        let (cos, sin) = (table(0), table(1));
        let weight = |i: usize| transform.norm_eps.and(first.get(i)).map_or(&[][..], Vec::as_slice);
        let heads = Heads { q_weight: weight(2), k_weight: weight(3), cos: &cos, sin: &sin };
        projection(&self.gemm, &self.operands, transform, &heads, gates, device, None).ok().map(|(launch, _)| launch)
    }
}
