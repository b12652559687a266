"""Writes adaln.inl: the entry points of the norm, modulation, gate and residual kernels.

(lanes, vectors): 8 * lanes * vectors channels at most; the launch layer takes the first that holds
the hidden size (src/kernel/cuda/adaln.rs has the same table; a test compares them).
"""
SHAPES = ((16, 3), (16, 6), (16, 9), (32, 6), (32, 8), (32, 12), (64, 8), (128, 5), (128, 6), (256, 4))
OPS = (("norm_modulate", "false", "true"), ("gate_residual_norm_modulate", "true", "true"), ("gate_residual", "true", "false"))


def text():
    lines = ["// Written by adaln.py."]
    for dtype, tag in (("bf16", "Bf16Type"), ("f16", "F16Type")):
        for op, gate, norm in OPS:
            for lanes, vectors in SHAPES:
                lines.append(
                    f"SEQPAR_KERNEL({op}_{dtype}_c{8 * lanes * vectors}, SeqparRowKernel, kRowThreads, 1) {{ "
                    f"row_kernel<{tag}, {lanes}, {vectors}, {gate}, {norm}>(p); }}"
                )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import pathlib

    pathlib.Path(__file__).with_suffix(".inl").write_text(text())
