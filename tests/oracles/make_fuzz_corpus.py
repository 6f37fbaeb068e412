#!/usr/bin/env python3
"""Writes tests/fuzz/corpus_gguf: headers of small Llama models as PyPI's `gguf` writes them, without data.

    pip install gguf numpy
    python tests/oracles/make_fuzz_corpus.py tests/fuzz/corpus_gguf
"""
import pathlib
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter

WIDTH, HEADS, KV, FFN = 32, 4, 2, 32


def tensors(layers, tied):
    yield "token_embd.weight", (3, WIDTH), T.Q8_0
    for i in range(layers):
        kv = WIDTH // HEADS * KV
        yield f"blk.{i}.attn_norm.weight", (WIDTH,), T.F32
        yield f"blk.{i}.attn_q.weight", (WIDTH, WIDTH), T.Q4_0
        yield f"blk.{i}.attn_k.weight", (kv, WIDTH), T.Q4_1
        yield f"blk.{i}.attn_v.weight", (kv, WIDTH), T.Q5_0
        yield f"blk.{i}.attn_output.weight", (WIDTH, WIDTH), T.Q5_1
        yield f"blk.{i}.ffn_norm.weight", (WIDTH,), T.F32
        yield f"blk.{i}.ffn_gate.weight", (FFN, WIDTH), T.F16
        yield f"blk.{i}.ffn_up.weight", (FFN, WIDTH), T.BF16
        yield f"blk.{i}.ffn_down.weight", (WIDTH, FFN), T.Q8_0
    yield "output_norm.weight", (WIDTH,), T.F32
    if not tied:
        yield "output.weight", (3, WIDTH), T.Q4_0


def llama(w, layers):
    w.add_block_count(layers)
    w.add_context_length(64)
    w.add_embedding_length(WIDTH)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV)
    w.add_layer_norm_rms_eps(1e-5)


def add_tensors(w, layers, tied=True):
    add_all(w, tensors(layers, tied))


def add_all(w, tensors):
    from gguf.quants import quant_shape_to_byte_shape
    for name, shape, kind in tensors:
        plain = {T.F32: np.float32, T.F16: np.float16}.get(kind)
        if plain:
            w.add_tensor(name, np.zeros(shape, dtype=plain))
        else:
            w.add_tensor(name, np.zeros(quant_shape_to_byte_shape(shape, kind), dtype=np.uint8), raw_dtype=kind)


def plain(w):
    llama(w, 1)
    add_tensors(w, 1)


def separate_output(w):
    llama(w, 2)
    add_tensors(w, 2, tied=False)


def linear_rope(w):
    plain(w)
    w.add_rope_freq_base(500000.0)
    w.add_rope_dimension_count(8)
    w.add_float32("llama.rope.scaling.factor", 4.0)
    w.add_string("llama.rope.scaling.type", "linear")


def llama31_rope(w):
    plain(w)
    w.add_string("llama.rope.scaling.type", "llama3")
    w.add_float32("llama.rope.scaling.factor", 8.0)
    w.add_uint32("llama.rope.scaling.original_context_length", 8192)


def rope_factors(w):
    plain(w)
    w.add_tensor("rope_freqs.weight", np.ones(4, dtype=np.float32))


def head_sizes(w):
    plain(w)
    w.add_key_length(8)
    w.add_value_length(8)
    w.add_float32("llama.attention.scale", 0.5)
    w.add_vocab_size(3)


def fused_inputs(w):
    llama(w, 1)
    kv = WIDTH // HEADS * KV
    inputs = ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight")
    add_all(w, [t for t in tensors(1, True) if t[0] not in inputs])
    add_all(w, [("blk.0.attn_qkv.weight", (WIDTH + 2 * kv, WIDTH), T.IQ4_NL)])


def stale_size(w):
    plain(w)
    w.add_vocab_size(4)


def adapter(w):
    plain(w)
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")


def vocabulary(w):
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("llama-bpe")
    w.add_token_list(["a", "b", "ab"])
    w.add_token_types([1, 1, 1])
    w.add_token_merges(["a b"])


def values(w):
    w.add_uint8("a", 255)
    w.add_int8("b", -1)
    w.add_uint16("c", 65535)
    w.add_int16("d", -1)
    w.add_int32("e", -1)
    w.add_uint64("f", 1 << 63)
    w.add_int64("g", -(1 << 63))
    w.add_float64("h", 0.1)
    w.add_bool("i", True)
    w.add_array("j", [1.5, 2.5])
    w.add_array("k", [True, False])
    w.add_array("l", [1, -1])
    w.add_array("m", ["", "x"])


def aligned(w):
    w.add_custom_alignment(64)
    plain(w)


def split(w):
    plain(w)
    w.add_uint16("split.no", 0)
    w.add_uint16("split.count", 2)
    w.add_int32("split.tensors.count", 11)


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for build in (plain, separate_output, linear_rope, llama31_rope, rope_factors, head_sizes, vocabulary, values,
                  aligned, split, fused_inputs, stale_size, adapter):
        with tempfile.TemporaryDirectory() as temporary:
            path = pathlib.Path(temporary) / "m"
            w = GGUFWriter(path, "llama")
            build(w)
            w.write_header_to_file()
            w.write_kv_data_to_file()
            w.write_ti_data_to_file()
            w.close()
            header = path.read_bytes()
        (folder / build.__name__).write_bytes(header)
        if build is plain:
            (folder / "version_2").write_bytes(header[:4] + (2).to_bytes(4, "little") + header[8:])
            (folder / "truncated").write_bytes(header[:-20])
            (folder / "big_endian").write_bytes(header[:4] + (3).to_bytes(4, "big") + header[8:])


main(sys.argv[1])
