#!/usr/bin/env bash
# Prints the path of the nvcc that this repository's figures (csrc/ptxas.txt) are of; installs it
# under target/cuda from PyPI wheels if it is not there (300 MB). The versions stand here only.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
home="${CARGO_TARGET_DIR:-target}/cuda"

# Two tests may ask at once.
mkdir -p "$home"
exec 9>"$home/.lock"
flock 9
if [ "$(cat "$home/.wheels" 2>/dev/null)" != "${wheels[*]}" ]; then
    { { [ -x "$home/bin/pip" ] || python3 -m venv "$home"; } && "$home/bin/pip" install --quiet --disable-pip-version-check "${wheels[@]}"; } >&2 || {
        echo "cannot install nvcc under $home (python3 with venv, and PyPI, are needed): set NVCC to one" >&2
        exit 1
    }
    echo "${wheels[*]}" >"$home/.wheels"
fi
nvcc=$(find "$(cd "$home" && pwd)/lib" -path '*/nvidia/cu13/bin/nvcc' | head -1)
[ -n "$nvcc" ] || { echo "no nvcc under $home: delete it and try again" >&2; exit 1; }
echo "$nvcc"
