"""seqpar beside torch on the same tensors: attention against scaled_dot_product_attention (values and
time), the adaLN kernels, QK norm with rotary embedding, and a sequence-parallel attention on four ranks
of one device against one.

    python compare.py PATH/libseqpar.so [--device cuda] [--fatbins FOLDER] [--tokens 4096] [--json FILE]
"""

import argparse
import glob
import json
import time

import torch
import torch.nn.functional as F

import seqpar_torch


def timed(device, work, repeats):
    """The result, and the median time of a call in milliseconds."""
    times = []
    for _ in range(3):
        result = work()
    for _ in range(repeats):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            result = work()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            begin = time.perf_counter()
            result = work()
            times.append((time.perf_counter() - begin) * 1e3)
    return result, sorted(times)[len(times) // 2]


def error(got, want):
    return (got.float() - want.float()).abs().max().item()


class Rows:
    """What was compared: printed as it comes, kept for --json."""

    def __init__(self):
        self.rows = []

    def add(self, name, dtype, ours_error, torch_error, ours_ms, torch_ms, allowed):
        row = {"name": name, "dtype": str(dtype)[6:], "error": ours_error, "torch_error": torch_error,
               "ms": ours_ms, "torch_ms": torch_ms, "ok": ours_error <= allowed}
        print(f"{name:44} {row['dtype']:9} error {ours_error:.1e} (torch {torch_error:.1e})  "
              f"{ours_ms:8.3f} ms (torch {torch_ms:8.3f})  {'ok' if row['ok'] else 'WRONG'}", flush=True)
        self.rows.append(row)


def attention(rows, kernels, device, dtype, shape, repeats):
    q, k, v = (torch.randn(shape, device=device).to(dtype) for _ in range(3))
    (ours, lse), ours_ms = timed(device, lambda: kernels.attention(q, k, v), repeats)
    theirs, theirs_ms = timed(device, lambda: F.scaled_dot_product_attention(q, k, v), repeats)
    scores = q.double() @ k.double().transpose(2, 3) / shape[3] ** 0.5
    exact = torch.softmax(scores, -1) @ v.double()
    allowed = max(2 * error(theirs, exact), 1e-5)
    rows.add(f"attention {list(shape)}", dtype, error(ours, exact), error(theirs, exact), ours_ms, theirs_ms, allowed)
    assert error(lse, torch.logsumexp(scores, -1)) < 1e-2


def adaln(rows, kernels, device, dtype, shape, repeats):
    x, branch = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    gate, shift, scale = ((0.5 * torch.randn(shape[0], shape[2], device=device)).to(dtype) for _ in range(3))

    def by_torch(x, branch, gate, shift, scale):
        out = x + gate[:, None] * branch
        return out, F.layer_norm(out, shape[2:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    ours, ours_ms = timed(device, lambda: kernels.gate_residual_norm_modulate(x, gate, branch, shift, scale), repeats)
    theirs, theirs_ms = timed(device, lambda: by_torch(x, branch, gate, shift, scale), repeats)
    exact = by_torch(*(t.double() for t in (x, branch, gate, shift, scale)))
    rows.add(f"gate, residual, norm, modulate {list(shape)}", dtype, error(ours[1], exact[1]), error(theirs[1], exact[1]),
             ours_ms, theirs_ms, max(2 * error(theirs[1], exact[1]), 1e-5))
    # The fused kernel has the bits of the two one after the other.
    residual = kernels.gate_residual(x, gate, branch)
    assert torch.equal(ours[0], residual) and torch.equal(ours[1], kernels.norm_modulate(residual, shift, scale))


def qk_norm_rope(rows, kernels, device, dtype, shape, repeats):
    q, k = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    q_norm, k_norm = ((1 + 0.1 * torch.randn(shape[3], device=device)).to(dtype) for _ in range(2))
    angles = torch.outer(torch.arange(shape[2]), 10000.0 ** (-torch.arange(shape[3] // 2) / (shape[3] // 2)))
    cos, sin = angles.cos().float().to(device), angles.sin().float().to(device)

    def by_torch(x, weight, cos, sin):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    exact = by_torch(q.double(), q_norm.double(), cos.double(), sin.double())
    theirs, theirs_ms = timed(device, lambda: (by_torch(q, q_norm, cos, sin), by_torch(k, k_norm, cos, sin)), repeats)
    ours, other = q.clone(), k.clone()
    kernels.qk_norm_rope_(ours, other, q_norm, k_norm, cos, sin)
    scratch = q.clone(), k.clone()
    _, ours_ms = timed(device, lambda: kernels.qk_norm_rope_(*scratch, q_norm, k_norm, cos, sin), repeats)
    allowed = max(2 * error(theirs[0], exact), 1e-5)
    rows.add(f"qk norm, rope {list(shape)}", dtype, error(ours, exact), error(theirs[0], exact), ours_ms, theirs_ms, allowed)


def sequence_parallel(rows, library, kernels, device, dtype, shape, repeats):
    """[B, N, H, D] by plans: four ranks on one device have the bits of one."""
    batch, tokens, heads, dim = shape
    inputs = {name: torch.randn(shape, device=device).to(dtype) for name in "qkv"}
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else None

    def by_plans(strategy, ranks):
        plans = seqpar_torch.Plans(library, strategy, str(dtype)[6:], ranks, batch, tokens, heads, dim)
        prepared = plans.prepare(kernels if device == "cuda" else None)
        outputs = {"out": torch.empty_like(inputs["q"]),
                   "lse": torch.empty(batch, heads, 1, tokens, device=device, dtype=torch.float32)}
        parts = prepared.scatter(inputs, outputs)
        prepared.run(stream)
        prepared.finish()
        prepared.gather(parts, outputs)

        def again():
            prepared.run(stream)
            prepared.finish()

        _, ms = timed(device, again, repeats)
        assert prepared.report(0).bytes_sent == plans.summary(0).bytes_sent
        return outputs["out"], ms

    one, one_ms = by_plans("single", 1)
    for strategy in ("ulysses", "kv_gather"):
        four, four_ms = by_plans(strategy, 4)
        same = torch.equal(one.view(torch.uint8), four.view(torch.uint8))
        rows.add(f"{strategy} on 4 ranks of one device, against 1", dtype, 0.0 if same else error(four, one), 0.0,
                 four_ms, one_ms, 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--fatbins", help="folder of fatbins, where the library has no kernels in it")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", help="write the rows there")
    options = parser.parse_args()

    torch.manual_seed(1)
    library = seqpar_torch.load(options.library)
    device, tokens = options.device, options.tokens or (4096 if options.device == "cuda" else 256)
    if device == "cuda":
        torch.zeros(1, device=device)
    images = sorted(glob.glob(f"{options.fatbins}/*.fatbin")) if options.fatbins else []
    kernels = seqpar_torch.Kernels(library, device, threads=torch.get_num_threads(), images=images)
    rows = Rows()
    for dtype in [torch.bfloat16, torch.float16 if device == "cuda" else torch.float32]:
        for dim in (64, 72, 128):
            attention(rows, kernels, device, dtype, (2, 16, tokens, dim), options.repeats)
        adaln(rows, kernels, device, dtype, (2, tokens, 1152), options.repeats)
        qk_norm_rope(rows, kernels, device, dtype, (2, 16, tokens, 64), options.repeats)
        sequence_parallel(rows, library, kernels, device, dtype, (1, tokens, 16, 64), options.repeats)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"device": device, "torch": torch.__version__, "rows": rows.rows}, file, indent=1)
    wrong = [row["name"] for row in rows.rows if not row["ok"]]
    raise SystemExit(f"WRONG: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
