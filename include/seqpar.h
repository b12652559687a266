/* seqpar for C, and for whatever can call C: kernels on pointers of the caller, and plans of
 * sequence-parallel attention and transformer layers, run on the host or on one CUDA device.
 *
 * Calls. Every function that can fail returns a seqpar_status, SEQPAR_OK or what went wrong; the
 * words for it are in seqpar_last_error(), one string a thread. A call that fails has changed
 * nothing, except that memory a kernel writes may hold part of a result. No call blocks for ever.
 * Null pointers, sizes that contradict each other and handles of another kind or that were given
 * back are errors, not crashes; memory that is not there, or shorter than its sizes say, is not.
 *
 * Structs. `struct_bytes` is sizeof of the struct as the caller compiled it, so that structs can
 * grow: set everything to zero, then struct_bytes, then what matters. Zero means "none" or "the
 * usual" wherever that is possible. Elements of an array of structs lie struct_bytes of the first
 * apart. Strings and arrays in a struct are only read during the call.
 *
 * Tensors. Four dimensions, named in comments: B samples, rows, H query heads, Hkv key heads, D
 * channels of a head, C channels of a row. Extents come from the sizes in the struct around it.
 * The caller owns all tensor memory. On the host it is aligned to its elements; on CUDA addresses
 * and strides are multiples of 16 bytes, dtype is f16 or bf16 and D a multiple of 8 up to 128
 * (attention, projection) or 256 (qk norm), unless said otherwise. What a call writes overlaps no
 * other tensor of it, unless said otherwise; what is certain to overlap is refused.
 *
 * Ownership. What a function makes is given back to the function of the same name that ends in
 * _destroy, which takes null as well. Nothing else is handed over in either direction. Contexts
 * and streams of CUDA stay the caller's, and are left as they were.
 *
 * Threads. Functions may be called from any thread. Handles of kernels and plans may be shared by
 * threads; a prepared world serves one call at a time and refuses a second. What one thread gives
 * back while another is in a call with it goes when that call returns.
 *
 * The library has every function below in every build. Without CUDA in it they return
 * SEQPAR_UNSUPPORTED where they would need it; seqpar_features() says what is in it.
 */
#ifndef SEQPAR_H
#define SEQPAR_H

#include <stddef.h>
#include <stdint.h>

/* Major version: what was compiled against another does not run. Minor: functions and fields were
 * added. Before 1.0 the minor version takes the place of the major one. */
#define SEQPAR_VERSION_MAJOR 0
#define SEQPAR_VERSION_MINOR 1
#define SEQPAR_VERSION_PATCH 0
#define SEQPAR_VERSION (SEQPAR_VERSION_MAJOR * 10000 + SEQPAR_VERSION_MINOR * 100 + SEQPAR_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status ---- */

/* What a call says of itself. */
typedef int32_t seqpar_status;

enum {
  SEQPAR_OK = 0,
  SEQPAR_INVALID_ARGUMENT = 1,    /* null, a struct or handle of another kind, a constant that is none */
  SEQPAR_INVALID_SHAPE = 2,       /* sizes, dtypes or options that contradict each other */
  SEQPAR_INVALID_MESH = 3,        /* degrees that the ranks or the problem do not allow */
  SEQPAR_INVALID_SHARD = 4,       /* a cut of tokens that is no partition of them */
  SEQPAR_UNSUPPORTED = 5,         /* not in this build, or no kernel, strategy or device does it */
  SEQPAR_KERNELS_UNAVAILABLE = 6, /* no image holds kernels for this device */
  SEQPAR_UNLAWFUL = 7,            /* a plan that breaks the law of plans */
  SEQPAR_UNBOUND = 8,             /* a buffer of a plan without memory, or with memory that does not fit */
  SEQPAR_TIMEOUT = 9,             /* a wait passed its deadline */
  SEQPAR_RANK_FAILED = 10,        /* a rank failed, and with it the run */
  SEQPAR_CUDA_ERROR = 11,         /* the CUDA driver said no */
  SEQPAR_BETWEEN_RANKS = 12,      /* ranks failed each other: lost, mismatched, aborted */
  SEQPAR_INVALID_DATA = 13,       /* a file whose content is not what its reader needs */
  SEQPAR_INTERNAL = 14            /* a defect of this library: please report it */
};

