//! The emulation's C interface (`csrc/emu/api.h`) for tests.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;
use seqpar::kernel::cuda::{Launch, Swizzle, TensorMap};

use super::accesses::{Touched, Watch, observe};
use super::broken_launch::launch_or_broken;
use super::build;

#[repr(C)]
#[derive(Clone, Copy)]
struct RawOptions {
    seed: u64,
    async_policy: i32,
    order: i32,
    check: i32,
    strict_war: i32,
    resident: i32,
    registers: i32,
    max_messages: i32,
    dependent: i32,
    external: Option<unsafe extern "C" fn(*mut c_void) -> i32>,
    context: *mut c_void,
    now_ns: u64,
}

/// Counters of a launch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub errors: u64,
    pub blocks: u64,
    pub switches: u64,
    pub accesses: u64,
    pub matrix_rows: u64,
    pub matrix_conflicts: u64,
    pub mma: u64,
    pub wgmma: u64,
    pub tma: u64,
    pub shared_high: u64,
    deadlock: i32,
    reserved: i32,
    /// What the global timer said at the end.
    pub now_ns: u64,
}

/// When asynchronous results land.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(i32)]
pub enum Async {
    Late = 0,
    AtOnce = 1,
    Random = 2,
}

/// In which order lanes and warps run.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(i32)]
pub enum Order {
    Ascending = 0,
    Descending = 1,
    Random = 2,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    pub async_policy: Async,
    pub order: Order,
    pub check: bool,
    pub resident: usize,
    /// Registers of a thread at launch, for setmaxnreg's pool; 0: not checked.
    pub registers: usize,
    /// The launch may start before the earlier ones have ended (programmatic dependent launch).
    pub dependent: bool,
    /// What the global timer says at the start.
    pub now_ns: u64,
}

impl Options {
    pub fn seeded(seed: u64) -> Self {
        let async_policy = if seed.is_multiple_of(2) { Async::Random } else { Async::Late };
        Self {
            seed,
            async_policy,
            order: Order::Random,
            check: true,
            resident: 1 + (seed % 3) as usize,
            registers: 0,
            dependent: false,
            now_ns: 0,
        }
    }
}

/// What a launch said.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub counters: Counters,
    pub messages: Vec<String>,
    /// What it touched; `None` where nobody looks.
    pub touched: Option<Touched>,
}

/// Acts as another agent of the machine while every thread waits; true if it did something.
pub type External<'a> = &'a mut dyn FnMut() -> bool;

type NewDevice = unsafe extern "C" fn() -> *mut c_void;
type FreeDevice = unsafe extern "C" fn(*mut c_void);
type Alloc = unsafe extern "C" fn(*mut c_void, u64, *const c_char) -> u64;
type Mark = unsafe extern "C" fn(*mut c_void, u64, u64, i32);
type Unwritten = unsafe extern "C" fn(*mut c_void, u64, u64) -> u64;
type ExternalWrite = unsafe extern "C" fn(*mut c_void, u64, *const c_void, u64);
type ExternalRelease = unsafe extern "C" fn(*mut c_void, u64, u32);
type Encode = unsafe extern "C" fn(*mut c_void, u32, u32, u64, *const u64, *const u64, *const u32, u32) -> i32;
type LaunchFn = unsafe extern "C" fn(
    *mut c_void,
    *const c_char,
    *const u32,
    *const u32,
    u32,
    *const c_void,
    u64,
    *const RawOptions,
    *mut Counters,
) -> i32;
type Observer = unsafe extern "C" fn(*mut c_void, u64, u64, i32);
type Observe = unsafe extern "C" fn(Option<Observer>, *mut c_void);
type Message = unsafe extern "C" fn(u32) -> *const c_char;
type LastError = unsafe extern "C" fn() -> *const c_char;

/// A loaded emulation.
pub struct Emulator {
    /// None where the tests run on a GPU.
    library: Option<Library>,
}

