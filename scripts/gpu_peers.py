#!/usr/bin/env python3
"""What others make of the same shape on the same GPU: transformers (bf16, static cache, compiled where that works) and
accelerate's cpu_offload. Random weights, made where they are used: no network, no files.

    gpu_peers.py [--device cuda] [--prompt 2048] [--tokens 64] [--compile-seconds 90] [--tiny]

Prints a JSON object after every part, each with all that is known so far: the last line counts, also when the time ran
out. What can't be measured has a sentence under "problems". --tiny is a small shape, for trying this without a GPU.
"""
import argparse
import gc
import json
import signal
import statistics
import sys
import time

SHAPES = {  # as `tropilla synth --shape`
    "llama-3-8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                       num_key_value_heads=8, vocab_size=128256, max_position_embeddings=8192),
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, vocab_size=512, max_position_embeddings=512),
}


def parse_arguments(arguments):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda")
    p.add_argument("--prompt", type=int, help="tokens (2048; 64 with --tiny)")
    p.add_argument("--tokens", type=int, help="of a reply (64; 8 with --tiny)")
    p.add_argument("--offload-tokens", type=int, default=3)
    p.add_argument("--compile-seconds", type=int, default=90)
    p.add_argument("--tiny", action="store_true")
    options = p.parse_args(arguments)
    options.shape = "tiny" if options.tiny else "llama-3-8b"
    options.prompt = options.prompt or (64 if options.tiny else 2048)
    options.tokens = options.tokens or (8 if options.tiny else 64)
    return options


class TooLong(Exception):
    pass


