//! Types and values of nccl.h 2.28.9, under the names they have there.
//!
//! C's enums are integers here: a newer library returns values that this list does not have, and a
//! Rust enum with such a value is undefined behaviour.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals)]

use std::ffi::{c_char, c_int, c_uint, c_void};

pub(crate) type ncclResult_t = c_int;
pub(crate) type ncclDataType_t = c_int;
pub(crate) type ncclRedOp_t = c_int;
pub(crate) type ncclComm_t = *mut c_void;
pub(crate) type ncclWindow_t = *mut c_void;
pub(crate) type cudaStream_t = *mut c_void;

pub(crate) const ncclSuccess: ncclResult_t = 0;
pub(crate) const ncclUnhandledCudaError: ncclResult_t = 1;
pub(crate) const ncclSystemError: ncclResult_t = 2;
pub(crate) const ncclInternalError: ncclResult_t = 3;
pub(crate) const ncclInvalidArgument: ncclResult_t = 4;
pub(crate) const ncclInvalidUsage: ncclResult_t = 5;
pub(crate) const ncclRemoteError: ncclResult_t = 6;
pub(crate) const ncclInProgress: ncclResult_t = 7;

pub(crate) const ncclUint8: ncclDataType_t = 1;
pub(crate) const ncclInt32: ncclDataType_t = 2;
pub(crate) const ncclFloat16: ncclDataType_t = 6;
pub(crate) const ncclFloat32: ncclDataType_t = 7;
pub(crate) const ncclBfloat16: ncclDataType_t = 9;

pub(crate) const ncclSum: ncclRedOp_t = 0;

pub(crate) const NCCL_SPLIT_NOCOLOR: c_int = -1;
pub(crate) const NCCL_CONFIG_UNDEF_INT: c_int = c_int::MIN;
pub(crate) const NCCL_CTA_POLICY_DEFAULT: c_int = 0;
pub(crate) const NCCL_CTA_POLICY_EFFICIENCY: c_int = 1;
pub(crate) const NCCL_CTA_POLICY_ZERO: c_int = 2;
pub(crate) const NCCL_WIN_DEFAULT: c_int = 0;
pub(crate) const NCCL_WIN_COLL_SYMMETRIC: c_int = 1;
pub(crate) const NCCL_SHRINK_ABORT: c_int = 1;
pub(crate) const NCCL_REVOKE_DEFAULT: c_int = 0;
pub(crate) const NCCL_UNIQUE_ID_BYTES: usize = 128;

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ncclUniqueId {
    pub(crate) internal: [c_char; NCCL_UNIQUE_ID_BYTES],
}

/// Its first three fields tell the library how much of it there is: a newer one takes what
/// follows as unset, an older one reads less.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ncclConfig_t {
    pub(crate) size: usize,
    pub(crate) magic: c_uint,
    pub(crate) version: c_uint,
    pub(crate) blocking: c_int,
    pub(crate) cgaClusterSize: c_int,
    pub(crate) minCTAs: c_int,
    pub(crate) maxCTAs: c_int,
    pub(crate) netName: *const c_char,
    pub(crate) splitShare: c_int,
    pub(crate) trafficClass: c_int,
    pub(crate) commName: *const c_char,
    pub(crate) collnetEnable: c_int,
    pub(crate) CTAPolicy: c_int,
    pub(crate) shrinkShare: c_int,
    pub(crate) nvlsCTAs: c_int,
    pub(crate) nChannelsPerNetPeer: c_int,
    pub(crate) nvlinkCentricSched: c_int,
}

/// `NCCL_CONFIG_INITIALIZER`.
pub(crate) const CONFIG_INITIALIZER: ncclConfig_t = ncclConfig_t {
    size: size_of::<ncclConfig_t>(),
    magic: 0xcafe_beef,
    version: 22809,
    blocking: NCCL_CONFIG_UNDEF_INT,
    cgaClusterSize: NCCL_CONFIG_UNDEF_INT,
    minCTAs: NCCL_CONFIG_UNDEF_INT,
    maxCTAs: NCCL_CONFIG_UNDEF_INT,
    netName: std::ptr::null(),
    splitShare: NCCL_CONFIG_UNDEF_INT,
    trafficClass: NCCL_CONFIG_UNDEF_INT,
    commName: std::ptr::null(),
    collnetEnable: NCCL_CONFIG_UNDEF_INT,
    CTAPolicy: NCCL_CONFIG_UNDEF_INT,
    shrinkShare: NCCL_CONFIG_UNDEF_INT,
    nvlsCTAs: NCCL_CONFIG_UNDEF_INT,
    nChannelsPerNetPeer: NCCL_CONFIG_UNDEF_INT,
    nvlinkCentricSched: NCCL_CONFIG_UNDEF_INT,
};

/// Name of a result code; the last one came with 2.30.
pub(crate) fn result_name(code: ncclResult_t) -> Option<&'static str> {
    Some(match code {
        ncclSuccess => "ncclSuccess",
        ncclUnhandledCudaError => "ncclUnhandledCudaError",
        ncclSystemError => "ncclSystemError",
        ncclInternalError => "ncclInternalError",
        ncclInvalidArgument => "ncclInvalidArgument",
        ncclInvalidUsage => "ncclInvalidUsage",
        ncclRemoteError => "ncclRemoteError",
        ncclInProgress => "ncclInProgress",
        8 => "ncclTimeout",
        _ => return None,
    })
}