enum {
  SEQPAR_FEATURE_CUDA = 1,    /* the CUDA driver can be used, if it is there at run time */
  SEQPAR_FEATURE_KERNELS = 2, /* CUDA kernels are embedded */
  SEQPAR_FEATURE_NCCL = 4     /* ranks in processes of their own */
};

/* SEQPAR_VERSION of the library that was loaded; compare it with the header's. Cannot fail. */
int32_t seqpar_version(void);

/* What is in this build: SEQPAR_FEATURE_* or-ed together. Cannot fail. */
int32_t seqpar_features(void);

/* "SEQPAR_OK" and so on; "unknown" for other numbers. The string is static. Cannot fail. */
const char *seqpar_status_name(seqpar_status status);

/* What the last call of this thread that failed said, in one line that ends with what to change;
 * "" if none failed. Valid until the next call of this thread. Cannot fail. */
const char *seqpar_last_error(void);

/* ---- vocabulary ---- */

enum { SEQPAR_F32 = 0, SEQPAR_F16 = 1, SEQPAR_BF16 = 2, SEQPAR_I32 = 3, SEQPAR_U8 = 4 };

enum { SEQPAR_HOST = 0, SEQPAR_CUDA = 1 };

enum { SEQPAR_ROPE_NONE = 0, SEQPAR_ROPE_INTERLEAVED = 1, SEQPAR_ROPE_HALVES = 2 };

/* Memory of the caller. */
typedef struct seqpar_tensor {
  void *data;         /* the first element, on the device of the handle; null: absent, or empty */
  int64_t strides[4]; /* in elements, the last 1; all 0: packed in the order of the dimensions */
} seqpar_tensor;

/* ---- kernels ---- */

/* The kernels of one device. */
typedef struct seqpar_kernels seqpar_kernels;

/* Compiled CUDA kernels: a fatbin of csrc/kernels as nvcc wrote it. */
typedef struct seqpar_image {
  size_t struct_bytes;
  const void *data;  /* the bytes; null: read `path` */
  size_t data_bytes;
  const char *path;  /* of a file, UTF-8; read when the handle is made */
} seqpar_image;

typedef struct seqpar_kernels_options {
  size_t struct_bytes;
  int32_t device;             /* SEQPAR_HOST or SEQPAR_CUDA */
  int32_t threads;            /* host: threads of one call; 0: 1 */
  int32_t sms;                /* CUDA: multiprocessors that a kernel may fill; 0: all */
  int32_t reserved;           /* 0 */
  const seqpar_image *images; /* CUDA: null: those embedded in this build */
  size_t image_count;
} seqpar_kernels_options;

/* Makes the kernels ready: of the host, or of the CUDA context that is current on this thread,
 * which must outlive the handle. Calls with the handle need that context to be current; on a
 * thread that has none they make it so.
 * The images must be trusted: the driver does not check them. What the handle computes does not
 * depend on threads or sms, to the bit.
 * Errors: SEQPAR_KERNELS_UNAVAILABLE without an image for this device, SEQPAR_UNSUPPORTED without
 * CUDA, a driver or a current context, SEQPAR_INVALID_DATA for a file that cannot be read. */
seqpar_status seqpar_kernels_create(const seqpar_kernels_options *options, seqpar_kernels **kernels);

/* Work in flight keeps what it needs; null is allowed. */
void seqpar_kernels_destroy(seqpar_kernels *kernels);

/* Rows of queries that are one tensor. */
typedef struct seqpar_query_segment {
  size_t struct_bytes;
  int64_t rows;
  seqpar_tensor q;   /* [B, rows, H, D] */
  seqpar_tensor out; /* [B, rows, H, D], written */
  seqpar_tensor lse; /* f32 [B, H, 1, rows], written: log of the sum of exp of the scaled scores */
} seqpar_query_segment;