class time_limit:
    """Ends what the main thread does with TooLong. Compilers swallow exceptions: they get another one every second."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        def end(*_):
            raise TooLong(f"not done after {self.seconds} s")
        self.before = signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, self.seconds, 1)

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


class Peers:
    def __init__(self, options):
        self.options = options
        self.results = {"shape": options.shape, "prompt": options.prompt, "tokens": options.tokens, "versions": {},
                        "transformers": {}, "offload": {}, "problems": []}

    def show(self):
        print(json.dumps(self.results), flush=True)

    def attempt(self, what, part, *arguments):
        """Runs a part; whatever it ends with is a sentence in the results."""
        try:
            return part(*arguments)
        except Exception as e:  # noqa: BLE001: other people's code, in whatever version is there
            self.results["problems"].append(f"{what}: {type(e).__name__}: {str(e).strip()[:300]}")
            return None
        finally:
            self.show()

    # -- what both need --

    def load_packages(self):
        import torch
        import transformers
        self.torch, self.transformers = torch, transformers
        self.results["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
        self.on_gpu = self.options.device != "cpu"
        if self.on_gpu and not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU here")
        self.device = torch.device(self.options.device)
        if self.on_gpu:
            self.results["device"] = torch.cuda.get_device_name(self.device)
        transformers.logging.set_verbosity_error()
        return True

    def make_model(self):
        torch = self.torch
        config = self.transformers.LlamaConfig(**SHAPES[self.options.shape], tie_word_embeddings=False)
        config._attn_implementation = "sdpa"
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(self.device):
                return self.transformers.LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(before)

    def make_cache(self, model):
        wanted = dict(config=model.config, max_cache_len=self.options.prompt + self.options.tokens + 8)
        older = dict(wanted, max_batch_size=1, device=self.device, dtype=self.torch.bfloat16)
        for arguments in (wanted, older):
            try:
                return self.transformers.StaticCache(**arguments)
            except TypeError as e:
                problem = e
        raise problem

    def synchronize(self):
        if self.on_gpu:
            self.torch.cuda.synchronize(self.device)

    def seconds_of(self, work):
        self.synchronize()
        begin = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - begin

    def ids(self, count):
        return self.torch.arange(count, device=self.device).remainder(500).unsqueeze(0)

    # -- transformers --

    def measure_forward(self, model, on_prompt, on_token):
        """Tokens per second of a prompt and of a reply, both the median of three. The functions may be compiled."""
        torch, options = self.torch, self.options
        cache, prompt = self.make_cache(model), self.ids(options.prompt)

        def step(forward, ids, first):
            places = torch.arange(first, first + ids.shape[1], device=self.device)
            return forward(input_ids=ids, position_ids=places.unsqueeze(0), past_key_values=cache, use_cache=True,
                           logits_to_keep=1).logits[:, -1:].argmax(-1)

        def prefill():
            cache.reset()
            return step(on_prompt, prompt, 0)

        def decode():
            token = prefill()
            self.synchronize()
            begin = time.perf_counter()
            for i in range(options.tokens):
                token = step(on_token, token, options.prompt + i)
            self.synchronize()
            return time.perf_counter() - begin

        with torch.no_grad():
            step(model.forward, prompt, 0)  # a cache that is made inside of compiled code is no static one
            for _ in range(2):
                decode()  # compiles, and records graphs
            prefills = [self.seconds_of(prefill) for _ in range(3)]
            decodes = [decode() for _ in range(3)]
        return {"prefill_tok_s": options.prompt / statistics.median(prefills),
                "decode_tok_s": options.tokens / statistics.median(decodes)}

    def measure_eager(self, model):
        return self.measure_forward(model, model.forward, model.forward)

    def measure_compiled(self, model):
        on_token = self.torch.compile(model.forward, mode="reduce-overhead" if self.on_gpu else "default",
                                      dynamic=False)
        with time_limit(self.options.compile_seconds):
            return self.measure_forward(model, model.forward, on_token)

    def measure_compiled_prompt(self, model):
        with time_limit(self.options.compile_seconds):
            return self.measure_forward(model, self.torch.compile(model.forward, dynamic=False), model.forward)

    def measure_generate(self, model):
        """As most people call it. In newer versions it compiles the decode step of a static cache by itself."""
        prompt = self.ids(self.options.prompt)

        def generate(tokens):
            model.generate(prompt, attention_mask=self.torch.ones_like(prompt), max_new_tokens=tokens,
                           min_new_tokens=tokens, do_sample=False, cache_implementation="static", pad_token_id=0)
        with time_limit(self.options.compile_seconds), self.torch.no_grad():
            generate(self.options.tokens + 1)
            first = statistics.median(self.seconds_of(lambda: generate(1)) for _ in range(3))
            whole = statistics.median(self.seconds_of(lambda: generate(self.options.tokens + 1)) for _ in range(3))
        return {"prefill_tok_s": self.options.prompt / first,
                "decode_tok_s": self.options.tokens / max(whole - first, 1e-9)}

    def measure_transformers(self, model, **measures):
        ways = self.results["transformers"].setdefault("ways", {})
        for name, measure in measures.items():
            found = self.attempt(f"transformers, {name}", measure, model)
            if found:
                ways[name] = found
                for figure in ("prefill_tok_s", "decode_tok_s"):  # the best of them is what we compare with
                    self.results["transformers"][figure] = max(w[figure] for w in ways.values())
                self.show()
            self.torch._dynamo.reset()
            self.free()

    def free(self):
        gc.collect()
        if self.on_gpu:
            self.torch.cuda.empty_cache()

    # -- accelerate --

    def measure_offload(self, model):
        import accelerate
        self.results["versions"]["accelerate"] = accelerate.__version__
        model = model.to("cpu")
        self.free()
        accelerate.cpu_offload(model, execution_device=self.device)
        torch, tokens = self.torch, self.options.offload_tokens
        with torch.no_grad():
            first = model(input_ids=self.ids(8), use_cache=True)
            cache, token = first.past_key_values, first.logits[:, -1:].argmax(-1)
            self.synchronize()
            begin = time.perf_counter()
            for _ in range(tokens):
                out = model(input_ids=token, past_key_values=cache, use_cache=True)
                cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
            self.synchronize()
            self.results["offload"]["decode_tok_s"] = tokens / (time.perf_counter() - begin)

    def run(self):
        if not self.attempt("torch and transformers", self.load_packages):
            return
        model = self.attempt("a model of the shape", self.make_model)
        if model is None:
            return
        self.measure_transformers(model, eager=self.measure_eager, compiled=self.measure_compiled)
        self.attempt("accelerate", self.measure_offload, model)
        # What is seldom better comes last, in case that the time runs out.
        del model
        self.free()
        model = self.attempt("a model of the shape", self.make_model)
        if model is not None:
            self.measure_transformers(model, generate=self.measure_generate,
                                      compiled_prompt=self.measure_compiled_prompt)


def main():
    Peers(parse_arguments(sys.argv[1:])).run()


if __name__ == "__main__":
    main()
