//! The structs of `include/seqpar.h`, field by field in its order, where they are documented.
//! `tests/capi/header.rs` compares sizes and offsets with C.
#![allow(missing_docs)]

use std::ffi::{c_char, c_void};

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    pub data: *mut c_void,
    pub strides: [i64; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Image {
    pub struct_bytes: usize,
    pub data: *const c_void,
    pub data_bytes: usize,
    pub path: *const c_char,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KernelsOptions {
    pub struct_bytes: usize,
    pub device: i32,
    pub threads: i32,
    pub sms: i32,
    pub reserved: i32,
    pub images: *const Image,
    pub image_count: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QuerySegment {
    pub struct_bytes: usize,
    pub rows: i64,
    pub q: Tensor,
    pub out: Tensor,
    pub lse: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KeySegment {
    pub struct_bytes: usize,
    pub rows: i64,
    pub first: i64,
    pub stream: i32,
    pub reserved: i32,
    pub k: Tensor,
    pub v: Tensor,
    pub mask: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs {
    pub struct_bytes: usize,
    pub dtype: i32,
    pub scale: f32,
    pub batch: i64,
    pub heads: i64,
    pub kv_heads: i64,
    pub head_dim: i64,
    pub queries: *const QuerySegment,
    pub query_count: usize,
    pub keys: *const KeySegment,
    pub key_count: usize,
    pub key_len: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AdalnArgs {
    pub struct_bytes: usize,
    pub dtype: i32,
    pub norm: i32,
    pub eps: f32,
    pub modulation: i32,
    pub batch: i64,
    pub rows: i64,
    pub hidden: i64,
    pub x: Tensor,
    pub branch: Tensor,
    pub residual: Tensor,
    pub y: Tensor,
    pub gate: Tensor,
    pub shift: Tensor,
    pub scale: Tensor,
    pub gate_0: Tensor,
    pub shift_0: Tensor,
    pub scale_0: Tensor,
    pub frame: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QkNormRopeArgs {
    pub struct_bytes: usize,
    pub dtype: i32,
    pub rope: i32,
    pub norm_eps: f32,
    pub reserved: i32,
    pub batch: i64,
    pub rows: i64,
    pub heads: i64,
    pub kv_heads: i64,
    pub head_dim: i64,
    pub q: Tensor,
    pub k: Tensor,
    pub q_norm: Tensor,
    pub k_norm: Tensor,
    pub cos: Tensor,
    pub sin: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitStatus {
    pub code: u32,
    pub wait: u32,
    pub expected: u32,
    pub seen: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QkvChunk {
    pub struct_bytes: usize,
    pub rows: i64,
    pub x: Tensor,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub cos: Tensor,
    pub sin: Tensor,
    pub flag: *const u32,
    pub epoch: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QkvArgs {
    pub struct_bytes: usize,
    pub dtype: i32,
    pub rope: i32,
    pub norm_eps: f32,
    pub reserved: i32,
    pub batch: i64,
    pub hidden: i64,
    pub heads: i64,
    pub kv_heads: i64,
    pub head_dim: i64,
    pub q_weight: Tensor,
    pub k_weight: Tensor,
    pub v_weight: Tensor,
    pub q_bias: Tensor,
    pub k_bias: Tensor,
    pub v_bias: Tensor,
    pub q_norm: Tensor,
    pub k_norm: Tensor,
    pub chunks: *const QkvChunk,
    pub chunk_count: usize,
    pub first_chunk: usize,
    pub status: *mut WaitStatus,
    pub timeout_ns: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Split {
    pub counts: *const i64,
    pub owners: *const i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub struct_bytes: usize,
    pub kind: i32,
    pub strategy: i32,
    pub dtype: i32,
    pub ranks: i32,
    pub ulysses: i32,
    pub ring: i32,
    pub batch: i64,
    pub tokens: i64,
    pub keys: i64,
    pub text: i64,
    pub heads: i64,
    pub kv_heads: i64,
    pub head_dim: i64,
    pub token_split: Split,
    pub key_split: Split,
    pub text_split: Split,
    pub text_replicated: i32,
    pub key_mask: i32,
    pub key_len: i32,
    pub route: i32,
    pub gated: i32,
    pub head_groups: i32,
    pub hidden: i64,
    pub mlp: i64,
    pub qkv_bias: i32,
    pub proj_bias: i32,
    pub text_weights: i32,
    pub rope: i32,
    pub qk_norm: i32,
    pub qk_norm_eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub struct_bytes: usize,
    pub name: *const c_char,
    pub tensor: *const c_char,
    pub role: i32,
    pub dtype: i32,
    pub dims: [i64; 4],
    pub tensor_dims: [i64; 4],
    pub bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    pub struct_bytes: usize,
    pub buffers: u64,
    pub ops: u64,
    pub streams: u64,
    pub bytes_sent: u64,
    pub messages_sent: u64,
    pub arena_bytes: u64,
    pub peak_bytes: u64,
    pub flops: f64,
    pub hash: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HostOptions {
    pub struct_bytes: usize,
    pub threads: i32,
    pub gates_as_events: i32,
    pub deadline_ms: u64,
    pub link_bytes_per_s: f64,
    pub link_latency_s: f64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    pub struct_bytes: usize,
    pub gates_as_flags: i32,
    pub graph: i32,
    pub timed: i32,
    pub poison: i32,
    pub deadline_ms: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NcclOptions {
    pub struct_bytes: usize,
    pub rank: i32,
    pub world: i32,
    pub unique_id: *const u8,
    pub nccl_path: *const c_char,
    pub max_ctas: i32,
    pub reserved: i32,
    pub deadline_ms: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RankReport {
    pub struct_bytes: usize,
    pub wall_ns: u64,
    pub bytes_sent: u64,
    pub peak_bytes: u64,
    pub compute_ns: u64,
    pub comm_ns: u64,
    pub exposed_ns: u64,
}
