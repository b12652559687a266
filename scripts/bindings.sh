#!/bin/sh
# Writes src/kernel/cuda/params.rs from include/seqpar_kernels.h. Needs `bindgen` (cargo install
# bindgen-cli) and libclang (LIBCLANG_PATH, or the PyPI package libclang, installed under target/).
# tests/kernel_params.rs compares the result with what a C compiler makes of the header.
set -e
cd "$(dirname "$0")/.."
if [ -z "$LIBCLANG_PATH" ]; then
  [ -d target/libclang ] || { python3 -m venv target/libclang && target/libclang/bin/pip install -q libclang; }
  LIBCLANG_PATH=$(dirname "$(find "$PWD/target/libclang" -name 'libclang*.so*' | head -1)")
  export LIBCLANG_PATH
fi
{
  echo '// Written by scripts/bindings.sh from include/seqpar_kernels.h.'
  echo '#![allow(missing_docs, dead_code, unreachable_pub)]'
  "${BINDGEN:-bindgen}" include/seqpar_kernels.h --disable-header-comment --no-layout-tests --use-core \
    --rust-target 1.89 --rust-edition 2024 --no-doc-comments --no-prepend-enum-name --default-enum-style consts \
    --allowlist-type 'Seqpar.*' --allowlist-var 'SEQPAR_.*' \
    --with-derive-custom-struct 'Seqpar.*=bytemuck::Pod,bytemuck::Zeroable' \
    -- -I"$(cc -print-file-name=include)"
} > src/kernel/cuda/params.rs
rustfmt --edition 2024 src/kernel/cuda/params.rs
