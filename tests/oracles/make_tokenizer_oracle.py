#!/usr/bin/env python3
"""Makes tests/data/tokenizer-*.json: lines of text with the ids that independent tokenizers give them.

    python3 -m venv .venv && .venv/bin/pip install tokenizers==0.23.3 tiktoken==0.14.0 gguf==0.19.0
    pip download --no-deps llama-models==0.3.0 && unzip llama_models-*.whl 'llama_models/llama3/tokenizer.model'
    .venv/bin/python tests/oracles/make_tokenizer_oracle.py --smollm "$(scripts/model.sh)" \\
        --llama3 llama_models/llama3/tokenizer.model --out tests/data

Expected ids come from Hugging Face's tokenizers (SmolLM2 from the vocabulary in its GGUF file; GPT-2's splitting over
Llama 3's vocabulary, since GPT-2's own is in no package) and from tiktoken (Llama 3, from Meta's tokenizer.model).
Neither takes invalid UTF-8. There the rule is: each byte of no character splits as U+FFFD does, then the word's bytes
merge as they are; the same libraries do the splitting and the merging.

The whole vocabularies are too large to commit. Written are the tokens and merges that the lines touch, with their own
ids and order; the script checks that the reduced vocabulary gives the same ids.
"""

import argparse
import base64
import json
import pathlib
import random

