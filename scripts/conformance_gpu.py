#!/usr/bin/env python3
"""Runs a conformance dump on a GPU and compares the outputs with the emulation's.

    CONFORMANCE_DUMP=target/conformance.json cargo test --test emulated_ptx dump
    python3 scripts/conformance_gpu.py target/conformance.json [NVCC]

Builds csrc/emu/kernels with nvcc for sm_90a and launches every case through libcuda (an H100 or
H200). Needs nothing but Python and the driver. No GPU has run it yet.
"""

import ctypes
import json
import math
import pathlib
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
POISON = 0xFF
CU_FUNC_MAX_DYNAMIC_SHARED = 8
CU_TENSOR_MAP_UINT16 = 1


def check(code, what):
    if code:
        sys.exit(f"{what}: CUDA error {code}")


class Gpu:
    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        check(self.cuda.cuInit(0), "cuInit")
        check(self.cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
        check(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
        check(self.cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
        self.functions = {}

    def load(self, cubin, symbols):
        module = ctypes.c_void_p()
        check(self.cuda.cuModuleLoad(ctypes.byref(module), str(cubin).encode()), f"cuModuleLoad {cubin}")
        for symbol in symbols:
            function = ctypes.c_void_p()
            if self.cuda.cuModuleGetFunction(ctypes.byref(function), module, symbol.encode()) == 0:
                self.functions[symbol] = function

    def upload(self, data):
        address = ctypes.c_uint64()
        check(self.cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(max(len(data), 16))), "cuMemAlloc")
        check(self.cuda.cuMemcpyHtoD_v2(address, data, ctypes.c_size_t(len(data))), "cuMemcpyHtoD")
        return address

    def encode(self, spec, address):
        rank = spec["rank"]
        storage = ctypes.create_string_buffer(128 + 64)
        at = ctypes.addressof(storage)
        at += -at % 64
        dims = (ctypes.c_uint64 * 5)(*spec["dims"])
        strides = (ctypes.c_uint64 * 4)(*spec["strides_bytes"])
        box = (ctypes.c_uint32 * 5)(*spec["boxes"])
        ones = (ctypes.c_uint32 * 5)(1, 1, 1, 1, 1)
        code = self.cuda.cuTensorMapEncodeTiled(
            ctypes.c_void_p(at), CU_TENSOR_MAP_UINT16, rank, address, dims, strides, box, ones,
            0, spec["swizzle"], 0, 0,
        )
        check(code, "cuTensorMapEncodeTiled")
        return ctypes.string_at(at, 128)

    def run(self, case):
        source, flag = words(case["in"]), words(case["flag"])
        out_bytes = len(case["out"]) // 2
        buffers = [self.upload(source), self.upload(bytes([POISON]) * out_bytes), self.upload(flag)]
        spec = case["map"]
        tensor_map = self.encode(spec, buffers[spec["of"] == "out"]) if spec else bytes(128)
        # Probe of csrc/emu/kernels/probe.cuh; `fault` is 0.
        params = tensor_map + struct.pack("<3Q6i2i", *(b.value for b in buffers), *case["args"], case["bytes"], 0)
        storage = ctypes.create_string_buffer(192 + 64)
        at = ctypes.addressof(storage)
        at += -at % 64
        ctypes.memmove(at, params, len(params))
        arguments = (ctypes.c_void_p * 1)(at)
        function, shared = self.functions[case["symbol"]], case["shared_bytes"]
        check(self.cuda.cuFuncSetAttribute(function, CU_FUNC_MAX_DYNAMIC_SHARED, shared), "cuFuncSetAttribute")
        check(
            self.cuda.cuLaunchKernel(function, case["blocks"], 1, 1, case["threads"], 1, 1, shared, None, arguments, None),
            case["name"],
        )
        check(self.cuda.cuCtxSynchronize(), case["name"])
        result = ctypes.create_string_buffer(out_bytes)
        check(self.cuda.cuMemcpyDtoH_v2(result, buffers[1], ctypes.c_size_t(out_bytes)), "cuMemcpyDtoH")
        for buffer in buffers:
            self.cuda.cuMemFree_v2(buffer)
        return result.raw


def words(text):
    return b"".join(struct.pack("<I", int(text[i : i + 8], 16)) for i in range(0, len(text), 8))


def same(case, got, want):
    if got == want:
        return True
    if case["exact"] == "bits":
        return False
    x, y = (struct.unpack("<f", v)[0] for v in (got, want))
    if math.isnan(x) or math.isnan(y) or case["exact"] == "nan":
        return math.isnan(x) and math.isnan(y)
    # The emulation and the GPU may each be off by the stated error.
    return abs(x - y) <= 2 * (case["relative"] * abs(y) + case["absolute"])


def build(nvcc):
    cubins = []
    for source in sorted((ROOT / "csrc/emu/kernels").glob("*.cu")):
        cubin = ROOT / "target" / f"{source.stem}.cubin"
        flags = ["-gencode=arch=compute_90a,code=sm_90a", "-std=c++17", "-O3", "-fmad=false", "-cubin"]
        subprocess.run([nvcc, *flags, "-o", str(cubin), str(source)], check=True)
        cubins.append(cubin)
    return cubins


def main():
    cases = json.loads(pathlib.Path(sys.argv[1]).read_text())["cases"]
    cubins = build(sys.argv[2] if len(sys.argv) > 2 else "nvcc")
    gpu = Gpu()
    for cubin in cubins:
        gpu.load(cubin, {case["symbol"] for case in cases})
    failed = 0
    for case in cases:
        got, want = gpu.run(case), words(case["out"])
        wrong = [i for i in range(0, len(want), 4) if not same(case, got[i : i + 4], want[i : i + 4])]
        failed += bool(wrong)
        for i in wrong[:3]:
            print(f"{case['name']}: word {i // 4} is {got[i : i + 4][::-1].hex()}, not {want[i : i + 4][::-1].hex()}")
    print(f"{len(cases)} cases, {failed} differ")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
