#!/usr/bin/env bash
# Runs the bundle on a GPU machine: run.sh [PART], a part being kernels, cuda, nccl, faults, peers,
# sanitizer, soak or table; none: all but sanitizer and soak, in order of value.
# A part keeps below 9 minutes. A program that has ended is not run again (FORCE=1: it is), so a
# part that ran out of time is continued by running it again. LIST=1 only says what would be run.
# Results are in $OUT (./results): NAME.jsonl and NAME.log of each program, record.json, table.txt.
# Exit status: 0 all is well, 1 something failed, 2 it was asked for wrongly, 3 nothing could be run.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${OUT:-$here/results}"
# PyTorch's wheel brings NCCL; it is found where the loader does not know it.
if [ -z "${SEQPAR_NCCL_PATH:-}" ] && [ -z "${SEQPAR_BUNDLE_MOCK:-}" ]; then
    nccl="$(python3 -c 'import glob, nvidia.nccl; print(glob.glob(list(nvidia.nccl.__path__)[0] + "/lib/libnccl.so.2")[0])' 2>/dev/null)"
    if [ -n "$nccl" ]; then export SEQPAR_NCCL_PATH="$nccl"; fi
fi
part_limit_s="${PART_LIMIT_S:-525}"
code=0
ran=0

# program PART NAME LIMIT_S COMMAND...: runs what has not ended yet, and says how it ended.
program() {
    local part="$1" name="$2" limit="$3" left status begin cut=""
    shift 3
    if [ -n "${LIST:-}" ]; then
        echo "$part $name: at most $limit s: ${*//"$here"\//}"
        return
    fi
    ran=$((ran + 1))
    if [ -e "$out/$name.ended" ] && [ -z "${FORCE:-}" ]; then
        echo "before  $name: $(cat "$out/$name.ended")"
        [ "$(cat "$out/$name.ended")" = "status 0" ] || code=1
        return
    fi
    left=$((part_limit_s - (SECONDS - part_begin)))
    if [ "$left" -lt 5 ]; then
        no_time "$part" "$name"
        return
    fi
    if [ "$left" -lt "$limit" ]; then limit="$left" cut=1; fi
    begin=$SECONDS
    rm -f "$out/$name.ended"
    timeout --kill-after=5 "$limit" "$@" > "$out/$name.jsonl" 2> "$out/$name.log" < /dev/null
    status=$?
    case "$status" in
        0) echo "ok      $name ($((SECONDS - begin)) s)" ;;
        124 | 137)
            if [ -n "$cut" ]; then
                no_time "$part" "$name"
                return
            fi
            echo "TIME    $name: not done after $limit s"
            ;;
        *) echo "FAILED  $name (status $status, $((SECONDS - begin)) s), see $out/$name.*" ;;
    esac
    [ "$status" -eq 0 ] || code=1
    echo "{\"part\":\"$part\",\"case\":\"$name\",\"what\":\"program\",\"status\":$status,\"seconds\":$((SECONDS - begin)),\"limit_s\":$limit}" >> "$out/$name.jsonl"
    case "$status" in
        124 | 137) ;;
        *) echo "status $status" > "$out/$name.ended" ;;
    esac
}

no_time() { # PART NAME
    skip "$1" "$2" "the $part_limit_s s of the part are spent: run it again"
}

skip() { # PART NAME WHY
    local why
    # Fit for a line of JSON.
    why="$(tr '\n"\\' " '/" <<< "$3")"
    why="${why% }"
    echo "skipped $2: $why"
    if [ -z "${LIST:-}" ]; then
        echo "{\"part\":\"$1\",\"case\":\"$2\",\"what\":\"program\",\"skipped\":\"$why\"}" > "$out/$2.jsonl"
    fi
}

# The cases of the program gpu_world that belong to a part.
cases() {
    local part name limit
    while read -r part name limit; do
        if [ "$part" = "$1" ]; then program "$1" "$name" "$limit" "$here/gpu_world" "$name"; fi
    done < <("$here/gpu_world" list)
}

