//! Plans on an executor.

#[cfg(feature = "cuda")]
pub(super) mod on_device;

use std::time::Duration;

use super::abi::{CudaOptions, HostOptions};
use super::handle::{give, held};
use super::kernels::Kernels;
use super::nccl::Nccl;
use super::plans::Plans;
use super::read::{check_pointer, growing_or_none};
use super::status::{Fault, Outcome, Status, guard};
use super::tensor::{flag, size};
use super::world::{Executor, OfPrepared, Prepared};
use crate::exec::host::{self, Link};
use crate::plan::lower::Gates;

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_prepare_host(
    plans: *const Plans,
    options: *const HostOptions,
    prepared: *mut *mut Prepared,
) -> Status {
    guard(|| {
        check_pointer(prepared, "prepared")?;
        let plans = held(plans)?;
        let checked = plans.checked()?;
        let options = growing_or_none(options)?.map_or_else(|| Ok(host::HostOptions::default()), host_options)?;
        let executor = Executor::Host { prepared: Box::new(host::prepare(checked.to_vec(), options)?), report: None };
        give(OfPrepared::world(checked, executor, plans.strategy), prepared)
    })
}

fn host_options(given: HostOptions) -> Outcome<host::HostOptions> {
    let mut options = host::HostOptions { deadline: deadline(given.deadline_ms), ..host::HostOptions::default() };
    options.threads = threads(given.threads)?;
    if flag(given.gates_as_events, "gates_as_events")? {
        options.gates = Gates::Events;
    }
    if given.link_bytes_per_s != 0.0 || given.link_latency_s != 0.0 {
        let bytes_per_s = if given.link_bytes_per_s == 0.0 { f64::INFINITY } else { given.link_bytes_per_s };
        options.link = Some(Link { bytes_per_s, latency_s: given.link_latency_s });
    }
    Ok(options)
}

/// As many threads as were asked for; 0 is 1.
pub(super) fn threads(given: i32) -> Outcome<usize> {
    match size(given.into(), "threads")? {
        threads if threads <= 4096 => Ok(threads.max(1)),
        threads => Err(Fault::argument(format!("{threads} threads: use the number of cores"))),
    }
}

/// A minute unless given; a day at most.
pub(super) fn deadline(ms: u64) -> Duration {
    Duration::from_millis(if ms == 0 { 60_000 } else { ms.min(86_400_000) })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_prepare_loopback(
    plans: *const Plans,
    kernels: *const Kernels,
    options: *const CudaOptions,
    prepared: *mut *mut Prepared,
) -> Status {
    guard(|| {
        check_pointer(prepared, "prepared")?;
        let (plans, kernels) = (held(plans)?, held(kernels)?);
        let (checked, options) = (plans.checked()?, growing_or_none(options)?);
        match &kernels.device {
            #[cfg(not(feature = "cuda"))]
            super::device::Device::Host { .. } => {
                let _ = (checked, options);
                super::device::no_cuda()
            }
            #[cfg(feature = "cuda")]
            super::device::Device::Host { .. } => Err(host_kernels()),
            #[cfg(feature = "cuda")]
            super::device::Device::Cuda(cuda) => {
                let executor = Executor::Device(Box::new(on_device::OnDevice::loopback(cuda, checked, options)?));
                give(OfPrepared::world(checked, executor, plans.strategy), prepared)
            }
        }
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_prepare_rank(
    plans: *const Plans,
    kernels: *const Kernels,
    nccl: *mut Nccl,
    options: *const CudaOptions,
    prepared: *mut *mut Prepared,
) -> Status {
    guard(|| {
        check_pointer(prepared, "prepared")?;
        let (plans, kernels, nccl) = (held(plans)?, held(kernels)?, held(nccl.cast_const())?);
        let (checked, options) = (plans.checked()?, growing_or_none(options)?);
        #[cfg(feature = "nccl")]
        {
            let super::device::Device::Cuda(cuda) = &kernels.device else { return Err(host_kernels()) };
            let (on_device, rank) = nccl.prepared(cuda, checked, options)?;
            let executor = Executor::Device(Box::new(on_device));
            give(OfPrepared::one(checked, rank, executor, plans.strategy), prepared)
        }
        #[cfg(not(feature = "nccl"))]
        {
            let _ = (kernels, nccl, checked, options);
            super::nccl::no_nccl()
        }
    })
}

#[cfg(feature = "cuda")]
fn host_kernels() -> Fault {
    Fault::argument("kernels of the host: make some with SEQPAR_CUDA, or use seqpar_prepare_host")
}
