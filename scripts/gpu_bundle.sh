#!/usr/bin/env bash
# Builds, on a machine without a GPU, one folder that runs on a GPU machine with neither cargo nor
# nvcc: the tests of the kernels as programs that use the driver, the measurements, their peers.
# usage: scripts/gpu_bundle.sh [FOLDER]      then there: FOLDER/run.sh [PART]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-target/gpu-bundle}"
mkdir -p "$out"
export NVCC="${NVCC:-$(scripts/cuda_wheels.sh)}"
tests=(emulated_adaln emulated_attention emulated_attention_sm90 emulated_gemm emulated_small)
flags=()
for test in "${tests[@]}"; do flags+=(--test "$test"); done
# Assertions stay on: these are tests.
cargo test --profile dev --features kernels --no-run --message-format=json "${flags[@]}" --bench gpu |
    python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("executable") and message.get("target", {}).get("kind", [""])[0] in ("test", "bench"):
        shutil.copy(message["executable"], sys.argv[1] + "/" + message["target"]["name"])
' "$out"
strip "$out"/emulated_* "$out/gpu"
cp benches/gpu/peers.py benches/gpu/table.py benches/gpu/run.sh "$out/"
git rev-parse HEAD > "$out/commit" 2>/dev/null || true
du -sh "$out"