import tiktoken
from gguf import GGUFReader
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from tokenizer_lines import SPECIAL_LINES, byte_lines, text_lines

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_alphabet():
    """GPT-2's character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


ALPHABET = byte_alphabet()


def spell(data):
    return "".join(ALPHABET[b] for b in data)


class Vocabulary:
    """Texts in the byte alphabet, merges in order, special tokens by text."""

    def __init__(self, tokens, types, merges, ids):
        self.tokens, self.types, self.merges, self.ids = tokens, types, merges, ids
        self.by_text = {t: i for i, (t, y) in enumerate(zip(tokens, types)) if y == 1}
        self.special = {t: i for i, (t, y) in enumerate(zip(tokens, types)) if y == 3}
        self.rank = {m: r for r, m in reversed(list(enumerate(merges)))}


def read_smollm(path):
    fields = GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    merges = [tuple(m.split(" ")) for m in get("merges")]
    return Vocabulary(get("tokens"), get("token_type"), merges, {"bos": get("bos_token_id"), "eos": get("eos_token_id")})


def read_llama3(path):
    """Ranks as tiktoken reads them, and merges as Hugging Face derives them: every split of a token into two."""
    ranks = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    merges = []
    for token, rank in ranks.items():
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [(rank, ranks[a], ranks[b], a, b) for a, b in halves if a in ranks and b in ranks]
    merges = [(spell(a), spell(b)) for *_, a, b in sorted(merges)]
    named = [
        "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
        "<|eot_id|>", "<|python_tag|>", "<|image|>",
    ]  # fmt: skip
    named += [f"<|reserved_special_token_{2 + i}|>" for i in range(256 - len(named))]
    tokens = [spell(t) for t in sorted(ranks, key=ranks.get)] + named
    types = [1] * len(ranks) + [3] * len(named)
    ids = {"bos": tokens.index("<|begin_of_text|>"), "eos": tokens.index("<|eot_id|>")}
    vocabulary = Vocabulary(tokens, types, merges, ids)
    special = {t: len(ranks) + i for i, t in enumerate(named)}
    vocabulary.tiktoken = tiktoken.Encoding("llama3", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=special)
    return vocabulary


SPLITTERS = {
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    ),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def split_bytes(pre, data):
    """The words of bytes that may be invalid UTF-8, as bytes."""
    escaped = data.decode("utf-8", "surrogateescape")
    visible = "".join("\ufffd" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in escaped)
    words, at = [], 0
    for _, (begin, end) in SPLITTERS[pre].pre_tokenize_str(visible):
        assert begin == at
        words.append(escaped[begin:end].encode("utf-8", "surrogateescape"))
        at = end
    assert b"".join(words) == data
    return words


class Oracle:
    def __init__(self, pre, vocabulary, reduced=None):
        self.pre, self.vocabulary = pre, vocabulary
        tokens, merges = reduced or (vocabulary.by_text, vocabulary.merges)
        model = lambda: models.BPE(vocab=tokens, merges=merges, ignore_merges=pre == "llama-bpe")
        self.whole = Tokenizer(model())
        self.whole.pre_tokenizer = SPLITTERS[pre]
        self.word = Tokenizer(model())  # merges what it gets as one word

    def text(self, text):
        ids = self.whole.encode(text).ids
        if self.pre == "llama-bpe":
            assert ids == self.vocabulary.tiktoken.encode_ordinary(text), repr(text)
        return ids

    def data(self, data):
        ids = []
        for word in split_bytes(self.pre, data):
            got = self.word.encode(spell(word)).ids
            if self.pre == "llama-bpe":
                assert got == self.vocabulary.tiktoken._encode_single_piece(word), word
            ids += got
        return ids

    def special(self, text):
        ids, at = [], 0
        while at < len(text):
            begins = [(text.find(s, at), -len(s), s) for s in self.vocabulary.special if text.find(s, at) >= 0]
            begin, _, token = min(begins, default=(len(text), 0, ""))
            ids += self.text(text[at:begin]) + ([self.vocabulary.special[token]] if token else [])
            at = begin + len(token)
        if self.pre == "llama-bpe":
            assert ids == self.vocabulary.tiktoken.encode(text, allowed_special="all"), repr(text)
        return ids


def touched(pre, vocabulary, lines):
    """Tokens and ranks of merges that merging the lines looks at: leave out any other, and nothing changes."""
    ids, ranks = set(), set()
    for word in {w for line in lines for w in split_bytes(pre, line)}:
        if pre == "llama-bpe" and spell(word) in vocabulary.by_text:
            ids.add(vocabulary.by_text[spell(word)])
        parts = [c for c in spell(word) if c in vocabulary.by_text]
        while True:
            pairs = [(vocabulary.rank[p], i) for i, p in enumerate(zip(parts, parts[1:])) if p in vocabulary.rank]
            ranks |= {rank for rank, _ in pairs}
            if not pairs:
                break
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
    for rank in ranks:
        left, right = vocabulary.merges[rank]
        ids |= {vocabulary.by_text[t] for t in (left, right, left + right)}
    ids |= {vocabulary.by_text[c] for c in ALPHABET.values() if c in vocabulary.by_text}
    return ids, ranks


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--smollm", type=pathlib.Path, required=True)
    arguments.add_argument("--llama3", type=pathlib.Path, required=True)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    options = arguments.parse_args()

    draw = random.Random(20)
    texts = text_lines(draw)
    binary = byte_lines(draw)
    smollm, llama3 = read_smollm(options.smollm), read_llama3(options.llama3)
    runs = [("smollm", smollm), ("llama-bpe", llama3), ("gpt-2", llama3)]
    lines = [{"text": t} for t in texts] + [{"hex": d.hex()} for d in binary]
    special = [{"text": t} for t in SPECIAL_LINES]
    for pre, vocabulary in runs:
        oracle = Oracle(pre, vocabulary)
        for line in lines:
            line[pre] = oracle.text(line["text"]) if "text" in line else oracle.data(bytes.fromhex(line["hex"]))
        for line in special:
            line[pre] = oracle.special(line["text"])

    every = [t.encode() for t in texts + SPECIAL_LINES] + binary
    # In text with special tokens recognised, what lies between is split on its own.
    for name, vocabulary, pres in [("smollm", smollm, ["smollm"]), ("llama3", llama3, ["llama-bpe", "gpt-2"])]:
        pieces = list(every)
        for text in SPECIAL_LINES:
            for token in vocabulary.special:
                text = text.replace(token, "\0\0\0")
            pieces += [p.encode() for p in text.split("\0\0\0") if p]
        ids, ranks = set(), set()
        for pre in pres:
            more_ids, more_ranks = touched(pre, vocabulary, pieces)
            ids, ranks = ids | more_ids, ranks | more_ranks
        for rank in ranks:
            left, right = vocabulary.merges[rank]
            ids |= {vocabulary.by_text[t] for t in (left, right, left + right)}
        merges = [vocabulary.merges[r] for r in sorted(ranks)]
        tokens = {vocabulary.tokens[i]: i for i in ids}
        for pre in pres:
            oracle = Oracle(pre, vocabulary, (tokens, merges))
            for line in lines:
                got = oracle.whole.encode(line["text"]).ids if "text" in line else oracle.data(bytes.fromhex(line["hex"]))
                assert got == line[pre], line
        write(
            options.out / f"tokenizer-vocabulary-{name}.json",
            {
                "size": len(vocabulary.tokens),
                **vocabulary.ids,
                "tokens": [[i, vocabulary.tokens[i]] for i in sorted(ids)],
                "special": [[i, t] for t, i in vocabulary.special.items()],
                "merges": [" ".join(m) for m in merges],
            },
        )
        print(f"{name}: {len(ids)} tokens, {len(merges)} merges")
    write(options.out / "tokenizer-lines.json", {"lines": lines, "special": special})
    print(f"{len(lines)} lines")


def write(path, data):
    """JSON with one entry of each list per line, so that a difference can be read."""
    parts = []
    for key, value in data.items():
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in value)
            parts.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
