//! Where a handle's kernels run: the host, or the CUDA context that was current when it was made.

#[cfg(feature = "cuda")]
use super::status::Fault;
use super::status::Outcome;
#[cfg(feature = "cuda")]
use crate::cuda::{Context, Entered};
#[cfg(feature = "cuda")]
use crate::exec::cuda::Kernels;

/// A device and what its kernels need.
#[derive(Debug)]
pub(super) enum Device {
    Host {
        threads: usize,
    },
    #[cfg(feature = "cuda")]
    Cuda(Cuda),
}

/// Kernels of a borrowed context.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub(super) struct Cuda {
    pub(super) kernels: Kernels,
    /// Multiprocessors that a launch may fill.
    pub(super) sms: Option<u32>,
    /// Last: what belongs to it goes before it.
    pub(super) context: Context,
}

#[cfg(feature = "cuda")]
impl Device {
    /// Its context, for what is given back.
    pub(super) fn entered(&self) -> Option<Entered> {
        match self {
            Self::Host { .. } => None,
            Self::Cuda(cuda) => entered(&cuda.context),
        }
    }
}

/// The context of what is given back, whichever is current; the caller's is current again afterwards.
#[cfg(feature = "cuda")]
pub(super) fn entered(context: &Context) -> Option<Entered> {
    context.enter().map_err(|error| log::error!("something is given back without its context: {error}")).ok()
}

#[cfg(feature = "cuda")]
impl Cuda {
    /// Makes sure that the context is current; a thread with none gets it.
    pub(super) fn enter(&self) -> Outcome {
        enter(&self.context)
    }

    /// What launches are chosen for.
    pub(super) fn device(&self) -> crate::kernel::cuda::Device {
        let mut device = self.kernels.device();
        device.sms = self.sms.map_or(device.sms, |sms| sms.min(device.sms));
        device
    }
}

/// [`Cuda::enter`] for a context alone.
#[cfg(feature = "cuda")]
pub(super) fn enter(context: &Context) -> Outcome {
    match Context::current()? {
        None => Ok(context.bind()?),
        Some(current) if current.is_same(context) => Ok(()),
        Some(_) => {
            Err(Fault::argument("another CUDA context is current on this thread: make the one of the handle current"))
        }
    }
}

/// What a build without CUDA says.
#[cfg(not(feature = "cuda"))]
pub(super) fn no_cuda<T>() -> Outcome<T> {
    Err(crate::Error::Unsupported("this libseqpar was built without CUDA: build it with the feature cuda".into())
        .into())
}
