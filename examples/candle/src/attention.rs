//! Attention of seqpar as a `CustomOp3` of candle: q, k, v `[B, H, N, D]` to `[B, H, N, D]`, any
//! strides but a contiguous last dimension, f32 (host), f16 and bf16. No backward pass.

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, bail};
use seqpar::dtype::Dtype;
use seqpar::kernel::host::{Tensor, run_piece};
use seqpar::kernel::spec::{Attention, Kernel, KeySegment};

/// `softmax(q·kᵀ/√D)·v`.
pub struct SeqparAttention {
    /// Threads on the host.
    pub threads: usize,
    /// Kernels of the device, loaded once.
    #[cfg(feature = "cuda")]
    pub kernels: Option<seqpar::exec::cuda::Kernels>,
}

/// Extents and strides of the three operands, as seqpar has them: `[B, N, H, D]`.
struct Problem {
    spec: Attention,
    shape: [usize; 4],
    strides: [[usize; 4]; 3],
    shapes: [[usize; 4]; 3],
}

impl Problem {
    fn new(dtype: Dtype, layouts: [&Layout; 3]) -> Result<Self> {
        let (mut shapes, mut strides) = ([[0; 4]; 3], [[0; 4]; 3]);
        for (i, layout) in layouts.into_iter().enumerate() {
            let (&[b, h, n, d], &[sb, sh, sn, sd]) = (layout.dims(), layout.stride()) else {
                bail!("seqpar-attention wants [B, H, N, D], got {:?}", layout.dims());
            };
            (shapes[i], strides[i]) = ([b, n, h, d], [sb, sn, sh, sd]);
        }
        let ([batch, rows, heads, head_dim], [_, len, kv_heads, _]) = (shapes[0], shapes[1]);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            bail!("{heads} heads of q, {kv_heads} of k: make one a multiple of the other");
        }
        let spec = Attention {
            dtype,
            batch,
            heads,
            kv_heads,
            head_dim,
            first_head: 0,
            first_kv_head: 0,
            group: heads / kv_heads,
            scale: 1.0 / (head_dim as f32).sqrt(),
            queries: vec![rows],
            keys: vec![KeySegment { len, base: 0, stream: 1 }],
            key_mask: false,
            key_len: false,
            carry_in: false,
            carry_out: false,
        };
        Ok(Self { spec, shape: [batch, heads, rows, head_dim], strides, shapes })
    }

    /// Strides of the result, packed as `[B, H, N, D]`.
    fn out_strides(&self) -> [usize; 4] {
        let [_, h, n, d] = self.shape;
        [h * n * d, d, n * d, 1]
    }

    fn lse_elems(&self) -> usize {
        self.shape[0] * self.shape[1] * self.shape[2]
    }

    fn elems(&self) -> usize {
        self.shape.iter().product()
    }
}

fn failed(error: seqpar::Error) -> Error {
    Error::Msg(error.to_string())
}

impl CustomOp3 for SeqparAttention {
    fn name(&self) -> &'static str {
        "seqpar-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let layouts = [q_layout, k_layout, v_layout];
        match (q, k, v) {
            (CpuStorage::F32(q), CpuStorage::F32(k), CpuStorage::F32(v)) => {
                let (out, shape) = self.on_host(Dtype::F32, [q, k, v], layouts, 0.0)?;
                Ok((CpuStorage::F32(out), shape))
            }
            (CpuStorage::F16(q), CpuStorage::F16(k), CpuStorage::F16(v)) => {
                let (out, shape) = self.on_host(Dtype::F16, [q, k, v], layouts, half::f16::ZERO)?;
                Ok((CpuStorage::F16(out), shape))
            }
            (CpuStorage::BF16(q), CpuStorage::BF16(k), CpuStorage::BF16(v)) => {
                let (out, shape) = self.on_host(Dtype::Bf16, [q, k, v], layouts, half::bf16::ZERO)?;
                Ok((CpuStorage::BF16(out), shape))
            }
            _ => bail!("seqpar-attention wants q, k and v of one type: f32, f16 or bf16"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &candle_core::CudaStorage,
        q_layout: &Layout,
        k: &candle_core::CudaStorage,
        k_layout: &Layout,
        v: &candle_core::CudaStorage,
        v_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::DType;
        use candle_core::backend::BackendStorage;

        let layouts = [q_layout, k_layout, v_layout];
        match q.dtype() {
            DType::F16 => self.on_device::<half::f16>(Dtype::F16, [q, k, v], layouts),
            DType::BF16 => self.on_device::<half::bf16>(Dtype::Bf16, [q, k, v], layouts),
            other => bail!("seqpar-attention on a GPU wants f16 or bf16, got {other:?}"),
        }
    }
}

impl SeqparAttention {
    fn on_host<T: Copy>(
        &self,
        dtype: Dtype,
        operands: [&Vec<T>; 3],
        layouts: [&Layout; 3],
        zero: T,
    ) -> Result<(Vec<T>, Shape)> {
        let problem = Problem::new(dtype, layouts)?;
        let (mut out, mut lse) = (vec![zero; problem.elems()], vec![0f32; problem.lse_elems()]);
        let inputs: Vec<Tensor> = (0..3)
            .map(|i| {
                let data = operands[i][layouts[i].start_offset()..].as_ptr();
                // SAFETY: candle's layout says that these elements lie in the vector, which is only read.
                unsafe { Tensor::new(data.cast_mut().cast(), dtype, problem.shapes[i], problem.strides[i]) }
            })
            .collect();
        let [batch, heads, rows, dim] = problem.shape;
        // SAFETY: both vectors are ours and have as many elements.
        let (out_tensor, lse_tensor) = unsafe {
            (
                Tensor::new(out.as_mut_ptr().cast(), dtype, [batch, rows, heads, dim], problem.out_strides()),
                Tensor::new(
                    lse.as_mut_ptr().cast(),
                    Dtype::F32,
                    [batch, heads, 1, rows],
                    [heads * rows, rows, rows, 1],
                ),
            )
        };
        let operands: Vec<Vec<Tensor>> =
            [inputs[0], out_tensor, lse_tensor, inputs[1], inputs[2]].map(|tensor| vec![tensor]).into();
        run_piece(&Kernel::Attention(problem.spec), 0, &operands, self.threads).map_err(failed)?;
        Ok((out, Shape::from(problem.shape.to_vec())))
    }

