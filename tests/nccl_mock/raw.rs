//! NCCL's C interface as far as the tests call it.
#![allow(non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

pub type Handle = *mut c_void;

pub const SUCCESS: c_int = 0;
pub const UNHANDLED_CUDA_ERROR: c_int = 1;
pub const INVALID_ARGUMENT: c_int = 4;
pub const INVALID_USAGE: c_int = 5;
pub const REMOTE_ERROR: c_int = 6;
pub const IN_PROGRESS: c_int = 7;
pub const NO_COLOR: c_int = -1;
const UNDEFINED: c_int = c_int::MIN;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct UniqueId(pub [u8; 128]);

#[repr(C)]
pub struct Config {
    size: usize,
    pub magic: u32,
    version: u32,
    pub blocking: c_int,
    cga_cluster_size: c_int,
    pub min_ctas: c_int,
    pub max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
    comm_name: *const c_char,
    rest: [c_int; 6],
}

impl Config {
    pub fn new(blocking: bool) -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafebeef,
            version: 22809,
            blocking: blocking.into(),
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
            traffic_class: UNDEFINED,
            comm_name: std::ptr::null(),
            rest: [UNDEFINED; 6],
        }
    }
}

macro_rules! functions {
    ($($name:ident($($argument:ty),*);)*) => {
        pub struct Nccl {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> c_int,)*
            ncclGetErrorString: unsafe extern "C" fn(c_int) -> *const c_char,
            _library: libloading::Library,
        }

        impl Nccl {
            fn load() -> Self {
                // SAFETY: the mock's initialisers only register; types are those of functions.h,
                // which the test of the signatures compares with nccl.h.
                unsafe {
                    let library = libloading::Library::new("libnccl.so.2").unwrap();
                    Self {
                        $($name: *library.get(stringify!($name).as_bytes()).unwrap(),)*
                        ncclGetErrorString: *library.get(b"ncclGetErrorString").unwrap(),
                        _library: library,
                    }
                }
            }
        }
    };
}

functions! {
    ncclGetVersion(*mut c_int);
    ncclGetUniqueId(*mut UniqueId);
    ncclCommInitRank(*mut Handle, c_int, UniqueId, c_int);
    ncclCommInitRankConfig(*mut Handle, c_int, UniqueId, c_int, *mut Config);
    ncclCommSplit(Handle, c_int, c_int, *mut Handle, *mut Config);
    ncclCommShrink(Handle, *mut c_int, c_int, *mut Handle, *mut Config, c_int);
    ncclCommGetAsyncError(Handle, *mut c_int);
    ncclCommCount(Handle, *mut c_int);
    ncclCommCuDevice(Handle, *mut c_int);
    ncclCommUserRank(Handle, *mut c_int);
    ncclCommFinalize(Handle);
    ncclCommDestroy(Handle);
    ncclCommAbort(Handle);
    ncclCommRevoke(Handle, c_int);
    ncclMemAlloc(*mut *mut c_void, usize);
    ncclMemFree(*mut c_void);
    ncclCommRegister(Handle, *mut c_void, usize, *mut *mut c_void);
    ncclCommDeregister(Handle, *mut c_void);
    ncclCommWindowRegister(Handle, *mut c_void, usize, *mut Handle, c_int);
    ncclCommWindowDeregister(Handle, Handle);
    ncclGroupStart();
    ncclGroupEnd();
    ncclReduce(u64, u64, usize, c_int, c_int, c_int, Handle, u64);
    ncclBroadcast(u64, u64, usize, c_int, c_int, Handle, u64);
    ncclAllReduce(u64, u64, usize, c_int, c_int, Handle, u64);
    ncclReduceScatter(u64, u64, usize, c_int, c_int, Handle, u64);
    ncclAllGather(u64, u64, usize, c_int, Handle, u64);
    ncclAlltoAll(u64, u64, usize, c_int, Handle, u64);
    ncclSend(u64, usize, c_int, c_int, Handle, u64);
    ncclRecv(u64, usize, c_int, c_int, Handle, u64);
}

pub fn nccl() -> &'static Nccl {
    static LOADED: OnceLock<Nccl> = OnceLock::new();
    LOADED.get_or_init(Nccl::load)
}

pub fn error_string(code: c_int) -> String {
    // SAFETY: the text is static.
    unsafe { CStr::from_ptr((nccl().ncclGetErrorString)(code)) }.to_string_lossy().into_owned()
}

/// Panics with NCCL's words.
#[track_caller]
pub fn ok(code: c_int) {
    assert_eq!(code, SUCCESS, "{}", error_string(code));
}

/// NCCL's data types, by number.
pub mod dtype {
    pub const INT8: i32 = 0;
    pub const UINT8: i32 = 1;
    pub const INT32: i32 = 2;
    pub const INT64: i32 = 4;
    pub const FLOAT16: i32 = 6;
    pub const FLOAT32: i32 = 7;
    pub const FLOAT64: i32 = 8;
    pub const BFLOAT16: i32 = 9;
    pub const FLOAT8E4M3: i32 = 10;
    pub const FLOAT8E5M2: i32 = 11;
}
