// Written by scripts/bindings.sh from include/seqpar_kernels.h.
#![allow(missing_docs, dead_code, unreachable_pub)]
pub const SEQPAR_MAX_QUERY_SEGMENTS: u32 = 4;
pub const SEQPAR_MAX_KEY_SEGMENTS: u32 = 16;
pub const SEQPAR_MAX_GEMM_PARTS: u32 = 4;
pub const SEQPAR_MAX_GEMM_CHUNKS: u32 = 16;
pub const SEQPAR_MAX_PACK_COPIES: u32 = 16;
pub const SEQPAR_MAX_SUM_PARTS: u32 = 64;
pub const SEQPAR_EPILOGUE_NONE: u32 = 0;
pub const SEQPAR_EPILOGUE_GELU: u32 = 1;
pub const SEQPAR_EPILOGUE_SILU: u32 = 2;
pub const SEQPAR_EPILOGUE_RESIDUAL: u32 = 3;
pub const SEQPAR_EPILOGUE_GATED_RESIDUAL: u32 = 4;
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparTensorMap {
    pub opaque: [u64; 16usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparView {
    pub address: u64,
    pub batch: i64,
    pub row: i64,
    pub head: i64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparStatus {
    pub code: u32,
    pub wait: u32,
    pub expected: u32,
    pub seen: u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparGate {
    pub flag: u64,
    pub epoch: u32,
    pub reserved: u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparVector {
    pub address: u64,
    pub second: u64,
    pub batch: i64,
    pub row: i64,
    pub second_batch: i64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparRowKernel {
    pub x: SeqparView,
    pub branch: SeqparView,
    pub out: SeqparView,
    pub y: SeqparView,
    pub gate: SeqparVector,
    pub shift: SeqparVector,
    pub scale: SeqparVector,
    pub frame: SeqparView,
    pub mean: SeqparView,
    pub rstd: SeqparView,
    pub batch: i32,
    pub rows: i32,
    pub hidden: i32,
    pub rms: i32,
    pub eps: f32,
    pub reserved: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparQuerySegment {
    pub q: SeqparView,
    pub out: SeqparView,
    pub o: SeqparView,
    pub lse: u64,
    pub lse_batch: i64,
    pub lse_head: i64,
    pub m: u64,
    pub m_batch: i64,
    pub m_head: i64,
    pub l: u64,
    pub l_batch: i64,
    pub l_head: i64,
    pub rows: i32,
    pub first_tile: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparKeySegment {
    pub k: SeqparView,
    pub v: SeqparView,
    pub mask: u64,
    pub mask_batch: i64,
    pub mask_row: i64,
    pub gate: SeqparGate,
    pub len: i32,
    pub base: i32,
    pub stream: i32,
    pub reserved: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparAttention {
    pub queries: [SeqparQuerySegment; 4usize],
    pub keys: [SeqparKeySegment; 16usize],
    pub key_len: u64,
    pub key_len_batch: i64,
    pub key_len_row: i64,
    pub status: u64,
    pub timeout_ns: u64,
    pub query_segments: i32,
    pub key_segments: i32,
    pub batch: i32,
    pub heads: i32,
    pub first_head: i32,
    pub first_kv_head: i32,
    pub group: i32,
    pub head_dim: i32,
    pub row_tiles: i32,
    pub carry_in: i32,
    pub carry_out: i32,
    pub scale_log2: f32,
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparAttentionSm90 {
    pub q: [SeqparTensorMap; 4usize],
    pub q_tail: [SeqparTensorMap; 4usize],
    pub k: [SeqparTensorMap; 16usize],
    pub k_tail: [SeqparTensorMap; 16usize],
    pub v: [SeqparTensorMap; 16usize],
    pub base: SeqparAttention,
    pub masked: i32,
    pub reserved: [i32; 9usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparQkNormRope {
    pub q: SeqparView,
    pub k: SeqparView,
    pub q_weight: u64,
    pub k_weight: u64,
    pub cos: u64,
    pub cos_row: i64,
    pub sin: u64,
    pub sin_row: i64,
    pub batch: i32,
    pub rows: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub halves: i32,
    pub eps: f32,
    pub reserved: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparCopy {
    pub src: SeqparView,
    pub dst: SeqparView,
    pub batch: i32,
    pub rows: i32,
    pub heads: i32,
    pub dim: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparPack {
    pub copies: [SeqparCopy; 16usize],
    pub count: i32,
    pub reserved: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparSum {
    pub parts: [u64; 64usize],
    pub out: u64,
    pub elems: i64,
    pub count: i32,
    pub reserved: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparLink {
    pub lock: u64,
    pub egress: u64,
    pub ingress: u64,
    pub arrival: u64,
    pub transfer_ns: u64,
    pub latency_ns: u64,
    pub timeout_ns: u64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparLseMerge {
    pub out_a: SeqparView,
    pub out_b: SeqparView,
    pub out: SeqparView,
    pub lse_a: u64,
    pub lse_b: u64,
    pub lse: u64,
    pub lse_batch: i64,
    pub lse_head: i64,
    pub batch: i32,
    pub rows: i32,
    pub heads: i32,
    pub head_dim: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparGemmPart {
    pub w: u64,
    pub w_row: i64,
    pub bias: u64,
    pub cols: i32,
    pub first_tile: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparGemmChunk {
    pub a: SeqparView,
    pub out: [SeqparView; 4usize],
    pub residual: SeqparView,
    pub gate: SeqparVector,
    pub frame: SeqparView,
    pub arrival: SeqparGate,
    pub rows: i32,
    pub first_tile: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparGemm {
    pub parts: [SeqparGemmPart; 4usize],
    pub chunks: [SeqparGemmChunk; 16usize],
    pub status: u64,
    pub timeout_ns: u64,
    pub part_count: i32,
    pub chunk_count: i32,
    pub batch: i32,
    pub k: i32,
    pub row_tiles: i32,
    pub col_tiles: i32,
    pub epilogue: i32,
    pub out_f32: i32,
    pub head_cols: i32,
    pub first_chunk: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparQkv {
    pub norm_weight: [u64; 4usize],
    pub cos: [u64; 16usize],
    pub sin: [u64; 16usize],
    pub cos_row: i64,
    pub sin_row: i64,
    pub turned: [i32; 4usize],
    pub eps: f32,
    pub halves: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparGemmQkv {
    pub gemm: SeqparGemm,
    pub qkv: SeqparQkv,
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparGemmSm90 {
    pub a_maps: [SeqparTensorMap; 16usize],
    pub w_maps: [SeqparTensorMap; 4usize],
    pub gemm: SeqparGemm,
    pub reserved: u64,
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SeqparGemmQkvSm90 {
    pub tma: SeqparGemmSm90,
    pub qkv: SeqparQkv,
    pub reserved: [u64; 7usize],
}