impl Emulator {
    /// The emulation of this source tree, or of the one that `SEQPAR_SOURCE_ROOT` names: that is how
    /// `tests/mutants.rs` has the tests judge broken kernels.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Emulator> = OnceLock::new();
        SHARED.get_or_init(|| {
            let named = std::env::var_os("SEQPAR_SOURCE_ROOT").map(PathBuf::from);
            let root = named.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
            Self::of(&root).unwrap_or_else(|e| panic!("{e}"))
        })
    }

    /// The emulation with its probe kernels only.
    pub fn probes() -> &'static Self {
        static PROBES: OnceLock<Emulator> = OnceLock::new();
        PROBES.get_or_init(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            Self::load(build::library(root, build::PROBES)).unwrap_or_else(|e| panic!("{e}"))
        })
    }

    /// The emulation of the sources under `root`.
    pub fn of(root: &Path) -> Result<Self, String> {
        #[cfg(feature = "cuda")]
        if super::driver::wanted() {
            return Ok(Self { library: None });
        }
        Self::load(build::library(root, build::KERNELS))
    }

    fn load(path: Result<std::path::PathBuf, String>) -> Result<Self, String> {
        let path = path?;
        // SAFETY: the library was built from this project's sources; its initialisers only fill
        // a table of entry points.
        let library = unsafe { Library::new(path) }.map_err(|e| e.to_string())?;
        Ok(Self { library: Some(library) })
    }

    pub fn function<T: Copy>(&self, name: &str) -> T {
        let library = self.library.as_ref().expect("the emulation");
        // SAFETY: callers name a function of api.h with its type.
        unsafe { *library.get::<T>(name.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}")) }
    }

    pub fn device(&self) -> Device<'_> {
        #[cfg(feature = "cuda")]
        if super::driver::wanted() {
            return Device::Driver(super::driver::DriverDevice::new());
        }
        // SAFETY: takes nothing; null is checked.
        let raw = unsafe { self.function::<NewDevice>("emu_device_new")() };
        assert!(!raw.is_null(), "no memory for an emulated device");
        Device::Emulated(Emulated { emulator: self, raw })
    }

    /// Names of all kernels.
    pub fn symbols(&self) -> Vec<String> {
        let symbol: Message = self.function("emu_symbol");
        // SAFETY: any index is allowed; the strings are static.
        (0..).map_while(|i| unsafe { text(symbol(i)) }).collect()
    }

    fn last_error(&self) -> String {
        // SAFETY: takes nothing, returns a string of this thread.
        unsafe { text(self.function::<LastError>("emu_last_error")()) }.unwrap_or_default()
    }
}

/// SAFETY: `p` is null or a string that ends in 0.
unsafe fn text(p: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!p.is_null()).then(|| unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned())
}

/// A device of the test: emulated, or a real one (see [`super::driver`]).
pub enum Device<'a> {
    Emulated(Emulated<'a>),
    #[cfg(feature = "cuda")]
    Driver(super::driver::DriverDevice),
}

/// Calls the same method of whichever device it is.
macro_rules! either {
    ($self:ident, $device:ident => $call:expr) => {
        match $self {
            Self::Emulated($device) => $call,
            #[cfg(feature = "cuda")]
            Self::Driver($device) => $call,
        }
    };
}

impl Device<'_> {
    pub fn alloc(&self, bytes: usize, name: &str) -> u64 {
        either!(self, device => device.alloc(bytes, name))
    }

    /// Memory that holds `bytes`, written.
    pub fn upload(&self, bytes: &[u8], name: &str) -> u64 {
        let address = self.alloc(bytes.len(), name);
        self.write(address, bytes);
        address
    }

    /// The host writes.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        either!(self, device => device.write(address, bytes))
    }

    pub fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        either!(self, device => device.read(address, bytes))
    }

    /// Declares bytes written, or undefined.
    pub fn mark(&self, address: u64, bytes: usize, initialised: bool) {
        either!(self, device => device.mark(address, bytes, initialised))
    }

    /// Bytes that nobody wrote; 0 where nobody keeps count.
    pub fn unwritten_bytes(&self, address: u64, bytes: usize) -> u64 {
        either!(self, device => device.unwritten_bytes(address, bytes))
    }

    /// Another agent writes while a launch runs.
    pub fn external_write(&self, address: u64, bytes: &[u8]) {
        either!(self, device => device.external_write(address, bytes))
    }

    /// Another agent sets a flag after all its writes.
    pub fn external_release(&self, address: u64, value: u32) {
        either!(self, device => device.external_release(address, value))
    }

    /// Launches; panics if the launch could not start.
    pub fn run(&self, launch: &Launch, options: &Options, external: Option<External<'_>>) -> Outcome {
        self.try_run(launch, options, external).unwrap_or_else(|e| panic!("{}: {e}", launch.symbol))
    }

    pub fn try_run(
        &self,
        launch: &Launch,
        options: &Options,
        mut external: Option<External<'_>>,
    ) -> Result<Outcome, String> {
        either!(self, device => device.try_run(launch, options, &mut external))
    }
}

/// Emulated device memory; addresses are addresses of this process.
pub struct Emulated<'a> {
    emulator: &'a Emulator,
    raw: *mut c_void,
}

impl Drop for Emulated<'_> {
    fn drop(&mut self) {
        // SAFETY: made by emu_device_new, freed once.
        unsafe { self.emulator.function::<FreeDevice>("emu_device_free")(self.raw) }
    }
}

