use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::sys;

use super::driver::{check, log_failure};
use crate::error::{Error, Result};

/// Code loaded into the current context.
#[derive(Debug)]
pub struct Module {
    raw: sys::CUmodule,
}

// SAFETY: modules and functions may be used from any thread; the driver locks them.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel of a module, which it keeps alive.
#[derive(Clone, Debug)]
pub struct Function {
    raw: sys::CUfunction,
    module: Arc<Module>,
}

// SAFETY: as for `Module`.
unsafe impl Send for Function {}
// SAFETY: as for `Module`.
unsafe impl Sync for Function {}

impl Module {
    /// Loads a fatbin or cubin.
    ///
    /// # Errors
    /// What the driver says: no code for this device above all.
    ///
    /// # Safety
    /// `image` is a fatbin or cubin as a compiler wrote it: the driver trusts its headers.
    pub unsafe fn load(image: &[u8]) -> Result<Arc<Self>> {
        // The driver reads its header in words.
        let mut aligned =
            vec![0u128; if image.as_ptr().cast::<u128>().is_aligned() { 0 } else { image.len().div_ceil(16) }];
        let image = match bytemuck::cast_slice_mut(&mut aligned) {
            [] => image,
            copy => {
                copy[..image.len()].copy_from_slice(image);
                copy
            }
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the caller's promise; unloaded in drop.
        check(unsafe { sys::cuModuleLoadData(&mut raw, image.as_ptr().cast()) }, "cuModuleLoadData")?;
        Ok(Arc::new(Self { raw }))
    }

    /// The kernel called `symbol`.
    ///
    /// # Errors
    /// No such kernel.
    pub fn function(self: &Arc<Self>, symbol: &str) -> Result<Function> {
        let name = CString::new(symbol).map_err(|_| Error::Unsupported(format!("{symbol:?} is no kernel's name")))?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the module is alive; writes one handle.
        let result = unsafe { sys::cuModuleGetFunction(&mut raw, self.raw, name.as_ptr()) };
        if result == sys::CUresult::CUDA_ERROR_NOT_FOUND {
            return Err(Error::Unsupported(format!("the loaded code has no kernel {symbol}: build the kernels anew")));
        }
        check(result, "cuModuleGetFunction")?;
        Ok(Function { raw, module: Arc::clone(self) })
    }
}

impl Function {
    pub(super) fn raw(&self) -> sys::CUfunction {
        self.raw
    }

    /// Allows launches with that much dynamic shared memory, above 48 KB too.
    ///
    /// # Errors
    /// More than the device has.
    pub fn allow_shared_bytes(&self, bytes: u32) -> Result<()> {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: the function's module is alive.
        check(unsafe { sys::cuFuncSetAttribute(self.raw, attribute, bytes) }, "cuFuncSetAttribute")
    }

    /// The module that holds it.
    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: made by `load`, unloaded once: functions keep their module alive.
        log_failure(unsafe { sys::cuModuleUnload(self.raw) }, "cuModuleUnload");
    }
}
