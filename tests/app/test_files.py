#!/usr/bin/env python3
"""Model files as people have them: what the program makes of metadata that is stale, missing or somebody else's.

    tests/app/test_files.py --bin build/release/bin/tropilla [Class[.test]...]

Each is the synthetic model with some bytes changed.
"""
import json
import re
import struct

from program import Program, main

TEXT, U32 = 8, 4


def entry(key, kind, value):
    """A metadata entry as it lies in the file."""
    name = key.encode()
    body = struct.pack("<I", value) if kind == U32 else struct.pack("<Q", len(value)) + value.encode()
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + body


class Files(Program):
    def changed(self, *changes):
        """The model with entries replaced by others of their length."""
        content = self.model.read_bytes()
        for old, new in changes:
            self.assertEqual(len(old), len(new))
            self.assertEqual(content.count(old), 1, old)
            content = content.replace(old, new)
        path = self.folder / "changed.gguf"
        path.write_bytes(content)
        return path

    def fact(self, key):
        return self.as_json("inspect", "--json", self.model)["metadata"][key]

    def notes(self, *arguments):
        done = self.call(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return [line for line in done.stderr.decode().splitlines() if line.startswith("note: ")]

    def check_noted(self, path, says, *more):
        for command in (["run", "-m", path, "--no-cache", "-n", 1, "hi"], ["tokenize", "-m", path, "--text", "hi"],
                        ["inspect", path], *more):
            notes = self.notes(*command)
            if command[0] != "tokenize" or "vocab_size" not in says:
                self.assertEqual(len(notes), 1, command)
                self.assertRegex(notes[0], says)
        self.assertEqual(self.notes("run", "-q", "-m", path, "--no-cache", "-n", 1, "hi"), [])

    def test_a_sound_file_is_not_noted(self):
        for command in (["run", "-m", self.model, "--no-cache", "-n", 1, "hi"], ["inspect", self.model],
                        ["tokenize", "-m", self.model, "--text", "hi"]):
            self.assertEqual(self.notes(*command), [])

    def test_a_stale_size_of_the_vocabulary_is_noted(self):
        size = self.fact("llama.vocab_size")
        path = self.changed((entry("llama.vocab_size", U32, size), entry("llama.vocab_size", U32, size - 1)))
        self.check_noted(path, f"llama.vocab_size is {size - 1}.* {size} rows")

    def test_special_ids_out_of_range_are_noted(self):
        key = "tokenizer.ggml.eos_token_id"
        path = self.changed((entry(key, U32, self.fact(key)), entry(key, U32, 99999)))
        self.check_noted(path, f"{re.escape(key)} is 99999")

    def test_smaug_is_noted(self):
        key = "tokenizer.ggml.pre"
        path = self.changed((entry(key, TEXT, "llama-bpe"), entry(key, TEXT, "smaug-bpe")))
        self.check_noted(path, "smaug-bpe")

    def test_a_missing_pre_tokenizer_is_noted(self):
        path = self.changed((entry("tokenizer.ggml.pre", TEXT, "llama-bpe"),
                             entry("tokenizer.ggml.prx", TEXT, "llama-bpe")))
        self.check_noted(path, "tokenizer.ggml.pre is missing")

    def test_missing_types_are_noted(self):
        name, other = b"tokenizer.ggml.token_type", b"tokenizer.ggml.token_typo"
        self.check_noted(self.changed((name, other)), "lacks tokenizer.ggml.token_type")

    def test_a_model_without_a_template_is_told_of_raw_prompts(self):
        path = self.changed((b"tokenizer.chat_template", b"tokenizer.chat_templata"))
        self.refuse("run", "-q", "-m", path, "--no-cache", "hi", says=r"no chat template.*raw prompt.*run --raw\)")
        self.succeed("run", "-q", "-m", path, "--no-cache", "--raw", "-n", 1, "hi")

    def test_a_second_bos_is_left_out_and_noted_once(self):
        raw = ["-m", self.model, "--no-cache", "--raw", "--special", "-n", 1, "--json"]
        plain = self.as_json("run", *raw, "hi")["prompt_tokens"]
        done = self.call("run", *raw, "<|begin_of_text|>hi")
        self.assertEqual(json.loads(done.stdout)["prompt_tokens"], plain)
        self.assertEqual(len(re.findall(r"(?m)^note: the prompt begins with <\|begin_of_text\|> itself",
                                        done.stderr.decode())), 1)

    def test_a_context_that_the_model_cannot_have_is_not_proposed(self):
        limit = self.fact("llama.context_length")
        for words, says in ((200, r"\(--ctx\)\n"),
                            (2 * limit, rf"the {limit - 1} that the model takes at most; shorten it\n")):
            self.refuse("run", "-q", "-m", self.model, "--no-cache", "--ctx", 64, "--raw", "x " * words, says=says)


if __name__ == "__main__":
    main()
