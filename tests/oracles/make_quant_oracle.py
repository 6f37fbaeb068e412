#!/usr/bin/env python3
"""Writes tests/data/quant-oracle.bin: blocks and floats as PyPI's `gguf` converts them.

    pip install gguf numpy
    python tests/oracles/make_quant_oracle.py tests/data/quant-oracle.bin

The file is a run of records: name (8 bytes, zero-padded), direction (u32; 0: blocks to floats, 1: floats to blocks),
bytes of blocks (u32), number of floats (u32), blocks, floats (f32). Little-endian throughout.
"""
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

rng = np.random.default_rng(20)

# Offsets of half-precision scales in a block of each type.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0],
}
# Zeros, the least subnormals, the subnormal edge, one, the largest; all with both signs.
EXTREMES = np.array([0x0000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF], dtype=np.uint16)
EXTREMES = np.concatenate([EXTREMES, EXTREMES | 0x8000])


def finite_halves(count):
    bits = rng.integers(0, 1 << 16, count, dtype=np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] &= 0xBFFF
    bits[: min(count, len(EXTREMES))] = EXTREMES[:count]
    return rng.permutation(bits)


def random_blocks(kind):
    values, size = GGML_QUANT_SIZES[kind]
    count = 24 if values == 32 else 14
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    blocks[1, :] = 0xFF
    blocks[2, :] = 0
    for offset in SCALES[kind]:
        blocks[:, offset:offset + 2] = finite_halves(count).view(np.uint8).reshape(count, 2)
    return blocks


def random_floats(count):
    x = rng.standard_normal(count).astype(np.float32)
    x[:256] *= np.float32(1e-3)
    x[256:512] = np.round(x[256:512] * 4) / 4  # ties in magnitude and at rounding boundaries
    x[512:544] = 0
    x[544:576] = 3.5
    x[576:608] = -np.abs(x[576:608])
    return x


def record(out, name, direction, blocks, floats):
    raw = np.ascontiguousarray(blocks).view(np.uint8).tobytes()
    floats = np.ascontiguousarray(floats, dtype=np.float32).ravel()
    out.write(name.encode().ljust(8, b"\0"))
    out.write(struct.pack("<III", direction, len(raw), floats.size))
    out.write(raw)
    out.write(floats.tobytes())


def main(path):
    with open(path, "wb") as out:
        halves = finite_halves(512)
        halves[:2] = [0x7C00, 0xFC00]
        record(out, "F16", 0, halves, halves.view(np.float16).astype(np.float32))
        brain = finite_halves(256)
        record(out, "BF16", 0, brain, dequantize(brain.view(np.uint8).reshape(1, -1), T.BF16))
        for kind in list(SCALES)[:-1]:
            blocks = random_blocks(kind)
            record(out, kind.name, 0, blocks, dequantize(blocks, kind))
        floats = random_floats(2048).reshape(1, -1)
        wide = (floats * np.exp(rng.uniform(-25, 12, floats.shape))).astype(np.float32)
        with np.errstate(over="ignore"):
            record(out, "F16", 1, wide.astype(np.float16), wide)
        record(out, "BF16", 1, quantize(wide, T.BF16), wide)
        for kind in (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0):
            record(out, kind.name, 1, quantize(floats, kind), floats)
        blocks = random_blocks(T.IQ4_NL)  # last, so that the records before keep their bytes
        record(out, "IQ4_NL", 0, blocks, dequantize(blocks, T.IQ4_NL))


main(sys.argv[1])
