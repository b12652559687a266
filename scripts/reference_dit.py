#!/usr/bin/env python3
"""The DiT and its DDIM sampling once more, in numpy and float64: an independent reference.

Nothing here is shared with the crate. It made the golden numbers of tests/cli/sampling.rs:

    python3 scripts/reference_dit.py golden examples/data/digits-dit.safetensors

prints them, and with files

    python3 scripts/reference_dit.py dit    WEIGHTS INPUT OUTPUT
    python3 scripts/reference_dit.py sample WEIGHTS NOISE OUTPUT STEPS [CFG]

computes what `seqpar dit` and `seqpar sample --latents` should. Needs numpy.
"""

import json
import struct
import sys

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "U8": "u1"}


def load(path):
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[info["dtype"]]).reshape(info["shape"])
    return tensors, metadata


def save(path, tensors):
    header, data = {}, b""
    for name, array in tensors.items():
        array = np.ascontiguousarray(array, "<f4")
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


class Dit:
    def __init__(self, path):
        tensors, metadata = load(path)
        self.w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        self.heads = int(metadata["num_heads"])
        self.patch = int(metadata["patch_size"])
        self.null = int(metadata["num_classes"])
        self.depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def attention(self, x, name):
        batch, rows, hidden = x.shape
        width = hidden // self.heads
        q, k, v = self.linear(x, name + ".qkv").reshape(batch, rows, 3, self.heads, width).transpose(2, 0, 3, 1, 4)
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(width)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out = weights / weights.sum(-1, keepdims=True) @ v
        return self.linear(out.transpose(0, 2, 1, 3).reshape(batch, rows, hidden), name + ".proj")

    def __call__(self, latent, timestep, label):
        batch, channels, side, _ = latent.shape
        p, cells = self.patch, side // self.patch
        x = latent.astype(np.float64).reshape(batch, channels, cells, p, cells, p).transpose(0, 2, 4, 1, 3, 5)
        x = x.reshape(batch, cells * cells, channels * p * p)
        kernel = self.w["x_embedder.proj.weight"]
        x = x @ kernel.reshape(len(kernel), -1).T + self.w["x_embedder.proj.bias"] + self.w["pos_embed"]
        angles = np.asarray(timestep, np.float64)[:, None] * np.exp(-np.log(10000) * np.arange(128) / 128)
        t = np.concatenate([np.cos(angles), np.sin(angles)], -1)
        t = self.linear(silu(self.linear(t, "t_embedder.mlp.0")), "t_embedder.mlp.2")
        c = silu(t + self.w["y_embedder.embedding_table.weight"][label])[:, None, :]
        for i in range(self.depth):
            block = f"blocks.{i}"
            shift, scale, gate, shift2, scale2, gate2 = np.split(self.linear(c, block + ".adaLN_modulation.1"), 6, -1)
            x = x + gate * self.attention(norm(x) * (1 + scale) + shift, block + ".attn")
            hidden = gelu(self.linear(norm(x) * (1 + scale2) + shift2, block + ".mlp.fc1"))
            x = x + gate2 * self.linear(hidden, block + ".mlp.fc2")
        shift, scale = np.split(self.linear(c, "final_layer.adaLN_modulation.1"), 2, -1)
        x = self.linear(norm(x) * (1 + scale) + shift, "final_layer.linear")
        out = x.shape[-1] // (p * p)
        x = x.reshape(batch, cells, cells, p, p, out).transpose(0, 5, 1, 3, 2, 4)
        return x.reshape(batch, out, side, side)


def sample(model, noise, labels, steps, cfg=None):
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    timesteps = np.round(np.linspace(999, 0, steps)).astype(int)
    x = noise.astype(np.float64)
    channels = x.shape[1]
    for i, t in enumerate(timesteps):
        now, after = alphas[t], alphas[timesteps[i + 1]] if i + 1 < steps else 1.0
        ts = np.full(len(x), t)
        eps = model(x, ts, labels)[:, :channels]
        if cfg is not None:
            null = model(x, ts, np.full_like(labels, model.null))[:, :channels]
            eps = null + cfg * (eps - null)
        x0 = np.clip((x - np.sqrt(1 - now) * eps) / np.sqrt(now), -1, 1)
        eps = (x - np.sqrt(now) * x0) / np.sqrt(1 - now)
        x = np.sqrt(after) * x0 + np.sqrt(1 - after) * eps
    return x


def golden(path):
    """Numbers for inputs that are a formula, so that the test needs no file."""
    model = Dit(path)
    ramp = np.sin(0.7 * np.arange(2 * 256)).reshape(2, 1, 16, 16).astype(np.float32)
    picks = [0, 1, 17, 100, 200, 255, 256, 300, 400, 511]
    show = lambda name, x: print(name, "[" + ", ".join(f"{v:.6f}" for v in x.reshape(-1)[picks]) + "]")
    show("dit t=[500, 3] class=[7, 10]:", model(ramp, [500, 3], np.array([7, 10])))
    show("sample class=[3, 8] steps=4:", sample(model, ramp, np.array([3, 8]), 4))
    show("sample class=[3, 8] steps=3 cfg=2:", sample(model, ramp, np.array([3, 8]), 3, 2.0))


def main(args):
    if args[:1] == ["golden"] and len(args) == 2:
        return golden(args[1])
    if args[:1] == ["dit"] and len(args) == 4:
        inputs, _ = load(args[2])
        return save(args[3], {"out": Dit(args[1])(inputs["latent"], inputs["timestep"], inputs["class"])})
    if args[:1] == ["sample"] and len(args) in (5, 6):
        inputs, _ = load(args[2])
        cfg = float(args[5]) if len(args) == 6 else None
        samples = sample(Dit(args[1]), inputs["noise"], inputs["class"], int(args[4]), cfg)
        return save(args[3], {"samples": samples})
    sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
