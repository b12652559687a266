use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cuda::{
    Attributes, Context, Function, Geometry, Module, Stream, TensorMapArguments, encode_tensor_map, launch,
};
use crate::error::{Error, Result};
use crate::kernel::cuda::{Arch, Device, Launch, Swizzle, fatbins};

/// The kernels of one context: modules loaded, functions looked up once. Clones share both.
#[derive(Clone, Debug)]
pub struct Kernels {
    modules: Vec<Arc<Module>>,
    /// With the dynamic shared memory that each allows.
    functions: Arc<Mutex<HashMap<String, (Function, u32)>>>,
    device: Device,
}

impl Kernels {
    /// Loads `images`, the fatbins of all kernel families, into the current context. A family
    /// without code for this device is left out.
    ///
    /// # Errors
    /// A device that no kernel runs on, and what the driver says.
    ///
    /// # Safety
    /// Each image is a fatbin or cubin as a compiler wrote it.
    pub unsafe fn load(context: &Context, images: &[&[u8]]) -> Result<Self> {
        const NO_BINARY: u32 = 209;
        let device = device_of(&context.attributes()?)?;
        let mut modules = Vec::new();
        for image in images {
            // SAFETY: the caller's promise.
            match unsafe { Module::load(image) } {
                Ok(module) => modules.push(module),
                Err(Error::Cuda { code: NO_BINARY, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { modules, functions: Arc::default(), device })
    }

    /// True if no image had code for the device.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Loads the kernels of this build into the current context.
    ///
    /// # Errors
    /// A build without the feature `kernels`, a device that no kernel runs on, and what the driver
    /// says.
    pub fn embedded(context: &Context) -> Result<Self> {
        let images: Vec<&[u8]> = fatbins().collect();
        if images.is_empty() {
            return Err(Error::Unsupported(
                "no kernels in this build: build with the feature kernels, or load a fatbin with Kernels::load".into(),
            ));
        }
        // SAFETY: nvcc wrote them when the crate was built.
        unsafe { Self::load(context, &images) }
    }

    /// Never unloads them: that would wait for work that never ends.
    pub(super) fn leave(&self) {
        std::mem::forget(self.clone());
    }

    /// What launches are chosen for.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The kernel of a launch, ready for its shared memory: what a run would otherwise pay at its
    /// first launch.
    ///
    /// # Errors
    /// A kernel that was not loaded, more shared memory than the device has.
    pub fn prepare(&self, launch: &Launch) -> Result<Function> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((function, allowed)) = functions.get_mut(&launch.symbol) {
            if launch.shared_bytes > *allowed {
                function.allow_shared_bytes(launch.shared_bytes)?;
                *allowed = launch.shared_bytes;
            }
            return Ok(function.clone());
        }
        let mut missing =
            Error::Unsupported(format!("{}: no kernels are loaded; build with the feature kernels", launch.symbol));
        for module in &self.modules {
            match module.function(&launch.symbol) {
                Ok(function) => {
                    function.allow_shared_bytes(launch.shared_bytes)?;
                    functions.insert(launch.symbol.clone(), (function.clone(), launch.shared_bytes));
                    return Ok(function);
                }
                Err(error) => missing = error,
            }
        }
        Err(missing)
    }

    /// The parameters with their tensor maps encoded.
    ///
    /// # Errors
    /// Tensors that TMA cannot reach.
    pub fn encode(&self, launch: &Launch) -> Result<Vec<u8>> {
        let mut params = launch.params.clone();
        for (offset, map) in &launch.maps {
            let encoded = encode_tensor_map(&TensorMapArguments {
                address: map.address,
                dims: &map.dims[..map.rank],
                strides_bytes: &map.strides_bytes[..map.rank - 1],
                boxes: &map.boxes[..map.rank],
                swizzle_bytes: match map.swizzle {
                    Swizzle::None => 0,
                    Swizzle::B32 => 32,
                    Swizzle::B64 => 64,
                    Swizzle::B128 => 128,
                },
            })?;
            params[*offset..*offset + encoded.len()].copy_from_slice(&encoded);
        }
        Ok(params)
    }

    /// Launches in stream order; `params` come from [`Kernels::encode`].
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// Every address in `params` is alive and ordered with other work until the kernel has ended.
    pub unsafe fn launch(&self, of: &Launch, params: &[u8], stream: &Stream) -> Result<()> {
        let function = self.prepare(of)?;
        let geometry = Geometry { grid: of.grid, block: of.block, shared_bytes: of.shared_bytes, dependent: false };
        // SAFETY: the parameter struct is the one that the launch layer made for this symbol; its
        // addresses are the caller's promise.
        unsafe { launch(&function, &geometry, params, stream) }
    }
}

fn device_of(attributes: &Attributes) -> Result<Device> {
    let arch = match attributes.capability {
        // wgmma exists in 9.0 alone.
        (9, 0) => Arch::Sm90,
        (major, _) if major >= 8 => Arch::Sm80,
        (major, minor) => {
            return Err(Error::Unsupported(format!(
                "{} has compute capability {major}.{minor}: 8.0 or newer is needed",
                attributes.name
            )));
        }
    };
    Ok(Device { arch, sms: attributes.sms })
}
