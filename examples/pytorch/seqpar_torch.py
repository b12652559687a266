"""seqpar on torch tensors, by ctypes: no extension to build.

    kernels = Kernels(load("libseqpar.so"), "cuda")
    out, lse = kernels.attention(q, k, v)          # [B, H, N, D], as scaled_dot_product_attention

Kernels read and write the tensors' own memory and are enqueued on torch's current stream of the
tensors' device; on the CPU they return when done. A tensor is whatever has `data_ptr()`,
`stride()`, `shape`, `dtype` and `new_empty()`. The names are those of include/seqpar.h, which
documents them. Proof: tests/capi/python.rs.
"""

import ctypes
import math
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint64, c_void_p, sizeof

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "int32": 3, "uint8": 4, "bool": 4}
STRATEGIES = {"single": 0, "fastseq": 1, "ulysses": 2, "ring": 3, "usp": 4, "megatron": 5, "kv_gather": 6}
MODULATIONS = {"per_sample": 0, "per_token": 2}
ROPES = {None: 0, "interleaved": 1, "halves": 2}
INPUT, OUTPUT, TEMP = 0, 1, 2


def growing(name, *fields):
    """A struct that starts with its size, which is set."""

    def __init__(self, **values):
        Structure.__init__(self, struct_bytes=sizeof(type(self)), **values)

    return type(name, (Structure,), {"_fields_": [("struct_bytes", c_size_t), *fields], "__init__": __init__})


class Tensor(Structure):
    _fields_ = [("data", c_void_p), ("strides", c_int64 * 4)]


class Split(Structure):
    _fields_ = [("counts", POINTER(c_int64)), ("owners", POINTER(c_int32))]


Image = growing("Image", ("data", c_void_p), ("data_bytes", c_size_t), ("path", c_char_p))
KernelsOptions = growing(
    "KernelsOptions", ("device", c_int32), ("threads", c_int32), ("sms", c_int32), ("reserved", c_int32),
    ("images", POINTER(Image)), ("image_count", c_size_t))
QuerySegment = growing("QuerySegment", ("rows", c_int64), ("q", Tensor), ("out", Tensor), ("lse", Tensor))
KeySegment = growing(
    "KeySegment", ("rows", c_int64), ("first", c_int64), ("stream", c_int32), ("reserved", c_int32),
    ("k", Tensor), ("v", Tensor), ("mask", Tensor))
AttentionArgs = growing(
    "AttentionArgs", ("dtype", c_int32), ("scale", c_float), ("batch", c_int64), ("heads", c_int64),
    ("kv_heads", c_int64), ("head_dim", c_int64), ("queries", POINTER(QuerySegment)), ("query_count", c_size_t),
    ("keys", POINTER(KeySegment)), ("key_count", c_size_t), ("key_len", Tensor))
AdalnArgs = growing(
    "AdalnArgs", ("dtype", c_int32), ("norm", c_int32), ("eps", c_float), ("modulation", c_int32),
    ("batch", c_int64), ("rows", c_int64), ("hidden", c_int64),
    *[(name, Tensor) for name in ("x", "branch", "residual", "y", "gate", "shift", "scale", "gate_0", "shift_0",
                                  "scale_0", "frame")])
QkNormRopeArgs = growing(
    "QkNormRopeArgs", ("dtype", c_int32), ("rope", c_int32), ("norm_eps", c_float), ("reserved", c_int32),
    ("batch", c_int64), ("rows", c_int64), ("heads", c_int64), ("kv_heads", c_int64), ("head_dim", c_int64),
    *[(name, Tensor) for name in ("q", "k", "q_norm", "k_norm", "cos", "sin")])
Problem = growing(
    "Problem",
    *[(name, c_int32) for name in ("kind", "strategy", "dtype", "ranks", "ulysses", "ring")],
    *[(name, c_int64) for name in ("batch", "tokens", "keys", "text", "heads", "kv_heads", "head_dim")],
    ("token_split", Split), ("key_split", Split), ("text_split", Split),
    *[(name, c_int32) for name in ("text_replicated", "key_mask", "key_len", "route", "gated", "head_groups")],
    ("hidden", c_int64), ("mlp", c_int64),
    *[(name, c_int32) for name in ("qkv_bias", "proj_bias", "text_weights", "rope", "qk_norm")],
    ("qk_norm_eps", c_float))
