#!/usr/bin/env bash
# Builds, on a machine without a GPU, one folder that runs on a GPU machine with neither cargo nor
# nvcc: the tests of the kernels as a program that uses the driver, worlds of ranks, measurements,
# their peers, libseqpar.so. docs/gpu-bundle.md says what each part shows.
# usage: scripts/gpu_bundle.sh [FOLDER]      then there: FOLDER/run.sh [PART]
set -euo pipefail
cd "$(dirname "$0")/.."
limit_mb=50
out="${1:-target/gpu-bundle}"
mkdir -p "$out"
export NVCC="${NVCC:-$(scripts/cuda_wheels.sh)}"
# Kernels that were compiled before are found again by content.
export SEQPAR_KERNEL_CACHE="${SEQPAR_KERNEL_CACHE:-$(realpath -m "${CARGO_TARGET_DIR:-target}/tmp/nvcc")}"
# Release: the overhead of a run is measured. One set of features for all, so that the crate is built
# once; few programs, since each holds the compiled kernels.
how=(--release --no-default-features --features "kernels,torchrun" --message-format json)
{
    cargo build "${how[@]}" --lib --example faulty_sockets
    cargo test "${how[@]}" --no-run --test emulated --test cuda_mock --bench gpu --bench gpu_world
} |
    python3 -c '
import json, os, shutil, sys
out, left = sys.argv[1], {"emulated", "cuda_mock", "gpu", "gpu_world", "libfaulty_sockets.so", "libseqpar.so"}
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    name = message.get("target", {}).get("name", "")
    if message.get("reason") == "compiler-message":
        print(message["message"]["rendered"], file=sys.stderr)
    files = {name: message.get("executable")} if message.get("executable") else {}
    files.update((os.path.basename(path), path) for path in message.get("filenames", []))
    for name in left & files.keys():
        # A program that runs is not written over.
        shutil.copy(files[name], out + "/" + name + ".new")
        os.replace(out + "/" + name + ".new", out + "/" + name)
        left = left - {name}
if left:
    sys.exit("cargo did not build " + ", ".join(sorted(left)))
' "$out"
strip "$out/emulated" "$out/cuda_mock" "$out/gpu" "$out/gpu_world"
strip --strip-unneeded "$out/libseqpar.so" "$out/libfaulty_sockets.so"
cp benches/gpu/peers.py benches/gpu/table.py benches/gpu/run.sh "$out/"
rm -rf "$out/pytorch"
cp -r examples/pytorch "$out/"
rm -rf "$out/pytorch/__pycache__"
git describe --always --dirty --abbrev=40 --exclude='*' > "$out/commit" 2> /dev/null || echo unknown > "$out/commit"
(cd "$out" && du -b --max-depth=1 --all --exclude=./results | sort -rn | awk '{printf "%8.2f MB  %s\n", $1 / 1e6, $2}')
bytes=$(du -bs --exclude="$out/results" "$out" | cut -f1)
if [ "$bytes" -gt $((limit_mb * 1000000)) ]; then
    echo "$out has $bytes bytes: more than the $limit_mb MB that a bundle may have" >&2
    exit 1
fi
echo "$out: below $limit_mb MB; start it there with $out/run.sh"
