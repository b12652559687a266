"""Reads `cuobjdump --dump-sass`, writes one line a kernel: how often each instruction occurs, and how
often in the deepest nest of loops that it occurs in: `24/12:2` is 24, 12 of them in a loop within a
loop. Loops are the natural loops of the control flow.

Fails if a matrix kernel of sm_90a, whose blocks go through tiles in one loop and along the sum in
the next, has no wgmma (HGMMA) or no TMA load (UTMALDG) in the inner one, or one of sm_80 no HMMA
and no LDGSTS (cp.async) in a loop.
"""
import re
import sys

OPCODES = ["HGMMA", "UTMALDG", "UTMASTG", "UBLKCP", "SYNCS", "WARPGROUP.DEPBAR", "HMMA", "LDGSTS", "LDSM", "STSM",
           "LDG", "STG", "MUFU.EX2", "BAR", "USETMAXREG"]
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")


def kernels(lines):
    symbol, arch, code = None, None, []
    for line in lines:
        if found := re.match(r"\s*(?:arch|EF_CUDA_SM\S*)\s*=\s*(sm_\w+)", line):
            arch_next = found[1]
            if symbol:
                yield symbol, arch, code
            symbol, arch, code = None, arch_next, []
        elif found := re.match(r"\s*Function : (\w+)", line):
            if symbol:
                yield symbol, arch, code
            symbol, code = found[1], []
        elif symbol and (found := INSTRUCTION.match(line)):
            code.append((int(found[1], 16), found[3], found[4].strip(), bool(found[2])))
    if symbol:
        yield symbol, arch, code


def successors(code):
    """Control flow between instructions, by index."""
    index = {address: i for i, (address, *_) in enumerate(code)}
    after = []
    for i, (_, name, operands, predicated) in enumerate(code):
        next_one = [i + 1] if i + 1 < len(code) else []
        kind = name.split(".")[0]
        if kind == "BRA":
            target = re.search(r"0x([0-9a-f]+)\)?$", operands.replace("`(", ""))
            conditional = predicated or "," in operands or ".DIV" in name
            after.append([index[int(target[1], 16)]] + (next_one if conditional else []))
        else:
            after.append(next_one if kind not in ("EXIT", "RET") or predicated else [])
    return after


def loops(code):
    """The bodies of the natural loops, by header."""
    after = successors(code)
    leaders = {0} | {to for i, next_ones in enumerate(after) if next_ones != [i + 1] for to in next_ones + [i + 1]}
    starts = sorted(i for i in leaders if i < len(code))
    spans = dict(zip(starts, starts[1:] + [len(code)]))
    before = {start: [] for start in starts}
    order, seen, stack = [], {0}, [(0, iter(after[spans[0] - 1]))]
    while stack:
        block, rest = stack[-1]
        for to in rest:
            before[to].append(block)
            if to not in seen:
                seen.add(to)
                stack.append((to, iter(after[spans[to] - 1])))
                break
        else:
            order.append(stack.pop()[0])
    dominators = {block: set(seen) for block in seen}
    dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in reversed(order[:-1]):
            new = set.intersection(*(dominators[b] for b in before[block])) | {block}
            changed |= new != dominators[block]
            dominators[block] = new
    bodies = {}
    for header in seen:
        ends = [block for block in before[header] if header in dominators[block]]
        if not ends:
            continue
        body, stack = {header}, ends
        while stack:
            block = stack.pop()
            if block not in body:
                body.add(block)
                stack += before[block]
        bodies[header] = {i for block in body for i in range(block, spans[block])}
    return bodies


def depths(code):
    """For each opcode the depth of each of its instructions."""
    bodies = loops(code).values()
    found = {opcode: [] for opcode in OPCODES}
    for i, (_, name, *_) in enumerate(code):
        for opcode in OPCODES:
            if name == opcode or name.startswith(opcode + "."):
                found[opcode].append(sum(i in body for body in bodies))
    return found


def cell(depths):
    return f"{len(depths)}/{depths.count(max(depths))}:{max(depths)}" if depths else "-"


def lacking(symbol, arch, found):
    if not re.match(r"attn_|gemm_", symbol):
        return []
    wanted, depth = (["HGMMA", "UTMALDG"], 2) if arch == "sm_90a" else (["HMMA", "LDGSTS"], 1)
    return [opcode for opcode in wanted if max(found[opcode], default=0) < depth]


def main():
    rows, failed = [], []
    for symbol, arch, code in kernels(sys.stdin):
        found = depths(code)
        failed += [f"{symbol} for {arch}: no {opcode} in its main loop" for opcode in lacking(symbol, arch, found)]
        rows.append([symbol, arch, str(len(code))] + [cell(found[opcode]) for opcode in OPCODES])
    table = [["# symbol", "arch", "all"] + OPCODES] + sorted(rows)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    print("# Instructions of each kernel: all / in the deepest loops that have one : depth. Written by UPDATE_SASS=1 scripts/sass.sh.")
    for row in table:
        print("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))))
    if failed or not rows:
        sys.exit("\n".join(failed) or "no kernel")


main()