/* Rows of keys that are one tensor: the text, the image, or a part of one. */
typedef struct seqpar_key_segment {
  size_t struct_bytes;
  int64_t rows;
  int64_t first;      /* index of its first key in its stream, for key_len */
  int32_t stream;     /* column of key_len: 0 text, 1 image */
  int32_t reserved;   /* 0 */
  seqpar_tensor k;    /* [B, rows, Hkv, D] */
  seqpar_tensor v;    /* [B, rows, Hkv, D] */
  seqpar_tensor mask; /* u8 [B, rows, 1, 1], 1 keeps a key; in all segments or in none */
} seqpar_key_segment;

typedef struct seqpar_attention_args {
  size_t struct_bytes;
  int32_t dtype;    /* of q, k, v, out */
  float scale;      /* of the scores; 0: 1/sqrt(D) */
  int64_t batch;    /* B */
  int64_t heads;    /* H */
  int64_t kv_heads; /* Hkv, divides H; 0: H */
  int64_t head_dim; /* D */
  const seqpar_query_segment *queries;
  size_t query_count;
  const seqpar_key_segment *keys; /* in order: the sum over keys follows it; CUDA: 16 at most */
  size_t key_count;
  seqpar_tensor key_len; /* i32 [B, 2, 1, 1]: keys of the text and of the image that count; absent: all */
} seqpar_attention_args;

/* out = softmax(scale * q k^T) v over the keys of all segments. A query without keys gives out 0
 * and lse -inf.
 * `stream` is a CUstream (cudaStream_t) of the handle's context, null the default stream; the
 * work is only enqueued. On the host `stream` is null and the call returns when done; so for all
 * kernels below. The first call of a kernel in a context loads it: make it before a capture. */
seqpar_status seqpar_attention(const seqpar_kernels *kernels, const seqpar_attention_args *args, void *stream);

enum { SEQPAR_NORM_LAYER = 0, SEQPAR_NORM_RMS = 1 };

enum {
  SEQPAR_MODULATION_PER_SAMPLE = 0, /* gate, shift, scale are [B, 1, 1, C] */
  SEQPAR_MODULATION_PER_FRAME = 1,  /* likewise, where frame is 1; those with _0 where it is 0 */
  SEQPAR_MODULATION_PER_TOKEN = 2   /* gate, shift, scale are [B, rows, 1, C] */
};

/* Parameters of the three kernels below, each of which names what it reads. C is a multiple of 8
 * up to 8192 on CUDA. */
typedef struct seqpar_adaln_args {
  size_t struct_bytes;
  int32_t dtype;          /* of all tensors but frame */
  int32_t norm;           /* SEQPAR_NORM_*, without weights of its own */
  float eps;              /* added to the variance */
  int32_t modulation;     /* SEQPAR_MODULATION_* */
  int64_t batch;          /* B */
  int64_t rows;
  int64_t hidden;         /* C */
  seqpar_tensor x;        /* [B, rows, 1, C]: the input, or the residual */
  seqpar_tensor branch;   /* [B, rows, 1, C] */
  seqpar_tensor residual; /* [B, rows, 1, C], written: x + gate * branch; may be x */
  seqpar_tensor y;        /* [B, rows, 1, C], written: norm(.) * (1 + scale) + shift */
  seqpar_tensor gate;
  seqpar_tensor shift;
  seqpar_tensor scale;
  seqpar_tensor gate_0;   /* [B, 1, 1, C] */
  seqpar_tensor shift_0;  /* [B, 1, 1, C] */
  seqpar_tensor scale_0;  /* [B, 1, 1, C] */
  seqpar_tensor frame;    /* u8 [B, rows, 1, 1] */
} seqpar_adaln_args;

