#!/usr/bin/env bash
# Builds, on a machine without a GPU, one folder that runs on a GPU machine with neither cargo nor
# nvcc: the tests of the kernels as programs that use the driver, worlds of ranks, measurements, their
# peers, libseqpar.so. docs/gpu-bundle.md says what each part shows.
# usage: scripts/gpu_bundle.sh [FOLDER]      then there: FOLDER/run.sh [PART]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-target/gpu-bundle}"
mkdir -p "$out"
export NVCC="${NVCC:-$(scripts/cuda_wheels.sh)}"
# Kernels that were compiled before are found again by content.
export SEQPAR_KERNEL_CACHE="${SEQPAR_KERNEL_CACHE:-$PWD/${CARGO_TARGET_DIR:-target}/tmp/nvcc}"
tests=(emulated_adaln emulated_attention emulated_attention_sm90 emulated_gemm emulated_small cuda_mock)
flags=()
for test in "${tests[@]}"; do flags+=(--test "$test"); done
# Assertions stay on: these are tests. One set of features for all, so that the crate is built once.
cargo test --profile dev --features kernels,torchrun --no-run --message-format=json "${flags[@]}" --bench gpu --bench gpu_world |
    python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    target = message.get("target", {})
    if message.get("executable") and target.get("kind", [""])[0] in ("test", "bench"):
        shutil.copy(message["executable"], sys.argv[1] + "/" + target["name"])
    for file in message.get("filenames", []):
        if target.get("name") == "seqpar" and file.endswith("libseqpar.so"):
            shutil.copy(file, sys.argv[1] + "/libseqpar.so")
' "$out"
strip "$out"/emulated_* "$out/cuda_mock" "$out/gpu" "$out/gpu_world"
[ ! -e "$out/libseqpar.so" ] || strip --strip-unneeded "$out/libseqpar.so"
cp benches/gpu/peers.py benches/gpu/table.py benches/gpu/run.sh "$out/"
if [ -d examples/pytorch ]; then cp -r examples/pytorch "$out/"; fi
git rev-parse HEAD > "$out/commit" 2>/dev/null || true
mib=$(du -sm "$out" | cut -f1)
echo "$out: $mib MiB"
[ "$mib" -lt 50 ] || { echo "the bundle is larger than 50 MB" >&2; exit 1; }
