//! One rank's communicators.

use std::ffi::c_char;
#[cfg(feature = "nccl")]
use std::sync::{Mutex, PoisonError};
#[cfg(feature = "nccl")]
use std::time::Duration;

use super::abi::NcclOptions;
use super::handle::{Handle, Held, held, take};
use super::read::{check_pointer, growing, numbers, text};
use super::status::{Fault, Outcome, Status, guard, guard_destroy};
use super::tensor::{count, reserved, size};

/// Bytes of an identity of a world.
const UNIQUE_ID_BYTES: usize = 128;

/// A rank's communicators.
#[derive(Debug)]
pub struct OfNccl {
    #[cfg(feature = "nccl")]
    held: Mutex<Option<Ranked>>,
}

/// `seqpar_nccl`.
pub type Nccl = Handle<OfNccl>;

impl Held for OfNccl {
    const NAME: &'static str = "seqpar_nccl";
}

/// Communicators until they are finalized.
#[cfg(feature = "nccl")]
struct Ranked {
    nccl: crate::exec::cuda::Nccl,
    rank: usize,
    config: crate::comm::nccl::Config,
    deadline: Duration,
}

#[cfg(feature = "nccl")]
impl std::fmt::Debug for Ranked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ranked({})", self.rank)
    }
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_nccl_unique_id(nccl_path: *const c_char, id: *mut u8) -> Status {
    guard(|| {
        check_pointer(id, "id")?;
        let path = text(nccl_path, "nccl_path")?;
        #[cfg(feature = "nccl")]
        {
            let bytes = library(path)?.unique_id()?.as_bytes();
            // SAFETY: the caller's array has 128 bytes.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), id, bytes.len()) };
            Ok(())
        }
        #[cfg(not(feature = "nccl"))]
        {
            let _ = path;
            no_nccl()
        }
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_nccl_create(options: *const NcclOptions, nccl: *mut *mut Nccl) -> Status {
    guard(|| {
        check_pointer(nccl, "nccl")?;
        let options = growing(options)?;
        reserved(options.reserved)?;
        let (rank, world) = (size(options.rank.into(), "rank")?, count(options.world.into(), "world")?);
        if rank >= world {
            return Err(super::plans::no_rank(rank, world));
        }
        let path = text(options.nccl_path, "nccl_path")?;
        let max_ctas = size(options.max_ctas.into(), "max_ctas")?;
        let Some(id) = numbers(options.unique_id, UNIQUE_ID_BYTES, "unique_id")? else {
            return Err(Fault::argument("unique_id is null: take one from seqpar_nccl_unique_id on one rank"));
        };
        #[cfg(feature = "nccl")]
        {
            let deadline = super::prepare::deadline(options.deadline_ms);
            let ranked = Ranked::join((rank, world), id, path, max_ctas, deadline)?;
            super::handle::give(OfNccl { held: Mutex::new(Some(ranked)) }, nccl)
        }
        #[cfg(not(feature = "nccl"))]
        {
            let _ = (path, max_ctas, id);
            no_nccl()
        }
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_nccl_finalize(nccl: *mut Nccl) -> Status {
    guard(|| {
        let nccl = held(nccl.cast_const())?;
        #[cfg(feature = "nccl")]
        {
            let ranked = nccl.held.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Ranked { nccl, deadline, .. } = ranked.ok_or_else(finalized)?;
            Ok(nccl.finalize(deadline)?)
        }
        #[cfg(not(feature = "nccl"))]
        {
            let _ = nccl;
            no_nccl()
        }
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_nccl_destroy(nccl: *mut Nccl) {
    guard_destroy(|| drop(take(nccl)));
}

#[cfg(feature = "nccl")]
impl Ranked {
    fn join(
        (rank, world): (usize, usize),
        id: &[u8],
        path: Option<&str>,
        max_ctas: usize,
        deadline: Duration,
    ) -> Outcome<Self> {
        use crate::comm::nccl::{Communicator, Config, UniqueId};

        let bytes =
            <[u8; UNIQUE_ID_BYTES]>::try_from(id).map_err(|_| Fault::argument("unique_id of another length"))?;
        let mut config = Config { op_deadline: deadline, ..Config::default() };
        if max_ctas > 0 {
            (config.min_ctas, config.max_ctas) = (Some(1), Some(max_ctas as u32));
        }
        let communicator =
            Communicator::new(&library(path)?, &UniqueId::from_bytes(bytes), rank, world, &config, deadline)?;
        Ok(Self { nccl: crate::exec::cuda::Nccl::new(communicator), rank, config, deadline })
    }
}

#[cfg(feature = "nccl")]
impl OfNccl {
    /// This rank of a world of plans, and which it is.
    pub(super) fn prepared(
        &self,
        cuda: &super::device::Cuda,
        plans: &[crate::plan::Checked<crate::plan::Plan>],
        given: Option<super::abi::CudaOptions>,
    ) -> Outcome<(super::prepare::on_device::OnDevice, usize)> {
        use super::prepare::on_device::{OnDevice, options};

        cuda.enter()?;
        let options = options(cuda, given)?;
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Ranked { nccl, rank, config, deadline } = held.as_ref().ok_or_else(finalized)?;
        let transport = nccl.transport(plans, false, config, *deadline)?;
        let plan = plans.get(*rank).ok_or_else(|| super::plans::no_rank(*rank, plans.len()))?;
        Ok((OnDevice::rank(cuda, plan.clone(), transport, options)?, *rank))
    }
}

#[cfg(feature = "nccl")]
fn library(path: Option<&str>) -> Outcome<crate::comm::nccl::Library> {
    Ok(crate::comm::nccl::Library::load(path.map(std::path::Path::new))?)
}

#[cfg(feature = "nccl")]
fn finalized() -> Fault {
    Fault::argument("this seqpar_nccl was finalized: destroy it and make another")
}

/// What a build without NCCL says.
#[cfg(not(feature = "nccl"))]
pub(super) fn no_nccl() -> Outcome {
    Err(crate::Error::Unsupported("this libseqpar was built without NCCL: build it with the feature nccl".into())
        .into())
}
