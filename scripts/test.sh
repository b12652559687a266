#!/usr/bin/env bash
# Runs every check and test of this repository; the last lines are the results.
set -euo pipefail
cd "$(dirname "$0")/.."

results=()
failed=0

step() {
    local name="$1"
    shift
    printf '\n== %s\n' "$name"
    local begin=$SECONDS
    if "$@"; then
        results+=("ok      $name ($((SECONDS - begin)) s)")
    else
        results+=("FAILED  $name ($((SECONDS - begin)) s)")
        failed=1
    fi
}

# Everything that runs without a GPU is tested in one set of features: on Linux with the mocks of the
# CUDA driver and of NCCL, elsewhere without CUDA.
features=()
if [ "$(uname -s)" = Linux ]; then features=(--features torchrun,nvtx); fi

step "format" cargo fmt --check
step "clippy" cargo clippy --quiet --all-targets "${features[@]}" -- -D warnings
step "clippy of the default features" cargo clippy --quiet --all-targets -- -D warnings
step "clippy without the command line" cargo clippy --quiet --no-default-features --lib -- -D warnings
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps "${features[@]}"
step "tests" cargo test --no-fail-fast "${features[@]}"
step "the candle example" cargo run --quiet --manifest-path examples/candle/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}/candle"
if [ "$(uname -s)" = Linux ]; then
    # The kernels that the tests have compiled are found again by content.
    nvcc="${NVCC:-$(scripts/cuda_wheels.sh || true)}"
    kernels=(env NVCC="$nvcc" SEQPAR_KERNEL_CACHE="$PWD/${CARGO_TARGET_DIR:-target}/tmp/nvcc")
    step "kernels in the crate" "${kernels[@]}" cargo test --quiet --features kernels --lib --test capi -- kernel::cuda header::
    step "the candle example for a GPU, compiled" env NVCC="$nvcc" scripts/candle_check.sh
    step "clippy of the kernels" "${kernels[@]}" cargo clippy --quiet --features kernels --lib --bins -- -D warnings
fi

printf '\n== results\n'
printf '%s\n' "${results[@]}"
if [ "$failed" -ne 0 ]; then
    echo "FAILED"
    exit 1
fi
echo "all passed"