/* y = norm(x) * (1 + scale) + shift. */
seqpar_status seqpar_norm_modulate(const seqpar_kernels *kernels, const seqpar_adaln_args *args, void *stream);

/* residual = x + gate * branch. */
seqpar_status seqpar_gate_residual(const seqpar_kernels *kernels, const seqpar_adaln_args *args, void *stream);

/* residual = x + gate * branch, then y = norm(residual) * (1 + scale) + shift, in one pass: the
 * bits of the two above one after the other. */
seqpar_status seqpar_gate_residual_norm_modulate(const seqpar_kernels *kernels, const seqpar_adaln_args *args,
                                                 void *stream);

typedef struct seqpar_qk_norm_rope_args {
  size_t struct_bytes;
  int32_t dtype;        /* of q, k and the norms' weights */
  int32_t rope;         /* SEQPAR_ROPE_*: which channels turn together */
  float norm_eps;       /* added to the mean square */
  int32_t reserved;     /* 0 */
  int64_t batch;        /* B */
  int64_t rows;
  int64_t heads;        /* H; 0: k only */
  int64_t kv_heads;     /* Hkv; 0: q only */
  int64_t head_dim;     /* D, even with rope */
  seqpar_tensor q;      /* [B, rows, H, D], in place */
  seqpar_tensor k;      /* [B, rows, Hkv, D], in place */
  seqpar_tensor q_norm; /* [1, 1, 1, D] */
  seqpar_tensor k_norm; /* [1, 1, 1, D]; both absent: no norm */
  seqpar_tensor cos;    /* f32 [1, rows, 1, D/2], with rope */
  seqpar_tensor sin;    /* f32 [1, rows, 1, D/2], with rope */
} seqpar_qk_norm_rope_args;

/* RMS norm of each head of q and k, then rotary embedding: a pair (a, b) of channels becomes
 * (a cos - b sin, a sin + b cos). */
seqpar_status seqpar_qk_norm_rope(const seqpar_kernels *kernels, const seqpar_qk_norm_rope_args *args, void *stream);

/* Where a kernel says that a wait inside it ran out; code is 0 until then, and the first wins. */
typedef struct seqpar_wait_status {
  uint32_t code;     /* 1: a chunk did not arrive */
  uint32_t wait;     /* which, among the chunks that have rows */
  uint32_t expected; /* epoch waited for */
  uint32_t seen;     /* last value of its flag */
} seqpar_wait_status;

/* Rows that arrive together. */
typedef struct seqpar_qkv_chunk {
  size_t struct_bytes;
  int64_t rows;
  seqpar_tensor x;      /* [B, rows, 1, C] */
  seqpar_tensor q;      /* [B, rows, H, D], written */
  seqpar_tensor k;      /* [B, rows, Hkv, D], written */
  seqpar_tensor v;      /* [B, rows, Hkv, D], written */
  seqpar_tensor cos;    /* f32 [1, rows, 1, D/2], with rope */
  seqpar_tensor sin;    /* f32 [1, rows, 1, D/2], with rope */
  const uint32_t *flag; /* x may be read once (int32_t)(*flag - epoch) >= 0; null: at once */
  uint32_t epoch;
  uint32_t reserved;    /* 0 */
} seqpar_qkv_chunk;

