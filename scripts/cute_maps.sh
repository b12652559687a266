#!/bin/sh
# Compares the emulation's descriptor, fragment and swizzle maps with CuTe's layouts. Opt-in: it
# installs the PyPI packages nvidia-cutlass and CUDA's headers under target/cute, and takes a few
# minutes to compile. Set CUDA_INCLUDE to use another toolkit's headers.
set -e
cd "$(dirname "$0")/.."
if [ ! -d target/cute ]; then
  python3 -m venv target/cute
  target/cute/bin/pip install -q --no-deps nvidia-cutlass==4.2.0.0
fi
if [ -z "$CUDA_INCLUDE" ]; then
  target/cute/bin/pip install -q 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-crt==13.0.*'
  CUDA_INCLUDE=$(echo target/cute/lib/python3*/site-packages/nvidia/cu13/include)
fi
cutlass=$(echo target/cute/lib/python3*/site-packages/cutlass_library/source/include)
mkdir -p target/cute/build
for source in csrc/emu/*.cpp; do
  "${CXX:-c++}" -std=c++17 -O1 -w -c "$source" -o "target/cute/build/$(basename "$source" .cpp).o"
done
"${CXX:-c++}" -std=c++17 -O1 -w -I "$cutlass" -I "$CUDA_INCLUDE" -I "$CUDA_INCLUDE/cccl" csrc/emu/cute/maps.cpp \
  target/cute/build/*.o -ldl -o target/cute/maps
target/cute/maps
