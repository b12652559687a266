/* Parameters of the kernels in csrc/kernels: plain data, passed by value as the one argument of
 * a launch. Addresses are device addresses as integers; strides count elements of the tensor's
 * type; every tensor is [B, rows, heads, D] with D contiguous (strides 1 for what is absent).
 * The same layout in C, C++, CUDA and Rust (src/kernel/cuda/params.rs, compared by a test). */
#ifndef SEQPAR_KERNELS_H
#define SEQPAR_KERNELS_H

#include <stdint.h>

#if defined(__cplusplus)
#define SEQPAR_ALIGNED(n) alignas(n)
#else
#define SEQPAR_ALIGNED(n) __attribute__((aligned(n)))
#endif

#define SEQPAR_MAX_QUERY_SEGMENTS 4
#define SEQPAR_MAX_KEY_SEGMENTS 16
#define SEQPAR_MAX_GEMM_PARTS 4
#define SEQPAR_MAX_GEMM_CHUNKS 16
#define SEQPAR_MAX_PACK_COPIES 16
#define SEQPAR_MAX_SUM_PARTS 64

/* What cuTensorMapEncodeTiled writes. */
typedef struct SeqparTensorMap {
  SEQPAR_ALIGNED(64) uint64_t opaque[16];
} SeqparTensorMap;

/* A tensor [B, rows, heads, D]. address 0: absent. */
typedef struct SeqparView {
  uint64_t address;
  int64_t batch;
  int64_t row;
  int64_t head;
} SeqparView;

/* Where a kernel says that a bounded wait ran out; code is 0 until then. The first one wins. */
typedef struct SeqparStatus {
  uint32_t code;     /* 1: a gate did not open */
  uint32_t wait;     /* index of the gate */
  uint32_t expected; /* epoch waited for */
  uint32_t seen;     /* last value read */
} SeqparStatus;

/* A gate: the data is there once (int32_t)(*flag - epoch) >= 0. flag 0: it is there. */
typedef struct SeqparGate {
  uint64_t flag;
  uint32_t epoch;
  uint32_t reserved;
} SeqparGate;

/* ---- norm, modulation, gate, residual: one launch is a run of rows of every sample ---- */

/* Vectors of C channels per sample, per sample and frame mask, or per token (row stride). */
typedef struct SeqparVector {
  uint64_t address;
  uint64_t second; /* where frame is 0; absent without a frame mask */
  int64_t batch;
  int64_t row; /* 0 unless per token */
  int64_t second_batch;
} SeqparVector;

typedef struct SeqparRowKernel {
  SeqparView x;        /* normed input, or the residual */
  SeqparView branch;   /* multiplied by the gate; absent for norm_modulate */
  SeqparView out;      /* x + gate*branch; absent for norm_modulate */
  SeqparView y;        /* norm(.)*(1 + scale) + shift; absent for gate_residual */
  SeqparVector gate;
  SeqparVector shift;
  SeqparVector scale;
  SeqparView frame;    /* u8, [B, rows, 1, 1] */
  SeqparView mean;     /* f32 [B, rows], for a backward pass; absent: not written */
  SeqparView rstd;     /* likewise */
  int32_t batch;
  int32_t rows;
  int32_t hidden;
  int32_t rms;         /* 1: RMSNorm */
  float eps;
  int32_t reserved;
} SeqparRowKernel;

/* ---- attention forward ---- */

typedef struct SeqparQuerySegment {
  SeqparView q;
  SeqparView out;  /* absent with carry_out */
  SeqparView o;    /* f32, running sum; absent without carry */
  uint64_t lse;    /* f32, natural logarithm; 0 with carry_out */
  int64_t lse_batch;
  int64_t lse_head;
  uint64_t m;      /* f32, running maximum of the scores in base 2 */
  int64_t m_batch;
  int64_t m_head;
  uint64_t l;      /* f32, running sum of the weights */
  int64_t l_batch;
  int64_t l_head;
  int32_t rows;
  int32_t first_tile; /* row tiles of the segments before it */
} SeqparQuerySegment;

