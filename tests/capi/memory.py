"""The PyTorch example without torch: its structs and functions, printed for comparison with the header,
and calls on plain memory that has as much of a tensor as it asks for."""

import ctypes
import math
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import seqpar_torch as seqpar

FORMATS = {"float32": ctypes.c_float, "uint8": ctypes.c_uint8}


class Memory:
    """A packed tensor of plain memory."""

    def __init__(self, shape, values=None, dtype="float32"):
        self.shape, self.dtype = tuple(shape), dtype
        self.data = (FORMATS[dtype] * max(1, math.prod(shape)))(*(values or []))

    def data_ptr(self):
        return ctypes.addressof(self.data)

    def stride(self):
        return [math.prod(self.shape[i + 1:]) for i in range(len(self.shape))]

    def new_empty(self, shape, dtype=None):
        return Memory(shape, [math.nan] * math.prod(shape), dtype or self.dtype)

    def contiguous(self):
        return self

    def index_select(self, dimension, indices):
        before, after = math.prod(self.shape[:dimension]), math.prod(self.shape[dimension + 1:])
        extent, values = self.shape[dimension], []
        for b in range(before):
            for i in indices:
                at = (b * extent + i) * after
                values += self.data[at:at + after]
        return Memory(self.shape[:dimension] + (len(indices),) + self.shape[dimension + 1:], values, self.dtype)

    def index_copy_(self, dimension, indices, part):
        before, after = math.prod(self.shape[:dimension]), math.prod(self.shape[dimension + 1:])
        for b in range(before):
            for place, i in enumerate(indices):
                to, at = (b * self.shape[dimension] + i) * after, (b * len(indices) + place) * after
                self.data[to:to + after] = part.data[at:at + after]

    def bytes(self):
        return bytes(self.data)


def random(shape, seed):
    return Memory(shape, [((i * 7919 + seed * 31) % 199) / 99.5 - 1 for i in range(math.prod(shape))])


def word(kind):
    """The type of an argument, pointers to anything but structs alike."""
    if isinstance(kind, type(ctypes.POINTER(ctypes.c_int))):
        return kind._type_.__name__ + "*" if issubclass(kind._type_, ctypes.Structure) else "void*"
    return {"c_void_p": "void*", "c_ulong": "size_t", "c_int": "int32_t"}[kind.__name__]


def attention(q, k, v):
    """[B, H, N, D], as naively as possible."""
    batch, heads, rows, dim = q.shape
    out = []
    for bh in range(batch * heads):
        row = lambda t, i: t.data[(bh * rows + i) * dim:(bh * rows + i + 1) * dim]
        for i in range(rows):
            scores = [sum(a * b for a, b in zip(row(q, i), row(k, j))) / dim ** 0.5 for j in range(rows)]
            weights = [math.exp(s - max(scores)) for s in scores]
            out += [sum(w * row(v, j)[d] for j, w in enumerate(weights)) / sum(weights) for d in range(dim)]
    return out


def main():
    for name, kind in vars(seqpar).items():
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure) and kind is not ctypes.Structure:
            print(f"{name} size {ctypes.sizeof(kind)}")
            for field in kind._fields_:
                print(f"{name}.{field[0]} {getattr(kind, field[0]).offset}")
    for name, types in seqpar.FUNCTIONS.items():
        print(f"{name}({', '.join(word(kind) for kind in types)})")

    library = seqpar.load(sys.argv[2])
    kernels = seqpar.Kernels(library, threads=2)
    q, k, v = (random((2, 3, 9, 8), seed) for seed in (1, 2, 3))
    out, lse = kernels.attention(q, k, v)
    error = max(abs(a - b) for a, b in zip(out.data, attention(q, k, v)))
    print("attention:", "right" if error < 1e-5 and not any(map(math.isnan, lse.data)) else f"error {error}")

    x, branch, rows = random((2, 5, 16), 4), random((2, 5, 16), 5), [random((2, 16), seed) for seed in (6, 7, 8)]
    residual = kernels.gate_residual(x, rows[0], branch)
    fused = kernels.gate_residual_norm_modulate(x, rows[0], branch, rows[1], rows[2])
    chain = (residual.bytes(), kernels.norm_modulate(residual, rows[1], rows[2]).bytes())
    print("adaLN:", "same bits" if (fused[0].bytes(), fused[1].bytes()) == chain else "other bits")

    turned, other = random((1, 2, 4, 8), 9), random((1, 2, 4, 8), 10)
    before = list(turned.data)
    ones = Memory((8,), [1.0] * 8)
    kernels.qk_norm_rope_(turned, other, ones, ones, Memory((4, 4), [0.0] * 16), Memory((4, 4), [1.0] * 16))
    # A quarter turn of the normed pairs: (a, b) to (-b, a).
    norm = math.sqrt(sum(x * x for x in before[:8]) / 8 + 1e-6)
    print("rope:", "right" if abs(turned.data[0] + before[1] / norm) < 1e-5 else turned.data[0])

    def by_plans(strategy, ranks):
        plans = seqpar.Plans(library, strategy, "float32", ranks, 1, 13, 4, 8)
        assert '"ops"' in plans.json(0)
        prepared = plans.prepare()
        inputs = {name: random((1, 13, 4, 8), seed) for name, seed in zip("qkv", (11, 12, 13))}
        outputs = {"out": Memory((1, 13, 4, 8)), "lse": Memory((1, 4, 1, 13))}
        parts = prepared.scatter(inputs, outputs)
        prepared.run()
        prepared.finish()
        prepared.gather(parts, outputs)
        assert prepared.report(0).bytes_sent == plans.summary(0).bytes_sent and "traceEvents" in prepared.trace()
        return outputs["out"].bytes()

    print("ranks:", "same bits" if by_plans("single", 1) == by_plans("ulysses", 3) else "other bits")
    wide = Memory((2, 3, 9, 16))
    plans = seqpar.Plans(library, "single", "float32", 1, 1, 13, 4, 8)
    index, buffer = next(plans.bound(0))
    for wrong in (
        lambda: kernels.attention(q, k, wide),
        lambda: kernels.attention(q, Memory(k.shape, dtype="uint8"), v),
        lambda: kernels.attention(q, k, v, key_mask=Memory((2, 9))),
        lambda: kernels.gate_residual(x, rows[0], Memory((2, 4, 16))),
        lambda: kernels.norm_modulate(x, Memory((2, 15)), rows[2]),
        lambda: kernels.qk_norm_rope_(turned, other, ones, Memory((7,))),
        lambda: plans.prepare().bind(0, index, buffer, Memory((1, 13, 4, 7))),
    ):
        try:
            wrong()
            print("wrong: taken")
        except seqpar.SeqparError as error:
            assert "wanted" in str(error), error
    try:
        seqpar.Plans(library, "ulysses", "float32", 64, 1, 13, 4, 8)
    except seqpar.SeqparError as error:
        print("refused:", str(error).split(":")[0])


main()
