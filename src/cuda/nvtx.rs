//! Ranges for profilers (NVTX 3), in the domain `seqpar`.
//!
//! A profiler that listens names a library in `NVTX_INJECTION64_PATH` (Nsight Systems and Nsight
//! Compute do for the programs that they start). It is loaded at the first use and puts its functions
//! where NVIDIA's header-only client has them. Without one, or without the feature `nvtx`, [`domain`]
//! is `None` and costs a load. Labels are registered once; a range by a registered label is a call
//! and its end another.
//!
//! Refuses nothing and changes nothing: a library that cannot be used is a line in the log. Assumes
//! the interface of NVTX 3 (`nvtxTypes.h`, load sequence 2). Tests: `tests/cuda_nvtx.rs`, with a
//! library that writes down what it is told.
#![cfg_attr(not(feature = "nvtx"), allow(dead_code))]

use std::ffi::{CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::stream::Stream;

/// Functions of a module by their callback id, null until the library sets them.
type Slots = [AtomicPtr<c_void>];

// Sizes and ids of `nvtxTypes.h`.
static CORE: [AtomicPtr<c_void>; 16] = [const { AtomicPtr::new(null_mut()) }; 16];
static CUDA: [AtomicPtr<c_void>; 9] = [const { AtomicPtr::new(null_mut()) }; 9];
static OPENCL: [AtomicPtr<c_void>; 15] = [const { AtomicPtr::new(null_mut()) }; 15];
static CUDART: [AtomicPtr<c_void>; 7] = [const { AtomicPtr::new(null_mut()) }; 7];
static CORE2: [AtomicPtr<c_void>; 16] = [const { AtomicPtr::new(null_mut()) }; 16];
static SYNC: [AtomicPtr<c_void>; 7] = [const { AtomicPtr::new(null_mut()) }; 7];

const CUDA_NAME_STREAM: usize = 5;
const DOMAIN_RANGE_PUSH: usize = 4;
const DOMAIN_RANGE_POP: usize = 5;
const DOMAIN_REGISTER_STRING: usize = 10;
const DOMAIN_CREATE: usize = 12;

const VERSION: u16 = 3;
const MESSAGE_ASCII: i32 = 1;
const MESSAGE_REGISTERED: i32 = 3;

/// `nvtxEventAttributes_t`.
#[repr(C)]
struct Attributes {
    version: u16,
    size: u16,
    category: u32,
    color_type: i32,
    color: u32,
    payload_type: i32,
    reserved: i32,
    payload: u64,
    message_type: i32,
    message: *const c_void,
}

/// Where the ranges of this crate belong.
#[derive(Debug)]
pub struct Domain {
    raw: *mut c_void,
}

// SAFETY: the library's functions may be called from any thread.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

/// A text that ranges carry.
#[derive(Debug)]
pub struct Label {
    text: CString,
    /// Null if the library does not register any.
    registered: *mut c_void,
}

// SAFETY: the handle is a name, valid as long as the process.
unsafe impl Send for Label {}
// SAFETY: as above.
unsafe impl Sync for Label {}

/// An open range of this thread; ranges nest.
#[derive(Debug)]
pub struct Range<'a> {
    domain: &'a Domain,
    of_its_thread: PhantomData<*const ()>,
}

/// The domain, if a profiler listens.
pub fn domain() -> Option<&'static Domain> {
    static DOMAIN: OnceLock<Option<Domain>> = OnceLock::new();
    DOMAIN.get_or_init(attach).as_ref()
}

/// Gives the row of a stream a name.
pub fn name_stream(stream: &Stream, name: &str) {
    if domain().is_none() {
        return;
    }
    // SAFETY: the type of the function with this id.
    if let Some(call) = unsafe { set::<extern "C" fn(*mut c_void, *const c_char)>(&CUDA, CUDA_NAME_STREAM) } {
        call(stream.raw().cast(), c_text(name).as_ptr());
    }
}

impl Domain {
    /// A label, registered.
    pub fn label(&self, text: &str) -> Label {
        type Register = extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
        let text = c_text(text);
        // SAFETY: the type of the function with this id.
        let register = unsafe { set::<Register>(&CORE2, DOMAIN_REGISTER_STRING) };
        let registered = register.map_or(null_mut(), |register| register(self.raw, text.as_ptr()));
        Label { text, registered }
    }

