#!/usr/bin/env bash
# Runs the client of torchrun's store against PyTorch's own servers (libuv and the older one), and
# ranks under torchrun. Opt-in: installs PyTorch under target/, which takes 5 GB from PyPI; pip's
# own settings may name an index of smaller CPU wheels. TORCH_BIN=FOLDER takes one that is there.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${TORCH_BIN:-${CARGO_TARGET_DIR:-target}/torch-store/bin}"
if [ ! -x "$bin/torchrun" ]; then
    python3 -m venv "$(dirname "$bin")"
    "$bin/pip" install --quiet numpy torch==2.11.0
fi
"$bin/python" -c 'import torch; print("torch", torch.__version__)'
SEQPAR_TORCH_BIN="$(cd "$bin" && pwd)" cargo test --features torchrun --test rendezvous -- --ignored --nocapture torch::