typedef struct seqpar_qkv_args {
  size_t struct_bytes;
  int32_t dtype;          /* of all tensors but cos and sin */
  int32_t rope;           /* SEQPAR_ROPE_* */
  float norm_eps;
  int32_t reserved;       /* 0 */
  int64_t batch;          /* B */
  int64_t hidden;         /* C, a multiple of 8 on CUDA */
  int64_t heads;          /* H */
  int64_t kv_heads;       /* Hkv; 0: H */
  int64_t head_dim;       /* D */
  seqpar_tensor q_weight; /* [1, H*D, 1, C] */
  seqpar_tensor k_weight; /* [1, Hkv*D, 1, C] */
  seqpar_tensor v_weight; /* [1, Hkv*D, 1, C] */
  seqpar_tensor q_bias;   /* [1, 1, 1, H*D]; all three or none */
  seqpar_tensor k_bias;   /* [1, 1, 1, Hkv*D] */
  seqpar_tensor v_bias;   /* [1, 1, 1, Hkv*D] */
  seqpar_tensor q_norm;   /* [1, 1, 1, D] */
  seqpar_tensor k_norm;   /* [1, 1, 1, D]; both absent: no norm */
  const seqpar_qkv_chunk *chunks;
  size_t chunk_count;     /* with flags on CUDA 16 at most */
  size_t first_chunk;     /* computed first; the others follow in ring order */
  seqpar_wait_status *status; /* with flags: memory that the device can write; null: not reported */
  uint64_t timeout_ns;    /* of each wait for a flag, above 0 with flags */
} seqpar_qkv_args;

/* q, k and v of each chunk of rows: x w^T + bias, then norm and rotary embedding of q and k as in
 * seqpar_qk_norm_rope. With flags the kernel waits inside for each chunk, so that rows are
 * projected while others travel: what raises a flag must not need the kernel's stream or its SMs.
 * Whether it waits, and how rows are cut, changes no bit.
 * Errors: SEQPAR_TIMEOUT on the host where a flag stays down; on CUDA `status` says so later, and
 * outputs of chunks that did not arrive are undefined. */
seqpar_status seqpar_qkv_projection(const seqpar_kernels *kernels, const seqpar_qkv_args *args, void *stream);

/* ---- plans: described, checked, asked ---- */

/* The plans of all ranks of a world. */
typedef struct seqpar_plans seqpar_plans;

enum { SEQPAR_PROBLEM_ATTENTION = 0, SEQPAR_PROBLEM_LAYER = 1 };

enum {
  SEQPAR_SINGLE = 0,    /* one rank */
  SEQPAR_FASTSEQ = 1,   /* layers only; keeps the bits of one rank */
  SEQPAR_ULYSSES = 2,   /* keeps the bits */
  SEQPAR_RING = 3,      /* reorders sums */
  SEQPAR_USP = 4,       /* reorders sums where ring is above 1 */
  SEQPAR_MEGATRON = 5,  /* layers only; reorders sums */
  SEQPAR_KV_GATHER = 6  /* keeps the bits */
};

enum { SEQPAR_ROUTE_FORWARDED = 0, SEQPAR_ROUTE_DIRECT = 1 };

/* How the tokens of a segment are cut over the ranks. */
typedef struct seqpar_split {
  const int64_t *counts; /* consecutive tokens of each rank, `ranks` numbers */
  const int32_t *owners; /* or the rank of each token, ascending within a rank; both null: even */
} seqpar_split;

typedef struct seqpar_problem {
  size_t struct_bytes;
  int32_t kind;            /* SEQPAR_PROBLEM_* */
  int32_t strategy;
  int32_t dtype;           /* SEQPAR_F32, F16 or BF16 */
  int32_t ranks;           /* 1 to 1024 */
  int32_t ulysses;         /* usp: ranks that share heads; 0: the largest that fits */
  int32_t ring;            /* usp: ranks that share keys; 0: the others */
  int64_t batch;           /* B */
  int64_t tokens;          /* N: image tokens, at least one a rank */
  int64_t keys;            /* M: keys of cross-attention; 0: the image's own */
  int64_t text;            /* T: text tokens in front; 0: none */
  int64_t heads;           /* H */
  int64_t kv_heads;        /* Hkv, divides H; 0: H */
  int64_t head_dim;        /* D */
  seqpar_split token_split;
  seqpar_split key_split;  /* with keys */
  seqpar_split text_split; /* unless text_replicated */
  int32_t text_replicated; /* 1: the text enters and leaves whole on every rank */
  int32_t key_mask;        /* 1: input key_mask */
  int32_t key_len;         /* 1: input key_len */
  int32_t route;           /* fastseq: SEQPAR_ROUTE_* */
  int32_t gated;           /* fastseq: 1: one projection that waits inside for its chunks */
  int32_t head_groups;     /* ulysses: head groups of its pipeline; 0: the usual */
  int64_t hidden;          /* layers: C */
  int64_t mlp;             /* layers: channels of an MLP behind; 0: none */
  int32_t qkv_bias;        /* layers: 1: with */
  int32_t proj_bias;       /* layers: 1: with */
  int32_t text_weights;    /* layers: 1: the text has weights of its own */
  int32_t rope;            /* layers: SEQPAR_ROPE_* of the image's q and k */
  int32_t qk_norm;         /* layers: 1: RMS norm of q and k */
  float qk_norm_eps;
} seqpar_problem;