    /// Enqueues on candle's stream; nothing waits.
    #[cfg(feature = "cuda")]
    fn on_device<T>(
        &self,
        dtype: Dtype,
        operands: [&candle_core::CudaStorage; 3],
        layouts: [&Layout; 3],
    ) -> Result<(candle_core::CudaStorage, Shape)>
    where
        T: candle_core::cuda_backend::CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr,
    {
        use candle_core::cuda_backend::WrapErr;
        use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut};
        use seqpar::kernel::TensorView;

        let Some(kernels) = &self.kernels else { bail!("seqpar-attention was made without kernels") };
        let problem = Problem::new(dtype, layouts)?;
        let device = operands[0].device.clone();
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        // SAFETY: the kernel writes every element.
        let (mut out, mut lse) =
            unsafe { (stream.alloc::<T>(problem.elems()).w()?, stream.alloc::<f32>(problem.lse_elems()).w()?) };
        {
            let mut guards = Vec::new();
            let mut inputs = Vec::new();
            for i in 0..3 {
                let (address, guard) = operands[i].as_cuda_slice::<T>()?.device_ptr(&stream);
                let address = address + (layouts[i].start_offset() * dtype.bytes()) as u64;
                inputs.push(TensorView { address, dtype, shape: problem.shapes[i], strides: problem.strides[i] });
                guards.push(guard);
            }
            let (out_address, _out) = out.device_ptr_mut(&stream);
            let (lse_address, _lse) = lse.device_ptr_mut(&stream);
            let [batch, heads, rows, dim] = problem.shape;
            let written = TensorView {
                address: out_address,
                dtype,
                shape: [batch, rows, heads, dim],
                strides: problem.out_strides(),
            };
            let log_sums = TensorView {
                address: lse_address,
                dtype: Dtype::F32,
                shape: [batch, heads, 1, rows],
                strides: [heads * rows, rows, rows, 1],
            };
            let operands: Vec<Vec<TensorView>> =
                [inputs[0], written, log_sums, inputs[1], inputs[2]].map(|view| vec![view]).into();
            let kernel = Kernel::Attention(problem.spec.clone());
            let launches = seqpar::kernel::cuda::launches(&kernel, 0, &operands, &kernels.device()).map_err(failed)?;
            // SAFETY: candle's stream of the context that is current.
            let borrowed = unsafe { seqpar::cuda::Stream::borrowed(stream.cu_stream() as u64) };
            for launch in &launches {
                kernels.prepare(launch).map_err(failed)?;
                let params = kernels.encode(launch).map_err(failed)?;
                // SAFETY: the tensors are candle's and alive; the guards order them with its other streams.
                unsafe { kernels.launch(launch, &params, &borrowed) }.map_err(failed)?;
            }
        }
        let storage = candle_core::CudaStorage::wrap_cuda_slice(out, device);
        Ok((storage, Shape::from(problem.shape.to_vec())))
    }
}
