"""The cases of benches/gpu/cases.rs with other libraries, one JSON object a line.

Same shapes, random normal bf16, 100 warm-up runs, then CUDA graphs of 20 runs timed by events, the
median of 7. A library that is not installed is skipped with its reason. FA3: `fa3-fwd`; FA4:
`flash-attn-4` (pre-release) with `nvidia-cutlass-dsl`.
"""

import json
import sys

import torch
import torch.nn.functional as F

WARM_UP, BACK_TO_BACK, ROUNDS = 100, 20, 7


def seconds(run):
    for _ in range(WARM_UP):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(BACK_TO_BACK):
                run()
        replay = graph.replay
    except Exception:  # not every library can be captured
        torch.cuda.synchronize()

        def replay():
            for _ in range(BACK_TO_BACK):
                run()

    times = []
    for _ in range(ROUNDS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / BACK_TO_BACK)
    return sorted(times)[ROUNDS // 2]


def report(case, library, run, flops=0.0, bytes_=0.0):
    try:
        s = seconds(run)
        line = {"case": case, "library": library, "us": s * 1e6, "tflops": flops / s / 1e12, "gbps": bytes_ / s / 1e9}
    except Exception as error:
        line = {"case": case, "library": library, "skipped": str(error).splitlines()[0][:200] if str(error) else repr(error)}
    print(json.dumps(line), flush=True)


def attention_libraries():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def sdpa(backend):
        def make(q, k, v):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))

            def run():
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v)

            return run

        return make

    libraries = {"sdpa_cudnn": sdpa(SDPBackend.CUDNN_ATTENTION), "sdpa_flash": sdpa(SDPBackend.FLASH_ATTENTION)}
    try:
        try:
            from fa3_fwd_interface import flash_attn_func as fa3
        except ImportError:
            from flash_attn_interface import flash_attn_func as fa3
        libraries["fa3"] = lambda q, k, v: lambda: fa3(q, k, v)
    except ImportError as error:
        print(json.dumps({"library": "fa3", "skipped": str(error)}))
    try:
        from flash_attn.cute import flash_attn_func as fa4

        libraries["fa4"] = lambda q, k, v: lambda: fa4(q, k, v)
    except ImportError as error:
        print(json.dumps({"library": "fa4", "skipped": str(error)}))
    return libraries


def main(wanted):
    torch.manual_seed(0)
    name = torch.cuda.get_device_name(0)
    print(json.dumps({"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}))

    def chosen(case):
        return not wanted or any(w in case for w in wanted)

    def randn(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    libraries = attention_libraries()
    for dim in (64, 72, 96, 128):
        for batch, heads, tokens in ((2, 16, 1024), (2, 16, 8192), (1, 16, 16384)):
            case = f"attention_d{dim}_b{batch}_h{heads}_n{tokens}"
            if not chosen(case):
                continue
            q, k, v = (randn(batch, tokens, heads, dim) for _ in range(3))
            for library, make in libraries.items():
                report(case, library, make(q, k, v), flops=4.0 * batch * heads * tokens * tokens * dim)

    def norm_modulate(x, shift, scale):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    def fused(x, branch, gate, shift, scale):
        x = x + gate * branch
        return x, norm_modulate(x, shift, scale)

    compiled_norm, compiled_fused = torch.compile(norm_modulate), torch.compile(fused)
    for rows, hidden in ((65536, 1152), (16384, 3072), (16384, 5120)):
        case = f"gate_residual_norm_modulate_r{rows}_c{hidden}"
        if chosen(case):
            x, b = randn(1, rows, hidden), randn(1, rows, hidden)
            g, sh, sc = (randn(1, 1, hidden) for _ in range(3))
            report(case, "torch_compile", lambda: compiled_fused(x, b, g, sh, sc), bytes_=8.0 * rows * hidden)
    for rows, hidden in ((4096, 1152), (16384, 3072)):
        case = f"norm_modulate_r{rows}_c{hidden}"
        if chosen(case):
            x = randn(1, rows, hidden)
            sh, sc = (randn(1, 1, hidden) for _ in range(2))
            report(case, "torch_compile", lambda: compiled_norm(x, sh, sc), bytes_=4.0 * rows * hidden)
    for hidden, cols in ((1152, 3456), (1152, 1728), (3072, 9216), (3072, 2304)):
        for rows in (8192, 16384):
            case = f"gemm_m{rows}_k{hidden}_n{cols}"
            if chosen(case):
                a, w, bias = randn(rows, hidden), randn(cols, hidden) / hidden**0.5, randn(cols)
                report(case, "cublaslt", lambda: F.linear(a, w, bias), flops=2.0 * rows * hidden * cols)
    for mib in (64, 256, 1024):
        case = f"copy_{mib}mib"
        if chosen(case):
            src = randn(mib << 19)
            dst = torch.empty_like(src)
            report(case, "copy", lambda: dst.copy_(src), bytes_=2.0 * src.numel() * 2)


if __name__ == "__main__":
    main(sys.argv[1:])