/* The plans of an attention or a layer. Global tensors of an attention: inputs q [B, N, H, D], k, v
 * [B, M, Hkv, D], with text text_q, text_k, text_v, and key_mask u8 [B, T+M, 1, 1], key_len i32
 * [B, 2, 1, 1]; outputs out [B, N, H, D], text_out [B, T, H, D], lse f32 [B, H, 1, T+N]. Of a
 * layer: inputs x [B, N, 1, C], text_x, qkv_weight [1, (H+2*Hkv)*D, 1, C], qkv_bias, proj_weight
 * [1, C, 1, H*D], proj_bias, q_norm, k_norm [1, 1, 1, D], rope_cos, rope_sin f32 [1, N, 1, D/2],
 * fc1_weight [1, F, 1, C], fc1_bias, fc2_weight [1, C, 1, F], fc2_bias, the weights of the text
 * with text_ in front; outputs out [B, N, 1, C], text_out. Each rank has a buffer for its part of
 * each of them that it needs.
 * Errors: a problem, mesh or strategy that contradict each other. */
seqpar_status seqpar_plans_describe(const seqpar_problem *problem, seqpar_plans **plans);

/* Holds the plans to the law: what is read was written, conflicting accesses are ordered, what is
 * sent is received, nothing deadlocks. Only then can they be asked for memory, or be prepared.
 * Errors: SEQPAR_UNLAWFUL, with the rank, the op and the rule. */
seqpar_status seqpar_plans_check(seqpar_plans *plans);

/* What was prepared from them lives on; null is allowed. */
void seqpar_plans_destroy(seqpar_plans *plans);

enum { SEQPAR_ROLE_INPUT = 0, SEQPAR_ROLE_OUTPUT = 1, SEQPAR_ROLE_TEMP = 2 };

/* A buffer of one rank; strings live as long as the plans. */
typedef struct seqpar_buffer {
  size_t struct_bytes;
  const char *name;
  const char *tensor;     /* the global tensor that it holds a part of; null for temporaries */
  int32_t role;           /* SEQPAR_ROLE_*: the caller binds inputs and outputs */
  int32_t dtype;
  int64_t dims[4];        /* row-major */
  int64_t tensor_dims[4]; /* of the global tensor */
  uint64_t bytes;
} seqpar_buffer;

/* The plan of one rank in figures. */
typedef struct seqpar_summary {
  size_t struct_bytes;
  uint64_t buffers;
  uint64_t ops;
  uint64_t streams;
  uint64_t bytes_sent;    /* to other ranks in one run */
  uint64_t messages_sent;
  uint64_t arena_bytes;   /* of temporaries */
  uint64_t peak_bytes;    /* arena, inputs and outputs */
  double flops;
  uint64_t hash;          /* equal for equal plans, on every machine */
} seqpar_summary;

/* Number of ranks, and so of plans. */
seqpar_status seqpar_plans_world(const seqpar_plans *plans, size_t *ranks);

/* Fills `summary` (struct_bytes is the caller's) for one rank.
 * Errors: SEQPAR_INVALID_ARGUMENT before seqpar_plans_check, and for a rank that is none. */
seqpar_status seqpar_plans_summary(const seqpar_plans *plans, size_t rank, seqpar_summary *summary);