Buffer = growing(
    "Buffer", ("name", c_char_p), ("tensor", c_char_p), ("role", c_int32), ("dtype", c_int32),
    ("dims", c_int64 * 4), ("tensor_dims", c_int64 * 4), ("bytes", c_uint64))
Summary = growing(
    "Summary",
    *[(name, c_uint64) for name in ("buffers", "ops", "streams", "bytes_sent", "messages_sent", "arena_bytes",
                                    "peak_bytes")],
    ("flops", c_double), ("hash", c_uint64))
HostOptions = growing(
    "HostOptions", ("threads", c_int32), ("gates_as_events", c_int32), ("deadline_ms", c_uint64),
    ("link_bytes_per_s", c_double), ("link_latency_s", c_double))
CudaOptions = growing(
    "CudaOptions", ("gates_as_flags", c_int32), ("graph", c_int32), ("timed", c_int32), ("poison", c_int32),
    ("deadline_ms", c_uint64))
RankReport = growing(
    "RankReport",
    *[(name, c_uint64) for name in ("wall_ns", "bytes_sent", "peak_bytes", "compute_ns", "comm_ns", "exposed_ns")])

HANDLE, PLACE = c_void_p, POINTER(c_void_p)
TEXT = [c_void_p, c_size_t, POINTER(c_size_t)]
# Functions that return a status, with the types of their arguments.
FUNCTIONS = {
    "seqpar_kernels_create": [POINTER(KernelsOptions), PLACE],
    "seqpar_attention": [HANDLE, POINTER(AttentionArgs), c_void_p],
    "seqpar_norm_modulate": [HANDLE, POINTER(AdalnArgs), c_void_p],
    "seqpar_gate_residual": [HANDLE, POINTER(AdalnArgs), c_void_p],
    "seqpar_gate_residual_norm_modulate": [HANDLE, POINTER(AdalnArgs), c_void_p],
    "seqpar_qk_norm_rope": [HANDLE, POINTER(QkNormRopeArgs), c_void_p],
    "seqpar_plans_describe": [POINTER(Problem), PLACE],
    "seqpar_plans_check": [HANDLE],
    "seqpar_plans_world": [HANDLE, POINTER(c_size_t)],
    "seqpar_plans_summary": [HANDLE, c_size_t, POINTER(Summary)],
    "seqpar_plans_buffer": [HANDLE, c_size_t, c_size_t, POINTER(Buffer)],
    "seqpar_plans_placement": [HANDLE, c_size_t, c_size_t, c_int32, POINTER(c_int64), c_size_t, POINTER(c_size_t)],
    "seqpar_plans_json": [HANDLE, c_size_t, *TEXT],
    "seqpar_prepare_host": [HANDLE, POINTER(HostOptions), PLACE],
    "seqpar_prepare_loopback": [HANDLE, HANDLE, POINTER(CudaOptions), PLACE],
    "seqpar_bind": [HANDLE, c_size_t, c_size_t, c_void_p, c_size_t],
    "seqpar_run": [HANDLE, c_void_p],
    "seqpar_finish": [HANDLE],
    "seqpar_report": [HANDLE, c_size_t, POINTER(RankReport)],
    "seqpar_report_json": [HANDLE, *TEXT],
    "seqpar_report_trace": [HANDLE, *TEXT],
}
DESTROYED = ("seqpar_kernels_destroy", "seqpar_plans_destroy", "seqpar_prepared_destroy")


class SeqparError(RuntimeError):
    pass


def load(path="libseqpar.so"):
    """The library, with every function's types; a call that fails raises SeqparError."""
    library = ctypes.CDLL(path)
    library.seqpar_last_error.restype = c_char_p
    library.seqpar_status_name.restype = c_char_p

    def checked(status, function, arguments):
        if status != 0:
            words = (library.seqpar_status_name(status), library.seqpar_last_error())
            raise SeqparError(": ".join(word.decode() for word in words))

    for name, types in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype, function.errcheck = types, c_int32, checked
    for name in DESTROYED:
        getattr(library, name).argtypes, getattr(library, name).restype = [HANDLE], None
    return library


def dtype_of(tensor):
    name = str(tensor.dtype).rpartition(".")[2]
    if name not in DTYPES:
        raise SeqparError(f"{tensor.dtype} is no type of seqpar: use {', '.join(DTYPES)}")
    return DTYPES[name]