part_kernels() {
    local family
    if [ -n "${SEQPAR_BUNDLE_MOCK:-}" ]; then
        skip kernels kernels "the mock driver computes by the emulation, which is what CI does"
        return
    fi
    for family in adaln attention attention_sm90 gemm small; do
        program kernels "emulated-$family" 110 env SEQPAR_TEST_DEVICE=cuda SEQPAR_TEST_SEED="${SEQPAR_TEST_SEED:-1}" \
            "$here/emulated" "$family::" --test-threads 1
    done
    program kernels gpu 240 "$here/gpu" --bench
}

part_cuda() {
    program cuda behaviours 60 env SEQPAR_REAL_DRIVER=1 "$here/cuda_mock" \
        behaviours::a_real_driver_behaves_as_assumed --exact --nocapture
    cases cuda
    if [ -n "${SEQPAR_BUNDLE_MOCK:-}" ]; then
        skip cuda pytorch "PyTorch has no use for the mock driver"
    elif python3 -c 'import torch' 2> /dev/null; then
        program cuda pytorch 90 python3 "$here/pytorch/compare.py" "$here/libseqpar.so"
    else
        skip cuda pytorch "no PyTorch in python3"
    fi
}

part_nccl() { cases nccl; }
part_faults() { cases faults; }
part_soak() { cases soak; }

part_peers() {
    if [ -n "${SEQPAR_BUNDLE_MOCK:-}" ]; then
        skip peers peers "no library computes on the mock driver"
    elif python3 -c 'import torch' 2> /dev/null; then
        program peers peers 500 python3 "$here/peers.py"
    else
        skip peers peers "no PyTorch in python3"
    fi
}

part_sanitizer() {
    local sanitizer tool family
    sanitizer="$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2> /dev/null | head -1)"
    if [ -z "$sanitizer" ]; then
        skip sanitizer sanitizer "compute-sanitizer was not found"
        return
    fi
    for tool in memcheck synccheck initcheck racecheck; do
        for family in small adaln gemm attention attention_sm90; do
            program sanitizer "$tool-$family" 120 env SEQPAR_TEST_DEVICE=cuda SEQPAR_TEST_SEED=1 \
                "$sanitizer" --tool "$tool" --error-exitcode 9 "$here/emulated" "$family::" --test-threads 1
        done
        program sanitizer "$tool-replays" 120 env SEQPAR_BUNDLE_REPLAYS=2 \
            "$sanitizer" --tool "$tool" --error-exitcode 9 "$here/gpu_world" replays
    done
}

table() {
    if [ -n "${LIST:-}" ]; then return; fi
    if command -v python3 > /dev/null; then
        python3 "$here/table.py" "$out" | tee "$out/table.txt"
    else
        echo "no python3 for the table: results are in $out/*.jsonl"
    fi
}

case "${1:-all}" in
    all) parts=(kernels cuda nccl faults peers) ;;
    kernels | cuda | nccl | faults | peers | sanitizer | soak) parts=("$1") ;;
    table) parts=() ;;
    *)
        echo "no part $1: see the head of $0" >&2
        exit 2
        ;;
esac
no_gpu=""
if [ -z "${LIST:-}" ]; then
    mkdir -p "$out"
    # Results of two builds are not mixed.
    if [ -e "$out/commit" ] && ! cmp -s "$out/commit" "$here/commit"; then
        echo "$out has results of another build: move them, or name another folder with OUT" >&2
        exit 2
    fi
    cp "$here/commit" "$out/commit"
    if [ "${#parts[@]}" -gt 0 ]; then
        if device="$("$here/gpu_world" device 2>&1)"; then echo "$device"; else no_gpu="no GPU: $device"; fi
    fi
fi
for part in ${parts[@]+"${parts[@]}"}; do
    part_begin=$SECONDS
    echo "== $part"
    if [ -n "$no_gpu" ]; then
        skip "$part" "all-of-$part" "$no_gpu"
    else
        if [ -z "${LIST:-}" ]; then rm -f "$out/all-of-$part.jsonl"; fi
        "part_$part"
    fi
done
table
if [ "$code" -eq 0 ] && [ "$ran" -eq 0 ] && [ -z "${LIST:-}" ] && [ "${#parts[@]}" -gt 0 ]; then code=3; fi
exit "$code"