/* Fills `buffer` (struct_bytes is the caller's) with buffer `index`, below summary.buffers. */
seqpar_status seqpar_plans_buffer(const seqpar_plans *plans, size_t rank, size_t index, seqpar_buffer *buffer);

/* Which part of its global tensor a buffer holds: the global index of each of its indices along one
 * dimension, 0 to 3. Writes as many as `capacity` holds and their number to `count`; `indices` may
 * be null with capacity 0. */
seqpar_status seqpar_plans_placement(const seqpar_plans *plans, size_t rank, size_t index, int32_t dimension,
                                     int64_t *indices, size_t capacity, size_t *count);

/* The plan of one rank as a JSON object: streams, buffers, ops, derived edges, totals. Writes at most
 * `capacity` bytes, a 0 at the end of them, and the number of bytes of the whole text without that 0
 * to `bytes`: ask with null and 0 first. So for all texts below. After seqpar_plans_check. */
seqpar_status seqpar_plans_json(const seqpar_plans *plans, size_t rank, char *text, size_t capacity, size_t *bytes);

/* ---- plans: prepared, bound, run ---- */

/* A world, or one rank of it, that is ready to run again and again. */
typedef struct seqpar_prepared seqpar_prepared;

typedef struct seqpar_host_options {
  size_t struct_bytes;
  int32_t threads;         /* kernel threads of all ranks together; 0: one each */
  int32_t gates_as_events; /* 1: kernels never wait inside */
  uint64_t deadline_ms;    /* longest wait; 0: 60000 */
  double link_bytes_per_s; /* of modelled links between ranks; 0: memory speed */
  double link_latency_s;
} seqpar_host_options;

typedef struct seqpar_cuda_options {
  size_t struct_bytes;
  int32_t gates_as_flags; /* 1: kernels wait inside; with `sms` of the kernels, leave some to others */
  int32_t graph;          /* 1: the first run is captured, and replayed from then on */
  int32_t timed;          /* 1: the report has spans */
  int32_t poison;         /* 1: temporaries are NaN before each run */
  uint64_t deadline_ms;   /* longest run; 0: 60000 */
} seqpar_cuda_options;

/* All ranks on this host, a group of threads each. `options` may be null. */
seqpar_status seqpar_prepare_host(const seqpar_plans *plans, const seqpar_host_options *options,
                                  seqpar_prepared **prepared);

/* All ranks on the device of `kernels`, which were made for CUDA; communication is copies within
 * it. Allocates temporaries, creates streams and events. `options` may be null. */
seqpar_status seqpar_prepare_loopback(const seqpar_plans *plans, const seqpar_kernels *kernels,
                                      const seqpar_cuda_options *options, seqpar_prepared **prepared);

/* One rank's communicators with the other ranks of a world, over NCCL: processes or threads, one
 * device a rank. Needs SEQPAR_FEATURE_NCCL; otherwise all of this is SEQPAR_UNSUPPORTED. */
typedef struct seqpar_nccl seqpar_nccl;

typedef struct seqpar_nccl_options {
  size_t struct_bytes;
  int32_t rank;
  int32_t world;            /* number of ranks */
  const uint8_t *unique_id; /* 128 bytes of seqpar_nccl_unique_id, the same on all ranks */
  const char *nccl_path;    /* of libnccl or its folder; null: SEQPAR_NCCL_PATH, else its names */
  int32_t max_ctas;         /* thread blocks that an op may take from compute; 0: NCCL's choice */
  int32_t reserved;         /* 0 */
  uint64_t deadline_ms;     /* until all ranks have come, and of each op until it is issued; 0: 60000 */
} seqpar_nccl_options;

/* An identity for a new world, made on one rank and carried to the others by the caller. Whoever
 * knows it can join: keep it secret. */
seqpar_status seqpar_nccl_unique_id(const char *nccl_path, uint8_t id[128]);

/* Joins the world; every rank calls this, with its device's context current, and it returns when
 * all have come.
 * Errors: SEQPAR_BETWEEN_RANKS: a rank that did not come, two ranks on one device, versions that
 * differ. */
