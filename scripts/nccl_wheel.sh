#!/usr/bin/env bash
# Prints the folder of the NCCL that this crate is declared against (src/ffi/nccl): include/nccl.h
# and lib/libnccl.so.2; unpacks it under target/nccl from a PyPI wheel if it is not there (200 MB).
# The version stands here only.
set -euo pipefail
cd "$(dirname "$0")/.."

wheel=nvidia-nccl-cu13==2.28.9
home="${CARGO_TARGET_DIR:-target}/nccl"

# Two tests may ask at once.
mkdir -p "$home"
exec 9>"$home/.lock"
flock 9
if [ "$(cat "$home/.wheel" 2>/dev/null)" != "$wheel" ]; then
    rm -rf "$home/nvidia" "$home/download"
    { { [ -x "$home/venv/bin/pip" ] || python3 -m venv "$home/venv"; } &&
        "$home/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$home/download" "$wheel" &&
        python3 -m zipfile -e "$home"/download/*.whl "$home" && rm -rf "$home/download"; } >&2 || {
        echo "cannot install $wheel under $home: python3 with venv, and PyPI, are needed" >&2
        exit 1
    }
    echo "$wheel" >"$home/.wheel"
fi
echo "$(cd "$home" && pwd)/nvidia/nccl"
