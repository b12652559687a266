#!/usr/bin/env bash
# Checks, on a machine without a GPU, that the GPU half of examples/candle compiles. seqpar's kernels are
# compiled by the real nvcc; candle's own, which take it half an hour, are left out: for them it writes
# empty files. Nothing that could run is built, and the target folder is one of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
nvcc="$(command -v "${NVCC:-$(scripts/cuda_wheels.sh)}")"
mkdir -p "$target/candle-check/bin"
cat > "$target/candle-check/bin/nvcc" << EOF
#!/usr/bin/env bash
nvcc="$nvcc"
EOF
cat >> "$target/candle-check/bin/nvcc" << 'EOF'
out="" folder="" what="" last=""
for word in "$@"; do
    case "$last" in
        -o) out="$word" ;;
        --output-directory) folder="$word" ;;
    esac
    case "$word" in -c | --lib | --ptx) what="$word" ;; esac
    last="$word"
done
case "$what" in
    -c) exec cc -x c -c /dev/null -o "$out" ;;
    --lib) rm -f "$out" && exec ar rcs "$out" ;;
    --ptx) : > "$folder/$(basename "${last%.cu}").ptx" ;;
    *) exec "$nvcc" "$@" ;;
esac
EOF
chmod +x "$target/candle-check/bin/nvcc"
export NVCC="$target/candle-check/bin/nvcc" CUDA_COMPUTE_CAP=90
CUDA_HOME="$(dirname "$(dirname "$nvcc")")"
export CUDA_HOME PATH="$target/candle-check/bin:$PATH"
export SEQPAR_KERNEL_CACHE="${SEQPAR_KERNEL_CACHE:-$target/tmp/nvcc}"
cargo check --quiet --manifest-path examples/candle/Cargo.toml --features cuda --target-dir "$target/candle-check"
echo "the candle example compiles for a GPU"