    /// Opens a range, which ends when the result is dropped.
    pub fn range(&self, label: &Label) -> Range<'_> {
        let registered = !label.registered.is_null();
        let attributes = Attributes {
            version: VERSION,
            size: size_of::<Attributes>() as u16,
            category: 0,
            color_type: 0,
            color: 0,
            payload_type: 0,
            reserved: 0,
            payload: 0,
            message_type: if registered { MESSAGE_REGISTERED } else { MESSAGE_ASCII },
            message: if registered { label.registered } else { label.text.as_ptr().cast() },
        };
        // SAFETY: the type of the function with this id.
        let push = unsafe { set::<extern "C" fn(*mut c_void, &Attributes) -> c_int>(&CORE2, DOMAIN_RANGE_PUSH) };
        if let Some(push) = push {
            push(self.raw, &attributes);
        }
        Range { domain: self, of_its_thread: PhantomData }
    }
}

impl Drop for Range<'_> {
    fn drop(&mut self) {
        // SAFETY: the type of the function with this id.
        if let Some(pop) = unsafe { set::<extern "C" fn(*mut c_void) -> c_int>(&CORE2, DOMAIN_RANGE_POP) } {
            pop(self.domain.raw);
        }
    }
}

/// Up to the first 0, which no label has.
fn c_text(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// The function with this id, if the library has set it.
///
/// # Safety
/// `F` is the type of that function.
unsafe fn set<F: Copy>(slots: &Slots, id: usize) -> Option<F> {
    let function = slots.get(id)?.load(Ordering::Acquire);
    // SAFETY: a function pointer is as large as any other; the caller knows its type.
    (!function.is_null()).then(|| unsafe { std::mem::transmute_copy(&function) })
}

#[cfg(not(feature = "nvtx"))]
fn attach() -> Option<Domain> {
    None
}

#[cfg(feature = "nvtx")]
fn attach() -> Option<Domain> {
    type Initialize = unsafe extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int;
    let path = std::env::var_os("NVTX_INJECTION64_PATH")?;
    // SAFETY: the profiler's own library; its initialisers are its business.
    let loaded = unsafe { libloading::Library::new(&path) };
    let library = loaded.map_err(|error| log::warn!("no ranges for a profiler: {error}")).ok()?;
    // SAFETY: the type of the one function that such a library exports.
    let initialize = unsafe { library.get::<Initialize>(b"InitializeInjectionNvtx2\0") };
    let initialize = initialize.map_err(|error| log::warn!("no ranges for a profiler: {error}")).ok()?;
    // SAFETY: as the interface has it; the tables are static.
    if unsafe { initialize(export_table) } == 0 {
        log::warn!("no ranges for a profiler: {} does not want them", path.display());
        return None;
    }
    // It may be called until the process ends.
    std::mem::forget(library);
    // SAFETY: the type of the function with this id.
    let create = unsafe { set::<extern "C" fn(*const c_char) -> *mut c_void>(&CORE2, DOMAIN_CREATE) };
    Some(Domain { raw: create.map_or(null_mut(), |create| create(c"seqpar".as_ptr())) })
}

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    struct_size: usize,
    module_table: extern "C" fn(c_int, *mut *const usize, *mut u32) -> c_int,
}

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct VersionInfo {
    struct_size: usize,
    version: u32,
    reserved: u32,
    set_injection_version: extern "C" fn(u32),
}

/// What the library asks for by number; null: not known.
extern "C" fn export_table(id: u32) -> *const c_void {
    static CALLBACKS: Callbacks = Callbacks { struct_size: size_of::<Callbacks>(), module_table };
    static VERSION_INFO: VersionInfo = VersionInfo {
        struct_size: size_of::<VersionInfo>(),
        version: VERSION as u32,
        reserved: 0,
        set_injection_version,
    };
    match id {
        1 => std::ptr::from_ref(&CALLBACKS).cast(),
        3 => std::ptr::from_ref(&VERSION_INFO).cast(),
        _ => null(),
    }
}

extern "C" fn set_injection_version(_: u32) {}

/// Writes a table of where a module's functions are to be put, and its length; 0: no such module.
extern "C" fn module_table(module: c_int, table: *mut *const usize, count: *mut u32) -> c_int {
    static TABLES: OnceLock<Vec<Vec<usize>>> = OnceLock::new();
    let modules: [&Slots; 6] = [&CORE, &CUDA, &OPENCL, &CUDART, &CORE2, &SYNC];
    let tables = TABLES.get_or_init(|| {
        let places = |slots: &&Slots| {
            // The first id means nothing, and a null ends the table.
            let used = slots.iter().skip(1).map(|slot| std::ptr::from_ref(slot) as usize);
            std::iter::once(0).chain(used).chain([0]).collect()
        };
        modules.iter().map(places).collect()
    });
    let Some(places) = usize::try_from(module).ok().and_then(|module| tables.get(module.checked_sub(1)?)) else {
        return 0;
    };
    // SAFETY: the interface lets either be null, and otherwise gives room for one value.
    unsafe {
        if !table.is_null() {
            *table = places.as_ptr();
        }
        if !count.is_null() {
            *count = places.len() as u32 - 1;
        }
    }
    1
}
