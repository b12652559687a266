//! Plans on an executor.

#[cfg(feature = "cuda")]
pub(super) mod loopback;

use std::ffi::c_char;
use std::time::Duration;

use super::abi::{CudaOptions, HostOptions, RankOptions};
use super::kernels::Kernels;
use super::plans::Plans;
use super::read::{check_pointer, give, growing_or_none, held, numbers, text};
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
        let executor = Executor::Host { prepared: host::prepare(checked.to_vec(), options)?, report: None };
        give(OfPrepared::new(checked, executor, plans.strategy, None), prepared)
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
            super::device::Device::Host { .. } => {
                let _ = (checked, options);
                #[cfg(not(feature = "cuda"))]
                super::device::no_cuda::<()>()?;
                Err(Fault::argument("kernels of the host: make some with SEQPAR_CUDA, or use seqpar_prepare_host"))
            }
            #[cfg(feature = "cuda")]
            super::device::Device::Cuda(cuda) => {
                let executor = Executor::Loopback(loopback::Loopback::new(cuda, checked, options)?);
                give(OfPrepared::new(checked, executor, plans.strategy, Some(16)), prepared)
            }
        }
    })
}

/// Bytes of an identity of a world.
const UNIQUE_ID_BYTES: usize = 128;

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_unique_id(nccl_path: *const c_char, id: *mut u8) -> Status {
    guard(|| {
        check_pointer(id, "id")?;
        text(nccl_path, "nccl_path")?;
        no_nccl()
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
    options: *const RankOptions,
    prepared: *mut *mut Prepared,
) -> Status {
    guard(|| {
        check_pointer(prepared, "prepared")?;
        let (plans, _) = (held(plans)?, held(kernels)?);
        let checked = plans.checked()?;
        let options = super::read::growing(options)?;
        let rank = size(options.rank.into(), "rank")?;
        if rank >= checked.len() {
            return Err(super::plans::no_rank(rank, checked.len()));
        }
        text(options.nccl_path, "nccl_path")?;
        if numbers(options.unique_id, UNIQUE_ID_BYTES, "unique_id")?.is_none() {
            return Err(Fault::argument("unique_id is null: take one from seqpar_unique_id on one rank"));
        }
        no_nccl()
    })
}

fn no_nccl() -> Outcome {
    Err(crate::Error::Unsupported("ranks in processes of their own are not in this version: use loopback".into())
        .into())
}