impl Emulated<'_> {
    pub fn alloc(&self, bytes: usize, name: &str) -> u64 {
        let name = CString::new(name).unwrap();
        // SAFETY: the device is alive.
        let address =
            unsafe { self.emulator.function::<Alloc>("emu_alloc")(self.raw, bytes.max(1) as u64, name.as_ptr()) };
        assert_ne!(address, 0, "out of emulated device memory");
        address
    }

    /// The host writes.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        // SAFETY: an allocation of this device, large enough.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        self.mark(address, bytes.len(), true);
    }

    pub fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        // SAFETY: an allocation of this device, large enough; no launch runs.
        unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }.to_vec()
    }

    pub fn mark(&self, address: u64, bytes: usize, initialised: bool) {
        // SAFETY: the device is alive; the range lies in it.
        unsafe { self.emulator.function::<Mark>("emu_mark")(self.raw, address, bytes as u64, i32::from(initialised)) }
    }

    pub fn unwritten_bytes(&self, address: u64, bytes: usize) -> u64 {
        // SAFETY: as above.
        unsafe { self.emulator.function::<Unwritten>("emu_unwritten_bytes")(self.raw, address, bytes as u64) }
    }

    /// Another agent writes while a launch runs.
    pub fn external_write(&self, address: u64, bytes: &[u8]) {
        let f: ExternalWrite = self.emulator.function("emu_external_write");
        // SAFETY: as above.
        unsafe { f(self.raw, address, bytes.as_ptr().cast(), bytes.len() as u64) }
    }

    /// Another agent sets a flag after all its writes.
    pub fn external_release(&self, address: u64, value: u32) {
        // SAFETY: as above.
        unsafe { self.emulator.function::<ExternalRelease>("emu_external_release")(self.raw, address, value) }
    }

    pub fn try_run(
        &self,
        launch: &Launch,
        options: &Options,
        external: &mut Option<External<'_>>,
    ) -> Result<Outcome, String> {
        let launch = &*launch_or_broken(launch);
        let mut params = launch.params.clone();
        for (offset, map) in &launch.maps {
            params[*offset..*offset + 128].copy_from_slice(&self.encode(map)?);
        }
        let raw = RawOptions {
            seed: options.seed,
            async_policy: options.async_policy as i32,
            order: options.order as i32,
            check: i32::from(options.check),
            strict_war: 0,
            resident: options.resident as i32,
            registers: options.registers as i32,
            max_messages: 8,
            dependent: i32::from(options.dependent),
            external: external.is_some().then_some(call_external),
            context: external.as_mut().map_or(std::ptr::null_mut(), |f| std::ptr::from_mut(f).cast()),
            now_ns: options.now_ns,
        };
        let symbol = CString::new(launch.symbol.as_str()).unwrap();
        let mut counters = Counters::default();
        let f: LaunchFn = self.emulator.function("emu_launch");
        let watch_launches: Observe = self.emulator.function("emu_observe");
        let mut watch = Box::<Watch>::default();
        // SAFETY: the watch is alive until nobody observes any more; only this thread's launch uses it.
        unsafe { watch_launches(Some(observe), std::ptr::from_mut(&mut *watch).cast()) };
        // SAFETY: every pointer lives until the call returns; `context` is a `External` that only
        // `call_external` uses, on this thread.
        let code = unsafe {
            f(
                self.raw,
                symbol.as_ptr(),
                launch.grid.as_ptr(),
                launch.block.as_ptr(),
                launch.shared_bytes,
                params.as_ptr().cast(),
                params.len() as u64,
                &raw,
                &mut counters,
            )
        };
        // SAFETY: takes null pointers.
        unsafe { watch_launches(None, std::ptr::null_mut()) };
        if code != 0 {
            return Err(self.emulator.last_error());
        }
        let message: Message = self.emulator.function("emu_message");
        // SAFETY: any index is allowed; the strings live until this thread's next launch.
        let messages = (0..).map_while(|i| unsafe { text(message(i)) }).collect();
        Ok(Outcome { counters, messages, touched: Some(watch.touched()) })
    }

    fn encode(&self, map: &TensorMap) -> Result<[u8; 128], String> {
        #[repr(C, align(64))]
        struct Aligned([u8; 128]);
        let mut bytes = Aligned([0; 128]);
        let swizzle = match map.swizzle {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        };
        let f: Encode = self.emulator.function("emu_encode_tensor_map");
        // SAFETY: the arrays have the five and four elements that the rank may name.
        let code = unsafe {
            f(
                bytes.0.as_mut_ptr().cast(),
                2,
                map.rank as u32,
                map.address,
                map.dims.as_ptr(),
                map.strides_bytes.as_ptr(),
                map.boxes.as_ptr(),
                swizzle,
            )
        };
        if code == 0 { Ok(bytes.0) } else { Err(self.emulator.last_error()) }
    }
}

unsafe extern "C" fn call_external(context: *mut c_void) -> i32 {
    // SAFETY: `context` is the `External` of the launch that calls back, see `try_run`.
    let external = unsafe { &mut *context.cast::<External<'_>>() };
    i32::from(external())
}
