//! Handles of kernels.

#[cfg(feature = "cuda")]
use super::abi::Image;
use super::abi::KernelsOptions;
use super::device::Device;
use super::handle::{Handle, Held, give, take};
use super::read::{check_pointer, growing};
use super::status::{Fault, Outcome, Status, guard, guard_destroy};
use super::tensor::reserved;

/// The kernels of one device.
#[derive(Debug)]
pub struct OfKernels {
    pub(super) device: Device,
}

/// `seqpar_kernels`.
pub type Kernels = Handle<OfKernels>;

impl Held for OfKernels {
    const NAME: &'static str = "seqpar_kernels";
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_kernels_create(options: *const KernelsOptions, kernels: *mut *mut Kernels) -> Status {
    guard(|| {
        check_pointer(kernels, "kernels")?;
        let options = growing(options)?;
        reserved(options.reserved)?;
        let device = match options.device {
            0 => host(&options)?,
            1 => cuda(&options)?,
            other => return Err(Fault::argument(format!("device is {other}: use SEQPAR_HOST or SEQPAR_CUDA"))),
        };
        give(OfKernels { device }, kernels)
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_kernels_destroy(kernels: *mut Kernels) {
    guard_destroy(|| {
        let kernels = take(kernels);
        #[cfg(feature = "cuda")]
        let _current = kernels.as_deref().and_then(|kernels| kernels.device.entered());
        drop(kernels);
    });
}

fn host(options: &KernelsOptions) -> Outcome<Device> {
    if options.image_count > 0 {
        return Err(Fault::argument("images for the host: it needs none, set image_count to 0"));
    }
    Ok(Device::Host { threads: super::prepare::threads(options.threads)? })
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &KernelsOptions) -> Outcome<Device> {
    super::device::no_cuda()
}

#[cfg(feature = "cuda")]
fn cuda(options: &KernelsOptions) -> Outcome<Device> {
    use super::read::growing_array;
    use super::tensor::size;
    use crate::cuda::Context;

    let sms = size(options.sms.into(), "sms")?;
    let images = growing_array(options.images, options.image_count, 64)?;
    let images = images.iter().map(bytes).collect::<Outcome<Vec<_>>>()?;
    let mut slices: Vec<&[u8]> = images.iter().map(|image| image.as_ref()).collect();
    if slices.is_empty() {
        crate::kernel::cuda::fatbins().for_each(|image| slices.push(image));
    }
    if slices.is_empty() {
        return Err(unavailable("this libseqpar has no CUDA kernels in it"));
    }
    let Some(context) = Context::current()? else {
        let why = "no CUDA context is current on this thread: make one current, or let your framework use the device";
        return Err(crate::Error::Unsupported(why.into()).into());
    };
    // SAFETY: embedded fatbins are as nvcc wrote them; the caller trusts those that he gave.
    let kernels = unsafe { crate::exec::cuda::Kernels::load(&context, &slices) }?;
    if kernels.is_empty() {
        return Err(unavailable("no image has code for this device"));
    }
    Ok(Device::Cuda(super::device::Cuda { kernels, sms: u32::try_from(sms).ok().filter(|&sms| sms > 0), context }))
}

#[cfg(feature = "cuda")]
fn unavailable(why: &str) -> Fault {
    Fault::KernelsUnavailable(format!("{why}: build with the feature kernels, or give images"))
}

/// The bytes of an image, the caller's own or those of its file.
#[cfg(feature = "cuda")]
fn bytes(image: &Image) -> Outcome<std::borrow::Cow<'_, [u8]>> {
    use super::read::{numbers, text};

    if let Some(bytes) = numbers(image.data.cast::<u8>(), image.data_bytes, "data of an image")? {
        if bytes.is_empty() {
            return Err(Fault::argument("an image of 0 bytes"));
        }
        return Ok(bytes.into());
    }
    let Some(path) = text(image.path, "path of an image")? else {
        return Err(Fault::argument("an image with neither data nor path"));
    };
    let file = std::fs::read(path).map_err(|error| crate::Error::Data(format!("image {path}: {error}")))?;
    if file.is_empty() {
        return Err(crate::Error::Data(format!("image {path} is empty: give a fatbin")).into());
    }
    Ok(file.into())
}
