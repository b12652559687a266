#!/usr/bin/env bash
# Samples ten handwritten digits on 4 ranks and on 1, compares the bytes, and writes
# digits.png and digits-trace.json. Arguments are handed on, for instance --no-verify.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo run --quiet --release -- sample --weights examples/data/digits-dit.safetensors \
    --class 0,1,2,3,4,5,6,7,8,9 --seed 1 --steps 50 --cfg 2 --ranks 4 --strategy fastseq \
    --output digits.png --trace digits-trace.json "$@"
