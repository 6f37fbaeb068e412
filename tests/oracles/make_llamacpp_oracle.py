#!/usr/bin/env python3
"""Makes tests/data/tokenizer-llamacpp.json: ids that llama.cpp gives where a file names no pre-tokenizer of its own.

    python3 -m venv .venv && .venv/bin/pip install xllamacpp gguf numpy
    .venv/bin/python tests/oracles/make_llamacpp_oracle.py tests/data

`xllamacpp` is llama.cpp with its server, which is asked over a loopback socket. The vocabulary and the lines are those of
make_tokenizer_oracle.py, in a model of a few random weights. Most ids are those of another pre-tokenizer over the same
vocabulary, so that only lines that differ are written: "default" where it differs from "gpt-2", "smaug-bpe" from
"llama-bpe", each as [number of the line, ids].
"""

import json
import pathlib
import sys
import tempfile
import urllib.request

import numpy as np
import xllamacpp
from gguf import GGUFWriter

WIDTH = 32
LIKE = {"default": "gpt-2", "smaug-bpe": "llama-bpe"}


def write_model(path, vocabulary, pre):
    tokens, types = [""] * vocabulary["size"], [5] * vocabulary["size"]
    for listed, kind in (("tokens", 1), ("special", 3)):
        for number, text in vocabulary[listed]:
            tokens[number], types[number] = text, kind
    out = GGUFWriter(path, "llama")
    out.add_block_count(1)
    out.add_context_length(512)
    out.add_embedding_length(WIDTH)
    out.add_feed_forward_length(WIDTH)
    out.add_head_count(1)
    out.add_head_count_kv(1)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list([t or f"[{i}]" for i, t in enumerate(tokens)])
    out.add_token_types(types)
    out.add_token_merges(vocabulary["merges"])
    out.add_bos_token_id(vocabulary["bos"])
    out.add_eos_token_id(vocabulary["eos"])
    matrix = np.zeros((WIDTH, WIDTH), np.float16)
    out.add_tensor("token_embd.weight", np.zeros((len(tokens), WIDTH), np.float16))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        out.add_tensor(f"blk.0.{name}.weight", matrix)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        out.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def ask(address, text, special):
    body = json.dumps({"content": text, "add_special": False, "parse_special": special}).encode()
    request = urllib.request.Request(address + "/tokenize", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["tokens"]


def main(folder):
    vocabulary = json.loads((folder / "tokenizer-vocabulary-llama3.json").read_text())
    recorded = json.loads((folder / "tokenizer-lines.json").read_text())
    parts = []
    for pre, like in LIKE.items():
        with tempfile.TemporaryDirectory() as temporary:
            model = pathlib.Path(temporary) / "model.gguf"
            write_model(model, vocabulary, pre)
            parameters = xllamacpp.CommonParams()
            parameters.model.path = str(model)
            parameters.n_ctx, parameters.n_parallel, parameters.warmup = 64, 1, False
            server = xllamacpp.Server(parameters)
            for name in ("lines", "special"):
                rows = []
                for number, line in enumerate(recorded[name]):
                    if "text" in line and (ids := ask(server.listening_address, line["text"], name == "special")) != line[like]:
                        rows.append(json.dumps([number, ids], separators=(",", ":")))
                print(f"{pre}: {len(rows)} of {len(recorded[name])} {name} differ from {like}")
                parts.append(f'"{pre} {name}": [\n' + ",\n".join(rows) + "\n]")
            del server
    (folder / "tokenizer-llamacpp.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


main(pathlib.Path(sys.argv[1]))
