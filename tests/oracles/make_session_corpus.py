#!/usr/bin/env python3
"""Writes tests/fuzz/corpus_session: saved sessions as src/io/session_file.hpp describes them, with the checksums of
PyPI's `xxhash`, each behind the byte that tells the fuzz target what to make right.

    pip install xxhash
    python tests/oracles/make_session_corpus.py tests/fuzz/corpus_session
"""
import pathlib
import struct
import sys

import xxhash

RIGHT = 7  # length and checksums are made right: what a changed input needs


def session(count, name=b"a model", note=b"a note", kind=0, size=1, **changed):
    """Two layers of one head; keys and values of `size` numbers, kind 0: f16, 1: bf16, 2: q8_0."""
    layers = 2
    head = 32 * (size + -(-size // 32) * 2) if kind == 2 else 32 * size * 2
    page_bytes = layers * 2 * head
    texts = struct.pack(f"<{count}i", *range(count)) + name + note
    pages = b""
    for number in range(-(-count // 32)):
        page = bytes((number + i) % 7 for i in range(page_bytes))
        pages += page + struct.pack("<Q", xxhash.xxh64_intdigest(page, number))
    fields = dict(magic=b"TROPTALK", version=1, kind=kind, high=11, low=22, precise=0, page_tokens=32, layers=layers,
                  heads=1, keys=size, values=size, tokens=count, name_bytes=len(name), note_bytes=len(note),
                  page_bytes=page_bytes, file_bytes=128 + len(texts) + len(pages),
                  texts=xxhash.xxh64_intdigest(texts, 1), one=0, two=0)
    fields.update(changed)
    header = struct.pack("<8sIIQQIIIIIIQQQQQQQQ", *fields.values())
    return header + struct.pack("<Q", xxhash.xxh64_intdigest(header + bytes(8), 0)) + texts + pages


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole = session(40)
    for name, mended, content in (
            ("two_pages", 0, whole),
            ("mended", RIGHT, whole[:120] + bytes(8) + whole[128:]),
            ("q8_0", RIGHT, session(3, kind=2, size=2)),
            ("bf16", RIGHT, session(32, kind=1)),
            ("no_tokens", RIGHT, session(0)),
            ("no_texts", RIGHT, session(1, b"", b"")),
            ("longer_name", RIGHT, session(3, name=b"a" * 300)),
            ("contradiction", RIGHT, session(3, tokens=33)),
            ("huge", RIGHT, session(3, tokens=1 << 62, name_bytes=(1 << 64) - 8)),
            ("other_version", RIGHT, session(3, version=2)),
            ("damaged_page", 0, whole[:-20] + b"\xff" + whole[-19:]),
            ("truncated", 0, whole[:-1])):
        (folder / name).write_bytes(bytes([mended]) + content)


main(sys.argv[1])