def given(name, tensor, like, shape, dtypes=None):
    """The tensor, once it has this shape and one of these types (that of `like`), where `like` is:
    a kernel sees addresses and would read whatever is there."""
    kind = str(tensor.dtype).rpartition(".")[2]
    wanted = dtypes or (str(like.dtype).rpartition(".")[2],)
    if tuple(tensor.shape) != tuple(shape) or kind not in wanted:
        raise SeqparError(f"{name} is {kind} {list(tensor.shape)}: {' or '.join(wanted)} {list(shape)} is wanted")
    if getattr(tensor, "device", None) != getattr(like, "device", None):
        raise SeqparError(f"{name} is on {tensor.device}, the others are on {like.device}: move it there")
    return tensor


def view(tensor, order):
    """A tensor whose four dimensions are those of `tensor` in this order; None: of extent 1."""
    if tensor is None:
        return Tensor()
    strides = tensor.stride()
    return Tensor(tensor.data_ptr(), (c_int64 * 4)(*[1 if i is None else strides[i] for i in order]))


def stream_of(tensor):
    """torch's current stream of the tensor's device; None on the CPU."""
    if not getattr(tensor, "is_cuda", False):
        return None
    import torch

    return torch.cuda.current_stream(tensor.device).cuda_stream


def float32_of(tensor):
    """The dtype float32 of the tensor's library."""
    return tensor.new_empty((0,)).float().dtype if hasattr(tensor, "float") else "float32"


HEADS_FIRST = (0, 2, 1, 3)  # [B, H, N, D], as torch has it, is [B, N, H, D] here
ROWS = (0, 1, None, 2)  # [B, N, C] is [B, N, 1, C]