typedef struct SeqparKeySegment {
  SeqparView k;
  SeqparView v;
  uint64_t mask; /* u8 [B, len], 1 keeps; 0: none */
  int64_t mask_batch;
  int64_t mask_row;
  SeqparGate gate;
  int32_t len;
  int32_t base;   /* global index of its first key in its stream */
  int32_t stream; /* column of key_len */
  int32_t reserved;
} SeqparKeySegment;

/* Everything but tensor maps. Query head h of the launch reads key head
 * (first_head + h)/group - first_kv_head. Row tile t belongs to the last segment whose
 * first_tile is at most t. */
typedef struct SeqparAttention {
  SeqparQuerySegment queries[SEQPAR_MAX_QUERY_SEGMENTS];
  SeqparKeySegment keys[SEQPAR_MAX_KEY_SEGMENTS];
  uint64_t key_len; /* i32 [B, 2]; 0: none */
  int64_t key_len_batch;
  int64_t key_len_row;
  uint64_t status;  /* SeqparStatus; 0: none */
  uint64_t timeout_ns;
  int32_t query_segments;
  int32_t key_segments;
  int32_t batch;
  int32_t heads;
  int32_t first_head;
  int32_t first_kv_head;
  int32_t group;
  int32_t head_dim;
  int32_t row_tiles; /* of all segments, one sample, one head */
  int32_t carry_in;
  int32_t carry_out;
  float scale_log2; /* scale * log2(e) */
} SeqparAttention;

/* The same for the sm_90a kernels, whose loads go through tensor maps. Each map has rank 4, dims
 * (D, rows or keys, heads, B), and the box of the variant (csrc/tile/head_sm90.cuh). */
typedef struct SeqparAttentionSm90 {
  SeqparTensorMap q[SEQPAR_MAX_QUERY_SEGMENTS];
  SeqparTensorMap q_tail[SEQPAR_MAX_QUERY_SEGMENTS]; /* the columns past the last whole 64, if any */
  SeqparTensorMap k[SEQPAR_MAX_KEY_SEGMENTS];
  SeqparTensorMap k_tail[SEQPAR_MAX_KEY_SEGMENTS];
  SeqparTensorMap v[SEQPAR_MAX_KEY_SEGMENTS];
  SeqparAttention base;
  int32_t masked; /* 1: a segment has a mask, or samples have key lengths */
  int32_t reserved[9];
} SeqparAttentionSm90;

/* ---- qk norm and rotary embedding, in place ---- */

typedef struct SeqparQkNormRope {
  SeqparView q;
  SeqparView k;
  uint64_t q_weight; /* [D]; 0: no norm */
  uint64_t k_weight;
  uint64_t cos; /* f32 [rows, D/2]; 0: no rotation */
  int64_t cos_row;
  uint64_t sin;
  int64_t sin_row;
  int32_t batch;
  int32_t rows;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t halves; /* 1: (i, i + D/2) turn together, 0: (2i, 2i + 1) */
  float eps;
  int32_t reserved;
} SeqparQkNormRope;

/* ---- strided copies, with a cast where the types differ ---- */

typedef struct SeqparCopy {
  SeqparView src;
  SeqparView dst;
  int32_t batch;
  int32_t rows;
  int32_t heads;
  int32_t dim;
} SeqparCopy;

typedef struct SeqparPack {
  SeqparCopy copies[SEQPAR_MAX_PACK_COPIES];
  int32_t count;
  int32_t reserved;
} SeqparPack;

/* ---- the sum of a reducing communication, over buffers that this device can read ---- */

typedef struct SeqparSum {
  uint64_t parts[SEQPAR_MAX_SUM_PARTS]; /* contiguous, added in this order */
  uint64_t out;
  int64_t elems;
  int32_t count;
  int32_t reserved;
} SeqparSum;

/* ---- a link between ranks that share a device: messages take time ---- */

typedef struct SeqparLink {
  uint64_t lock;    /* u32: 0, or held by the launch that moves the two times below */
  uint64_t egress;  /* u64: when the sender's port is free, by the device's clock */
  uint64_t ingress; /* the same of the receiver's port */
  uint64_t arrival; /* u64: when the message is there */
  uint64_t transfer_ns; /* both ports are taken for so long */
  uint64_t latency_ns;  /* from then to the arrival */
  uint64_t timeout_ns;  /* longest wait, for the lock and for the arrival */
} SeqparLink;

