#!/usr/bin/env bash
# Runs the bundle on a GPU machine. PART: tests, kernels, peers, table; none: all, in this order.
# Each part keeps below 9 minutes, writes its log to $OUT (default: ./results) and can be repeated.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${OUT:-$here/results}"
mkdir -p "$out"
part="${1:-all}"

run_tests() {
    local passed=0 failed=0
    for program in "$here"/emulated_*; do
        local log="$out/$(basename "$program").log"
        if SEQPAR_TEST_DEVICE=cuda SEQPAR_TEST_SEED="${SEQPAR_TEST_SEED:-1}" timeout 110 "$program" --test-threads 1 > "$log" 2>&1; then
            passed=$((passed + 1))
            echo "ok      $(basename "$program"): $(grep '^test result' "$log")"
        else
            failed=$((failed + 1))
            echo "FAILED  $(basename "$program"), see $log"
            grep -E '^test .* FAILED|panicked|did not end' "$log" | head -20
        fi
    done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

code=0
case "$part" in
    tests | all) run_tests || code=1 ;;
esac
case "$part" in
    kernels | all) timeout 500 "$here/gpu" --bench | tee "$out/kernels.jsonl" || code=1 ;;
esac
case "$part" in
    peers | all) timeout 500 python3 "$here/peers.py" | tee "$out/peers.jsonl" || code=1 ;;
esac
case "$part" in
    table | all) python3 "$here/table.py" "$out/kernels.jsonl" "$out/peers.jsonl" "$out/record.json" || code=1 ;;
esac
exit "$code"