class Kernels:
    """The kernels of one device: "cpu", or "cuda" for the context that is current (torch's, once it
    has used the device). `images`: paths of fatbins, where the library has none in it."""

    def __init__(self, library, device="cpu", threads=1, sms=0, images=()):
        self.library, self.handle = library, c_void_p()
        list_ = (Image * len(images))(*[Image(path=str(path).encode()) for path in images])
        options = KernelsOptions(device=int(device != "cpu"), threads=threads, sms=sms, image_count=len(images))
        if images:
            options.images = list_
        library.seqpar_kernels_create(byref(options), byref(self.handle))

    def __del__(self):
        if getattr(self, "handle", None):
            self.library.seqpar_kernels_destroy(self.handle)

    def attention(self, q, k, v, key_mask=None, scale=None):
        """softmax(scale q k^T) v and its log-sum-exp [B, H, N]; q [B, H, N, D], k, v [B, Hkv, M, D],
        key_mask [B, M] uint8 or bool, 1 keeps."""
        batch, heads, rows, dim = q.shape
        keys = (batch, k.shape[1], k.shape[2], dim)
        k, v = given("k", k, q, keys), given("v", v, q, keys)
        if key_mask is not None:
            key_mask = given("key_mask", key_mask, q, (batch, k.shape[2]), ("uint8", "bool"))
        out = q.new_empty((batch, heads, rows, dim))
        lse = q.new_empty((batch, heads, rows), dtype=float32_of(q))
        query = QuerySegment(rows=rows, q=view(q, HEADS_FIRST), out=view(out, HEADS_FIRST), lse=view(lse, (0, 1, None, 2)))
        key = KeySegment(rows=k.shape[2], stream=1, k=view(k, HEADS_FIRST), v=view(v, HEADS_FIRST),
                         mask=view(key_mask, (0, 1, None, None)))
        args = AttentionArgs(
            dtype=dtype_of(q), scale=scale or 0.0, batch=batch, heads=heads, kv_heads=k.shape[1], head_dim=dim,
            queries=ctypes.pointer(query), query_count=1, keys=ctypes.pointer(key), key_count=1)
        self.library.seqpar_attention(self.handle, byref(args), stream_of(q))
        return out, lse

    def norm_modulate(self, x, shift, scale, eps=1e-6, rms=False):
        """norm(x) * (1 + scale) + shift; x [B, N, C], shift and scale [B, C] or [B, N, C]."""
        y = x.new_empty(tuple(x.shape))
        args = self.rows(x, shift, norm=int(rms), eps=eps, y=view(y, ROWS),
                         shift=vector("shift", shift, x), scale=vector("scale", scale, x))
        self.library.seqpar_norm_modulate(self.handle, byref(args), stream_of(x))
        return y

    def gate_residual(self, x, gate, branch):
        """x + gate * branch; x and branch [B, N, C], gate [B, C] or [B, N, C]."""
        out = x.new_empty(tuple(x.shape))
        args = self.rows(x, gate, branch=view(given("branch", branch, x, x.shape), ROWS), residual=view(out, ROWS),
                         gate=vector("gate", gate, x))
        self.library.seqpar_gate_residual(self.handle, byref(args), stream_of(x))
        return out

    def gate_residual_norm_modulate(self, x, gate, branch, shift, scale, eps=1e-6, rms=False):
        """Both of the above in one pass: x + gate * branch, and that normed and modulated."""
        out, y = x.new_empty(tuple(x.shape)), x.new_empty(tuple(x.shape))
        args = self.rows(
            x, gate, norm=int(rms), eps=eps, branch=view(given("branch", branch, x, x.shape), ROWS),
            residual=view(out, ROWS), y=view(y, ROWS), gate=vector("gate", gate, x), shift=vector("shift", shift, x),
            scale=vector("scale", scale, x))
        self.library.seqpar_gate_residual_norm_modulate(self.handle, byref(args), stream_of(x))
        return out, y

    def qk_norm_rope_(self, q, k, q_norm=None, k_norm=None, cos=None, sin=None, pairs="interleaved", eps=1e-6):
        """RMS norm of the heads of q and k, then rotary embedding, in place; q [B, H, N, D], norms
        [D], cos and sin float32 [N, D/2]."""
        batch, heads, rows, dim = q.shape
        k = given("k", k, q, (batch, k.shape[1], rows, dim))
        q_norm, k_norm = (w if w is None else given("a norm's weight", w, q, (dim,)) for w in (q_norm, k_norm))
        cos, sin = (t if t is None else given("cos or sin", t, q, (rows, dim // 2), ("float32",)) for t in (cos, sin))
        weight, table = (None, None, None, 0), (None, 0, None, 1)
        args = QkNormRopeArgs(
            dtype=dtype_of(q), rope=ROPES[pairs if cos is not None else None], norm_eps=eps, batch=batch, rows=rows,
            heads=heads, kv_heads=k.shape[1], head_dim=dim, q=view(q, HEADS_FIRST), k=view(k, HEADS_FIRST),
            q_norm=view(q_norm, weight), k_norm=view(k_norm, weight), cos=view(cos, table), sin=view(sin, table))
        self.library.seqpar_qk_norm_rope(self.handle, byref(args), stream_of(q))

    def rows(self, x, modulation, **more):
        batch, rows, hidden = x.shape
        kind = MODULATIONS["per_sample" if len(modulation.shape) == 2 else "per_token"]
        return AdalnArgs(dtype=dtype_of(x), modulation=kind, batch=batch, rows=rows, hidden=hidden, x=view(x, ROWS), **more)


def vector(name, tensor, x):
    """[B, C], or [B, N, C] as x is."""
    batch, _, hidden = x.shape
    if len(tensor.shape) == 2:
        return view(given(name, tensor, x, (batch, hidden)), (0, None, None, 1))
    return view(given(name, tensor, x, x.shape), ROWS)


class Plans:
    """The plans of all ranks of one attention, held to the law: [B, N, H, D] on every rank."""

    def __init__(self, library, strategy, dtype, ranks, batch, tokens, heads, head_dim, **more):
        self.library, self.handle, self.ranks = library, c_void_p(), ranks
        problem = Problem(strategy=STRATEGIES[strategy], dtype=DTYPES[dtype], ranks=ranks, batch=batch, tokens=tokens,
                          heads=heads, head_dim=head_dim, **more)
        library.seqpar_plans_describe(byref(problem), byref(self.handle))
        library.seqpar_plans_check(self.handle)

    def __del__(self):
        if getattr(self, "handle", None):
            self.library.seqpar_plans_destroy(self.handle)

    def summary(self, rank):
        summary = Summary()
        self.library.seqpar_plans_summary(self.handle, rank, byref(summary))
        return summary

    def bound(self, rank):
        """(index, buffer) of every input and output of a rank."""
        for index in range(self.summary(rank).buffers):
            buffer = Buffer()
            self.library.seqpar_plans_buffer(self.handle, rank, index, byref(buffer))
            if buffer.role != TEMP:
                yield index, buffer

    def indices(self, rank, index, dimension):
        """Global indices along one dimension of what a buffer holds."""
        count = c_size_t()
        ask = self.library.seqpar_plans_placement
        ask(self.handle, rank, index, dimension, None, 0, byref(count))
        numbers = (c_int64 * count.value)()
        ask(self.handle, rank, index, dimension, numbers, count.value, byref(count))
        return list(numbers)

    def json(self, rank):
        return text(lambda *out: self.library.seqpar_plans_json(self.handle, rank, *out))

    def prepare(self, kernels=None, graph=False, timed=True):
        """On the device of `kernels` by loopback, or on the host without."""
        handle = c_void_p()
        if kernels is None:
            self.library.seqpar_prepare_host(self.handle, None, byref(handle))
        else:
            options = CudaOptions(graph=int(graph), timed=int(timed))
            self.library.seqpar_prepare_loopback(self.handle, kernels.handle, byref(options), byref(handle))
        return Prepared(self, handle)


class Prepared:
    """A world that runs again and again, on tensors that are bound to it."""

    def __init__(self, plans, handle):
        self.plans, self.library, self.handle, self.held = plans, plans.library, handle, {}

    def __del__(self):
        self.library.seqpar_prepared_destroy(self.handle)

    def bind(self, rank, index, buffer, tensor):
        """A contiguous tensor; it is kept alive here."""
        packed = [math.prod(tensor.shape[d + 1:]) for d in range(len(tensor.shape))]
        gaps = [d for d, n in enumerate(tensor.shape) if n > 1 and tensor.stride()[d] != packed[d]]
        if gaps or math.prod(tensor.shape) != math.prod(buffer.dims) or dtype_of(tensor) != buffer.dtype:
            raise SeqparError(f"{buffer.name.decode()}: a contiguous tensor like {list(buffer.dims)} is wanted")
        self.library.seqpar_bind(self.handle, rank, index, tensor.data_ptr(), buffer.bytes)
        self.held[rank, index] = tensor

    def scatter(self, inputs, outputs):
        """Binds each rank's part of global tensors, by name, and room for its outputs, which are
        like the tensor of that name in `outputs`. Returns what `gather` needs."""
        parts = []
        for rank in range(self.plans.ranks):
            for index, buffer in self.plans.bound(rank):
                name, dims = buffer.tensor.decode(), tuple(buffer.dims)
                if buffer.role == INPUT:
                    part = inputs[name]
                    for dimension in range(4):
                        if dims[dimension] != buffer.tensor_dims[dimension]:
                            part = index_select(part, dimension, self.plans.indices(rank, index, dimension))
                    part = part.contiguous()
                else:
                    part = outputs[name].new_empty(dims)
                    parts.append((rank, index, buffer, part))
                self.bind(rank, index, buffer, part)
        return parts

    def gather(self, parts, outputs):
        """Copies each rank's part of the outputs to the global tensors."""
        for rank, index, buffer, part in parts:
            cut = [d for d in range(4) if buffer.dims[d] != buffer.tensor_dims[d]] or [0]
            place(outputs[buffer.tensor.decode()], [(d, self.plans.indices(rank, index, d)) for d in cut], part)

    def run(self, stream=None):
        self.library.seqpar_run(self.handle, stream)

    def finish(self):
        self.library.seqpar_finish(self.handle)

    def report(self, rank):
        report = RankReport()
        self.library.seqpar_report(self.handle, rank, byref(report))
        return report

    def trace(self):
        """For ui.perfetto.dev."""
        return text(lambda *out: self.library.seqpar_report_trace(self.handle, *out))


def index_tensor(like, numbers):
    """Indices as the tensor's library wants them."""
    if not hasattr(like, "device"):
        return numbers
    import torch

    return torch.tensor(numbers, device=like.device)


def index_select(tensor, dimension, numbers):
    return tensor.index_select(dimension, index_tensor(tensor, numbers))


def place(whole, indices, part):
    """Copies a part to these indices of some dimensions."""
    (dimension, numbers), *rest = indices
    if rest:
        inner = index_select(whole, dimension, numbers)
        place(inner, rest, part)
        part = inner
    whole.index_copy_(dimension, index_tensor(whole, numbers), part)


def text(ask):
    """A text that a function writes in two calls."""
    size = c_size_t()
    ask(None, 0, byref(size))
    buffer = ctypes.create_string_buffer(size.value + 1)
    ask(buffer, size.value + 1, byref(size))
    return buffer.value.decode()
