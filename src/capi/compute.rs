//! One kernel on a caller's tensors, on whatever device.

use std::ffi::c_void;

use super::device::Device;
use super::kernels::OfKernels;
use super::overlap;
use super::status::{Fault, Outcome};
use crate::kernel::TensorView;
use crate::kernel::host::{Tensor, run_piece};
use crate::kernel::spec::Kernel;

/// Runs a kernel of one piece, or enqueues it.
pub(super) fn compute(
    kernels: &OfKernels,
    kernel: &Kernel,
    operands: &[Vec<TensorView>],
    stream: *mut c_void,
) -> Outcome {
    overlap::refuse(kernel, operands)?;
    match &kernels.device {
        Device::Host { threads } => {
            no_stream(stream)?;
            on_host(kernel, 0, operands, *threads)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            cuda.enter()?;
            let launches = crate::kernel::cuda::launches(kernel, 0, operands, &cuda.device())?;
            enqueue(cuda, &launches, stream)
        }
    }
}

/// One piece on the host.
pub(super) fn on_host(kernel: &Kernel, piece: usize, operands: &[Vec<TensorView>], threads: usize) -> Outcome {
    let tensor = |view: &TensorView| {
        let data = std::ptr::with_exposed_provenance_mut(view.address as usize);
        // SAFETY: the caller's memory, alive and his to lend during the call; what is written has
        // no two elements in one place, and overlaps nothing that the header does not allow.
        unsafe { Tensor::new(data, view.dtype, view.shape, view.strides) }
    };
    let operands: Vec<Vec<Tensor>> = operands.iter().map(|list| list.iter().map(tensor).collect()).collect();
    Ok(run_piece(kernel, piece, &operands, threads)?)
}

/// Streams belong to devices.
pub(super) fn no_stream(stream: *mut c_void) -> Outcome {
    if stream.is_null() { Ok(()) } else { Err(Fault::argument("a stream for the host: it has none, pass null")) }
}

/// Enqueues launches in order.
#[cfg(feature = "cuda")]
pub(super) fn enqueue(
    cuda: &super::device::Cuda,
    launches: &[crate::kernel::cuda::Launch],
    stream: *mut c_void,
) -> Outcome {
    // SAFETY: a stream of the current context, by the caller's promise, during this call.
    let stream = unsafe { crate::cuda::Stream::borrowed(stream as u64) };
    let ready = launches.iter().map(|launch| {
        cuda.kernels.prepare(launch)?;
        cuda.kernels.encode(launch)
    });
    // All are ready before the first one runs.
    let params = ready.collect::<crate::Result<Vec<_>>>()?;
    for (launch, params) in launches.iter().zip(&params) {
        // SAFETY: the caller's tensors are alive and ordered with other work, as the header asks.
        unsafe { cuda.kernels.launch(launch, params, &stream) }?;
    }
    Ok(())
}
