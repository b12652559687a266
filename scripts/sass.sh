#!/usr/bin/env bash
# What the kernels are in machine code: counts instructions of each kernel in all of it and in its
# loops, holds the sm_90a kernels to wgmma and TMA in their loops, and compares with
# benches/record/sass-13.0.txt (UPDATE_SASS=1 writes it). Opt-in: cuobjdump comes from the path or,
# 280 MB, from a PyPI wheel of triton, put under target/.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
record=benches/record/sass-13.0.txt
triton=triton==3.9.0

cuobjdump=$(command -v cuobjdump || true)
if [ -z "$cuobjdump" ]; then
    tools="$target/sass/triton/backends/nvidia/bin"
    if [ ! -x "$tools/nvdisasm" ]; then
        python3 -m venv "$target/sass/venv"
        "$target/sass/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
            --dest "$target/sass/wheel" "$triton"
        python3 -m zipfile -e "$target"/sass/wheel/triton-*.whl "$target/sass/unpacked"
        mkdir -p "$tools"
        mv "$target"/sass/unpacked/triton/backends/nvidia/bin/{cuobjdump,nvdisasm} "$tools"
        chmod +x "$tools"/*
        rm -rf "$target/sass/unpacked" "$target/sass/wheel"
    fi
    PATH="$PWD/$tools:$PATH"
    cuobjdump="$tools/cuobjdump"
fi

# Compiles what is not compiled yet, under its gates.
cargo test --quiet --test kernels_nvcc every_kernel_passes_the_gates >&2
fresh="$target/tmp/sass.txt"
for source in csrc/kernels/*.cu; do
    "$cuobjdump" --dump-sass "$target/tmp/nvcc/$(basename "$source" .cu).fatbin"
done | python3 scripts/sass.py >"$fresh"

if [ "${UPDATE_SASS:-}" = 1 ]; then
    cp "$fresh" "$record"
fi
diff -u "$record" "$fresh" || { echo "the machine code is not that of $record: UPDATE_SASS=1 scripts/sass.sh" >&2; exit 1; }
echo "$(grep -vc '^#' "$record") kernels as in $record" >&2