/* ---- merge of two attention results over disjoint keys ---- */

typedef struct SeqparLseMerge {
  SeqparView out_a;
  SeqparView out_b;
  SeqparView out;
  uint64_t lse_a; /* f32 [B, H, rows] */
  uint64_t lse_b;
  uint64_t lse;
  int64_t lse_batch; /* of all three */
  int64_t lse_head;
  int32_t batch;
  int32_t rows;
  int32_t heads;
  int32_t head_dim;
} SeqparLseMerge;

/* ---- linear layers ---- */

/* out_j = epilogue(a * w_j^T + bias_j) for each part j, for each chunk of rows. */
typedef struct SeqparGemmPart {
  uint64_t w; /* [cols, k], row stride w_row */
  int64_t w_row;
  uint64_t bias; /* [cols]; 0: none */
  int32_t cols;
  int32_t first_tile; /* column tiles of the parts before it */
} SeqparGemmPart;

typedef struct SeqparGemmChunk {
  SeqparView a;
  SeqparView out[SEQPAR_MAX_GEMM_PARTS]; /* head dim `head_cols` where heads are strided apart */
  SeqparView residual;
  SeqparVector gate;
  SeqparView frame;
  SeqparGate arrival;
  int32_t rows;
  int32_t first_tile; /* row tiles of the chunks before it, all samples */
} SeqparGemmChunk;

#define SEQPAR_EPILOGUE_NONE 0
#define SEQPAR_EPILOGUE_GELU 1
#define SEQPAR_EPILOGUE_SILU 2
#define SEQPAR_EPILOGUE_RESIDUAL 3
#define SEQPAR_EPILOGUE_GATED_RESIDUAL 4

typedef struct SeqparGemm {
  SeqparGemmPart parts[SEQPAR_MAX_GEMM_PARTS];
  SeqparGemmChunk chunks[SEQPAR_MAX_GEMM_CHUNKS];
  uint64_t status;
  uint64_t timeout_ns;
  int32_t part_count;
  int32_t chunk_count;
  int32_t batch;
  int32_t k;
  int32_t row_tiles; /* of all chunks */
  int32_t col_tiles; /* of all parts */
  int32_t epilogue;
  int32_t out_f32;   /* 1: outputs are f32 */
  int32_t head_cols; /* columns of a head in `out`: its strides jump there; 0: one head */
  int32_t first_chunk; /* chunk visited first; the others follow in ring order */
} SeqparGemm;

/* QK norm and rotary embedding of the heads of each part, between the bias and the store; the
 * parts' columns are whole heads. Without norm_weight a part has no norm. */
typedef struct SeqparQkv {
  uint64_t norm_weight[SEQPAR_MAX_GEMM_PARTS]; /* [D] of the tensors' type; 0: no norm */
  uint64_t cos[SEQPAR_MAX_GEMM_CHUNKS];        /* f32 [rows, D/2] of each chunk */
  uint64_t sin[SEQPAR_MAX_GEMM_CHUNKS];
  int64_t cos_row;
  int64_t sin_row;
  int32_t turned[SEQPAR_MAX_GEMM_PARTS]; /* 1: with rotary embedding */
  float eps;
  int32_t halves; /* 1: (i, i + D/2) turn together, 0: (2i, 2i + 1) */
} SeqparQkv;

typedef struct SeqparGemmQkv {
  SeqparGemm gemm;
  SeqparQkv qkv;
} SeqparGemmQkv;

/* The same with operands loaded by TMA: 128-byte swizzle, boxes of 64 k by the tile's rows or
 * columns. a_maps[i] is chunk i as (k, rows, batch), w_maps[j] is part j as (k, cols). */
typedef struct SeqparGemmSm90 {
  SeqparTensorMap a_maps[SEQPAR_MAX_GEMM_CHUNKS];
  SeqparTensorMap w_maps[SEQPAR_MAX_GEMM_PARTS];
  SeqparGemm gemm;
  uint64_t reserved;
} SeqparGemmSm90;

typedef struct SeqparGemmQkvSm90 {
  SeqparGemmSm90 tma;
  SeqparQkv qkv;
  uint64_t reserved[7];
} SeqparGemmQkvSm90;

#endif
