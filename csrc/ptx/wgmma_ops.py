"""Writes wgmma_ops.inl: one overload of wgmma_ss and wgmma_rs for each type and width in use.

d[64][N] (+)= a[64][16] * b[16][N]; N is twice the length of d, so the call picks the overload.
TA, TB: 1 where the operand is MN-major in shared memory. `accumulate` 0 starts from zero.
"""
WIDTHS = (64, 72, 80, 96, 112, 128, 144, 160, 176, 192, 216, 224, 256)


def op(dtype, n, a_in_registers):
    d = n // 2
    regs = ", ".join(f"%{i}" for i in range(d))
    outs = ", ".join(f'"+f"(d[{i}])' for i in range(d))
    tag = {"bf16": "Bf16Type", "f16": "F16Type"}[dtype]
    if a_in_registers:
        template, params = "int TB", f"{tag}, float (&d)[{d}], const uint32_t (&a)[4], uint64_t b, int accumulate"
        operands = f"{{%{d}, %{d + 1}, %{d + 2}, %{d + 3}}}, %{d + 4}, p, 1, 1, %{d + 6}"
        flag, ins = d + 5, '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TB)'
    else:
        template, params = "int TA, int TB", f"{tag}, float (&d)[{d}], uint64_t a, uint64_t b, int accumulate"
        operands = f"%{d}, %{d + 1}, p, 1, 1, %{d + 3}, %{d + 4}"
        flag, ins = d + 2, '"l"(a), "l"(b), "r"(accumulate), "n"(TA), "n"(TB)'
    name = "wgmma_rs" if a_in_registers else "wgmma_ss"
    return f"""template <{template}>
PTX_FN void {name}({params}) {{
  asm volatile(
      "{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{flag}, 0;\\n"
      "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{dtype}.{dtype} {{{regs}}}, {operands};\\n}}\\n"
      : {outs}
      : {ins}
      : "memory");
}}
"""


def text():
    head = "// Written by wgmma_ops.py.\n"
    return head + "".join(op(t, n, r) for t in ("bf16", "f16") for n in WIDTHS for r in (False, True))


if __name__ == "__main__":
    import pathlib

    pathlib.Path(__file__).with_suffix(".inl").write_text(text())
