use std::marker::PhantomData;

use cudarc::driver::sys;

use super::driver::{check, load, log_failure};
use crate::error::Result;

/// A device's context: the primary one, retained, or the one that the caller made current.
#[derive(Debug)]
pub struct Context {
    raw: sys::CUcontext,
    device: sys::CUdevice,
    retained: bool,
}

// SAFETY: a context may be used from any thread; the driver locks it.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// What of a device matters for a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Name, as the driver gives it.
    pub name: String,
    /// Identity, the same in every process.
    pub uuid: [u8; 16],
    /// Bytes of device memory.
    pub memory_bytes: usize,
}

impl Context {
    /// Retains the primary context of device `ordinal` and binds it: the one that frameworks use.
    ///
    /// # Errors
    /// No driver, no such device, and what the driver says.
    pub fn primary(ordinal: i32) -> Result<Self> {
        load()?;
        let (mut device, mut raw) = (0, std::ptr::null_mut());
        // SAFETY: writes one integer.
        check(unsafe { sys::cuDeviceGet(&mut device, ordinal) }, "cuDeviceGet")?;
        // SAFETY: writes one pointer; released in drop.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, device) }, "cuDevicePrimaryCtxRetain")?;
        let context = Self { raw, device, retained: true };
        context.bind()?;
        Ok(context)
    }

    /// Borrows the context that is current on this thread; `None` if there is none.
    ///
    /// # Errors
    /// No driver, and what the driver says.
    pub fn current() -> Result<Option<Self>> {
        load()?;
        let (mut raw, mut device) = (std::ptr::null_mut(), 0);
        // SAFETY: writes one pointer.
        check(unsafe { sys::cuCtxGetCurrent(&mut raw) }, "cuCtxGetCurrent")?;
        if raw.is_null() {
            return Ok(None);
        }
        // SAFETY: a context is current; writes one integer.
        check(unsafe { sys::cuCtxGetDevice(&mut device) }, "cuCtxGetDevice")?;
        Ok(Some(Self { raw, device, retained: false }))
    }

    /// The same context, borrowed: it must not outlive this one.
    pub fn borrowed(&self) -> Self {
        Self { raw: self.raw, device: self.device, retained: false }
    }

    /// Whether both are the driver's one context.
    pub fn is_same(&self, other: &Self) -> bool {
        self.raw == other.raw
    }

    /// The ordinal of its device.
    pub fn device(&self) -> i32 {
        self.device
    }

    pub(super) fn raw(&self) -> sys::CUcontext {
        self.raw
    }

    /// Makes it current on this thread.
    ///
    /// # Errors
    /// What the driver says.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context is alive: retained here or by the caller who lent it.
        check(unsafe { sys::cuCtxSetCurrent(self.raw) }, "cuCtxSetCurrent")
    }

    /// Makes it current on this thread until the result is dropped; what was current before is then
    /// current again.
    ///
    /// # Errors
    /// What the driver says.
    pub fn enter(&self) -> Result<Entered> {
        let mut before = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        check(unsafe { sys::cuCtxGetCurrent(&mut before) }, "cuCtxGetCurrent")?;
        let is_current = before == self.raw;
        if !is_current {
            self.bind()?;
        }
        Ok(Entered { before: (!is_current).then_some(before), of_its_thread: PhantomData })
    }

    /// Never gives it back: that would wait for work that never ends.
    pub fn leave(&mut self) {
        self.retained = false;
    }

    /// Waits for all work of the context.
    ///
    /// # Errors
    /// What the driver says, an earlier failure included.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the context is current.
        check(unsafe { sys::cuCtxSynchronize() }, "cuCtxSynchronize")
    }

    /// What the device is.
    ///
    /// # Errors
    /// What the driver says.
    pub fn attributes(&self) -> Result<Attributes> {
        use sys::CUdevice_attribute as Attribute;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: writes one integer.
            check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, self.device) }, "cuDeviceGetAttribute")?;
            Ok::<_, crate::error::Error>(value)
        };
        let mut name = [0 as std::ffi::c_char; 128];
        // SAFETY: writes at most 128 bytes, the last of them 0.
        check(unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 128, self.device) }, "cuDeviceGetName")?;
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        // SAFETY: writes 16 bytes.
        check(unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, self.device) }, "cuDeviceGetUuid")?;
        let mut memory_bytes = 0;
        // SAFETY: writes one integer.
        check(unsafe { sys::cuDeviceTotalMem_v2(&mut memory_bytes, self.device) }, "cuDeviceTotalMem")?;
        Ok(Attributes {
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            sms: u32::try_from(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?).unwrap_or(0),
            name: name.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect(),
            uuid: uuid.bytes.map(|b| b as u8),
            memory_bytes,
        })
    }
}

/// A context is current on this thread: see [`Context::enter`].
#[derive(Debug)]
pub struct Entered {
    /// Null: none was.
    before: Option<sys::CUcontext>,
    of_its_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: it was current when this began, and whoever made it so keeps it alive.
            log_failure(unsafe { sys::cuCtxSetCurrent(before) }, "cuCtxSetCurrent");
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.retained {
            // SAFETY: retained once by `primary`.
            log_failure(unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) }, "cuDevicePrimaryCtxRelease");
        }
    }
}
