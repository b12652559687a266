//! NCCL's functions that we call, one line each as in nccl.h; each is there or not.
#![allow(non_snake_case)]

use std::ffi::{c_char, c_int, c_void};

use super::abi::*;

macro_rules! functions {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        /// What a library exports of the list.
        pub(crate) struct Functions {
            // SAFETY: to be called as nccl.h says; the type alone promises nothing.
            $(pub(crate) $name: Option<unsafe extern "C" fn($($argument: $type),*) -> $result>,)*
        }

        impl Functions {
            /// Looks every name up.
            ///
            /// # Safety
            /// `library` is NCCL: what it exports under these names has these types.
            pub(crate) unsafe fn of(library: &libloading::Library) -> Self {
                Self {
                    // SAFETY: the caller's promise; the addresses stay valid while the library is loaded.
                    $($name: unsafe { library.get(stringify!($name)) }.ok().map(|symbol| *symbol),)*
                }
            }
        }
    };
}

functions! {
    ncclGetVersion(version: *mut c_int) -> ncclResult_t;
    ncclGetUniqueId(id: *mut ncclUniqueId) -> ncclResult_t;
    ncclGetLastError(comm: ncclComm_t) -> *const c_char;
    ncclCommInitRankConfig(comm: *mut ncclComm_t, world: c_int, id: ncclUniqueId, rank: c_int, config: *mut ncclConfig_t) -> ncclResult_t;
    ncclCommSplit(comm: ncclComm_t, color: c_int, key: c_int, part: *mut ncclComm_t, config: *mut ncclConfig_t) -> ncclResult_t;
    ncclCommShrink(comm: ncclComm_t, without: *mut c_int, count: c_int, rest: *mut ncclComm_t, config: *mut ncclConfig_t, flags: c_int) -> ncclResult_t;
    ncclCommCount(comm: ncclComm_t, count: *mut c_int) -> ncclResult_t;
    ncclCommUserRank(comm: ncclComm_t, rank: *mut c_int) -> ncclResult_t;
    ncclCommGetAsyncError(comm: ncclComm_t, state: *mut ncclResult_t) -> ncclResult_t;
    ncclCommFinalize(comm: ncclComm_t) -> ncclResult_t;
    ncclCommDestroy(comm: ncclComm_t) -> ncclResult_t;
    ncclCommAbort(comm: ncclComm_t) -> ncclResult_t;
    ncclCommRevoke(comm: ncclComm_t, flags: c_int) -> ncclResult_t;
    ncclCommRegister(comm: ncclComm_t, buffer: *mut c_void, bytes: usize, handle: *mut *mut c_void) -> ncclResult_t;
    ncclCommDeregister(comm: ncclComm_t, handle: *mut c_void) -> ncclResult_t;
    ncclCommWindowRegister(comm: ncclComm_t, buffer: *mut c_void, bytes: usize, window: *mut ncclWindow_t, flags: c_int) -> ncclResult_t;
    ncclCommWindowDeregister(comm: ncclComm_t, window: ncclWindow_t) -> ncclResult_t;
    ncclMemAlloc(address: *mut *mut c_void, bytes: usize) -> ncclResult_t;
    ncclMemFree(address: *mut c_void) -> ncclResult_t;
    ncclGroupStart() -> ncclResult_t;
    ncclGroupEnd() -> ncclResult_t;
    ncclSend(from: *const c_void, count: usize, dtype: ncclDataType_t, peer: c_int, comm: ncclComm_t, stream: cudaStream_t) -> ncclResult_t;
    ncclRecv(to: *mut c_void, count: usize, dtype: ncclDataType_t, peer: c_int, comm: ncclComm_t, stream: cudaStream_t) -> ncclResult_t;
    ncclAllGather(from: *const c_void, to: *mut c_void, count: usize, dtype: ncclDataType_t, comm: ncclComm_t, stream: cudaStream_t) -> ncclResult_t;
    ncclReduceScatter(from: *const c_void, to: *mut c_void, count: usize, dtype: ncclDataType_t, op: ncclRedOp_t, comm: ncclComm_t, stream: cudaStream_t) -> ncclResult_t;
    ncclAllReduce(from: *const c_void, to: *mut c_void, count: usize, dtype: ncclDataType_t, op: ncclRedOp_t, comm: ncclComm_t, stream: cudaStream_t) -> ncclResult_t;
    ncclBroadcast(from: *const c_void, to: *mut c_void, count: usize, dtype: ncclDataType_t, root: c_int, comm: ncclComm_t, stream: cudaStream_t) -> ncclResult_t;
    ncclAlltoAll(from: *const c_void, to: *mut c_void, count: usize, dtype: ncclDataType_t, comm: ncclComm_t, stream: cudaStream_t) -> ncclResult_t;
}
