//! seqpar's attention inside candle, beside candle's own: values and time on the same tensors.
//!
//! `cargo run --release [TOKENS]` on the host, with `--features cuda` on a GPU.

mod attention;

use std::time::Instant;

use attention::SeqparAttention;
use candle_core::{D, DType, Device, Result, Tensor};

fn main() -> Result<()> {
    let (device, op) = op()?;
    let tokens = std::env::args().nth(1).and_then(|tokens| tokens.parse().ok()).unwrap_or(77);
    let dtypes: &[DType] = if device.is_cpu() { &[DType::F32, DType::BF16] } else { &[DType::F16, DType::BF16] };
    for &dtype in dtypes {
        compare(&device, &op, dtype, [2, 8, tokens, 64], false)?;
        compare(&device, &op, dtype, [1, 16, tokens, 72], true)?;
    }
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn op() -> Result<(Device, SeqparAttention)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Ok((Device::Cpu, SeqparAttention { threads }))
}

#[cfg(feature = "cuda")]
fn op() -> Result<(Device, SeqparAttention)> {
    let device = Device::new_cuda(0)?;
    let failed = |error: seqpar::Error| candle_core::Error::Msg(error.to_string());
    device.as_cuda_device()?.cuda_stream().context().bind_to_thread().map_err(candle_core::Error::wrap)?;
    let Some(context) = seqpar::cuda::Context::current().map_err(failed)? else {
        candle_core::bail!("candle left no CUDA context current");
    };
    let kernels = seqpar::exec::cuda::Kernels::embedded(&context).map_err(failed)?;
    Ok((device, SeqparAttention { threads: 1, kernels: Some(kernels) }))
}

/// Random q, k, v `[B, H, N, D]`; with `heads_inside` they are views of `[B, N, H, D]`.
fn compare(
    device: &Device,
    op: &SeqparAttention,
    dtype: DType,
    [b, h, n, d]: [usize; 4],
    heads_inside: bool,
) -> Result<()> {
    let tensor = || -> Result<Tensor> {
        let shape = if heads_inside { [b, n, h, d] } else { [b, h, n, d] };
        let tensor = Tensor::randn(0f32, 1f32, &shape[..], device)?.to_dtype(dtype)?;
        if heads_inside { tensor.transpose(1, 2) } else { Ok(tensor) }
    };
    let (q, k, v) = (tensor()?, tensor()?, tensor()?);
    let (ours, ours_ms) = timed(device, || q.apply_op3_no_bwd(&k, &v, op))?;
    let (theirs, theirs_ms) = timed(device, || candle_attention(&q, &k, &v))?;
    // Against candle in f32 on the same (rounded) tensors.
    let exact = candle_attention(&q.to_dtype(DType::F32)?, &k.to_dtype(DType::F32)?, &v.to_dtype(DType::F32)?)?;
    let (ours, theirs) = (largest_error(&ours, &exact)?, largest_error(&theirs, &exact)?);
    println!(
        "{dtype:?} [{b}, {h}, {n}, {d}]{}: largest error {ours:.1e}, candle's {theirs:.1e}; {ours_ms:.2} ms, candle's {theirs_ms:.2} ms",
        if heads_inside { " strided" } else { "" }
    );
    let allowed = if dtype == DType::F32 { 1e-5 } else { 2e-2 };
    if ours.is_nan() || ours > allowed {
        candle_core::bail!("an error of {ours} is more than {allowed}");
    }
    Ok(())
}

/// `softmax(q·kᵀ/√D)·v` by candle's own ops.
fn candle_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
    let (q, k, v) = (q.contiguous()?, k.transpose(2, 3)?.contiguous()?, v.contiguous()?);
    let scores = (q.matmul(&k)? * scale)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.matmul(&v)
}

fn largest_error(got: &Tensor, exact: &Tensor) -> Result<f32> {
    (got.to_dtype(DType::F32)? - exact)?.abs()?.flatten_all()?.max(0)?.to_scalar()
}

/// The last of several results, and the shortest time.
fn timed(device: &Device, mut run: impl FnMut() -> Result<Tensor>) -> Result<(Tensor, f64)> {
    let mut best = f64::INFINITY;
    let mut result = run()?;
    for _ in 0..5 {
        device.synchronize()?;
        let begin = Instant::now();
        result = run()?;
        device.synchronize()?;
        best = best.min(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok((result, best))
}