seqpar_status seqpar_nccl_create(const seqpar_nccl_options *options, seqpar_nccl **nccl);

/* Ends the communicators together with all other ranks, once what was prepared with them is
 * destroyed. Whether it fails or not, the handle can then only be destroyed. */
seqpar_status seqpar_nccl_finalize(seqpar_nccl *nccl);

/* Without seqpar_nccl_finalize before: aborts, so that no other rank waits for this one for ever.
 * What was prepared with it goes on. Null is allowed. */
void seqpar_nccl_destroy(seqpar_nccl *nccl);

/* One rank, the one of `nccl`, on the device of `kernels`; every rank calls this, with equal plans.
 * `options` may be null. Only the buffers of this rank are bound. Sums are made in the order of
 * ranks, as by loopback: the same bits. */
seqpar_status seqpar_prepare_rank(const seqpar_plans *plans, const seqpar_kernels *kernels, seqpar_nccl *nccl,
                                  const seqpar_cuda_options *options, seqpar_prepared **prepared);

/* Waits for a run in flight, up to its deadline. A run that has not ended by then may use what is bound
 * until the process ends: what belongs to the handle is left to it. Null is allowed. */
void seqpar_prepared_destroy(seqpar_prepared *prepared);

/* Binds memory of the caller to an input or output: `bytes` is what seqpar_buffer says, alignment
 * 16 on CUDA and that of the elements on the host. It stays bound, and alive, until another is bound or
 * the handle is destroyed. Inputs may be bound to the same memory; an output overlaps nothing.
 * Not while a run is in flight. */
seqpar_status seqpar_bind(seqpar_prepared *prepared, size_t rank, size_t index, void *data, size_t bytes);

/* Runs once. On CUDA it is enqueued behind all earlier work of `stream`, whose later work waits for
 * its end, and behind the run before, on whatever stream that was; a stream that is being captured is
 * SEQPAR_UNSUPPORTED (see seqpar_cuda_options.graph). On the host `stream` is null and the call returns
 * when done.
 * Errors: SEQPAR_UNBOUND; SEQPAR_RANK_FAILED and SEQPAR_TIMEOUT with the rank and the op. */
seqpar_status seqpar_run(seqpar_prepared *prepared, void *stream);

/* Waits for the end of the last run, with a deadline; a failure on the device shows here. Optional
 * where the caller's stream says when results may be read, needed for a report. SEQPAR_TIMEOUT names
 * what is not known to have ended: the run goes on, what is bound may still be used, and another call
 * waits again. */
seqpar_status seqpar_finish(seqpar_prepared *prepared);

/* What the last finished run did on one rank. */
typedef struct seqpar_rank_report {
  size_t struct_bytes;
  uint64_t wall_ns;    /* of the whole run */
  uint64_t bytes_sent; /* to other ranks, counted where they move */
  uint64_t peak_bytes;
  uint64_t compute_ns; /* at least one kernel or copy ran; this and those below need spans */
  uint64_t comm_ns;    /* at least one communication ran */
  uint64_t exposed_ns; /* communication and no compute */
} seqpar_rank_report;

/* Fills `report` (struct_bytes is the caller's).
 * Errors: SEQPAR_INVALID_ARGUMENT before seqpar_finish, or for a rank that is none; so for all below. */
seqpar_status seqpar_report(const seqpar_prepared *prepared, size_t rank, seqpar_rank_report *report);

/* The record of the run, as `seqpar report` reads it. See seqpar_plans_json for the arguments. */
seqpar_status seqpar_report_json(const seqpar_prepared *prepared, char *text, size_t capacity, size_t *bytes);

/* The run as a trace for ui.perfetto.dev: a process is a rank, a thread a stream. */
seqpar_status seqpar_report_trace(const seqpar_prepared *prepared, char *text, size_t capacity, size_t *bytes);

#ifdef __cplusplus
}
#endif

#endif
